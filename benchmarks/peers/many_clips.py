"""Many clips as one would give them to an engine by hand: as they come, in batches, padded with zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

BATCH = 16  # the notebook's


def in_batches(infer: Callable[[Any], Any], *, frames: int | None = None) -> Callable[[list[Any]], Any]:
    """Return a function of clips (T, 108) that gives their logits (N, C).

    Args:
        infer: logits of a batch (N, T, 108).
        frames: to which every clip is padded or cut; None pads each batch to its longest clip.
    """

    def answer(clips: list[Any]) -> Any:
        logits = []
        for begin in range(0, len(clips), BATCH):
            batch = clips[begin : begin + BATCH]
            poses = np.zeros((len(batch), frames or max(map(len, batch)), 108), np.float32)
            for row, clip in zip(poses, batch, strict=True):
                row[: len(clip)] = clip[:frames]
            logits.append(infer(poses))
        return np.concatenate(logits)

    return answer
