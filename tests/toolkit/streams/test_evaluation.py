"""`eval --stream`: a model that knows the clips is scored near 1, and silence has no false alarm."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from in_process import spoter_kit
from signers import pose
from spoter_runtime import Label, Recognizer
from spoter_runtime.errors import DataError
from spoter_toolkit.data.dataset import Origin, read_dataset
from spoter_toolkit.data.dataset_writer import NewClip, write_dataset
from spoter_toolkit.streams.evaluation import MIXED, NOBODY, NONE, RESTS, UNKNOWN, evaluate_streams


@pytest.fixture(scope="module")
def recognizer(bundle_folder):
    return Recognizer.load(bundle_folder, "ort-cpu", threads=1, tuned=False)


def clips_of(recognizer):
    """Return clips whose label is what the model says of them, clips of nothing, and foreign ones."""
    found = []
    for shape in range(12):
        poses = np.stack([pose(0.3, shape, 0.02 * n) for n in range(20)])
        found.append((recognizer.predict(poses).label, poses))
    found += [("none", np.stack([pose(2.2)] * 20))] * 2
    return found + [("foreign", np.stack([pose(0.5, 77 + n)] * 20)) for n in range(2)]


@pytest.fixture(scope="module")
def data(recognizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "streams"
    clips = [
        NewClip(id=f"c{n}", label=label, signer="s", fps=30.0, poses_TLD=poses)
        for n, (label, poses) in enumerate(clips_of(recognizer))
    ]
    return written(folder, clips).folder


def written(folder, clips, **origin):
    labels = [Label(name=name) for name in sorted({clip.label for clip in clips})]
    return write_dataset(
        folder, clips, labels=labels, coordinates="image", origin=Origin(kind="test", **origin)
    )


def test_a_model_that_knows_the_clips_finds_them(recognizer, data):
    found = evaluate_streams(recognizer, read_dataset(data), source=data, split="all", minutes=0.5)
    scores = {one.name.rpartition(" (")[0]: one for one in found.scores}
    assert scores[MIXED].f1[0.5] > 0.8
    assert scores[MIXED].delay_ms[1] < 600
    for seen in ("10 fps", "15 fps", "60 fps", "20% lost", "tracking lost 0.7 times a second"):
        assert scores[f"{MIXED}, {seen}"].f1[0.25] > scores[MIXED].f1[0.25] - 0.25
    assert scores[NOBODY].said == scores[NONE].said == 0
    assert scores[UNKNOWN].false_alarms_per_minute > 5  # without calibration each is taken for a sign
    missed = [missed for _, missed, _ in found.det]
    assert missed == sorted(missed)
    assert found.det[-1][1:] == (1, 0)


def test_clips_in_which_nobody_signs_come_from_another_data_set_too(
    recognizer, bundle_folder, data, tmp_path
):
    label, poses = clips_of(recognizer)[0]
    signs = [NewClip(id="c", label=label, signer="s", fps=30.0, poses_TLD=poses)]
    drinks = [NewClip(id="c", label="drinks", signer="s", fps=15.0, poses_TLD=poses[::2])]
    one, other = written(tmp_path / "signs", signs).folder, written(tmp_path / "drinks", drinks).folder
    options = ("--data", one, "--split", "all", "--stream", "--minutes", "0.2", "--json")
    done = spoter_kit(tmp_path, "eval", bundle_folder, *options, "--negatives", other)
    rows = {row["name"].rpartition(" (")[0]: row for row in json.loads(done.stdout)["streams"]}
    assert rows[NONE]["said"] > 0  # each looks like a sign
    assert MIXED in rows
    missing = spoter_kit(tmp_path, "eval", bundle_folder, *options, "--negatives", "nowhere")
    assert (missing.returncode, "nowhere" in missing.stderr) == (1, True)


def test_the_same_seed_gives_the_same_figures(recognizer, data):
    one, other = (
        evaluate_streams(recognizer, read_dataset(data), source=data, split="all", minutes=0.2).as_json()
        for _ in range(2)
    )
    assert json.dumps(one) == json.dumps(other)


def test_clips_that_the_model_does_not_know_are_not_enough(recognizer, tmp_path):
    clip = NewClip(id="c", label="foreign", signer="s", fps=30.0, poses_TLD=np.stack([pose(0.3)] * 9))
    dataset = written(tmp_path / "d", [clip])
    with pytest.raises(DataError, match="a label that the model knows"):
        evaluate_streams(recognizer, dataset, source=tmp_path, split="all")


def test_the_command_prints_it_and_draws_a_page(bundle_folder, data, tmp_path):
    options = ("--data", data, "--split", "all", "--stream", "--minutes", "0.2")
    done = spoter_kit(tmp_path, "eval", bundle_folder, *options, "-o", "streams.html")
    assert done.returncode == 0, done.stderr
    assert "false alarms a minute" in done.stdout
    assert " at IoU 0.5, " in done.stdout
    assert "the streams are simulated: real clips" in done.stderr
    page = (tmp_path / "streams.html").read_text()
    assert 'class="timeline"' in page
    assert "signs missed" in page
    found = json.loads(spoter_kit(tmp_path, "eval", bundle_folder, *options, "--json").stdout)
    assert found["simulated"]
    assert found["streams"][0]["f1"]["0.5"] > 0.5
    assert not found["synthetic"]
    wrong = spoter_kit(tmp_path, "eval", bundle_folder, *options, "-o", "streams.png")
    assert (wrong.returncode, "-o streams.html" in wrong.stderr) == (2, True)


def test_an_empty_split_is_said_with_the_command_that_was_meant(bundle_folder, data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "all-train")
    assert spoter_kit(tmp_path, "data", "split", folder, "--train-all").returncode == 0
    done = spoter_kit(tmp_path, "eval", bundle_folder, "--data", folder, "--stream")
    assert done.returncode == 1
    assert "Fix: spoter-kit eval --stream --split train" in done.stderr


def test_generated_clips_and_missing_kinds_are_said(recognizer, bundle_folder, tmp_path):
    (label, poses), *_ = clips_of(recognizer)
    clip = NewClip(id="c", label=label, signer="s", fps=30.0, poses_TLD=poses)
    folder = written(tmp_path / "made", [clip], synthetic=True).folder
    options = ("--data", folder, "--split", "all", "--stream", "--minutes", "0.1", "-o", "streams.html")
    done = spoter_kit(tmp_path, "eval", bundle_folder, *options)
    assert done.returncode == 0, done.stderr
    assert "generated clips in random order" in done.stderr
    said = [line.partition(" (")[0].strip() for line in done.stdout.splitlines() if "a minute" in line]
    assert said == [RESTS, "signs without rests", NOBODY]
    page = (tmp_path / "streams.html").read_text()
    assert "real clips" not in page
    assert "none clips" not in page
