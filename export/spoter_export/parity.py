"""Run two runners on the same clips, keep what differs as facts, and judge the facts by a policy.

Running and judging are apart: facts are data that can be stored and judged again with other thresholds.
Shapes: N clips, T frames, D features (108), C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final, Literal

import numpy as np

from spoter_runtime.bundle import Artefact
from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import BundleError, ConfigError, SpoterError
from spoter_runtime.landmarks import (
    LEFT_HAND,
    LEFT_SHOULDER,
    NUM_FEATURES,
    NUM_LANDMARKS,
    RIGHT_HAND,
    RIGHT_SHOULDER,
    Float32Array,
    detected,
)
from spoter_runtime.progress import OnProgress as OnProgress
from spoter_runtime.runner import Int32Array, Runner, pad_clips

GRID_BATCHES: Final = (1, 2, 7, 32)
GRID_FRAMES: Final = (1, 2, 37, 60, 164, 299)
_INVARIANCE_CLIPS: Final = 16
_MOST_FLIPS: Final = 20  # facts keep the count of all flips, and this many in full
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
    lengths: Literal["full", "ragged"]
    max_logit_diff: float | None
    labels_agree: int
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A clip on which the best labels differ; margins are between a runner's best two logits."""

    clip: int
    reference: str
    reference_margin: float
    candidate: str
    candidate_margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFacts:
    """What differed on clips, run in ragged batches.

    Attributes:
        source: where they come from, in words; ``"generated"`` for those made here.
    """

    source: str
    clips: int
    max_logit_diff: float
    mean_logit_diff: float
    labels_agree: int
    flips: tuple[Flip, ...]


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
class ParityFacts:
    """Everything that one parity run found."""

    reference: str
    candidate: str
    seed: int
    grid: tuple[GridPoint, ...]
    clips: tuple[ClipFacts, ...]
    invariance: tuple[Invariance, ...]

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
                ClipFacts(**(clips | {"flips": tuple(Flip(**flip) for flip in clips["flips"])}))
                for clips in value["clips"]
            ),
            "invariance": tuple(Invariance(**fact) for fact in value["invariance"]),
        }
        return cls(**(value | parts))

    @property
    def max_logit_diff(self) -> float:
        """The largest difference over the grid and all clips."""
        grid = [point.max_logit_diff for point in self.grid if point.max_logit_diff is not None]
        return max([*grid, *(clips.max_logit_diff for clips in self.clips)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Thresholds for the facts of one precision; the defaults are those of fp32.

    Attributes:
        max_logit_diff: measured on trained models, ONNX Runtime stays within 3e-6 of torch on people's clips
            and over the grid, within 4e-5 on a clip that shows one still point; 1e-4 leaves room for other
            processors' orders of summation.
        max_invariance_diff: measured within 6e-6 on trained models, in torch and in ONNX Runtime.
        min_label_agreement: share of clips whose best label is the same.
    """

    max_logit_diff: float = 1e-4
    max_invariance_diff: float = 1e-5
    min_label_agreement: float = 1.0


# Thresholds by precision. fp16, measured with every tensor rounded: trained models stay within 8.5e-3 of fp32
# over the grid and on people's clips, padding and company move them by at most 1.5e-3, and 3,133 of 3,133
# labels agree; where a model does not know the words and its logits lie close, 0.5 % of the labels turn.
POLICIES: Final = {
    "fp32": Policy(),
    "fp16": Policy(max_logit_diff=2e-2, max_invariance_diff=5e-3, min_label_agreement=0.99),
}


def policy_of(precision: str, *, on_gpu: bool = False) -> Policy:
    """Return the thresholds of a precision.

    Args:
        precision: ``"fp32"``, …
        on_gpu: where another batch may be computed by another kernel, whose sums have another order: company
            may then move the logits as far as another engine may. Not measured: no GPU was at hand.

    Raises:
        ConfigError: there are none.
    """
    if precision not in POLICIES:
        raise ConfigError(f"precision {precision!r}: expected one of {', '.join(POLICIES)}")
    policy = POLICIES[precision]
    return replace(policy, max_invariance_diff=policy.max_logit_diff) if on_gpu else policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A policy's judgement of some facts: passed when there are no failures."""

    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """True when nothing failed."""
        return not self.failures


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Facts about one artefact, and one judgement of them: what parity.json holds.

    Attributes:
        artefact: the file that the candidate ran, relative to its bundle.
        sha256: of that file.
    """

    artefact: str
    sha256: str
    facts: ParityFacts
    policy: Policy
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "artefact": self.artefact,
            "sha256": self.sha256,
            "passed": self.verdict.passed,
            "failures": list(self.verdict.failures),
            "policy": asdict(self.policy),
            "facts": self.facts.as_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Proof:
        """Read what `as_json` wrote.

        Raises:
            TypeError, KeyError: a field is missing or unknown.
        """
        return cls(
            artefact=value["artefact"],
            sha256=value["sha256"],
            facts=ParityFacts.from_json(value["facts"]),
            policy=Policy(**value["policy"]),
            verdict=Verdict(failures=tuple(value["failures"])),
        )


def prove(
    reference: Runner,
    candidate: Runner,
    artefact: Artefact,
    clips: Sequence[Float32Array],
    *,
    source: str,
    seed: int = 0,
    on_gpu: bool = False,
    on_progress: OnProgress | None = None,
) -> Proof:
    """Run `run_parity`, and judge it by the policy of the artefact's precision."""
    policy = policy_of(artefact.precision, on_gpu=on_gpu)
    facts = run_parity(reference, candidate, clips, source=source, seed=seed, on_progress=on_progress)
    return Proof(
        artefact=artefact.path,
        sha256=artefact.sha256,
        facts=facts,
        policy=policy,
        verdict=judge(facts, policy),
    )


def run_parity(
    reference: Runner,
    candidate: Runner,
    clips: Sequence[Float32Array],
    *,
    source: str,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> ParityFacts:
    """Compare a candidate with its reference over the shape grid, on clips, and on what must not matter.

    Args:
        reference: usually the PyTorch model.
        candidate: any backend with the same contract.
        clips: real clips (frames, 54, 2); generated ones are always run too, so this may be empty.
        source: where `clips` come from, for the report.
        seed: of the generated clips.
        on_progress: called with (done, total, what).

    Raises:
        InputError: a clip that the contract does not allow.
        BundleError: the two runners have different contracts: other labels, another order, other ranges.
        BackendError: a runner failed outside the grid; a grid point that fails is a fact, not an error.
    """
    if candidate.contract != reference.contract:
        raise BundleError(
            f"{candidate.name} and {reference.name} have different contracts: not the same model"
        )
    points = grid_points(reference.contract)
    total = len(points) + len(clips)
    grid = []
    for done, (batch, frames, lengths) in enumerate(points):
        grid.append(_grid_point(reference, candidate, batch, frames, lengths, seed))
        if on_progress:
            on_progress(done + 1, total, f"{candidate.name} against {reference.name}: {batch}×{frames}")
    generated = generated_clips(reference.contract, seed)
    groups = [(generated, "generated")] + ([(list(clips), source)] if clips else [])
    facts = tuple(_clip_facts(reference, candidate, group, name) for group, name in groups)
    probes = spread_by_length(list(clips), _INVARIANCE_CLIPS) + generated
    invariance = [
        fact for runner in (reference, candidate) for fact in invariance_of(runner, probes, seed=seed)
    ]
    if on_progress:
        on_progress(total, total, f"{candidate.name} against {reference.name}: clips")
    return ParityFacts(
        reference=reference.name,
        candidate=candidate.name,
        seed=seed,
        grid=tuple(grid),
        clips=facts,
        invariance=tuple(invariance),
    )


def grid_points(contract: GraphContract) -> list[tuple[int, int, Literal["full", "ragged"]]]:
    """Return every (batch, frames, lengths) of the grid that the contract allows, its corners included."""
    batches = sorted({b for b in GRID_BATCHES if b <= contract.max_batch} | {contract.max_batch})
    frames = sorted({f for f in GRID_FRAMES if f <= contract.max_frames} | {contract.max_frames})
    kinds: tuple[Literal["full", "ragged"], ...] = ("full", "ragged")
    return [(b, f, kind) for b in batches for f in frames for kind in kinds]


def _grid_point(
    reference: Runner,
    candidate: Runner,
    batch: int,
    frames: int,
    kind: Literal["full", "ragged"],
    seed: int,
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


def generated_poses(rng: np.random.Generator, batch: int, frames: int) -> Float32Array:
    """Return (batch, frames, 108) landmarks that move smoothly in 0..1, about a third of them missing."""
    start = rng.uniform(0.1, 0.9, (batch, 1, NUM_LANDMARKS, 2))
    # Shoulders at chance places may fall together, and what is measured by their distance with them.
    start[:, :, RIGHT_SHOULDER] = start[:, :, LEFT_SHOULDER] - rng.uniform(0.15, 0.4, (batch, 1, 1)) * [1, 0]
    drift = rng.normal(0, 0.01, (batch, frames, NUM_LANDMARKS, 2)).cumsum(axis=1)
    poses = (start + drift).astype(np.float32)
    # Hands come and go as wholes; (0, 0) and NaN both mean that a landmark was not detected.
    for hand in (LEFT_HAND, RIGHT_HAND):
        gone = rng.random((batch, frames)) < 0.4
        poses[:, :, hand][gone] = np.nan if rng.random() < 0.5 else 0.0
    poses[rng.random(poses.shape[:3]) < 0.02] = np.nan
    flat: Float32Array = poses.reshape(batch, frames, NUM_FEATURES)
    return flat


def generated_clips(contract: GraphContract, seed: int) -> list[Float32Array]:
    """Return clips (frames, 54, 2) of several lengths, among them ones that hardly show anything."""
    rng = np.random.default_rng((seed, 1))
    lengths = [min(frames, contract.max_frames) for frames in (1, 2, 9, 44, 100)]
    clips = [generated_poses(rng, 1, n)[0].reshape(n, NUM_LANDMARKS, 2) for n in lengths]
    no_hands, one_hand, nothing, one_point, narrow = (clips[3].copy() for _ in range(5))
    no_hands[:, LEFT_HAND.start :] = np.nan
    one_hand[:, LEFT_HAND] = 0.0
    nothing[:] = np.nan
    one_point[:, 1:] = np.nan
    one_point[:, 0] = 0.3  # still: nothing in the clip has a size
    narrow[:, RIGHT_SHOULDER] = narrow[:, LEFT_SHOULDER]
    return [*clips, no_hands, one_hand, nothing, one_point, narrow]


def spread_by_length(clips: Sequence[Float32Array], count: int) -> list[Float32Array]:
    """Return up to `count` of the clips, from the shortest to the longest."""
    order = sorted(range(len(clips)), key=lambda i: len(clips[i]))
    if len(order) > count:
        order = [order[i] for i in np.linspace(0, len(order) - 1, count).astype(int)]
    picked: list[Float32Array] = [clips[i] for i in order]
    return picked


def _clip_facts(reference: Runner, candidate: Runner, clips: list[Float32Array], source: str) -> ClipFacts:
    expected, got = (_in_batches(runner, clips) for runner in (reference, candidate))
    labels = reference.contract.labels
    flips = np.flatnonzero(expected.argmax(1) != got.argmax(1))
    return ClipFacts(
        source=source,
        clips=len(clips),
        max_logit_diff=float(np.abs(got - expected).max()),
        mean_logit_diff=float(np.abs(got - expected).mean(dtype=np.float64)),
        labels_agree=len(clips) - len(flips),
        flips=tuple(
            Flip(
                clip=int(i),
                reference=labels[int(expected[i].argmax())].name,
                reference_margin=_margin(expected[i]),
                candidate=labels[int(got[i].argmax())].name,
                candidate_margin=_margin(got[i]),
            )
            for i in flips[:_MOST_FLIPS]
        ),
    )


def _margin(logits_C: Float32Array) -> float:
    best = np.sort(logits_C)[::-1][:2]
    return float(best[0] - best[1]) if len(best) == 2 else 0.0


def _in_batches(runner: Runner, clips: Sequence[Float32Array]) -> Float32Array:
    """Return logits (N, C), clips in batches as given: ragged on purpose."""
    size = min(runner.contract.max_batch, 32)
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
    alone = _one_by_one(runner, clips)
    together = _in_batches(runner, clips)

    def when_padded(fill: str) -> float:
        return max(
            _largest(runner.infer(*_padded(clip, frames, fill, rng)) - expected)
            for clip, expected in zip(clips, alone, strict=True)
            for frames in {min(len(clip) + 7, longest), longest}
        )

    changes: dict[str, Callable[[], float]] = {
        **{f"padding {fill}": partial(when_padded, fill) for fill in _FILLS},
        "missing as (0, 0)": lambda: _largest(_one_by_one(runner, zeros) - alone),
        "batch company": lambda: _largest(together - alone),
        "batch order": lambda: _largest(_in_batches(runner, [clips[i] for i in order]) - together[order]),
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


def judge(facts: ParityFacts, policy: Policy) -> Verdict:
    """Compare facts with thresholds; each failure says what, where, and by how much."""
    failures = []
    for point in facts.grid:
        where = f"{point.batch} clips × {point.frames} frames, {point.lengths} lengths"
        if point.max_logit_diff is None:
            failures.append(f"{where}: {facts.candidate} cannot run it: {point.error}")
        elif not point.max_logit_diff <= policy.max_logit_diff:  # a NaN fails too
            failures.append(
                f"{where}: logits differ by {point.max_logit_diff:.1e}, allowed {policy.max_logit_diff:.0e}"
            )
    for clips in facts.clips:
        if not clips.max_logit_diff <= policy.max_logit_diff:
            failures.append(
                f"{clips.clips} clips ({clips.source}): logits differ by {clips.max_logit_diff:.1e}, "
                f"allowed {policy.max_logit_diff:.0e}"
            )
        if not clips.labels_agree >= policy.min_label_agreement * clips.clips:
            failures.append(
                f"{clips.clips} clips ({clips.source}): {clips.clips - clips.labels_agree} labels differ, "
                f"agreement must be {policy.min_label_agreement:.1%}"
            )
    for fact in facts.invariance:
        if fact.max_logit_diff is None:
            failures.append(f"{fact.runner}: {fact.change}: no answer: {fact.error}")
        elif not fact.max_logit_diff <= policy.max_invariance_diff:
            failures.append(
                f"{fact.runner}: {fact.change} moves the logits by {fact.max_logit_diff:.1e}, "
                f"allowed {policy.max_invariance_diff:.0e}"
            )
    return Verdict(failures=tuple(failures))
