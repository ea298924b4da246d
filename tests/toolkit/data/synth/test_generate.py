from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from spoter_runtime.errors import ConfigError, DataError, InputError
from spoter_runtime.landmarks import LEFT_HAND, MIRRORED, RIGHT_HAND, check_clip
from spoter_toolkit.data.dataset import read_dataset
from spoter_toolkit.data.dataset_writer import NewClip
from spoter_toolkit.data.synth.body import Body, pose_body
from spoter_toolkit.data.synth.generate import SynthSettings, generate_clips, generated_clip, synthesize
from spoter_toolkit.data.synth.signing import SIGN, draw_sign, draw_signer, draw_signs, generator, perform

LEFT_HANDED = ("s03", "s07")
RIGHT_SHOULDER, LEFT_SHOULDER = 6, 7
WRISTS = ((10, RIGHT_HAND), (11, LEFT_HAND))


@pytest.fixture(scope="module")
def clips() -> list[NewClip]:
    return list(generate_clips(SynthSettings(signs=60, signers=8, clips_per_sign=8, seed=3)))


def shoulder_width(clip: np.ndarray) -> float:
    """In picture heights: x is normalised by the width of a 16:9 picture."""
    across = (clip[:, RIGHT_SHOULDER] - clip[:, LEFT_SHOULDER]) * (16 / 9, 1)
    return float(np.nanmedian(np.linalg.norm(across, axis=-1)))


def features(clip: np.ndarray, frames: int = 20) -> np.ndarray:
    """Shoulder-normalised landmarks at `frames` moments; a missing part is where it was seen nearest."""
    points = (clip - np.nanmedian(clip[:, 1], axis=0)) / shoulder_width(clip)
    for part in (slice(0, 12), LEFT_HAND, RIGHT_HAND):
        seen = np.flatnonzero(~np.isnan(points[:, part, 0]).any(axis=1))
        if len(seen):
            points[:, part] = points[seen[np.abs(np.arange(len(points))[:, None] - seen).argmin(1)], part]
    rows = ((np.arange(frames) + 0.5) * len(points) / frames).astype(int)
    return np.asarray(np.nan_to_num(points[rows])).ravel()


def missing_pattern(clip: np.ndarray, frames: int = 20) -> np.ndarray:
    rows = ((np.arange(frames) + 0.5) * len(clip) / frames).astype(int)
    return np.append(np.isnan(clip[rows][:, [12, 33], 0]).ravel().astype(float), len(clip) / 30)


def nearest_neighbour_accuracy(vectors: list[np.ndarray], clips: list[NewClip]) -> float:
    """Of the last two signers' clips, how many are nearest to a clip of the same sign by another signer."""
    x = np.array(vectors)
    labels = np.array([clip.label for clip in clips])
    unseen = np.isin([clip.signer for clip in clips], ("s07", "s08"))
    distances = (x[unseen] ** 2).sum(1)[:, None] - 2 * x[unseen] @ x[~unseen].T + (x[~unseen] ** 2).sum(1)
    return float((labels[~unseen][distances.argmin(1)] == labels[unseen]).mean())


def test_the_signs_can_be_told_apart_by_what_is_signed_and_not_trivially(clips: list[NewClip]) -> None:
    accuracy = nearest_neighbour_accuracy([features(clip.poses_TLD) for clip in clips], clips)
    assert 0.45 < accuracy < 0.95  # chance is 0.017


def test_length_and_missing_pattern_alone_do_not_tell_the_signs(clips: list[NewClip]) -> None:
    assert nearest_neighbour_accuracy([missing_pattern(clip.poses_TLD) for clip in clips], clips) < 0.1
    lengths = [np.array([float(len(clip.poses_TLD))]) for clip in clips]
    assert nearest_neighbour_accuracy(lengths, clips) < 0.06


def test_lengths_are_those_of_recordings(clips: list[NewClip]) -> None:
    lengths = np.array([len(clip.poses_TLD) for clip in clips])
    assert lengths.min() >= 9
    assert lengths.max() <= 164
    assert 34 < lengths.mean() < 56
    assert lengths.std() > 10


def test_as_many_hand_points_are_missing_as_in_recordings(clips: list[NewClip]) -> None:
    frames = np.concatenate([clip.poses_TLD for clip in clips])
    hands, body = frames[:, 12:, 0], frames[:, :12, 0]
    assert 0.2 < np.isnan(hands).mean() < 0.45
    assert 0 < np.isnan(body).mean() < 0.01
    # A hand is found whole or not at all, and never without a body.
    for hand in (LEFT_HAND, RIGHT_HAND):
        lost = np.isnan(frames[:, hand]).all(axis=-1)
        assert (lost.all(axis=1) | ~lost.any(axis=1)).all()
        assert np.isnan(frames[np.isnan(body).any(axis=1), hand]).all()


def test_hands_are_lost_for_runs_of_frames(clips: list[NewClip]) -> None:
    changes, lost = 0, 0
    for clip in clips:
        missing = np.isnan(clip.poses_TLD[:, 33, 0])
        changes += int(np.count_nonzero(np.diff(missing)))
        lost += int(missing.sum())
    assert lost / max(changes / 2, 1) > 3  # frames a gap


def test_hands_hang_on_their_wrists(clips: list[NewClip]) -> None:
    for clip in clips:
        for wrist, hand in WRISTS:
            gap = (clip.poses_TLD[:, wrist] - clip.poses_TLD[:, hand][:, 0]) * (16 / 9, 1)
            gap = gap[~np.isnan(gap).any(axis=1)]
            assert (np.linalg.norm(gap, axis=-1) < 0.1 * shoulder_width(clip.poses_TLD)).all()


def test_one_handed_signs_leave_the_other_hand_at_rest(clips: list[NewClip]) -> None:
    hands = {f"synthetic-{i + 1:02d}": sign.hands for i, sign in enumerate(draw_signs(3, 60))}
    assert set(hands.values()) == {"one", "mirrored", "alternating", "resting on"}
    for clip in clips:
        moving, other = (11, 10) if clip.signer in LEFT_HANDED else (10, 11)
        wrists = clip.poses_TLD[:, :12] * (16 / 9, 1)
        way = np.nanstd(wrists, axis=0).sum(axis=-1) / shoulder_width(clip.poses_TLD)
        if hands[clip.label] == "one":
            assert way[other] < min(0.1, way[moving])
        elif hands[clip.label] != "resting on":
            assert way[other] > 0.1


def test_left_handed_signers_mirror() -> None:
    signer = draw_signer(0, 0)
    signer = replace(signer, tremor=0.0, detection=100.0, camera=replace(signer.camera, x=0.5, yaw=0, roll=0))
    sign = draw_sign(generator(0, SIGN))
    right = perform(sign, signer, 40, np.random.default_rng(1))
    left = perform(sign, replace(signer, left_handed=True), 40, np.random.default_rng(1))
    mirrored = (np.array([1, 0]) + np.array([-1, 1]) * right)[:, list(MIRRORED)]
    both = ~np.isnan(left) & ~np.isnan(mirrored)
    assert both[:, 12:].any()
    assert np.abs(left - mirrored)[both].max() < 0.06  # the body's sway is not mirrored
    assert np.nanmax(np.abs(left - right)) > 0.15


def test_bones_keep_their_length_wherever_the_wrists_are_sent() -> None:
    body = Body(upper_arm=0.8, forearm=0.65, hand=0.4, head=0.5, face=0.2, elbow_out=0.4)
    rng = np.random.default_rng(0)
    targets = rng.uniform((-1, -0.8, -0.7), (1, 1.2, 1.3), (2, 200, 3))
    postures = rng.uniform(0, 1, (2, 200, 11))
    points = pose_body(body, targets, postures, left_handed=False)

    def length(a: int, b: int) -> np.ndarray:
        return np.asarray(np.linalg.norm(points[:, a] - points[:, b], axis=-1))

    for shoulder, elbow, wrist in ((6, 8, 10), (7, 9, 11)):
        np.testing.assert_allclose(length(shoulder, elbow), body.upper_arm)
        np.testing.assert_allclose(length(elbow, wrist), body.forearm)
    for first in (12, 33):
        for a, b in ((0, 5), (5, 6), (6, 7), (7, 8), (0, 9), (9, 10), (0, 1), (1, 2), (2, 3), (3, 4)):
            assert np.ptp(length(first + a, first + b)) < 1e-9
    reach = np.linalg.norm(targets[0] - (-0.5, 0, 0), axis=-1)
    near = (reach > 0.3) & (reach < 1.4)
    np.testing.assert_allclose(points[near, 10], targets[0][near])


def test_elbows_do_not_jump_when_the_arms_go_up() -> None:
    body = Body(upper_arm=0.8, forearm=0.65, hand=0.4, head=0.5, face=0.2, elbow_out=0.2)
    for x in (-0.8, -0.5, -0.2):
        up = np.stack([np.full(100, x), np.linspace(1.2, -1.0, 100), np.full(100, 0.3)], axis=-1)
        points = pose_body(body, np.stack([up, up]), np.zeros((2, 100, 11)), left_handed=False)
        elbow, other = points[:, 8], points[:, 9]
        assert np.linalg.norm(np.diff(elbow, axis=0), axis=-1).max() < 0.12
        assert (elbow[:, 0] < other[:, 0]).all()


def test_straight_fingers_are_longer_than_closed_ones() -> None:
    body = Body(upper_arm=0.8, forearm=0.65, hand=0.4, head=0.5, face=0.2, elbow_out=0.4)
    wrists = np.tile([-0.3, 0.2, 0.3], (2, 1, 1))
    straight, closed = np.zeros((2, 1, 11)), np.zeros((2, 1, 11))
    closed[..., :5] = 1
    for postures, low, high in ((straight, 0.39, 0.41), (closed, 0.05, 0.3)):
        points = pose_body(body, wrists, postures, left_handed=False)[0]
        assert low < np.linalg.norm(points[33 + 12] - points[33]) < high


def test_any_two_signs_differ_in_two_features() -> None:
    signs = draw_signs(0, 100)
    for a, b in combinations(signs, 2):
        assert sum(x != y for x, y in zip(a.features(), b.features(), strict=True)) >= 2


def test_a_clip_does_not_depend_on_how_many_others_there_are() -> None:
    few = {c.id: c for c in generate_clips(SynthSettings(signs=2, signers=3, clips_per_sign=4, seed=7))}
    many = {c.id: c for c in generate_clips(SynthSettings(signs=5, signers=4, clips_per_sign=9, seed=7))}
    assert few.keys() < many.keys()
    for name, clip in few.items():
        assert clip.poses_TLD.tobytes() == many[name].poses_TLD.tobytes()


def test_another_seed_is_another_language() -> None:
    assert [s.features() for s in draw_signs(0, 10)] != [s.features() for s in draw_signs(1, 10)]


@pytest.mark.parametrize("frames", [1, 2, 9, 60, 299])
def test_a_lone_clip_has_exactly_the_frames_asked_for(frames: int) -> None:
    for seed in range(20):
        clip = generated_clip(seed, frames)
        assert clip.shape == (frames, 54, 2)
        assert clip.dtype == np.float32
        check_clip(clip, max_frames=299)
        assert clip.tobytes() == generated_clip(seed, frames).tobytes()
    assert 0.1 < np.mean([np.isnan(generated_clip(seed, frames)[:, 12:]).mean() for seed in range(40)]) < 0.6


def test_a_lone_clip_of_no_frames_is_refused() -> None:
    with pytest.raises(InputError, match="generated clip: 0 frames, expected 1 or more"):
        generated_clip(0, 0)


def test_the_dataset_says_that_it_is_synthetic_and_how_it_is_split(tmp_path: Path) -> None:
    reports: list[tuple[int, int, str]] = []
    settings = SynthSettings(signs=3, signers=6, clips_per_sign=12, seed=1)
    synthesize(tmp_path / "data", settings=settings, on_progress=lambda *report: reports.append(report))
    dataset = read_dataset(tmp_path / "data")
    assert dataset.origin.synthetic
    assert dataset.origin.kind == "synthetic"
    assert dataset.origin.source == "3 generated signs, 6 generated signers, 12 clips a sign, seed 1"
    assert dataset.coordinates == "image"
    assert [label.name for label in dataset.labels] == ["synthetic-01", "synthetic-02", "synthetic-03"]
    assert not any(label.gloss or label.bengali or label.romanised for label in dataset.labels)
    assert dataset.split == "by signer: train s01..s04, val s05, test s06"
    assert reports[-1] == (36, 36, "generating clips")
    signers = {split: {clip.signer for clip in dataset.clips_in(split)} for split in ("train", "val", "test")}
    assert signers == {"train": {"s01", "s02", "s03", "s04"}, "val": {"s05"}, "test": {"s06"}}
    for split in signers:
        assert len(set(Counter(clip.label for clip in dataset.clips_in(split)).values())) == 1


@pytest.mark.parametrize("signers", [3, 4, 5, 10, 12, 18, 50])
def test_no_signer_is_in_two_splits_and_no_split_is_empty(signers: int) -> None:
    splits = SynthSettings(signs=1, signers=signers, clips_per_sign=signers).splits()
    assert all(splits.values())
    everyone = [name for names in splits.values() for name in names]
    assert len(everyone) == len(set(everyone)) == signers
    assert len(splits["train"]) >= len(splits["test"]) >= len(splits["val"])


def test_the_same_settings_write_the_same_bytes(tmp_path: Path) -> None:
    settings = SynthSettings(signs=3, signers=3, clips_per_sign=3)
    first = synthesize(tmp_path / "a", settings=settings)
    second = synthesize(tmp_path / "b", settings=settings)
    for name in ("poses.npy", "clips.csv", "dataset.json"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_an_existing_folder_is_only_replaced_with_force(tmp_path: Path) -> None:
    settings = SynthSettings(signs=2, signers=3, clips_per_sign=3)
    old = synthesize(tmp_path / "a", settings=settings)
    with pytest.raises(DataError, match=r"exists already\. Fix: choose another -o"):
        synthesize(tmp_path / "a", settings=replace(settings, seed=1))
    assert read_dataset(tmp_path / "a").sha256 == old.sha256
    assert synthesize(tmp_path / "a", settings=replace(settings, seed=1), force=True).sha256 != old.sha256


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"signs": 0}, r"signs is 0, expected 1\.\.100\. Fix: --signs 1"),
        ({"signs": 101}, r"signs is 101, expected 1\.\.100\. Fix: --signs 100"),
        (
            {"signers": 2},
            r"signers is 2, expected 3\.\.1000: train, val and test share no signer\. Fix: --signers 3",
        ),
        (
            {"clips_per_sign": 5},
            r"clips_per_sign is 5, expected 12\.\..*each of 12 signers\. Fix: --clips-per-sign 12",
        ),
        ({"seed": -1}, r"seed is -1, expected 0\.\..* Fix: --seed 0"),
    ],
)
def test_settings_out_of_range_are_refused_with_a_fix(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SynthSettings(**wrong)
