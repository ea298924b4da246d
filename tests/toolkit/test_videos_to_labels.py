"""From videos to labels: predict, eval and export --camera, as a user types them, on real clips."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from in_process import spoter_kit
from spoter_runtime.bundle.manifest import Bundle, read_bundle
from spoter_runtime.camera.files import (
    copy_landmarker,
    landmarker_in,
    read_landmarker,
    warn_of_other_landmarker,
)
from spoter_runtime.errors import BundleError, DataError, InputError
from spoter_runtime.recognizer import Recognizer

av = pytest.importorskip("av", reason="PyAV reads videos")

CLIP = "bdsl_W1_baba_father.gif"


@pytest.fixture(scope="module")
def camera_bundle(made_once, request, contract, provenance, landmarker_folder):
    """The small model with the landmarker in its bundle, trained on data of that landmarker."""

    def make(folder):
        from spoter_export.bundle.writer import export_bundle

        files = read_landmarker(landmarker_folder)
        data = provenance["data"] | {"landmarker": files.sha256}
        return export_bundle(
            request.getfixturevalue("small_model"),
            contract,
            folder / "camera.spoter",
            provenance=provenance | {"data": data},
            landmarker=files,
        ).bundle.folder

    return made_once("camera-bundle", make)


def test_a_bundle_with_a_landmarker_goes_from_video_to_label_by_itself(
    camera_bundle, signing_video, tmp_path
):
    recognizer = Recognizer.load(camera_bundle)
    prediction = recognizer.predict_video(signing_video(CLIP))
    video = prediction.video
    assert (video.poses_TLD.shape, round(video.fps, 2), video.persons) == ((30, 54, 2), 7.14, 1)
    assert min(video.decode_ms, video.landmarks_ms, prediction.latency_ms) > 0
    assert prediction.label == recognizer.predict(video.poses_TLD).label
    assert video.landmarker == read_landmarker(camera_bundle / "landmarker").sha256
    again = recognizer.predict_video(signing_video(CLIP))
    np.testing.assert_array_equal(again.video.poses_TLD, video.poses_TLD)
    done = spoter_kit(tmp_path, "predict", camera_bundle, signing_video(CLIP))
    assert done.returncode == 0, done.stderr
    assert prediction.label in done.stdout
    assert "30 frames: decode " in done.stdout
    assert " ms a frame), model " in done.stdout
    (row,) = json.loads(spoter_kit(tmp_path, "predict", camera_bundle, signing_video(CLIP), "--json").stdout)[
        "predictions"
    ]
    assert row["video"]["landmarker"] == video.landmarker
    command = [
        sys.executable,
        "-m",
        "spoter_runtime",
        "predict",
        str(camera_bundle),
        str(signing_video(CLIP)),
    ]
    device = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert device.returncode == 0, device.stderr
    assert f"\t{prediction.label} " in device.stdout
    assert "decode " in device.stdout


def test_the_files_of_the_landmarker_are_files_of_the_bundle(camera_bundle, tmp_path):
    bundle = read_bundle(camera_bundle)
    assert {f"landmarker/{name}" for name in ("hand.onnx", "landmarker.json", "LICENSE", "NOTICE")} <= set(
        bundle.files
    )
    assert spoter_kit(tmp_path, "verify", camera_bundle).returncode == 0
    copy = Path(shutil.copytree(camera_bundle, tmp_path / "copy.spoter"))
    manifest = copy / "landmarker" / "landmarker.json"
    manifest.write_text(manifest.read_text().replace("mediapipe", "somebody"))
    with pytest.raises(BundleError, match=r"landmarker/landmarker\.json: sha256 is"):
        Recognizer.load(copy).landmarker()
    damaged = Path(shutil.copytree(camera_bundle / "landmarker", tmp_path / "damaged"))
    (damaged / "hand.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"hand\.onnx: sha256 is"):
        copy_landmarker(read_landmarker(damaged), tmp_path / "target")


def test_the_landmarker_is_the_one_of_the_manifest_that_was_checked(camera_bundle, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(camera_bundle, tmp_path / "copy.spoter"))
    recognizer, manifest = Recognizer.load(folder), folder / "landmarker" / "landmarker.json"
    whole = manifest.read_bytes()
    expected = json.loads(whole)["sha256"]
    read = Bundle.read

    def read_and_replace(bundle, path):
        content = read(bundle, path)
        manifest.write_bytes(whole.replace(expected.encode(), b"0" * 64))
        return content

    monkeypatch.setattr(Bundle, "read", read_and_replace)
    assert recognizer.landmarker().sha256 == expected
    assert manifest.read_bytes() != whole
    manifest.write_bytes(whole)
    copy_landmarker(landmarker_in(read_bundle(folder)), tmp_path / "target")
    assert (tmp_path / "target" / "landmarker.json").read_bytes() == whole


def test_a_bundle_that_is_there_gets_the_landmarker(bundle_folder, landmarker_folder, tmp_path):
    (tmp_path / "cache" / "spoter-kit").mkdir(parents=True)
    (tmp_path / "cache" / "spoter-kit" / "landmarker").symlink_to(landmarker_folder)
    before = read_bundle(shutil.copytree(bundle_folder, tmp_path / "b.spoter"))
    done = spoter_kit(tmp_path, "export", "b.spoter", "--camera")
    assert done.returncode == 0, done.stderr
    assert "b.spoter: the landmarker is in it" in done.stdout
    after = read_bundle(tmp_path / "b.spoter")
    assert after.artefacts == before.artefacts
    assert Recognizer.load(after.folder).landmarker().sha256 == read_landmarker(landmarker_folder).sha256
    assert spoter_kit(tmp_path, "verify", "b.spoter").returncode == 0
    again = spoter_kit(tmp_path, "export", "b.spoter", "--camera")
    assert again.returncode == 1
    assert "b.spoter: has a landmarker. Fix: --force replaces it" in again.stderr
    assert spoter_kit(tmp_path, "export", "b.spoter", "--camera", "--force", "--json").returncode == 0


class Blank:
    """A landmarker that finds nobody, or the same in each frame."""

    persons = 0

    def __init__(self, found=np.nan, sha256="other"):
        self.found, self.sha256 = found, sha256

    def reset(self):
        pass

    def another(self):
        return self

    def __call__(self, frame_rgb, t_ms=None):
        return np.full((54, 2), self.found, np.float32)


@pytest.fixture
def drawn(tmp_path):
    """Return drawn(frames): a video of grey pictures."""

    def drawn(frames, name="grey.mkv"):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = 32, 16, "bgr0"
            for _ in range(frames):
                picture = np.full((16, 32, 3), 99, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        return tmp_path / name

    return drawn


def test_videos_without_a_sign_are_refused_with_one_message(camera_bundle, drawn, tmp_path):
    recognizer = Recognizer.load(camera_bundle)
    with pytest.raises(InputError, match=r"grey\.mkv: no landmark is detected in any of its 5 frames"):
        recognizer.predict_video(drawn(5), landmarker=Blank(np.nan, ""))
    with pytest.raises(InputError, match=r"grey\.mkv: has more than 99 frames, the model takes 1\.\.99"):
        recognizer.predict_video(drawn(120), landmarker=Blank(0.5, ""))
    long = Recognizer.load(camera_bundle, long="resample")
    assert len(long.predict_video(drawn(120), landmarker=Blank(0.5, "")).video.poses_TLD) == 120
    with pytest.raises(DataError, match="no such file"):
        recognizer.predict_video(tmp_path / "none.mp4")
    with pytest.raises(DataError, match="a video is the path of a file, got 3"):
        recognizer.predict_video(3)


def test_a_bad_clip_is_named_and_the_others_get_their_answers(
    camera_bundle, signing_video, drawn, make_clip, tmp_path
):
    np.save(tmp_path / "clip.npy", make_clip(1, 9))
    np.save(tmp_path / "long.npy", make_clip(2, 120))
    (tmp_path / "text.mp4").write_bytes(b"no video")
    good, bad = ["clip.npy", str(signing_video(CLIP))], ["text.mp4", "none.mp4", "grey.mkv", "long.npy"]
    drawn(3)
    done = spoter_kit(tmp_path, "predict", camera_bundle, "text.mp4", *good, *bad[1:], "--json")
    assert done.returncode == 1
    assert [row["clip"] for row in json.loads(done.stdout)["predictions"]] == good
    assert "error: 4 of 6 clips cannot be used:\n" in done.stderr
    reasons = "\n".join(row["error"] for row in json.loads(done.stdout)["bad"])
    for name in bad:
        assert f"  {name}: " in done.stderr
        assert f"{name}: " in reasons
    command = [sys.executable, "-m", "spoter_runtime", "predict", camera_bundle, "text.mp4", *good]
    device = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert device.returncode == 1
    assert [line.split("\t")[0] for line in device.stdout.splitlines()] == good
    assert "error: text.mp4: cannot be opened as a video" in device.stderr
    only = spoter_kit(tmp_path, "predict", "text.mp4", "none.mp4")  # before a bundle is looked for
    assert "error: 2 of 2 clips cannot be used:\n" in only.stderr


def test_another_landmarker_than_in_training_warns(camera_bundle, bundle_folder, drawn):
    with pytest.warns(
        UserWarning, match=r"was trained on landmarks of [0-9a-f]{12}… and is given landmarks of other"
    ):
        Recognizer.load(camera_bundle).predict_video(drawn(3), landmarker=Blank(0.5))
    plain = Recognizer.load(bundle_folder)
    plain.predict_video(drawn(3), landmarker=Blank(0.5))  # nobody knows its own
    with pytest.raises(DataError, match="no such file"):  # before the landmarker, which is not there
        plain.predict_video("none.mp4")
    warn_of_other_landmarker("same", "same", where="model")


def test_videos_are_evaluated(
    camera_bundle, landmarker_folder, signing_video, tmp_path, contract, provenance
):
    (tmp_path / "cache" / "spoter-kit").mkdir(parents=True)
    (tmp_path / "cache" / "spoter-kit" / "landmarker").symlink_to(landmarker_folder)
    label = contract.labels[0].name
    folder = tmp_path / "videos" / label / "ann"
    folder.mkdir(parents=True)
    shutil.copy(signing_video(CLIP), folder / "1.gif")
    done = spoter_kit(tmp_path, "eval", camera_bundle, "--data", "videos", "--backend", "ort-cpu", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["clips"], found["split"]) == (1, "all")
    (folder / "2.mp4").write_bytes(b"no video")
    words = ["eval", str(camera_bundle), "--data", "videos", "--backend", "ort-cpu"]
    done = subprocess.run(  # two videos are found in two processes, which this one does not start
        [sys.executable, "-m", "spoter_toolkit", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        check=False,
    )
    assert done.returncode == 1
    assert "on 1 clip: all split" in done.stdout
    assert "error: 1 of 2 clips cannot be used:\n  videos/" in done.stderr
    assert "ann/2.mp4: cannot be opened as a video" in done.stderr
    (folder / "2.mp4").unlink()
    right = Recognizer.load(camera_bundle, "ort-cpu").predict_video(signing_video(CLIP)).label == label
    assert found["top1"] == float(right)
    (folder.parent / "ann").rename(tmp_path / "videos" / label / "bob")
    (tmp_path / "videos" / label).rename(tmp_path / "videos" / "nobody-knows")
    done = spoter_kit(tmp_path, "eval", camera_bundle, "--data", "videos", "--backend", "ort-cpu")
    assert done.returncode == 1
    assert (
        "error: videos: the model does not know 1 of its labels: nobody-knows. Fix: take"
        in done.stderr.replace("\n", " ")
    )


@pytest.mark.slow
def test_the_landmarker_s_name_travels_from_the_videos_to_the_bundle(
    landmarker_folder, signing_video, tmp_path
):
    (tmp_path / "cache" / "spoter-kit").mkdir(parents=True)
    (tmp_path / "cache" / "spoter-kit" / "landmarker").symlink_to(landmarker_folder)
    for label, names in (("father", "W1_baba_father W3_bhai_brother"), ("work", "kaj_work W4_bon_sister")):
        for signer, name in zip(("ann", "bob"), names.split(), strict=True):
            folder = tmp_path / "videos" / label / signer
            folder.mkdir(parents=True)
            shutil.copy(signing_video(f"bdsl_{name}.gif"), folder / "1.gif")
    small = ("model.d_model=36", "model.num_encoder_layers=1", "model.d_ff=40", "epochs=1")
    sets = [word for setting in small for word in ("--set", setting)]
    for words in (
        ["data", "extract", "videos"],
        ["data", "split", "--test", "bob"],
        ["train", "datasets/videos", *sets, "-o", "runs/r"],
        ["export", "--onnx", "--camera", "--no-tune", "--max-batch", "2"],
    ):
        done = spoter_kit(tmp_path, *words)
        assert done.returncode == 0, done.stderr
    name = read_landmarker(landmarker_folder).sha256
    bundle = read_bundle(tmp_path / "bundles" / "r.spoter")
    assert bundle.provenance["data"]["landmarker"] == name
    assert json.loads((tmp_path / "runs" / "r" / "run.json").read_text())["data"]["landmarker"] == name
    (tmp_path / "cache" / "spoter-kit" / "landmarker").unlink()  # the bundle has its own
    done = spoter_kit(tmp_path, "predict", signing_video(CLIP))
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
