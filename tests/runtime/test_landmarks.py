"""The 54 landmarks: names, order, sources, and the checks on one clip."""

from __future__ import annotations

import re

import numpy as np
import pytest

from spoter_runtime.errors import InputError
from spoter_runtime.landmarks import (
    BODY_NAMES,
    BONES,
    HAND_NAMES,
    LANDMARK_NAMES,
    LEFT_HAND,
    LEFT_SHOULDER,
    MIRRORED,
    RIGHT_HAND,
    RIGHT_SHOULDER,
    check_clip,
    landmarks_from_mediapipe,
    resample_clip,
)

# Each body point with its MediaPipe Pose indices, as the order of SPOTER's 54 landmarks defines it.
MEDIAPIPE = {
    "nose": (0,),
    "neck": (11, 12),
    "right_eye": (5,),
    "left_eye": (2,),
    "right_ear": (8,),
    "left_ear": (7,),
    "right_shoulder": (12,),
    "left_shoulder": (11,),
    "right_elbow": (14,),
    "left_elbow": (13,),
    "right_wrist": (16,),
    "left_wrist": (15,),
}


@pytest.fixture
def clip():
    return np.random.default_rng(0).uniform(0.1, 0.9, (7, 54, 2)).astype(np.float32)


def test_54_names_are_unique_and_lie_where_the_slices_say():
    assert len(LANDMARK_NAMES) == len(set(LANDMARK_NAMES)) == 54
    assert tuple(LANDMARK_NAMES[:12]) == BODY_NAMES == tuple(MEDIAPIPE)
    assert all(name.startswith("left_hand_") for name in LANDMARK_NAMES[LEFT_HAND])
    assert all(name.startswith("right_hand_") for name in LANDMARK_NAMES[RIGHT_HAND])
    assert LANDMARK_NAMES[RIGHT_SHOULDER] == "right_shoulder"
    assert LANDMARK_NAMES[LEFT_SHOULDER] == "left_shoulder"


def test_hands_are_in_mediapipe_hands_order():
    assert len(HAND_NAMES) == 21
    tips = {"thumb_tip": 4, "index_tip": 8, "middle_tip": 12, "ring_tip": 16, "little_tip": 20}
    assert {name: HAND_NAMES.index(name) for name in tips} == tips
    assert HAND_NAMES[0] == "wrist"


def test_mirroring_is_an_involution_that_swaps_left_and_right():
    assert [MIRRORED[MIRRORED[i]] for i in range(54)] == list(range(54))
    swapped = {"left": "right", "right": "left"}
    for i, name in enumerate(LANDMARK_NAMES):
        side, _, rest = name.partition("_")
        assert LANDMARK_NAMES[MIRRORED[i]] == (f"{swapped[side]}_{rest}" if side in swapped else name)


def test_bones_join_every_landmark_within_its_own_part():
    parts = [range(12), range(12, 33), range(33, 54)]
    assert all(any(a in part and b in part for part in parts) for a, b in BONES)
    assert {point for bone in BONES for point in bone} == set(range(54))


def test_each_body_point_comes_from_its_mediapipe_index():
    pose = np.random.default_rng(0).uniform(0.1, 0.9, (3, 33, 4))
    clip = landmarks_from_mediapipe(pose, None, None)
    assert clip.shape == (3, 54, 2)
    assert clip.dtype == np.float32
    for i, sources in enumerate(MEDIAPIPE.values()):
        np.testing.assert_allclose(clip[:, i], pose[:, list(sources), :2].mean(1), rtol=1e-6)
    assert np.isnan(clip[:, 12:]).all()


def test_hands_go_to_their_own_side():
    left, right = np.full((2, 21, 3), 0.25), np.full((2, 21, 2), 0.75)
    clip = landmarks_from_mediapipe(None, left, right)
    assert (clip[:, LEFT_HAND] == 0.25).all()
    assert (clip[:, RIGHT_HAND] == 0.75).all()
    assert np.isnan(clip[:, :12]).all()


def test_zeros_and_half_missing_points_become_nan():
    pose, hand = np.full((1, 33, 2), 0.5), np.full((1, 21, 2), 0.5)
    pose[0, 11] = 0.0  # one shoulder missing: no neck between them either
    hand[0, 3, 1] = np.nan
    hand[0, 4, 0] = 0.0  # on the image's edge, which is a place
    clip = landmarks_from_mediapipe(pose, hand, None)
    missing = {LANDMARK_NAMES[i] for i in np.flatnonzero(np.isnan(clip[0]).all(1)) if i < 33}
    assert missing == {"left_shoulder", "neck", "left_hand_thumb_ip"}
    assert clip[0, 12 + 4].tolist() == [0.0, 0.5]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((None, None, None), "no landmarks: pose, left hand and right hand are all None"),
        (
            (np.zeros((2, 32, 3)), None, None),
            r"pose landmarks: expected \(frames, 33, 2 or more\), got \(2, 32",
        ),
        (
            (None, np.zeros((2, 33, 2)), None),
            r"left hand landmarks: expected \(frames, 21, .*got \(2, 33, 2\)",
        ),
        ((None, None, np.zeros((21, 2))), r"right hand landmarks: .*got \(21, 2\)"),
        ((np.zeros((2, 33, 2)), np.zeros((3, 21, 2)), None), "different numbers of frames: .*2.*3"),
    ],
)
def test_mediapipe_parts_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(InputError, match=message):
        landmarks_from_mediapipe(*parts)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, ">f4"])
def test_any_float_type_and_either_layout_becomes_float32(clip, dtype):
    for shape in ((7, 54, 2), (7, 108)):
        checked = check_clip(clip.astype(dtype).reshape(shape), max_frames=299)
        assert (checked.shape, checked.dtype) == ((7, 54, 2), np.float32)
        assert checked.flags.c_contiguous
        np.testing.assert_allclose(checked, clip, atol=1e-3)
    assert check_clip(clip.tolist(), max_frames=299).shape == (7, 54, 2)


def test_missing_landmarks_pass_the_check(clip):
    clip[0, 3:] = np.nan
    clip[1] = 0.0
    clip[2:, :, 0] = np.nan
    assert np.array_equal(check_clip(clip, max_frames=299), clip, equal_nan=True)


def _with(value, dtype=np.float32):
    clip = np.full((5, 54, 2), 0.5, dtype)
    clip[4, 53, 1] = value
    return clip


BAD_CLIPS = {
    "no frames": (np.zeros((0, 54, 2), np.float32), "U4W1_3: 0 frames, the model takes 1..299"),
    "300 frames": (
        np.full((300, 54, 2), 0.5, np.float32),
        "U4W1_3: 300 frames, the model takes 1..299. Fix: .*predict --long resample",
    ),
    "with z": (
        np.full((5, 54, 3), 0.5, np.float32),
        r"expected 54×2 values a frame, got 54×3. Fix: keep x and y only: landmarks\[..., :2\]",
    ),
    "one frame without its axis": (
        np.zeros((54, 2), np.float32),
        r"expected \(frames, 54, 2\) .*got \(54, 2\)",
    ),
    "a batch": (np.zeros((2, 5, 54, 2), np.float32), r"got \(2, 5, 54, 2\)"),
    "53 landmarks": (np.zeros((5, 53, 2), np.float32), r"got \(5, 53, 2\)"),
    "a number": (np.float32(1), r"got \(\)"),
    "whole numbers": (
        np.ones((5, 54, 2), np.int64),
        r"got dtype int64. Fix: numpy\.asarray\(landmarks, 'float32'\)",
    ),
    "texts": ([["a"] * 108], "got dtype <U1"),
    "nothing": (None, "got dtype object"),
    "ragged": ([[[0.5, 0.5]] * 54, [[0.5, 0.5]] * 53], "rows of different sizes do not make an array"),
    "infinity": (_with(np.inf), r"value inf at index \(4, 53, 1\); .*Fix: use NaN where"),
    "minus infinity": (_with(-np.inf), r"value -inf at index \(4, 53, 1\)"),
    "infinity in float16": (_with(np.inf, np.float16), r"value inf at index \(4, 53, 1\)"),
    "no image is that wide": (_with(1e6), r"value 1000000.0 at index .* at most 10000"),
    "all NaN": (np.full((5, 54, 2), np.nan, np.float32), "no landmark is detected in any of its 5 frames"),
    "all zero": (np.zeros((5, 108)), "no landmark is detected in any of its 5 frames"),
    "all half missing": (
        np.stack((np.full((5, 54), np.nan), np.full((5, 54), 0.5)), axis=2),
        "no landmark is detected in any of its 5 frames",
    ),
}


@pytest.mark.parametrize(("clip", "message"), BAD_CLIPS.values(), ids=BAD_CLIPS.keys())
def test_a_bad_clip_is_refused_by_name_with_the_reason(clip, message):
    with pytest.raises(InputError, match=message) as raised:
        check_clip(clip, max_frames=299, where="U4W1_3")
    assert str(raised.value).startswith("U4W1_3: ")
    assert "\n" not in re.sub("setting an array element.*", "", str(raised.value))


def test_an_empty_clip_passes_where_it_is_asked_for():
    assert check_clip(np.zeros((5, 54, 2)), max_frames=299, allow_empty=True).shape == (5, 54, 2)


def test_one_landmark_in_the_last_frame_is_enough():
    clip = np.zeros((5, 54, 2), np.float32)
    clip[4, 53] = 0.5
    assert check_clip(clip, max_frames=299) is not None


def test_the_longest_clip_passes():
    assert len(check_clip(np.full((299, 54, 2), 0.5), max_frames=299)) == 299


@pytest.mark.parametrize("frames", [1, 3, 7, 20])
def test_resampling_copies_frames_in_order_and_invents_none(clip, frames):
    clip[2] = np.nan
    resampled = resample_clip(clip, frames)
    assert resampled.shape == (frames, 54, 2)
    bits = [row.tobytes() for row in clip]
    taken = [bits.index(row.tobytes()) for row in resampled]
    assert taken == sorted(taken)
    assert frames < 7 or set(taken) == set(range(7))


def test_resampling_takes_the_frame_at_the_middle_of_each_part():
    clip = np.arange(4, dtype=np.float32).repeat(108).reshape(4, 54, 2)
    assert [resample_clip(clip, frames)[:, 0, 0].tolist() for frames in (1, 2, 3)] == [[2], [1, 3], [0, 2, 3]]
