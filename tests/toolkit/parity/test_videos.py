"""The proof on videos: facts of two landmarkers that are known to differ by so much."""

from __future__ import annotations

import numpy as np
import pytest

from in_process import spoter_kit
from spoter_runtime.errors import DataError, is_installed
from spoter_runtime.recognizer import Recognizer
from spoter_toolkit.parity.videos import CHANGES, compare_on_videos, facts_of

WIDTH = 0.2  # of the shoulders, in a square picture


def poses(frames=40):
    clip = np.random.default_rng(0).uniform(0.3, 0.7, (frames, 54, 2)).astype(np.float32)
    clip[:, 6], clip[:, 7] = (0.4, 0.5), (0.4 + WIDTH, 0.5)
    return clip


def test_distances_are_in_shoulder_widths_and_lost_hands_are_counted():
    reference, candidate = poses(), poses()
    candidate[:, 12:33, 0] += 0.1 * WIDTH
    candidate[:10, 33:] = np.nan
    reference[5:15, 33:] = np.nan
    facts = facts_of("as they are", [("a.mp4", reference, candidate, (100, 100))])
    body, left, right = facts.parts
    assert (body.distance, body.both, body.either) == (0, 40, 40)
    assert left.distance == pytest.approx(0.1, rel=1e-4)
    assert (right.distance, right.both, right.either) == (0, 25, 35)
    assert (facts.hands.both, facts.hands.either) == (65, 75)
    assert facts.hands.distance == pytest.approx(0.1 * 40 / 65, rel=1e-4)
    wide = facts_of("as they are", [("a.mp4", reference, candidate, (200, 100))])
    assert wide.parts[1].distance == pytest.approx(0.1, rel=1e-4)  # both are twice as wide


def test_each_window_is_recognised_and_each_flip_is_explained(bundle_folder):
    recognizer = Recognizer.load(bundle_folder, "ort-cpu")
    reference, candidate = poses(), poses()
    candidate[20:] = poses()[::-1][20:]
    candidate[:, 33:] = np.nan
    facts = facts_of("as they are", [("a.mp4", reference, candidate, (100, 100))], recognizer)
    labels = [
        [recognizer.predict(clip[start : start + 20]).label for start in range(21)]
        for clip in (reference, candidate)
    ]
    assert facts.windows == 21
    assert facts.agree == sum(one == other for one, other in zip(*labels, strict=True))
    assert len(facts.flips) == 21 - facts.agree > 0
    for flip in facts.flips:
        assert (flip.reference, flip.candidate) == (labels[0][flip.frame], labels[1][flip.frame])
        assert flip.hands == 20  # the right hand, in each frame
        assert flip.margin > 0
    same = facts_of("as they are", [("a.mp4", reference, reference, (100, 100))], recognizer)
    assert (same.agree, same.sure_agree) == (21, same.sure)


def test_a_landmarker_agrees_with_itself_on_changed_pictures(landmarker_folder, signing_video):
    pytest.importorskip("av", reason="PyAV reads videos")
    from spoter_runtime.camera.landmarker import Landmarker

    landmarker = Landmarker.load(landmarker_folder)
    found = compare_on_videos(
        [signing_video("bdsl_W1_baba_father.gif")],
        landmarker,
        landmarker.another(),
        changes=("half the frames", "JPEG quality 30"),
    )
    assert [(facts.change, facts.frames) for facts in found] == [
        ("half the frames", 15),
        ("JPEG quality 30", 30),
    ]
    for facts in found:
        assert facts.parts[0].both > 10
        assert {part.distance for part in facts.parts if part.both} == {0}
    with pytest.raises(DataError, match="no videos"):
        compare_on_videos([], landmarker, landmarker)


def test_the_changes_are_what_they_say():
    frame = np.random.default_rng(0).integers(0, 256, (31, 41, 3), dtype=np.uint8)
    changed = {name: change([frame] * 4) for name, change in CHANGES.items()}
    assert {name: len(frames) for name, frames in changed.items()} == dict.fromkeys(CHANGES, 4) | {
        "half the frames": 2
    }
    assert changed["half the resolution"][0].shape == (15, 20, 3)
    assert abs(int(changed["half the resolution"][0].mean()) - int(frame.mean())) < 5
    assert changed["dark"][0].mean() == pytest.approx(0.35 * frame.mean(), rel=0.02)
    assert 0 < np.abs(changed["JPEG quality 30"][0].astype(int) - frame).mean() < 80


def test_without_mediapipe_the_verb_says_how_to_get_it(bundle_folder, tmp_path):
    if is_installed("mediapipe"):
        pytest.skip("MediaPipe is installed")
    (tmp_path / "a.mp4").touch()
    done = spoter_kit(tmp_path, "parity", bundle_folder, "--videos", "a.mp4")
    assert done.returncode == 1
    assert "Fix: " in done.stderr
