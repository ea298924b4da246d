"""What went wrong in a training, in one line each, with the figure and the fix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from spoter_toolkit.data.dataset import Clip, Dataset
from spoter_toolkit.data.names import listed
from spoter_toolkit.evaluation import Scores

LOW_ACCURACY: Final = 0.8  # on changed clips: below it the clips were not learned
STILL_FALLING: Final = 0.03  # of the loss, from one tenth of the epochs to the next
FAR_BELOW: Final = 0.2  # validation below training
ALONE: Final = 0.3  # one signer below the mean of the others
ENOUGH_CLIPS: Final = 10  # of a signer, to judge
FEW_CLIPS: Final = 4  # of a label


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a training did not reach."""

    what: str
    fix: str

    def __str__(self) -> str:
        """Return it as one line for people."""
        return f"{self.what}. Fix: {self.fix}"

    def as_json(self) -> dict[str, str]:
        """Return it as plain JSON values."""
        return asdict(self)


def findings_of(
    rows: Sequence[dict[str, Any]], dataset: Dataset, scores: Scores | None, *, longer: str
) -> tuple[Finding, ...]:
    """Return the findings of a training that has ended, the gravest first.

    Args:
        rows: of metrics.jsonl.
        dataset: that was trained on.
        scores: of the kept weights on the validation split; None without one.
        longer: what gives it more steps, see `length.longer`.
    """
    found = [_not_learned(rows, longer)]
    if scores:
        found += [_far_below(rows, scores), _never_predicted(scores), _signer_alone(scores)]
    found += [_never_trained(dataset), _few_clips(dataset.clips_in("train"))]
    return tuple(finding for finding in found if finding)


def _not_learned(rows: Sequence[dict[str, Any]], longer: str) -> Finding | None:
    if not rows:
        return None
    accuracy = rows[-1]["train_accuracy"]
    losses = [row["train_loss"] for row in rows]
    window = max(1, len(losses) // 10)
    last, before = (float(np.mean(part)) for part in (losses[-window:], losses[-2 * window : -window] or [0]))
    words = f"training accuracy ends at {100 * accuracy:.0f} %, on changed clips"
    if accuracy < LOW_ACCURACY:
        if before and last < (1 - STILL_FALLING) * before:
            words += f", and the loss still falls ({before:.2f} to {last:.2f})"
        return Finding(what=f"not converged: {words}", fix=longer)
    return None


def _far_below(rows: Sequence[dict[str, Any]], scores: Scores) -> Finding | None:
    trained = rows[-1]["train_accuracy"] if rows else 0.0
    if trained - scores.top1 < FAR_BELOW:
        return None
    return Finding(
        what=f"validation is far below training: {100 * scores.top1:.0f} % against {100 * trained:.0f} %",
        fix="clips of more signers",
    )


def _never_predicted(scores: Scores) -> Finding | None:
    signed, predicted = scores.confusion_CC.sum(1), scores.confusion_CC.sum(0)
    never = [scores.labels[i] for i in np.flatnonzero((signed > 1) & (predicted == 0))]
    if not never:
        return None
    words = "label is" if len(never) == 1 else "labels are"
    return Finding(
        what=f"{len(never)} {words} never predicted on the validation split: {listed(never[:5])}"
        + (" …" if len(never) > 5 else ""),
        fix="look at their clips: spoter-kit data show",
    )


def _signer_alone(scores: Scores) -> Finding | None:
    judged = [signer for signer in scores.signers if signer.clips >= ENOUGH_CLIPS]
    if len(judged) < 2:
        return None
    worst = min(judged, key=lambda signer: signer.top1)
    others = float(np.mean([signer.top1 for signer in judged if signer is not worst]))
    if others - worst.top1 < ALONE:
        return None
    return Finding(
        what=f"signer {worst.signer} has {100 * worst.top1:.0f} % of {worst.clips} clips right, the others "
        f"{100 * others:.0f} %",
        fix="look at that signer's clips: spoter-kit data show",
    )


def _never_trained(dataset: Dataset) -> Finding | None:
    trained = {clip.label for clip in dataset.clips_in("train")}
    unseen = sorted({clip.label for clip in dataset.clips if clip.split} - trained)
    if not unseen:
        return None
    words = "label has" if len(unseen) == 1 else "labels have"
    return Finding(
        what=f"{len(unseen)} {words} clips to test and none to learn from: {listed(unseen[:5])}"
        + (" …" if len(unseen) > 5 else ""),
        fix=f"record more of them, or spoter-kit data split {dataset.folder} --drop-unseen --force",
    )


def _few_clips(clips: Sequence[Clip]) -> Finding | None:
    counts = Counter(clip.label for clip in clips)
    few = sorted(label for label, count in counts.items() if count < FEW_CLIPS)
    if not few:
        return None
    return Finding(
        what=f"{len(few)} of {len(counts)} labels have fewer than {FEW_CLIPS} clips to learn from: "
        f"{listed(few[:5])}{' …' if len(few) > 5 else ''}",
        fix="record more of them, by several signers",
    )
