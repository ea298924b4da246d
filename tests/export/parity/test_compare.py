"""Parity finds each way of being wrong, and passes what is right: each runner here is wrong in one way."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from spoter_export.parity.compare import Remembering, invariance_of, run_parity
from spoter_export.parity.judge import judge
from spoter_export.parity.policy import Policy
from spoter_export.parity.proof import one_of
from spoter_export.probes import (
    GRID_BATCHES,
    GRID_FRAMES,
    ClipSet,
    generated_clips,
    grid_points,
    spread_by_length,
)
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import BackendError, InputError
from spoter_runtime.landmarks import detected
from spoter_runtime.runner import Runner

LABELS = tuple(Label(name=name) for name in "abcd")
WEIGHTS = np.random.default_rng(0).normal(0, 1, (108, 4)).astype(np.float32)
# Small, so that each case takes a fraction of a second; all eight generated clips fit into one batch.
SMALL = GraphContract(labels=LABELS, max_frames=40, max_batch=8)


class Honest(Runner):
    """Logits from the mean of a clip's real frames, each clip by itself."""

    name = "honest"

    def __init__(self, contract=SMALL):
        self.contract = contract
        self.seen = []

    def _infer(self, poses_NTD, lengths_N):
        self.seen.append((poses_NTD.shape, lengths_N.tolist()))
        return np.stack(
            [np.nan_to_num(clip[:n]).mean(0) @ WEIGHTS for clip, n in zip(poses_NTD, lengths_N, strict=True)]
        )


class AttendsToPadding(Honest):
    name = "attends to padding"

    def _infer(self, poses_NTD, lengths_N):
        with np.errstate(over="ignore", invalid="ignore"):
            return super()._infer(poses_NTD, np.full_like(lengths_N, poses_NTD.shape[1]))


class ReadsNanInPadding(Honest):
    """Right for every padding but NaN: the fault of a mask that multiplies."""

    name = "reads NaN"

    def _infer(self, poses_NTD, lengths_N):
        padded = np.arange(poses_NTD.shape[1]) >= lengths_N[:, None]
        spoiled = np.isnan(poses_NTD[padded]).all(axis=-1).any() if padded.any() else False
        return super()._infer(poses_NTD, lengths_N) + np.float32(0.1 if spoiled else 0)


class DependsOnCompany(Honest):
    name = "depends on company"

    def _infer(self, poses_NTD, lengths_N):
        return super()._infer(poses_NTD, lengths_N) + np.float32(5e-5 * (len(poses_NTD) - 1) / 8)


class DependsOnOrder(Honest):
    name = "depends on order"

    def _infer(self, poses_NTD, lengths_N):
        places = np.arange(len(poses_NTD), dtype=np.float32)[:, None]
        return super()._infer(poses_NTD, lengths_N) + 1e-5 * places


class Shifted(Honest):
    name = "shifted"

    def _infer(self, poses_NTD, lengths_N):
        return super()._infer(poses_NTD, lengths_N) + np.float32(1e-3)


class FailsAtOneShape(Honest):
    name = "fails at one shape"

    def _infer(self, poses_NTD, lengths_N):
        if poses_NTD.shape[:2] == (7, 37):
            raise BackendError("cannot broadcast")
        return super()._infer(poses_NTD, lengths_N)


class NearTie(Honest):
    """Gives labels a and b logits that differ by 2e-5."""

    name = "near tie"
    lead = 2e-5

    def _infer(self, poses_NTD, lengths_N):
        logits = super()._infer(poses_NTD, lengths_N)
        best = logits.max(1) + 1
        logits[:, 0], logits[:, 1] = best, best - np.float32(self.lead)
        return logits


class OtherWinner(NearTie):
    name = "other winner"
    lead = -2e-5


def real(*clips, **known):
    return ClipSet(source="real", clips=clips, **known)


def failures_of(candidate, reference=None, policy=None):
    reference = reference or Honest(candidate.contract)
    facts = run_parity(reference, candidate)
    return judge(facts, policy or Policy()).failures


def test_the_honest_runner_passes():
    facts = run_parity(Honest(), Honest())
    assert judge(facts, Policy()).passed
    assert facts.max_logit_diff == 0.0
    assert all(point.labels_agree == point.batch for point in facts.grid)


def test_attending_to_padding_is_found_for_every_filling_and_in_ragged_batches():
    failures = failures_of(AttendsToPadding())
    for fill in ("zeros", "noise", "nan", "huge", "infinity"):
        assert any(f"attends to padding: padding {fill}" in failure for failure in failures)
    assert any(
        "padding infinity: no answer: attends to padding: logits are not finite" in f for f in failures
    )
    (grid,) = (failure for failure in failures if "shapes are beyond that" in failure)
    assert "ragged lengths: logits differ" in grid
    facts = run_parity(Honest(), AttendsToPadding())
    assert {point.lengths for point in facts.grid if point.max_logit_diff > 1e-4} == {"ragged"}
    assert not any(failure.startswith("honest") for failure in failures)


def test_nan_in_padding_alone_is_found():
    (failure,) = failures_of(ReadsNanInPadding())
    assert failure == "reads NaN: padding nan moves the logits by 1.0e-01, allowed 1e-05"


def test_dependence_on_company_is_found_where_each_difference_is_within_the_tolerance():
    failures = failures_of(DependsOnCompany())
    assert failures
    assert {failure.partition(" moves")[0] for failure in failures} == {
        "depends on company: batch composition",
        "depends on company: batch order",
    }


def test_dependence_on_order_is_found():
    failures = failures_of(DependsOnOrder())
    assert any("depends on order: batch order moves the logits by" in failure for failure in failures)


def test_shifted_logits_are_found_on_the_grid_and_on_clips():
    failures = failures_of(Shifted())
    total = len(grid_points(SMALL))
    grid = rf".* lengths: logits differ by 1\.0e-03, allowed 1e-04; {total} of {total} shapes are .*"
    assert re.fullmatch(grid, failures[0])
    assert any(
        re.fullmatch(
            r"14 clips \(generated\): logits differ by \d\.\de-03 on .*, allowed 1e-04; 14 clips are .*", f
        )
        for f in failures
    )
    assert len(failures) == 2  # and no invariance is hurt


def test_a_shape_that_cannot_be_run_is_a_fact_with_its_reason():
    candidate = FailsAtOneShape()
    facts = run_parity(Honest(), candidate)
    failed = [point for point in facts.grid if point.max_logit_diff is None]
    assert [(point.batch, point.frames, point.lengths) for point in failed] == [
        (7, 37, "full"),
        (7, 37, "ragged"),
    ]
    total = len(grid_points(SMALL))
    assert judge(facts, Policy()).failures == (
        "7 clips × 37 frames, full lengths: fails at one shape cannot run it: cannot broadcast; "
        f"2 of {total} shapes",
    )


def test_a_flipped_label_is_found_where_logits_are_within_the_tolerance():
    failures = failures_of(OtherWinner(), NearTie())
    assert failures == ("14 clips (generated): 14 labels differ, agreement must be 100.0%",)


def test_a_flip_is_kept_with_both_labels_and_their_margins():
    (clips,) = run_parity(NearTie(), OtherWinner()).clips
    flip = clips.flips[0]
    assert (flip.name, flip.reference, flip.candidate) == ("1 frames", "a", "b")
    assert flip.reference_margin == pytest.approx(2e-5, rel=0.2)
    assert flip.candidate_margin == pytest.approx(2e-5, rel=0.2)


def test_the_same_facts_can_be_judged_by_other_thresholds():
    facts = run_parity(Honest(), Shifted())
    assert not judge(facts, Policy()).passed
    assert judge(facts, Policy(max_logit_diff=2e-3)).passed
    facts = run_parity(NearTie(), OtherWinner())
    assert judge(facts, Policy(min_label_agreement=0.0)).passed


def test_facts_are_plain_data():
    facts = run_parity(Honest(), FailsAtOneShape())
    value = json.loads(json.dumps(facts.as_json(), allow_nan=False))
    assert (value["reference"], value["candidate"], value["seed"]) == ("honest", "fails at one shape", 0)
    assert len(value["grid"]) == len(facts.grid)
    for stored, point in zip(value["grid"], facts.grid, strict=True):
        assert stored == {name: getattr(point, name) for name in stored}
    assert {fact["change"] for fact in value["invariance"]} >= {
        "padding nan",
        "batch composition",
        "batch order",
    }


def test_the_whole_grid_of_the_default_contract_is_run():
    reference = Honest(GraphContract(labels=LABELS))
    candidate = Honest(reference.contract)
    facts = run_parity(reference, candidate)
    assert {(point.batch, point.frames, point.lengths) for point in facts.grid} == {
        (batch, frames, kind)
        for batch in (1, 2, 7, 32)
        for frames in (1, 2, 37, 60, 164, 299)
        for kind in ("full", "ragged")
    }
    assert len(facts.grid) == 48
    assert judge(facts, Policy()).passed
    # What was said to be run was given to the candidate, and ragged lengths are ragged.
    for point in facts.grid:
        shape = (point.batch, point.frames, 108)
        given = [lengths for seen, lengths in candidate.seen if seen == shape]
        if point.lengths == "full":
            assert [point.frames] * point.batch in given
        elif point.batch >= 7 and point.frames >= 37:
            assert any(len(set(lengths)) > 3 for lengths in given)


def test_the_grid_keeps_to_the_contract_and_reaches_its_corner():
    points = grid_points(GraphContract(labels=LABELS, max_frames=50, max_batch=5))
    assert {batch for batch, _, _ in points} == {1, 2, 5}
    assert {frames for _, frames, _ in points} == {1, 2, 37, 50}
    larger = grid_points(GraphContract(labels=LABELS, max_frames=500, max_batch=64))
    assert {batch for batch, _, _ in larger} == {*GRID_BATCHES, 64}
    assert {frames for _, frames, _ in larger} == {*GRID_FRAMES, 500}


def test_clips_of_the_caller_are_compared_and_named():
    clips = generated_clips(SMALL, seed=5).clips[:3]
    facts = run_parity(Honest(), Shifted(), [ClipSet(source="real: kitchen, test clips", clips=clips)])
    assert [(group.source, len(group.clips)) for group in facts.clips if not group.change] == [
        ("generated", 14),
        ("real: kitchen, test clips", 3),
    ]
    assert {fact.clips for fact in facts.invariance} == {17}
    assert any(
        "3 clips (real: kitchen, test clips)" in failure for failure in judge(facts, Policy()).failures
    )


def test_a_clip_that_the_contract_does_not_allow_is_refused():
    with pytest.raises(InputError, match=r"41 frames, the contract takes 1\.\.40"):
        run_parity(Honest(), Honest(), [real(np.full((41, 54, 2), 0.5, np.float32))])


def test_generated_clips_show_one_frame_no_hands_and_nothing():
    clips = generated_clips(GraphContract(labels=LABELS), seed=0).clips
    assert min(len(clip) for clip in clips) == 1
    assert any(not detected(clip).any() for clip in clips)
    assert any(detected(clip)[:, :12].any() and not detected(clip)[:, 12:].any() for clip in clips)
    gone = np.concatenate([clip.reshape(-1, 2) for clip in clips])
    assert np.isnan(gone).any()
    assert (gone == 0).all(1).any()


def test_the_same_seed_gives_the_same_facts_and_another_does_not():
    def of(seed):
        return run_parity(Honest(), DependsOnOrder(), seed=seed).as_json() | {"seed": None}

    assert of(3) == of(3)
    assert of(3) != of(4)


def test_progress_rises_to_its_total_by_the_frames_of_each_shape():
    said = []
    run_parity(Honest(), Honest(), on_progress=lambda *report: said.append(report))
    counts = [done for done, _, _ in said]
    assert counts == sorted(counts)
    assert {total for _, total, _ in said} == {counts[-1]}
    points = grid_points(SMALL)
    assert counts[0] == 0
    assert np.diff(counts)[: len(points)].tolist() == [batch * frames for batch, frames, _ in points]
    assert all("frames, honest against honest" in what for _, _, what in said)


def test_progress_of_several_proofs_has_one_count():
    said = []
    for number in range(3):
        on_progress = one_of(lambda *report: said.append(report), number, 3)
        run_parity(Honest(), Honest(), on_progress=on_progress)
    counts = [done for done, _, _ in said]
    assert counts == sorted(counts)
    assert {total for _, total, _ in said} == {counts[-1]}
    assert one_of(None, 0, 3) is None


def test_invariance_needs_no_reference():
    changes = {
        fact.change: fact.max_logit_diff
        for fact in invariance_of(Honest(), generated_clips(SMALL, 0).clips, seed=0)
    }
    assert changes == dict.fromkeys(
        (
            *(f"padding {fill}" for fill in ("zeros", "noise", "nan", "huge", "infinity")),
            "missing as (0, 0)",
            "batch composition",
            "batch order",
        ),
        0.0,
    )


def test_clips_are_picked_from_the_shortest_to_the_longest():
    clips = [np.zeros((frames, 54, 2), np.float32) for frames in (9, 3, 7, 1, 5)]
    assert [len(clips[i]) for i in spread_by_length(clips, 3)] == [1, 5, 9]
    assert [len(clips[i]) for i in spread_by_length(clips, 9)] == [1, 3, 5, 7, 9]


def test_a_reference_that_remembers_computes_each_batch_once_and_gives_the_same_answers():
    honest = Honest()
    remembering = Remembering(honest)
    first = run_parity(remembering, Honest())
    computed = len(honest.seen)
    assert run_parity(remembering, Shifted()).grid != first.grid
    assert len(honest.seen) == computed
    assert first == run_parity(Honest(), Honest())
    poses, lengths = np.zeros((1, 4, 108), np.float32), np.array([4])
    remembering.infer(poses, lengths)[:] = 9  # the caller may keep the answer, and write into it
    np.testing.assert_array_equal(remembering.infer(poses, lengths), honest.infer(poses, lengths))
    assert not np.array_equal(remembering.infer(poses + 1, lengths), remembering.infer(poses, lengths))
