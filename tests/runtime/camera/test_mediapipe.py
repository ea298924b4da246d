from __future__ import annotations

import os

import numpy as np
import pytest

from spoter_runtime.camera.mediapipe import MediaPipeLandmarker, _quiet


def fail_after_lines(count):
    for n in range(count):
        os.write(2, b"W0000 line %d\n" % n)
    raise RuntimeError("the graph failed")


def test_what_mediapipe_logs_is_shown_only_where_it_fails(capfd):
    with _quiet():
        os.write(2, b"W0000 of no use\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(RuntimeError, match="the graph failed"), _quiet():
        fail_after_lines(20)
    assert capfd.readouterr().err == "".join(f"W0000 line {n}\n" for n in range(10, 20))


def test_mediapipe_itself_finds_nobody_and_says_nothing(capfd):
    pytest.importorskip("mediapipe", reason="to compare with; not on every Python")
    landmarker = MediaPipeLandmarker()
    capfd.readouterr()
    for _ in range(2):
        landmarker.reset()
        assert np.isnan(landmarker(np.zeros((64, 64, 3), np.uint8))).all()
    assert capfd.readouterr().err == ""
