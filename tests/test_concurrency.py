"""What docs/reference/concurrency.md promises and no other file tests; each row of it has its test."""

from __future__ import annotations

import asyncio
import functools
import os
import re
from pathlib import Path

import numpy as np
import pytest

from signers import signing
from spoter_export.bundle.sign import make_key, sign_bundle
from spoter_runtime import Recognizer, SignStream
from spoter_runtime.bundle.signature import read_trusted
from spoter_runtime.contract import Label
from spoter_toolkit.data.dataset import Origin, read_dataset
from spoter_toolkit.data.dataset_writer import NewClip, write_dataset

ROOT = Path(__file__).parents[1]
FORKS_HERE = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def test_each_row_of_the_table_names_a_test_that_is_there():
    page = (ROOT / "docs/reference/concurrency.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    assert len(rows) > 15
    for row in rows:
        path, name = re.findall(r"`(tests/[\w/.]+\.py)` (test_\w+)", row)[0]
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), row


@pytest.fixture(scope="module")
def recognizer(bundle_folder):
    return Recognizer.load(bundle_folder, "ort-cpu", threads=1, tuned=False)


def test_tasks_of_an_event_loop_recognise_in_its_threads(recognizer):
    dice = np.random.default_rng(0)
    clips = [dice.random((frames, 54, 2), np.float32) for frames in range(2, 34)]

    async def all_at_once():
        return await asyncio.gather(*(asyncio.to_thread(recognizer.predict, clip) for clip in clips))

    found = asyncio.run(all_at_once())
    assert [one.label for one in found] == [recognizer.predict(clip).label for clip in clips]


def test_streams_that_take_turns_on_an_event_loop_answer_as_alone(recognizer):
    rows = [signing([(1000.0 + shift, 1700.0 + shift)], end_ms=3500) for shift in (0.0, 120.0, 400.0)]

    async def watch(frames):
        stream, events = SignStream(recognizer), []
        for t_ms, frame in frames:
            stream.accept(frame, t_ms)
            events += stream.events()
            await asyncio.sleep(0)
        return events

    async def together():
        return await asyncio.gather(*(watch(zip(*one, strict=True)) for one in rows))

    alone = [asyncio.run(watch(zip(*one, strict=True))) for one in rows]
    assert any(event.type == "sign_start" for event in alone[0])
    assert [[event.as_json() for event in events] for events in asyncio.run(together())] == [
        [event.as_json() for event in events] for events in alone
    ]


_STREAMS = """
import sys, threading, time
import numpy as np
from spoter_runtime import Recognizer, SignStream
recognizer = Recognizer.load(sys.argv[1], "ort-cpu", tuned=False)
poses = np.random.default_rng(0).random((60, 54, 2), np.float32)
stream, began = SignStream(recognizer), threading.Event()

def watch():
    for number in range(10**9):
        stream.accept(poses[number % 60], number * 1000 / 30)
        if number == 50:
            began.set()

def clips():
    while True:
        yield poses

threading.Thread(target=watch, daemon=True).start()
answers = recognizer.stream(clips())  # begun, and never ended
next(answers)
began.wait()
time.sleep(float(sys.argv[2]))
"""


def test_python_ends_while_a_thread_streams(python, bundle_folder):
    done = python("-c", _STREAMS, bundle_folder, 0.01, env={"ORT_DISABLE_TELEMETRY": "1"})
    assert done.returncode == 0, done.stderr
    assert not done.stderr or "Python is ending" in done.stderr


def at_once(*works):
    """Run each in a process of its own, all at the same time; return their exit codes."""
    pids = []
    for work in works:
        if pid := os.fork():
            pids.append(pid)
            continue
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


@FORKS_HERE
def test_signers_who_sign_at_the_same_time_have_all_signed(bundle_copy, tmp_path):
    publics = [make_key(tmp_path / f"{name}.key") for name in "abc"]
    works = [functools.partial(sign_bundle, bundle_copy, public.with_suffix("")) for public in publics]
    assert at_once(*works) == [0, 0, 0]
    assert len({read_trusted(bundle_copy, [public])[1] for public in publics}) == 3


@FORKS_HERE
def test_of_two_writers_of_a_data_set_one_is_there_whole(tmp_path):
    def write(seed):
        poses = np.random.default_rng(seed).random((200, 54, 2), np.float32)
        clips = [NewClip(id=f"c{n}", label="tea", signer="s", fps=25.0, poses_TLD=poses) for n in range(3)]
        labels = (Label(name="tea"),)
        origin = Origin(kind="made")
        write_dataset(tmp_path / "data", clips, labels=labels, coordinates="image", origin=origin, force=True)
        return read_dataset(tmp_path / "data").sha256

    either = {write(0), write(1)}
    for _ in range(3):
        assert at_once(lambda: write(0), lambda: write(1)) == [0, 0]
        assert read_dataset(tmp_path / "data").sha256 in either
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
