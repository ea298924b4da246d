"""run_parity: compare two runners on the same inputs; the differences are facts for `judge`.

Shapes: N clips, T frames, D features (108), C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Final

import numpy as np

from spoter_export.parity.facts import ClipFact, ClipFacts, GridPoint, Invariance, ParityFacts
from spoter_export.parity.perturbations import changed_sets
from spoter_export.probes import (
    GOLDENS,
    ClipSet,
    Lengths,
    generated_clips,
    generated_poses,
    grid_points,
    spread_by_length,
)
from spoter_runtime._types import OnProgress
from spoter_runtime.errors import BackendError, BundleError, SpoterError
from spoter_runtime.landmarks import NUM_FEATURES, Float32Array, detected
from spoter_runtime.runner import Int32Array, Runner, pad_clips

_INVARIANCE_CLIPS: Final = 16
_BATCH: Final = 32
_TOP: Final = 5
# Padding values, none of which may change an answer; None is noise.
_FILLS: Final = {"zeros": 0.0, "noise": None, "nan": np.nan, "huge": 1e30, "infinity": np.inf}


class Remembering(Runner):
    """Wraps a runner and caches its answers: a reference for many candidates."""

    def __init__(self, runner: Runner) -> None:
        """Wrap `runner`; the caller closes it."""
        self.name = runner.name
        self.contract = runner.contract
        self._runner = runner
        self._answers: dict[bytes, Float32Array] = {}

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        seen = hashlib.sha256(str(poses_NTD.shape).encode())
        seen.update(poses_NTD.tobytes())
        seen.update(lengths_N.tobytes())
        key = seen.digest()
        if key not in self._answers:
            self._answers[key] = self._runner.infer(poses_NTD, lengths_N)
        return self._answers[key].copy()


def infer_batches(runner: Runner, clips: Sequence[Float32Array], batch: int = 1) -> Float32Array:
    """Return logits (N, C) of clips of any lengths, in batches of the given order, hence with padding."""
    batches = (list(clips[i : i + batch]) for i in range(0, len(clips), batch))
    return np.concatenate([runner.infer(*pad_clips(clips)) for clips in batches])


def run_parity(
    reference: Runner,
    candidate: Runner,
    sets: Sequence[ClipSet] = (),
    *,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> ParityFacts:
    """Compare a candidate with its reference: over the shape grid, on clips, and for invariance to padding.

    Args:
        reference: usually the PyTorch model.
        candidate: any backend with the same contract.
        sets: more clips, besides the generated ones. Clips of people are run again under each of
            `spoter_export.parity.perturbations.CHANGES`.
        seed: seed of the generated clips.
        on_progress: called with (done, total, what).

    Raises:
        InputError: the contract does not allow a clip.
        BundleError: the runners' contracts differ in labels, order or ranges.
        BackendError: the reference failed. A failure of the candidate is a fact, not an error.
    """
    if candidate.contract != reference.contract:
        raise BundleError(
            f"{candidate.name} and {reference.name} have different contracts: not the same model"
        )
    contract = reference.contract
    points = grid_points(contract)
    people = [group for group in sets if group.clips]
    recorded = [group for group in people if group.source != GOLDENS]
    changed = [
        c for group in recorded for c in changed_sets(group, max_frames=contract.max_frames, seed=seed)
    ]
    generated = generated_clips(contract, seed)
    groups = [generated, *people, *changed]
    probes = [group.clips[i] for group in people for i in spread_by_length(group.clips, _INVARIANCE_CLIPS)]
    probes += generated.clips
    # Frames, for they take the time: a shape may have 10,000 times as many as another one.
    total = sum(batch * frames for batch, frames, _ in points)
    total += sum(len(clip) for group in groups for clip in group.clips)
    total += sum(4 * len(clip) + len(_FILLS) * (len(clip) + contract.max_frames) for clip in probes)
    done = 0

    def report(frames: int, what: str) -> None:
        nonlocal done
        done += frames
        if on_progress:
            on_progress(done, total, f"frames, {candidate.name} against {reference.name}: {what}")

    report(0, "shapes")
    grid = []
    for batch, frames, lengths in points:
        grid.append(_grid_point(reference, candidate, batch, frames, lengths, seed))
        report(batch * frames, f"{batch}×{frames}")
    facts = []
    for group in groups:
        facts.append(_clip_facts(reference, candidate, group))
        report(sum(map(len, group.clips)), facts[-1].where)
    invariance = [
        fact for runner in (reference, candidate) for fact in invariance_of(runner, probes, seed=seed)
    ]
    report(total - done, "padding, batch, order")
    return ParityFacts(
        reference=reference.name,
        candidate=candidate.name,
        seed=seed,
        grid=tuple(grid),
        clips=tuple(facts),
        invariance=tuple(invariance),
    )


def _grid_point(
    reference: Runner, candidate: Runner, batch: int, frames: int, kind: Lengths, seed: int
) -> GridPoint:
    rng = np.random.default_rng((seed, batch, frames))
    poses = generated_poses(rng, batch, frames)
    lengths = np.full(batch, frames, np.int32)
    if kind == "ragged":
        lengths = rng.integers(1, frames + 1, batch).astype(np.int32)
    point = partial(GridPoint, batch=batch, frames=frames, lengths=kind)
    expected = reference.infer(poses, lengths)
    try:
        got = candidate.infer(poses, lengths)
    except SpoterError as error:
        return point(max_logit_diff=None, labels_agree=0, error=str(error))
    agree = int((got.argmax(1) == expected.argmax(1)).sum())
    return point(max_logit_diff=float(np.abs(got - expected).max()), labels_agree=agree)


def _clip_facts(reference: Runner, candidate: Runner, group: ClipSet) -> ClipFacts:
    batch = min(reference.contract.max_batch, _BATCH)
    expected_NC = infer_batches(reference, group.clips, batch)
    try:
        got_NC = infer_batches(candidate, group.clips, batch)
    except BackendError as error:
        return ClipFacts(source=group.source, clips=(), change=group.change, error=str(error))
    names = [label.name for label in reference.contract.labels]
    orders = [np.argsort(-logits_NC, kind="stable") for logits_NC in (expected_NC, got_NC)]
    margins = [np.ptp(np.sort(logits_NC)[:, -2:], axis=1) for logits_NC in (expected_NC, got_NC)]
    facts = [
        ClipFact(
            name=group.name_of(i),
            frames=len(clip),
            max_logit_diff=float(np.abs(got_NC[i] - expected_NC[i]).max()),
            reference=names[orders[0][i, 0]],
            candidate=names[orders[1][i, 0]],
            reference_margin=float(margins[0][i]),
            candidate_margin=float(margins[1][i]),
            top5_agree=set(orders[0][i, :_TOP]) == set(orders[1][i, :_TOP]),
            label=group.labels[i] if group.labels else None,
            signer=group.signers[i] if group.signers else None,
        )
        for i, clip in enumerate(group.clips)
    ]
    return ClipFacts(source=group.source, clips=tuple(facts), change=group.change)


def invariance_of(runner: Runner, clips: Sequence[Float32Array], *, seed: int) -> list[Invariance]:
    """Return how far a runner's logits move with padding, batch composition and batch order.

    Args:
        runner: any backend.
        clips: (frames, 54, 2), any lengths.
        seed: seed of the noise and the order.
    """
    rng = np.random.default_rng((seed, 2))
    order = rng.permutation(len(clips))
    zeros = [np.where(detected(clip)[..., None], clip, np.float32(0)) for clip in clips]
    longest, batch = runner.contract.max_frames, min(runner.contract.max_batch, _BATCH)
    # If the runner fails here, each change that needs these answers records the error.
    alone = cache(lambda: infer_batches(runner, clips))
    together = cache(lambda: infer_batches(runner, clips, batch))

    def when_padded(fill: str) -> Float32Array:
        return np.array(
            [
                np.abs(runner.infer(*_padded(clip, frames, _FILLS[fill], rng)) - expected).max()
                for clip, expected in zip(clips, alone(), strict=True)
                for frames in {min(len(clip) + 7, longest), longest}
            ]
        )

    changes: dict[str, Callable[[], Float32Array]] = {
        **{f"padding {fill}": partial(when_padded, fill) for fill in _FILLS},
        "missing as (0, 0)": lambda: infer_batches(runner, zeros) - alone(),
        "batch composition": lambda: together() - alone(),
        "batch order": lambda: infer_batches(runner, [clips[i] for i in order], batch) - together()[order],
    }
    facts = []
    for change, measure in changes.items():
        difference, error = None, None
        try:
            difference = float(np.abs(measure()).max())
        except SpoterError as failure:
            error = str(failure)
        facts.append(
            Invariance(
                runner=runner.name, change=change, clips=len(clips), max_logit_diff=difference, error=error
            )
        )
    return facts


def _padded(
    clip: Float32Array, frames: int, fill: float | None, rng: np.random.Generator
) -> tuple[Float32Array, Int32Array]:
    """Return a clip as a batch of one, padded with `fill` to `frames` frames; None pads with noise."""
    poses, lengths = pad_clips([clip])
    shape = (1, frames - len(clip), NUM_FEATURES)
    padding = rng.uniform(0, 1, shape) if fill is None else np.full(shape, fill)
    return np.concatenate((poses, padding.astype(np.float32)), axis=1), lengths
