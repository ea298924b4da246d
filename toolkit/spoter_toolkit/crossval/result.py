"""What a cross-validation found: the folds, their mean with an interval, and all clips together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any, Final

import numpy as np

from spoter_runtime.landmarks import Float32Array
from spoter_toolkit.crossval.folds import Folds
from spoter_toolkit.data.dataset import Dataset
from spoter_toolkit.evaluation import Scores, scores_from_logits

# Student's t, two-sided 95 %, by degrees of freedom from 1; beyond the last, the normal distribution's.
_T: Final = (
    *(12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145),
    *(2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048),
    *(2.045, 2.042),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A share over the folds: mean, standard deviation, and the 95 % interval of the mean, within 0..1."""

    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldScore:
    """The scores of one fold's test clips."""

    name: str
    tested: str
    clips: int
    trained: int
    top1: float
    top5: float
    macro_f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScore:
    """The number of a label's tested clips, and the share of them that is recognised."""

    label: str
    clips: int
    top1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidation:
    """The scores of a cross-validation."""

    dataset: Dataset
    by: str
    folds: tuple[FoldScore, ...]
    top1: Spread
    top5: Spread
    macro_f1: Spread
    scores: Scores  # of all tested clips together, each answered by the model that had not seen it
    remarks: tuple[str, ...]  # of the folds
    findings: tuple[str, ...] = ()  # what the trainings did not reach

    @property
    def labels(self) -> tuple[LabelScore, ...]:
        """The labels that were tested, the worst first."""
        clips_C = self.scores.confusion_CC.sum(1)
        right_C = np.diag(self.scores.confusion_CC)
        found = [
            LabelScore(label=label, clips=int(clips), top1=float(right / clips))
            for label, clips, right in zip(self.scores.labels, clips_C, right_C, strict=True)
            if clips
        ]
        return tuple(sorted(found, key=lambda one: one.top1))

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values; the matrix as [label, taken for, clips] of its cells."""
        scores = self.scores
        cells = [
            [scores.labels[true], scores.labels[guess], int(scores.confusion_CC[true, guess])]
            for true, guess in zip(*np.nonzero(scores.confusion_CC), strict=True)
        ]
        return {
            "data": str(self.dataset.folder),
            "synthetic": self.dataset.origin.synthetic,
            "by": self.by,
            "top1": asdict(self.top1),
            "top5": asdict(self.top5),
            "macro_f1": asdict(self.macro_f1),
            "folds": [asdict(fold) for fold in self.folds],
            "all_clips": scores.summary(),
            "labels": [asdict(label) for label in self.labels],
            "confusion": cells,
            "remarks": list(self.remarks),
            "findings": list(self.findings),
        }


def spread_of(values: Sequence[float], *, bounds: tuple[float, float] = (0.0, 1.0)) -> Spread:
    """Return mean and spread of the folds' shares.

    Student's interval takes the folds for independent. They share clips to train on, so it is somewhat too
    narrow; no estimate without bias exists (Bengio & Grandvalet 2004).

    Args:
        values: two or more.
        bounds: that the interval stays within.
    """
    middle, sd = mean(values), stdev(values)
    freedom = len(values) - 1
    half = (_T[freedom - 1] if freedom <= len(_T) else 1.96) * sd / math.sqrt(len(values))
    return Spread(mean=middle, sd=sd, low=max(bounds[0], middle - half), high=min(bounds[1], middle + half))


def scored(dataset: Dataset, folds: Folds, logits: Sequence[Float32Array]) -> CrossValidation:
    """Return the scores of the folds' test clips.

    Args:
        dataset: that the folds are of.
        folds: from `folds_of`.
        logits: of each fold's test clips, from `train_folds`.
    """
    tested = [fold.dataset.clips_in("test") for fold in folds.folds]
    found = [scores_from_logits(*pair, dataset.labels) for pair in zip(logits, tested, strict=True)]
    whole = scores_from_logits(
        np.concatenate(logits), [clip for clips in tested for clip in clips], dataset.labels
    )
    return CrossValidation(
        dataset=dataset,
        by=folds.by,
        folds=tuple(
            FoldScore(
                name=fold.name,
                tested=fold.tested,
                clips=one.clips,
                trained=len(fold.dataset.clips_in("train")),
                top1=one.top1,
                top5=one.top5,
                macro_f1=one.macro_f1,
            )
            for fold, one in zip(folds.folds, found, strict=True)
        ),
        top1=spread_of([one.top1 for one in found]),
        top5=spread_of([one.top5 for one in found]),
        macro_f1=spread_of([one.macro_f1 for one in found]),
        scores=whole,
        remarks=folds.remarks,
    )
