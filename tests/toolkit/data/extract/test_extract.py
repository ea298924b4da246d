"""`data extract` as a user types it, on real clips where they lie beside the project, else on drawn ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from in_process import spoter_kit
from processes import children_of
from spoter_runtime.errors import is_installed, pip_fix
from spoter_toolkit.data.dataset import read_dataset
from spoter_toolkit.data.extract.extract import FrameRate

av = pytest.importorskip("av", reason="PyAV reads and writes videos")


@pytest.fixture
def home(tmp_path, landmarker_folder):
    """An empty folder whose cache has the landmarker."""
    (tmp_path / "cache" / "spoter-kit").mkdir(parents=True)
    (tmp_path / "cache" / "spoter-kit" / "landmarker").symlink_to(landmarker_folder)
    return tmp_path


@pytest.fixture
def videos(home, signing_video):
    """Three words by two signers: real clips, some of them twice."""
    names = ["W1_baba_father", "W3_bhai_brother", "kaj_work"]
    for name in names:
        for signer in ("ann", "bob"):
            folder = home / "videos" / name.rpartition("_")[2] / signer
            folder.mkdir(parents=True)
            shutil.copy(signing_video(f"bdsl_{name}.gif"), folder / "1.gif")
    return home / "videos"


def test_videos_become_a_dataset_that_names_its_landmarker(home, videos, landmarker_folder):
    done = spoter_kit(home, "data", "extract", "videos", "--workers", "1", "--trim")
    assert done.returncode == 0, done.stderr
    assert "6 clips of 3 labels by 2 signers" in done.stdout
    assert done.stderr.endswith("next: spoter-kit data split datasets/videos --train-all\n")
    assert len((done.stdout + done.stderr).splitlines()) <= 12
    dataset = read_dataset(home / "datasets" / "videos")
    assert (
        dataset.origin.landmarker == json.loads((landmarker_folder / "landmarker.json").read_text())["sha256"]
    )
    assert {round(clip.fps, 2) for clip in dataset.clips} == {7.14}
    one, other = (dataset.poses_of(clip) for clip in dataset.clips[:2])
    np.testing.assert_array_equal(one, other)  # the same video, whichever was before it
    assert np.isfinite(one[:, :12]).mean() > 0.95
    assert [path.name for path in (home / "datasets").iterdir()] == ["videos"]


def test_a_broken_video_is_named_what_was_done_is_kept_and_skip_bad_goes_on(home, videos):
    (videos / "work" / "bob" / "2.mp4").write_text("this is no video " * 50)
    (videos / "work" / "bob" / "3.mp4").write_bytes(b"")
    done = spoter_kit(home, "data", "extract", "videos", "-o", "d", "--workers", "1")
    assert done.returncode == 1
    assert "2 of 8 clips cannot be used" in done.stderr
    assert "bob/2.mp4: cannot be opened as a video" in done.stderr
    assert "--skip-bad" in done.stderr
    assert not (home / "d").exists()
    (videos / "loose.mp4").touch()
    done = spoter_kit(home, "data", "extract", "videos", "-o", "d", "--workers", "1")
    loose = f"{Path('videos', 'loose.mp4')}: expected LABEL/SIGNER/VIDEO or LABEL/VIDEO in videos"
    first = f"  {loose}\n    Fix: move it to {Path('videos', 'LABEL', 'loose.mp4')}\n"
    assert f"3 of 9 clips cannot be used; nothing was written:\n{first}" in done.stderr
    assert "bob/2.mp4: cannot be opened as a video" in done.stderr
    began = time.monotonic()
    done = spoter_kit(home, "data", "extract", "videos", "-o", "d", "--workers", "1", "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 5  # no frame of the good ones is looked at again
    assert "6 clips of 3 labels by 2 signers" in done.stdout
    assert "left out: 3 clips that cannot be used" in done.stdout
    named = [line.strip() for line in done.stdout.splitlines() if ".mp4: " in line]
    assert named.pop(0) == loose
    bad = [str(Path("videos", "work", "bob", name)) for name in ("2.mp4", "3.mp4")]
    assert [line.split(":")[0] for line in named] == bad
    assert (home / "d" / "skipped.txt").read_text().splitlines() == [loose, *named]
    assert not list(home.glob(".d.extract"))


def start(home, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "spoter_toolkit", "data", "extract", "videos", "-o", "d", *arguments],
        cwd=home,
        env=os.environ | {"XDG_CACHE_HOME": str(home / "cache")},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kept(home):
    return {path.name: path.stat().st_mtime_ns for path in (home / ".d.extract").glob("[0-9a-f]*.npz")}


def wait_for(home, count):
    deadline = time.monotonic() + 120
    while len(kept(home)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_at_the_clip_it_had_reached_and_leaves_no_process(home, videos, how, ctrl_c):
    process = start(home, "--workers", "2")
    wait_for(home, 2)
    workers = children_of(process.pid)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -how), said
    assert "Traceback" not in said
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker outlives the run"
        time.sleep(0.1)
    before = kept(home)
    assert 2 <= len(before) < 6
    assert not (home / "d").exists()
    done = spoter_kit(home, "data", "extract", "videos", "-o", "d", "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clips"] == 6
    whole = read_dataset(home / "d")
    assert spoter_kit(home, "data", "extract", "videos", "-o", "e", "--workers", "1").returncode == 0
    np.testing.assert_array_equal(whole.poses_FLD, read_dataset(home / "e").poses_FLD)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_said_and_the_next_run_goes_on(home, videos):
    process = start(home, "--workers", "2")
    wait_for(home, 1)
    worker = next(pid for pid in children_of(process.pid) if "spawn_main" in command_of(pid))
    os.kill(worker, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a process that finds landmarks ended" in said
    assert "Fix: run the same command again" in said
    assert len(kept(home)) >= 1


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@pytest.mark.slow
def test_over_ray_with_two_workers_one_of_which_is_killed(home, videos, monkeypatch):
    if not is_installed("ray"):
        pytest.skip(f"Ray is not installed. Fix: {pip_fix('ray')}")
    process = start(home, "--ray", "local")
    deadline = time.monotonic() + 200
    while not (busy := ray_workers(process.pid)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(busy[0], signal.SIGKILL)
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "6 clips of 3 labels by 2 signers" in out
    assert spoter_kit(home, "data", "extract", "videos", "-o", "e", "--workers", "1").returncode == 0
    np.testing.assert_array_equal(read_dataset(home / "d").poses_FLD, read_dataset(home / "e").poses_FLD)


def ray_workers(pid):
    """Return the processes under a process that run a task of ours now."""
    below, found = [pid], []
    while below:
        children = children_of(below.pop())
        below += children
        found += [child for child in children if "ray::_find" in command_of(child)]
    return found


def test_a_source_that_is_one_video_is_told_as_that(home, signing_video):
    shutil.copy(signing_video("bdsl_kaj_work.gif"), home / "one.gif")
    done = spoter_kit(home, "data", "extract", "one.gif")
    assert done.returncode == 1
    assert "one.gif: is one video, expected a folder with videos as LABEL/SIGNER/VIDEO" in done.stderr
    assert done.stderr.endswith(" Fix: spoter-kit predict one.gif\n")


def test_no_ray_cluster_is_said(home, videos):
    if not is_installed("ray"):
        done = spoter_kit(home, "data", "extract", "videos", "--ray", "local")
        assert done.returncode == 1
        assert pip_fix("ray") in done.stderr
        return
    done = spoter_kit(home, "data", "extract", "videos", "--ray", "nowhere")
    assert done.returncode == 1
    assert "no Ray cluster there" in done.stderr


def test_without_a_landmarker_nothing_is_downloaded_unasked(tmp_path):
    (tmp_path / "v" / "tea").mkdir(parents=True)
    done = spoter_kit(tmp_path, "data", "extract", "v")
    assert done.returncode == 1
    assert "no landmarker there. Fix: spoter-kit landmarker fetch" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "--workers 0: expected at least 1"),
        (["--workers", "2", "--ray", "local"], "Ray has its own"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, message):
    done = spoter_kit(tmp_path, "data", "extract", "v", *options)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_full_disk_is_said_and_nothing_that_was_done_is_lost(home, videos, monkeypatch):
    import errno

    from spoter_toolkit.data.extract import store

    real, writes = np.savez, []

    def savez(file, **arrays):
        writes.append(file)
        if len(writes) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, **arrays)

    with monkeypatch.context() as full:
        full.setattr(store.np, "savez", savez)
        done = spoter_kit(home, "data", "extract", "videos", "-o", "d", "--workers", "1")
    assert done.returncode == 1
    assert ".d.extract: the disk is full" in done.stderr
    assert len(kept(home)) == 2
    assert spoter_kit(home, "data", "extract", "videos", "-o", "d", "--workers", "1").returncode == 0


def test_a_clip_is_drawn_over_its_video_and_no_other(home, videos):
    assert spoter_kit(home, "data", "extract", "videos", "-o", "d", "--workers", "1").returncode == 0
    words = "data", "show", "d", "--clip", "father/ann/1", "-o"
    assert spoter_kit(home, *words, "plain.png").returncode == 0
    done = spoter_kit(home, *words, "over.png", "--over", videos / "father" / "ann" / "1.gif")
    assert done.returncode == 0, done.stderr
    import matplotlib.pyplot as plt

    drawn = [plt.imread(home / name).reshape(-1, 4) for name in ("plain.png", "over.png")]
    colours = [len(np.unique(pixels, axis=0)) for pixels in drawn]
    assert colours[1] > 3 * colours[0]  # photographs
    with av.open(str(home / "short.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "bgr0"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode()])
    done = spoter_kit(home, *words, "no.png", "--over", "short.mkv")
    assert done.returncode == 1
    assert "short.mkv: has 1 frames, the clip has 30. Fix: name the video" in done.stderr


def test_the_speed_leaves_out_the_loading_of_the_networks(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("spoter_toolkit.data.extract.extract.time.monotonic", lambda: now[0])
    rate = FrameRate()
    said = []
    for now[0], frames in ((0.0, 0), (30.0, 0), (31.0, 1), (32.0, 21), (33.0, 41)):
        said.append(rate.words(frames))
    assert said == ["", "", "", ", 20 frames/s", ", 20 frames/s"]
