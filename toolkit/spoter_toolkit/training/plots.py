"""Pictures of a training: its curves, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spoter_toolkit.data.drawing import save_picture
from spoter_toolkit.evaluation import Scores
from spoter_toolkit.report.fonts import writable


def draw_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw loss and accuracy over the epochs of metrics.jsonl."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for axes, quantity in ((loss_axes, "loss"), (accuracy_axes, "accuracy")):
        for part, marker in (("train", ""), ("val", "o")):
            key = f"{part}_{quantity}"
            points = [(row["epoch"], row[key]) for row in rows if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), marker=marker, markersize=3, label=part)
        axes.set_xlabel("epoch")
        axes.set_title(quantity)
        axes.grid(alpha=0.3)
        axes.legend()
    accuracy_axes.set_ylim(0, 1.02)
    save_picture(figure, path)


def draw_confusion(scores: Scores, path: Path, *, title: str) -> None:
    """Draw the confusion matrix, rows as shares of each true label; labels without clips are left out."""
    present = np.flatnonzero((scores.confusion_CC.sum(1) + scores.confusion_CC.sum(0)) > 0)
    counts = scores.confusion_CC[np.ix_(present, present)]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.0, 0.19 * len(present) + 2)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = writable([scores.labels[i] for i in present])
    size = 8 if len(present) <= 20 else 6
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set_xlabel("recognised")
    axes.set_ylabel("signed")
    axes.set_title(f"{title}\ntop-1 {scores.top1:.3f} of {scores.clips} clips", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the label's clips")
    save_picture(figure, path)
