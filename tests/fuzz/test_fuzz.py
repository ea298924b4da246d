"""No malformed input ends in a traceback: some here, odd manifests in the slow test, more in `make fuzz`."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spoter_runtime.errors import SpoterError

sys.path.insert(0, str(Path(__file__).parent))

FAST = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def all_targets(bundle_folder, tmp_path_factory):
    from targets import Place, targets

    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        copy = Path(shutil.copytree(bundle_folder, folder / "small.spoter"))
        (folder / "files").mkdir()
        yield targets(Place(folder=folder / "files", bundle=copy))


NAMES = (
    *("bundle.json, sealed again", "bundle.json, one value odd", "goldens.npz", "parity.json", "model.onnx"),
    "model.onnx, its fields",
    *("model.sig", "tuned", "landmarker.json", "landmark log", "clip.npy", "run.json", "metrics.jsonl"),
    *("recipe", "--set", "policy", "parity facts", "bench.json", "lengths", "crossval.json", "dataset.json"),
    *("clips.csv", "poses.npy", "asl33", "notebook json", "spoter csv", "npy", "split.json", "split.csv"),
    *("labels", "videos.csv", "predict", "predict_many", "predict, resampled", "landmarks_from_mediapipe"),
    "load",
)


def test_each_target_is_tried(all_targets):
    assert sorted(all_targets) == sorted(NAMES)


def feed(run, dice):
    with contextlib.suppress(SpoterError):
        run(dice)


@pytest.mark.parametrize("name", NAMES)
def test_malformed_input_is_refused_by_an_error_of_ours(all_targets, name):
    @FAST
    @given(st.randoms(use_true_random=False))
    def check(dice):
        feed(all_targets[name], dice)

    check()


def test_fields_of_a_message_are_written_as_they_were_read(bundle_folder):
    from mutate_protobuf import fields_of, message_of, varint

    content = (bundle_folder / "model.onnx").read_bytes()
    assert message_of(fields_of(content)) == content
    assert (varint(300), varint(1, 2)) == (b"\xac\x02", b"\x81\x80\x00")


def test_a_hang_a_wait_and_a_traceback_are_found(monkeypatch):
    import run

    def spin(_):
        while True:
            pass

    def refuse(_):
        raise SpoterError("no")

    monkeypatch.setattr(run, "MOST_S", 0.05)
    monkeypatch.setattr(run, "MOST_WAIT_S", 0.3)
    before = [signal.signal(one, run._too_slow) for one in (signal.SIGPROF, signal.SIGALRM)]
    try:
        found = [run.feed(one, 0) for one in (spin, lambda _: time.sleep(9), lambda _: 1 / 0)]
    finally:
        signal.signal(signal.SIGPROF, before[0])
        signal.signal(signal.SIGALRM, before[1])
    assert [text.splitlines()[-1].partition(":")[0] for text in found] == [
        "run.TooSlow",
        "run.TooSlow",
        "ZeroDivisionError",
    ]
    assert [run.feed(one, 0) for one in (refuse, lambda _: None)] == ["refused", "accepted"]


# What a resealed manifest may say without being refused: texts for people, versions, and numbers that nothing
# but a report shows. Tolerances too: who can seal a bundle can allow any difference; a signature is for that.
HARMLESS = (
    r"^schema_version = 1$",
    r"^name = ",
    r"^contract\.labels\.\d+\.(name|gloss|bengali|romanised) = ",
    r"^artefacts\.\d+\.(kind|precision|max_logit_diff|size_bytes) = ",
    r"^artefacts\.\d+\.requires(\.\w+)? = ",
    r"^contract\.ranges\.(batch|frames)\.\d = ",  # compared with what the model's file says when it is opened
    r"^artefacts\.\d+\.engine\.",  # compared with the engine, and no engine runs unless its library does
    r"^manifest_sha256 = ",  # the seal is made anew
    r"^provenance",  # for people; who reads it checks it
    r"^abstention",
)


@pytest.mark.slow
def test_each_place_of_a_manifest_with_each_odd_value(bundle_copy):
    """Thousands of manifests whose seal fits: none ends in a traceback, and what is accepted is harmless."""
    from targets import odd_manifests

    accepted, tried = [], 0
    for name, read in odd_manifests(bundle_copy):
        tried += 1
        try:
            read()
        except SpoterError:
            continue
        accepted.append(name)
    assert tried > 2000
    assert [name for name in accepted if not any(re.search(one, name) for one in HARMLESS)] == []
