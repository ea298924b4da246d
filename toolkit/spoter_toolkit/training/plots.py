"""Pictures of a training: its curves, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from spoter_toolkit.data.drawing import save_picture
from spoter_toolkit.evaluation import Scores
from spoter_toolkit.report.fonts import writable

# Up to so many labels their names are beside the matrix; beyond, nobody could read them, and the
# most confused pairs stand there.
NAMED: Final = 100
_INCHES_A_NAME: Final = 0.15
_PAIRS_INCHES: Final = 3.6
_LETTERS: Final = 150  # of a line below the curves


def draw_curves(
    rows: Sequence[dict[str, Any]], path: Path, *, best_epoch: int | None = None, notes: Sequence[str] = ()
) -> None:
    """Draw loss and accuracy over the epochs of metrics.jsonl.

    Args:
        rows: one an epoch.
        path: of the picture.
        best_epoch: whose weights were kept, to mark; None where the last ones were.
        notes: below the curves: what the training did not reach, and the fix.
    """
    lines = [line for note in notes for line in wrap(note, _LETTERS, subsequent_indent="    ")]
    figure = Figure(figsize=(9, 3.6 + 0.2 * len(lines)), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for axes, quantity in ((loss_axes, "loss"), (accuracy_axes, "accuracy")):
        for part, marker in (("train", ""), ("val", "o")):
            key = f"{part}_{quantity}"
            points = [(row["epoch"], row[key]) for row in rows if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker=marker, markersize=3, label=part)
        if best_epoch:
            axes.axvline(best_epoch, color="#d55e00", linestyle=":", label=f"best: epoch {best_epoch}")
        axes.set_xlabel("epoch")
        axes.set_title(quantity)
        axes.grid(alpha=0.3)
        axes.legend()
    accuracy_axes.set_ylim(0, 1.02)
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=8, color="#a33c00")
    save_picture(figure, path)


def draw_confusion(scores: Scores, path: Path, *, title: str) -> None:
    """Draw the confusion matrix, rows as shares of each true label; labels without clips are left out."""
    present = np.flatnonzero((scores.confusion_CC.sum(1) + scores.confusion_CC.sum(0)) > 0)
    counts = scores.confusion_CC[np.ix_(present, present)]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    named = len(present) <= NAMED
    side = max(4.0, _INCHES_A_NAME * len(present) + 2) if named else 9.0
    width = side + (0.8 if named else 1.8 + _PAIRS_INCHES)
    figure = Figure(figsize=(width, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = writable([scores.labels[i] for i in present])
    if named:
        size = 8 if len(present) <= 20 else 6
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
        axes.set_yticks(range(len(names)), names, fontsize=size)
    else:
        pairs = writable([f"{p.label} → {p.taken_for}  {p.clips} of {p.of}" for p in scores.confused])
        left = 1 - _PAIRS_INCHES / width
        figure.text(left + 0.02, 0.5, "\n".join(["most confused", "", *pairs]), va="center", fontsize=9)
        figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, 0, left, 1)))
    axes.set_xlabel("recognised")
    axes.set_ylabel("signed")
    axes.set_title(f"{title}\ntop-1 {scores.top1:.3f} of {scores.clips} clips", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the label's clips")
    save_picture(figure, path)


def draw_accuracy(scores: Scores, path: Path, *, title: str) -> None:
    """Draw top-1 as bars: of each signer, and of the labels, the worst first, as many as can be read."""
    clips_C = scores.confusion_CC.sum(1)
    present = np.flatnonzero(clips_C)
    right_C = np.diag(scores.confusion_CC)[present] / clips_C[present]
    worst = np.argsort(right_C, kind="stable")[:NAMED]
    labels = [(scores.labels[present[i]], right_C[i], clips_C[present[i]]) for i in worst]
    signers = [(s.signer, s.top1, s.clips) for s in sorted(scores.signers, key=lambda s: s.top1)]
    most = max(len(labels), len(signers))
    figure = Figure(figsize=(8, 1.8 + _INCHES_A_NAME * most), layout="constrained")
    signer_axes, label_axes = figure.subplots(1, 2)
    some = f", the worst {len(labels)} of {len(present)}" if len(present) > NAMED else ""
    for axes, what, bars in ((signer_axes, "signer", signers), (label_axes, f"label{some}", labels)):
        axes.barh(range(len(bars)), [share for _, share, _ in bars], color="#0072b2")
        axes.set_yticks(
            range(len(bars)), writable([f"{name} ({count})" for name, _, count in bars]), fontsize=6
        )
        axes.axvline(scores.top1, color="#d55e00", linestyle=":")
        axes.set(xlim=(0, 1), ylim=(most - 0.4, -0.6), xlabel=f"top-1 by {what}\nclips in brackets")
    figure.suptitle(f"{title}: top-1 {scores.top1:.3f} of {scores.clips} clips", fontsize=9)
    save_picture(figure, path)
