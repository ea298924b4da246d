"""Run two runners on the same cases and keep what differs as facts; `spoter_export.parity.judge` judges them.

Running and judging are apart: facts are data that can be stored and judged again with other thresholds.
Shapes: N clips, T frames, D features (108), C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any, Final

import numpy as np

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
# Unlike the fills a model might see in training: it must not matter at all what padding holds.
_FILLS: Final = ("zeros", "noise", "nan", "huge", "infinity")


@dataclass(frozen=True, slots=True, kw_only=True)
class GridPoint:
    """One shape that was run on both runners.

    Attributes:
        lengths: ``"full"`` when every clip fills its frames, ``"ragged"`` when they differ.
        error: why the candidate could not run it; the differences are then None.
    """

    batch: int
    frames: int
    lengths: Lengths
    max_logit_diff: float | None
    labels_agree: int
    error: str | None = None

    @property
    def where(self) -> str:
        """The shape in words."""
        return f"{self.batch} clips × {self.frames} frames, {self.lengths} lengths"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFact:
    """What two runners answered to one clip.

    Attributes:
        max_logit_diff: largest absolute difference of a logit.
        reference, candidate: their best labels.
        reference_margin, candidate_margin: between a runner's best two logits.
        top5_agree: whether the best five labels are the same five.
        label: what was signed; None where it is not known.
        signer: who signed; None where it is not known.
    """

    name: str
    frames: int
    max_logit_diff: float
    reference: str
    candidate: str
    reference_margin: float
    candidate_margin: float
    top5_agree: bool
    label: str | None = None
    signer: str | None = None

    @property
    def is_flip(self) -> bool:
        """True where the best labels differ."""
        return self.reference != self.candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFacts:
    """What differed on the clips of one source, run in ragged batches.

    Attributes:
        change: what was done to each clip before; None: nothing.
        error: why the candidate could not answer; there are no clips then.
    """

    source: str
    clips: tuple[ClipFact, ...]
    change: str | None = None
    error: str | None = None

    @property
    def where(self) -> str:
        """The source, and what was done to its clips."""
        return f"{self.source}, {self.change}" if self.change else self.source

    @property
    def max_logit_diff(self) -> float:
        """The largest difference over all clips; 0 where there was no answer."""
        return max((clip.max_logit_diff for clip in self.clips), default=0.0)

    @property
    def labels_agree(self) -> int:
        """Clips whose best label is the same."""
        return len(self.clips) - len(self.flips)

    @property
    def top5_agree(self) -> int:
        """Clips whose best five labels are the same five."""
        return sum(clip.top5_agree for clip in self.clips)

    @property
    def flips(self) -> tuple[ClipFact, ...]:
        """Clips whose best labels differ."""
        return tuple(clip for clip in self.clips if clip.is_flip)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariance:
    """How much a runner's logits move when something changes that must not matter.

    Attributes:
        change: ``"padding …"`` with zeros, noise, nan, huge or infinity; ``"missing as (0, 0)"`` instead of
            NaN; ``"batch company"`` or ``"batch order"``.
        error: why the runner could not answer after the change; the difference is then None.
    """

    runner: str
    change: str
    clips: int
    max_logit_diff: float | None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFact:
    """A weight in 8 bits beside the one that it stands for.

    Attributes:
        steps: how far its values are off at most, in steps of their column's scale; rounding leaves 0.5.
    """

    name: str
    steps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityFacts:
    """Everything that one parity run found.

    Attributes:
        weights: of an int8 file; answers alone do not show a scale that is a little wrong.
    """

    reference: str
    candidate: str
    seed: int
    grid: tuple[GridPoint, ...]
    clips: tuple[ClipFacts, ...]
    invariance: tuple[Invariance, ...]
    weights: tuple[WeightFact, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the facts as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ParityFacts:
        """Read what `as_json` wrote.

        Raises:
            TypeError, KeyError: a field is missing or unknown.
        """
        parts = {
            "grid": tuple(GridPoint(**point) for point in value["grid"]),
            "clips": tuple(
                ClipFacts(**(group | {"clips": tuple(ClipFact(**clip) for clip in group["clips"])}))
                for group in value["clips"]
            ),
            "invariance": tuple(Invariance(**fact) for fact in value["invariance"]),
            "weights": tuple(WeightFact(**fact) for fact in value.get("weights", ())),
        }
        return cls(**(value | parts))

    @property
    def max_logit_diff(self) -> float:
        """The largest difference over the grid and all clips."""
        grid = [point.max_logit_diff for point in self.grid if point.max_logit_diff is not None]
        return max([0.0, *grid, *(clips.max_logit_diff for clips in self.clips)])


class Remembering(Runner):
    """Answers as another runner does, each batch computed once: a reference for many candidates."""

    def __init__(self, runner: Runner) -> None:
        """Remember the answers of `runner`, which stays the caller's to close."""
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


def run_parity(
    reference: Runner,
    candidate: Runner,
    sets: Sequence[ClipSet] = (),
    *,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> ParityFacts:
    """Compare a candidate with its reference over the shape grid, on clips, and on what must not matter.

    Args:
        reference: usually the PyTorch model.
        candidate: any backend with the same contract.
        sets: clips of people; generated ones are always run too, so there may be none. Those of people are
            run again under each of `spoter_export.parity.perturbations.CHANGES`.
        seed: of the generated clips.
        on_progress: called with (done, total, what).

    Raises:
        InputError: a clip that the contract does not allow.
        BundleError: the two runners have different contracts: other labels, another order, other ranges.
        BackendError: the reference failed. Where the candidate fails, that is a fact, not an error.
    """
    if candidate.contract != reference.contract:
        raise BundleError(
            f"{candidate.name} and {reference.name} have different contracts: not the same model"
        )
    points = grid_points(reference.contract)
    people = [group for group in sets if group.clips]
    changed = [
        changed_set
        for group in people
        if group.source != GOLDENS
        for changed_set in changed_sets(group, max_frames=reference.contract.max_frames, seed=seed)
    ]
    sets = [generated_clips(reference.contract, seed), *people, *changed]
    total = len(points) + sum(len(group.clips) for group in sets)
    who = f"{candidate.name} against {reference.name}"

    def report(done: int, what: str) -> None:
        if on_progress:
            on_progress(done, total, f"{who}: {what}")

    grid = []
    for batch, frames, lengths in points:
        grid.append(_grid_point(reference, candidate, batch, frames, lengths, seed))
        report(len(grid), f"{batch}×{frames}")
    facts = []
    for group in sets:
        facts.append(_clip_facts(reference, candidate, group))
        report(len(grid) + sum(len(fact.clips) for fact in facts), facts[-1].where)
    probes = [group.clips[i] for group in people for i in spread_by_length(group.clips, _INVARIANCE_CLIPS)]
    probes += sets[0].clips
    invariance = [
        fact for runner in (reference, candidate) for fact in invariance_of(runner, probes, seed=seed)
    ]
    report(total, "padding, batch, order")
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
    expected = reference.infer(poses, lengths)
    try:
        got = candidate.infer(poses, lengths)
    except SpoterError as error:
        return GridPoint(
            batch=batch,
            frames=frames,
            lengths=kind,
            max_logit_diff=None,
            labels_agree=0,
            error=str(error),
        )
    return GridPoint(
        batch=batch,
        frames=frames,
        lengths=kind,
        max_logit_diff=float(np.abs(got - expected).max()),
        labels_agree=int((got.argmax(1) == expected.argmax(1)).sum()),
    )


def _clip_facts(reference: Runner, candidate: Runner, group: ClipSet) -> ClipFacts:
    expected_NC = _in_batches(reference, group.clips)
    try:
        got_NC = _in_batches(candidate, group.clips)
    except BackendError as error:
        return ClipFacts(source=group.source, clips=(), change=group.change, error=str(error))
    names = [label.name for label in reference.contract.labels]
    top = min(_TOP, len(names))
    facts = []
    for i, (expected_C, got_C) in enumerate(zip(expected_NC, got_NC, strict=True)):
        orders = [np.argsort(-logits_C, kind="stable")[:top] for logits_C in (expected_C, got_C)]
        facts.append(
            ClipFact(
                name=group.name_of(i),
                frames=len(group.clips[i]),
                max_logit_diff=_largest(got_C - expected_C),
                reference=names[orders[0][0]],
                candidate=names[orders[1][0]],
                reference_margin=_margin(expected_C),
                candidate_margin=_margin(got_C),
                top5_agree=set(orders[0]) == set(orders[1]),
                label=group.labels[i] if group.labels else None,
                signer=group.signers[i] if group.signers else None,
            )
        )
    return ClipFacts(source=group.source, clips=tuple(facts), change=group.change)


def _margin(logits_C: Float32Array) -> float:
    best = np.sort(logits_C)[::-1][:2]
    return float(best[0] - best[1]) if len(best) == 2 else 0.0


def _in_batches(runner: Runner, clips: Sequence[Float32Array]) -> Float32Array:
    """Return logits (N, C), clips in batches as given: ragged on purpose."""
    size = min(runner.contract.max_batch, _BATCH)
    return np.concatenate(
        [runner.infer(*pad_clips(list(clips[i : i + size]))) for i in range(0, len(clips), size)]
    )


def invariance_of(runner: Runner, clips: Sequence[Float32Array], *, seed: int) -> list[Invariance]:
    """Measure how a runner's logits move with padding, with company in the batch, and with its order.

    Args:
        runner: any backend.
        clips: (frames, 54, 2), any lengths.
        seed: of the noise and the order.
    """
    rng = np.random.default_rng((seed, 2))
    order = rng.permutation(len(clips))
    zeros = [np.where(detected(clip)[..., None], clip, np.float32(0)) for clip in clips]
    longest = runner.contract.max_frames
    alone = cache(lambda: _one_by_one(runner, clips))
    together = cache(lambda: _in_batches(runner, clips))

    def when_padded(fill: str) -> float:
        return max(
            _largest(runner.infer(*_padded(clip, frames, fill, rng)) - expected)
            for clip, expected in zip(clips, alone(), strict=True)
            for frames in {min(len(clip) + 7, longest), longest}
        )

    changes: dict[str, Callable[[], float]] = {
        **{f"padding {fill}": partial(when_padded, fill) for fill in _FILLS},
        "missing as (0, 0)": lambda: _largest(_one_by_one(runner, zeros) - alone()),
        "batch company": lambda: _largest(together() - alone()),
        "batch order": lambda: _largest(_in_batches(runner, [clips[i] for i in order]) - together()[order]),
    }
    facts = []
    for change, measure in changes.items():
        difference, error = None, None
        try:
            difference = measure()
        except SpoterError as failure:
            error = str(failure)
        facts.append(
            Invariance(
                runner=runner.name,
                change=change,
                clips=len(clips),
                max_logit_diff=difference,
                error=error,
            )
        )
    return facts


def _one_by_one(runner: Runner, clips: Sequence[Float32Array]) -> Float32Array:
    return np.concatenate([runner.infer(*pad_clips([clip])) for clip in clips])


def _largest(differences: Float32Array) -> float:
    return float(np.abs(differences).max())


def _padded(
    clip: Float32Array, frames: int, fill: str, rng: np.random.Generator
) -> tuple[Float32Array, Int32Array]:
    poses, lengths = pad_clips([clip])
    shape = (1, frames - len(clip), NUM_FEATURES)
    if fill == "noise":
        padding = rng.uniform(0, 1, shape).astype(np.float32)
    else:
        padding = np.full(
            shape, {"zeros": 0.0, "nan": np.nan, "huge": 1e30, "infinity": np.inf}[fill], np.float32
        )
    return np.concatenate((poses, padding), axis=1), lengths
