"""The facts of a parity run as plain data, to store and to judge again by other thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spoter_export.probes import GENERATED, GOLDENS, SYNTHETIC, Lengths
from spoter_runtime.strict import made_from


@dataclass(frozen=True, slots=True, kw_only=True)
class GridPoint:
    """The comparison of one input shape.

    Attributes:
        lengths: ``"full"``: every clip has all frames; ``"ragged"``: the lengths differ.
        error: why the candidate failed; the differences are then None.
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
    """The comparison of one clip.

    Attributes:
        max_logit_diff: largest absolute difference of a logit.
        reference, candidate: best label of each runner.
        reference_margin, candidate_margin: difference of each runner's best two logits.
        top5_agree: whether the sets of the best five labels are equal.
        label: the signed word; None if unknown.
        signer: name of the signer; None if unknown.
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
        """True if the best labels differ."""
        return self.reference != self.candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFacts:
    """The comparison of the clips of one source, run in ragged batches.

    Attributes:
        change: the change made to each clip first; None for none.
        error: why the candidate failed; `clips` is then empty.
    """

    source: str
    clips: tuple[ClipFact, ...]
    change: str | None = None
    error: str | None = None

    @property
    def is_of_people(self) -> bool:
        """True for clips that people signed; False for generated clips and a bundle's goldens."""
        return self.source not in (GENERATED, GOLDENS)

    @property
    def where(self) -> str:
        """The source, and the change to its clips."""
        return f"{self.source}, {self.change}" if self.change else self.source

    @property
    def max_logit_diff(self) -> float:
        """The largest difference over all clips; 0 without answers."""
        return max((clip.max_logit_diff for clip in self.clips), default=0.0)

    @property
    def labels_agree(self) -> int:
        """Number of clips with equal best labels."""
        return len(self.clips) - len(self.flips)

    @property
    def top5_agree(self) -> int:
        """Number of clips with equal sets of the best five labels."""
        return sum(clip.top5_agree for clip in self.clips)

    @property
    def flips(self) -> tuple[ClipFact, ...]:
        """The clips whose best labels differ."""
        return tuple(clip for clip in self.clips if clip.is_flip)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariance:
    """How far a runner's logits move under a change that must not matter.

    Attributes:
        change: ``"padding …"`` with zeros, noise, nan, huge or infinity; ``"missing as (0, 0)"`` instead of
            NaN; ``"batch composition"`` or ``"batch order"``.
        error: why the runner failed after the change; the difference is then None.
    """

    runner: str
    change: str
    clips: int
    max_logit_diff: float | None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFact:
    """The comparison of an int8 weight with its fp32 original.

    Attributes:
        steps: the largest error of a value, in quantisation steps of its column; rounding allows 0.5.
    """

    name: str
    steps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityFacts:
    """All that one parity run found.

    Attributes:
        weights: comparisons of an int8 file's weights; answers alone do not show a slightly wrong scale.
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
            ValueError: a field is missing, unknown, or of another type.
        """
        return made_from(cls, value, "facts")

    @property
    def max_logit_diff(self) -> float:
        """The largest difference over the grid and all clips."""
        grid = [point.max_logit_diff for point in self.grid if point.max_logit_diff is not None]
        return max([0.0, *grid, *(clips.max_logit_diff for clips in self.clips)])


def kind_of_clips(groups: Sequence[ClipFacts]) -> str:
    """Return ``"clips of people"``, or ``"generated clips"`` if a data set's clips are generated."""
    synthetic = groups and all(group.source.startswith(SYNTHETIC) for group in groups)
    return "generated clips" if synthetic else "clips of people"
