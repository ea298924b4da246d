"""`bench --scenario camera`: the parts of a frame's time add up to all of it."""

from __future__ import annotations

import json

import pytest

from in_process import spoter_kit
from spoter_runtime.errors import DataError
from spoter_toolkit.bench.camera import PARTS, CameraBench, CameraRound, measure_camera


def test_the_table_has_medians_and_their_sum():
    def one(threads, ms):
        return CameraRound(threads=threads, wall_ms=dict.fromkeys(PARTS, ms), processor_ms=ms)

    rounds = (one(1, 2.0), one(1, 9.0), one(1, 1.0), one(2, 1.0))
    rows = bench_of(rounds).rows()
    assert rows[0] == ("decode", "2.0", "1.0")
    assert rows[-2:] == [("all", "12.0", "6.0"), ("frames a second", "83.3", "166.7")]


def bench_of(rounds, no_energy=None):
    return CameraBench(
        landmarker="",
        videos=1,
        frames=9,
        rounds=rounds,
        starts_s=((1, 1),),
        peak_bytes=0,
        no_energy=no_energy,
    )


def test_the_energy_of_a_frame_is_the_median_on_one_thread_or_the_reason_why_not():
    def one(threads, joules):
        return CameraRound(threads=threads, wall_ms={}, processor_ms=1, joules={"package-0": joules})

    rounds = (one(1, 0.2), one(1, 0.4), one(1, 0.3), one(2, 9.0))
    assert bench_of(rounds).energy() == "package-0 0.300 J a frame"
    assert bench_of(rounds, "no meter").energy() == "not measured: no meter"


def test_the_camera_is_measured_by_part(landmarker_folder, signing_video, tmp_path, monkeypatch):
    monkeypatch.setattr("spoter_toolkit.bench.camera._STARTS", 1)
    pytest.importorskip("av", reason="PyAV reads videos")
    (tmp_path / "cache" / "spoter-kit").mkdir(parents=True)
    (tmp_path / "cache" / "spoter-kit" / "landmarker").symlink_to(landmarker_folder)
    video = signing_video("bdsl_W1_baba_father.gif")
    words = "bench", "--scenario", "camera", "--videos", video, "--rounds", "1", "-o", "camera.json"
    done = spoter_kit(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) <= 12
    assert "cold process to the first landmark: " in done.stdout
    found = json.loads((tmp_path / "camera.json").read_text())
    assert found["frames"] == 30
    assert 50e6 < found["peak_bytes"] < 1e9
    assert bool(found["no_energy"]) != all(one["joules"] for one in found["rounds"])
    for one in found["rounds"]:
        assert min(one["wall_ms"].values()) > 0
        assert one["wall_ms"]["pose"] > one["wall_ms"]["tracking"]
    assert spoter_kit(tmp_path, *words).returncode == 1  # camera.json is there


def test_what_is_missing_is_said(tmp_path, landmarker_folder):
    done = spoter_kit(tmp_path, "bench", "--scenario", "camera")
    assert (done.returncode, "Fix: --videos FOLDER" in done.stderr) == (2, True)
    with pytest.raises(DataError, match="no videos to measure on"):
        measure_camera([], landmarker_folder, rounds=1)
