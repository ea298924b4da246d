"""People's clips are run again as cameras, trackers and left-handed people would show them."""

from __future__ import annotations

import numpy as np
import pytest

from spoter_export.parity.compare import run_parity
from spoter_export.parity.facts import ParityFacts
from spoter_export.parity.judge import judge
from spoter_export.parity.perturbations import CHANGED_CLIPS, CHANGES, changed_sets
from spoter_export.parity.policy import POLICIES
from spoter_export.parity.report import NO_CHANGE, robustness_rows
from spoter_export.probes import GENERATED, ClipSet
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.landmarks import LEFT_HAND, LEFT_SHOULDER, MIRRORED, RIGHT_HAND, RIGHT_SHOULDER, detected
from spoter_runtime.runner import Runner

CONTRACT = GraphContract(labels=(Label(name="left"), Label(name="right")), max_frames=40, max_batch=8)


class WhichHand(Runner):
    """Says which hand is seen in more frames; `wrong_without` makes it err where neither was ever found."""

    def __init__(self, name="hands", wrong_without=0.0):
        self.name = name
        self.contract = CONTRACT
        self.wrong_without = wrong_without

    def _infer(self, poses_NTD, lengths_N):
        rows = []
        for clip, frames in zip(poses_NTD, lengths_N, strict=True):
            found = detected(clip[:frames].reshape(frames, 54, 2))
            left, right = (found[:, hand].mean() for hand in (LEFT_HAND, RIGHT_HAND))
            spoiled = self.wrong_without if left == right == 0 else 0.0
            rows.append((left + spoiled, right + 0.01))
        return np.array(rows, np.float32)


def one_handed(rng, hand, frames):
    clip = rng.uniform(0.2, 0.8, (frames, 54, 2)).astype(np.float32)
    clip[:, RIGHT_HAND if hand == "left" else LEFT_HAND] = np.nan
    return clip


@pytest.fixture
def people():
    rng = np.random.default_rng(0)
    labels = ["left", "right"] * 6
    clips = [one_handed(rng, hand, 12 + i) for i, hand in enumerate(labels)]
    names = [f"clip {i}" for i in range(len(clips))]
    return ClipSet(source="people", clips=clips, names=names, labels=labels, signers=["s"] * len(clips))


def by_change(people, max_frames=40):
    return {group.change: group for group in changed_sets(people, max_frames=max_frames, seed=0)}


def test_every_change_does_what_its_name_says(people):
    left, right, lost, dropped, half, double, jitter, mirrored = by_change(people).values()
    assert not detected(left.clips[0])[:, LEFT_HAND].any()
    assert detected(left.clips[1])[:, RIGHT_HAND].all()
    assert not detected(right.clips[1])[:, RIGHT_HAND].any()
    shares = [
        detected(clip)[:, hand].mean()
        for clip, hand in zip(lost.clips, [LEFT_HAND, RIGHT_HAND] * 6, strict=True)
    ]
    assert 0.6 < np.mean(shares) < 0.8
    before = sum(map(len, people.clips))
    assert 0.65 < sum(map(len, dropped.clips)) / before < 0.85
    np.testing.assert_array_equal(half.clips[0], people.clips[0][::2])
    assert [len(clip) for clip in double.clips[:3]] == [24, 26, 28]
    np.testing.assert_array_equal(double.clips[0][::2], people.clips[0])
    width = np.median(
        np.linalg.norm(people.clips[0][:, LEFT_SHOULDER] - people.clips[0][:, RIGHT_SHOULDER], axis=1)
    )
    assert np.nanstd(jitter.clips[0] - people.clips[0]) == pytest.approx(0.02 * width, rel=0.1)
    np.testing.assert_allclose(mirrored.clips[0][:, :, 0], 1 - people.clips[0][:, MIRRORED, 0])
    assert mirrored.labels == people.labels


def test_a_clip_played_slower_stays_within_what_the_model_takes(people):
    assert {len(clip) for clip in by_change(people, max_frames=25)["double the frame rate"].clips} == {24, 25}


def test_the_clips_that_were_given_are_left_as_they_are(people):
    before = [clip.copy() for clip in people.clips]
    changed_sets(people, max_frames=40, seed=0)
    for clip, copy in zip(people.clips, before, strict=True):
        np.testing.assert_array_equal(clip, copy)


def test_clips_that_show_nothing_survive_every_change():
    nothing = np.full((1, 54, 2), np.nan, np.float32)
    sets = changed_sets(ClipSet(source="people", clips=[nothing]), max_frames=40, seed=0)
    assert [len(group.clips[0]) for group in sets] == [1, 1, 1, 1, 1, 2, 1, 1]


def test_of_many_clips_so_many_are_changed_of_all_lengths():
    clips = [np.full((1 + i % 40, 54, 2), 0.5, np.float32) for i in range(CHANGED_CLIPS + 50)]
    (group, *_) = changed_sets(ClipSet(source="people", clips=clips), max_frames=40, seed=0)
    assert len(group.clips) == CHANGED_CLIPS
    assert {len(clip) for clip in group.clips} == set(range(1, 41))


def test_the_table_tells_accuracy_and_what_stays(people):
    facts = run_parity(WhichHand("torch"), WhichHand(), [people])
    rows = {row.change: row for row in robustness_rows(facts)}
    assert list(rows) == [NO_CHANGE, *CHANGES]
    assert {row.source for row in rows.values()} == {"people"}  # nothing generated, no goldens
    assert (rows[NO_CHANGE].candidate_accuracy, rows[NO_CHANGE].kept) == (1.0, 1.0)
    gone = rows["left hand never found"]
    assert (gone.candidate_accuracy, gone.kept, gone.agree, gone.clips) == (0.5, 0.5, 12, 12)
    mirrored = rows["mirrored signer"]
    assert (mirrored.reference_accuracy, mirrored.kept, mirrored.agree) == (0.0, 0.0, 12)


def test_a_backend_that_differs_only_under_a_change_is_found_and_the_change_named(people):
    verdict = judge(run_parity(WhichHand("torch"), WhichHand("hands", 5.0), [people]), POLICIES["fp32"])
    found = [failure for failure in verdict.failures if "people" in failure]
    assert any("(people, left hand never found): logits differ by 5.0e+00" in failure for failure in found)
    assert any("6 flips that fp32 does not explain" in failure for failure in found)
    assert not any(failure.startswith("12 clips (people):") for failure in found)


def test_labels_that_nobody_knows_are_no_accuracy(people):
    unnamed = ClipSet(source="people", clips=people.clips)
    rows = robustness_rows(run_parity(WhichHand("torch"), WhichHand(), [unnamed]))
    assert {row.candidate_accuracy for row in rows} == {None}


def test_facts_come_back_from_json_with_their_changes(people):
    facts = run_parity(WhichHand("torch"), WhichHand(), [people])
    assert ParityFacts.from_json(facts.as_json()) == facts
    assert robustness_rows(run_parity(WhichHand("torch"), WhichHand())) == []
    assert {group.source for group in facts.clips} == {GENERATED, "people"}
