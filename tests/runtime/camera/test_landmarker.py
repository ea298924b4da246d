from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from spoter_runtime.camera.files import MANIFEST, read_landmarker
from spoter_runtime.camera.goldens import TOLERANCE, replay
from spoter_runtime.camera.landmarker import Landmarker
from spoter_runtime.errors import BackendError, BundleError, InputError
from spoter_runtime.landmarks import BODY, LEFT_HAND, LEFT_SHOULDER, MIRRORED, RIGHT_HAND, RIGHT_SHOULDER

TALL = "slp_pose_test_video.mp4"
SIGNER = "bdsl_W1_baba_father.gif"


@pytest.fixture(scope="module")
def landmarker(landmarker_folder):
    return Landmarker.load(landmarker_folder)


@pytest.fixture
def watch(landmarker):
    """Return watch(frames): their landmarks (frames, 54, 2), as one video."""

    def watch(frames, **options):
        landmarker.reset()
        return np.stack([landmarker(frame, **options) for frame in frames])

    return watch


@pytest.fixture(scope="module")
def frames(signing_video):
    pytest.importorskip("av", reason="PyAV reads the video")
    from spoter_runtime.camera.video import video_frames

    return [frame.rgb for frame in video_frames(signing_video(SIGNER))][:12]


def noise(height=120, width=160):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def shoulders(clip):
    return float(np.nanmean(np.linalg.norm(clip[:, LEFT_SHOULDER] - clip[:, RIGHT_SHOULDER], axis=1)))


def test_a_signer_s_body_and_hands_are_found(watch, frames):
    clip = watch(frames)
    assert clip.shape == (12, 54, 2)
    assert clip.dtype == np.float32
    assert np.isfinite(clip[:, BODY]).all()
    assert np.isfinite(clip[:, RIGHT_HAND]).all(axis=(1, 2)).sum() >= 8
    nose, right, left = clip[:, 0], clip[:, RIGHT_SHOULDER], clip[:, LEFT_SHOULDER]
    assert (nose[:, 1] < right[:, 1]).all()
    assert (right[:, 0] < left[:, 0]).all()  # the signer faces the camera: the right shoulder is on its left
    wrists = clip[:, [11, 10]]  # the body's, left and right
    for hand, wrist in ((LEFT_HAND, 0), (RIGHT_HAND, 1)):
        away = np.linalg.norm(clip[:, hand.start] - wrists[:, wrist], axis=1)
        assert np.nanmedian(away) < 0.3 * shoulders(clip)


def test_a_mirrored_picture_swaps_left_and_right(watch, frames):
    clip = watch(frames)
    mirrored = watch([np.ascontiguousarray(frame[:, ::-1]) for frame in frames])
    back = mirrored[:, MIRRORED] * [-1, 1] + [1, 0]
    both = np.isfinite(clip) & np.isfinite(back)
    assert both[:, BODY].all()
    assert both[:, RIGHT_HAND].any()
    assert np.abs(back - clip)[both].mean() < 0.03 * shoulders(clip)


def test_another_resolution_gives_the_same_places(watch, frames):
    clip = watch(frames)
    larger = watch([frame.repeat(2, 0).repeat(2, 1) for frame in frames])
    wide = watch([np.pad(frame, ((0, 0), (160, 160), (0, 0))) for frame in frames])
    for other in (larger, (wide * [2, 1]) - [0.5, 0]):
        both = np.isfinite(clip) & np.isfinite(other)
        assert np.abs(other - clip)[both].mean() < 0.03 * shoulders(clip)


def test_reset_gives_the_same_answers_again_and_frames_are_not_changed(watch, landmarker, frames):
    copies = [frame.copy() for frame in frames]
    first = watch(frames[:4])
    second = watch(frames[:4])
    np.testing.assert_array_equal(first, second)
    assert all((a == b).all() for a, b in zip(frames, copies, strict=True))
    landmarker(frames[4])
    assert not np.array_equal(watch([frames[5]])[0], landmarker(frames[5]))  # what was before has a part


def test_times_matter_to_the_smoothing_only(landmarker, frames):
    def at(step_ms):
        landmarker.reset()
        return np.stack([landmarker(frame, t_ms=n * step_ms) for n, frame in enumerate(frames)])

    usual = at(1000 / 30)
    landmarker.reset()
    np.testing.assert_allclose(usual, [landmarker(frame) for frame in frames], atol=1e-6)
    slow = at(500)
    assert not np.allclose(usual[:, BODY], slow[:, BODY], atol=1e-4)
    assert np.abs(usual - slow)[:, BODY].mean() < 0.05 * shoulders(usual)


def test_the_size_of_the_frames_may_change_in_a_video(watch, frames):
    half = [frame[::2, ::2] for frame in frames]
    clip = watch([*frames[:4], *half[4:8], *frames[8:]])
    assert np.isfinite(clip[:, BODY]).all()


def test_nobody_in_the_picture_is_all_nan_and_a_signer_is_found_after(watch, landmarker, frames):
    clip = watch([noise(), np.zeros((64, 64, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8), *frames[:2]])
    assert np.isnan(clip[:3]).all()
    assert landmarker.persons == 1
    assert np.isfinite(clip[3:, BODY]).all()


def test_of_two_persons_the_larger_is_followed(watch, landmarker, frames):
    some = (np.arange(224) / 0.7).astype(int)
    small = [np.pad(frame[some][:, some], ((96, 0), (0, 0), (0, 0))) for frame in frames[:3]]
    clip = watch([np.concatenate([one, other], axis=1) for one, other in zip(small, frames, strict=False)])
    assert landmarker.persons == 2
    alone = watch(frames[:3])
    seen = clip * [544 / 320, 1] - [224 / 320, 0]
    assert np.abs(seen - alone)[:, BODY].mean() < 0.1 * shoulders(alone)


def test_an_unknown_engine_is_told_as_that(tmp_path):
    for name, hint in (
        ("foo", "there are tensorrt, tensorrt_rtx"),
        ("tensorrt-rtx", "did you mean 'tensorrt_rtx'?"),
    ):
        with pytest.raises(BackendError, match=re.escape(f"unknown engine {name!r}; {hint}")):
            Landmarker.load(tmp_path, engine=name)


@pytest.mark.parametrize(("name", "size"), [(SIGNER, 0.4), (TALL, 0.6), (TALL, 1.0)])
def test_a_smaller_person_beside_the_signer_is_counted(landmarker, signing_video, name, size):
    """The detector's score of the smaller one is between 0.18 and 0.62 here."""
    from spoter_runtime.camera.video import video_frames

    one = next(video_frames(signing_video(name))).rgb
    rows, columns = ((np.arange(int(n * size)) / size).astype(int) for n in one.shape[:2])
    other = np.pad(one[rows][:, columns], ((len(one) - len(rows), 0), (0, 0), (0, 0)))
    landmarker.reset()
    landmarker(np.concatenate([one, other], axis=1))
    assert landmarker.persons == 2
    landmarker.reset()
    landmarker(one)
    assert landmarker.persons == 1


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((4, 4, 3)), "got dtype float64"),
        (np.zeros((4, 4), np.uint8), r"got \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"got \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\) has no pixels\. Fix: give the whole picture"),
        (np.zeros((0, 0, 3), np.uint8), r"\(0, 0, 3\) has no pixels\. Fix: give the whole picture"),
        ([[1, 2, 3]], "got a list"),
        (None, "got a NoneType"),
    ],
)
def test_what_is_no_frame_is_refused(landmarker, frame, message):
    landmarker.reset()
    with pytest.raises(InputError, match=message):
        landmarker(frame)


def test_a_frame_may_be_a_view(watch, frames):
    views = [np.ascontiguousarray(frame[:, ::-1])[:, ::-1] for frame in frames[:2]]
    np.testing.assert_array_equal(watch(views), watch(frames[:2]))


def test_time_does_not_stand_still_or_go_back(landmarker):
    landmarker.reset()
    landmarker(noise(), t_ms=100)
    for t_ms in (100, 40, 100 + 1e-5):  # so small a step would give infinite speeds
        with pytest.raises(InputError, match="times grow from frame to frame"):
            landmarker(noise(), t_ms=t_ms)
    for t_ms in (float("nan"), float("inf"), "120", 10**400):
        with pytest.raises(InputError, match="expected milliseconds, a finite number"):
            landmarker(noise(), t_ms=t_ms)
    landmarker.reset()
    landmarker(noise(), t_ms=40)
    assert type(landmarker._t_ms) is float


def test_a_frame_that_fails_is_forgotten(landmarker, frames):
    def run(graph, **inputs):
        if graph == fails:
            raise BackendError("the engine is lost")
        return landmarker._run(graph, **inputs)

    other = Landmarker(run, landmarker.sha256)
    for fails in ("pose", "hand"):
        with pytest.raises(BackendError):
            [other(frame) for frame in frames]
        fails = ""
        landmarker.reset()
        np.testing.assert_array_equal(other(frames[5]), landmarker(frames[5]))


def test_a_landmarker_that_is_not_there_says_how_to_get_one(tmp_path, monkeypatch):
    with pytest.raises(BundleError, match="no landmarker there") as caught:
        Landmarker.load(tmp_path)
    assert caught.value.fix == "spoter-kit landmarker fetch"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BundleError, match=r"spoter-kit/landmarker: no landmarker there"):
        Landmarker.load()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "hand.onnx").write_bytes(b"x"), "hand.onnx: sha256 is"),
        (lambda folder: (folder / "pose.onnx").unlink(), "pose.onnx: cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "landmarker.json: cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "landmarker.json: is damaged"),
        (lambda folder: edit(folder, schema_version=2), "schema 2, this version reads 1"),
        (lambda folder: edit(folder, files={}), "does not list hand.onnx, pose.onnx"),
    ],
)
def test_a_damaged_landmarker_is_refused(landmarker_folder, tmp_path, spoil, message):
    folder = shutil.copytree(landmarker_folder, tmp_path / "landmarker")
    spoil(folder)
    with pytest.raises(BundleError, match=message) as caught:
        Landmarker.load(folder)
    if "schema" not in message and "does not list" not in message:
        assert caught.value.fix == "spoter-kit landmarker fetch --force"


def test_a_damaged_landmarker_of_a_bundle_comes_with_the_bundle_again(landmarker_folder, tmp_path):
    folder = shutil.copytree(landmarker_folder, tmp_path / "landmarker")
    (tmp_path / "bundle.json").touch()
    (folder / "hand.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"hand.onnx: sha256 is") as caught:
        Landmarker.load(folder)
    assert caught.value.fix == "copy the whole bundle again"


def edit(folder, **changes):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))


def test_the_goldens_replay_here_and_find_a_graph_that_was_changed(landmarker_folder, reseal_landmarker):
    onnx = pytest.importorskip("onnx", reason="onnx changes the graph")

    def spoil(folder):
        model = onnx.load(folder / "hand.onnx")
        bias = next(w for w in model.graph.initializer if w.name.endswith("_bias"))
        values = onnx.numpy_helper.to_array(bias) + np.float32(0.5)
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        (folder / "hand.onnx").write_bytes(model.SerializeToString())

    assert max(replay(read_landmarker(landmarker_folder)).values()) < TOLERANCE
    worst = replay(read_landmarker(reseal_landmarker(landmarker_folder, spoil)))
    assert worst["hand"] > TOLERANCE
    assert worst["pose"] < TOLERANCE


def test_a_graph_that_spoter_kit_did_not_write_is_refused(landmarker_folder, reseal_landmarker):
    def spoil(folder):
        content = (folder / "hand.onnx").read_bytes()
        (folder / "hand.onnx").write_bytes(content.replace(b"\x22\x04Conv", b"\x22\x04Loop"))

    with pytest.raises(BackendError, match=r"hand.onnx: has an operator 'Loop'"):
        Landmarker.load(reseal_landmarker(landmarker_folder, spoil))


def test_it_needs_numpy_and_onnx_runtime_alone(landmarker_folder):
    code = f"""
import sys
from spoter_runtime.camera.landmarker import Landmarker
import numpy
found = Landmarker.load({str(landmarker_folder)!r})(numpy.zeros((64, 64, 3), "uint8"))
assert found.shape == (54, 2) and numpy.isnan(found).all()
print(sorted({{"torch", "onnx", "av", "cv2", "mediapipe", "tflite"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
