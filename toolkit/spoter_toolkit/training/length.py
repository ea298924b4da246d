"""How long a training is, in optimiser steps: a fixed number, or until it has learned its clips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from spoter_runtime.errors import UsageError
from spoter_toolkit.training.config import TrainConfig

# Measured on 50 real words of some seven clips each and on generated signs: with fewer steps at the full
# rate a model has seen too few of its clips' changes, however soon it knows the clips.
LEAST_STEPS: Final = 400
LEAST_DECAY: Final = 300
ENOUGH_STEPS: Final = LEAST_STEPS + LEAST_DECAY
DECAY_SHARE: Final = 0.6  # of the steps before it
# Accuracy on changed clips, dropout included: the clips as they are, are then nearly all known.
LEARNED: Final = 0.8
FLAT: Final = 0.98  # loss that falls by less than 2 % between two windows has stopped falling
EPOCH_STEPS: Final = 50  # of an epoch at least: fewer clips are repeated; its means decide
# What bounds an automatic length: a hard data set goes on for so long.
MOST_STEPS: Final = 4000
MOST_STEPS_A_LABEL: Final = 8
MOST_PASSES: Final = 20
# A bound that is enough has a fifth to spare, for a machine is not always as fast as when a step was timed,
# and half a minute for the import of PyTorch, which was before.
_SPARE: Final = 1.2
_BEFORE_MINUTES: Final = 0.5
PARTS: Final = 8  # a bounded training has at least so many epochs, so that its rate can fall


@dataclass
class Schedule:
    """Step → factor of the learning rate: linear warm-up, constant, then linear to 0.

    Not frozen: an automatic length is decided on the way. Without slots: `LambdaLR` keeps ``__dict__`` in its
    state, and so in last.pt.
    """

    warmup: int
    decay_from: int
    end: int

    def __call__(self, step: int) -> float:
        """Return the factor of one step, from 0."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if step < self.decay_from:
            return 1.0
        return max(0.0, (self.end - step) / max(1, self.end - self.decay_from))

    def begin_decay(self, step: int, epoch_steps: int) -> None:
        """Let the rate fall from this step on, for whole epochs, and end at the bound at the latest."""
        epochs = max(1, min(decay_steps(step), self.end - step) // epoch_steps)
        self.decay_from, self.end = step, step + epochs * epoch_steps


def schedule_of(config: TrainConfig, epoch_steps: int) -> Schedule:
    """Return the schedule of a training; a short one takes at most a tenth of its steps to warm up."""
    end = config.epochs * epoch_steps or config.max_steps
    warmup = min(config.warmup_steps, max(1, end // 10))
    return Schedule(warmup=warmup, decay_from=warmup if config.epochs else end, end=end)


def most_steps(config: TrainConfig, clips: int, labels: int) -> int:
    """Return the bound of an automatic length: the setting, or what the data's size suggests."""
    passes = MOST_PASSES * math.ceil(clips / config.batch_size)
    return config.max_steps or max(MOST_STEPS, MOST_STEPS_A_LABEL * labels, passes)


def longer(config: TrainConfig, epoch_steps: int, minutes: int | None = None) -> str:
    """Return what gives a training with too few steps more of them, for a fix.

    Args:
        config: with its length.
        epoch_steps: that an epoch takes.
        minutes: that are enough, where minutes bounded it; see `enough_minutes`.
    """
    if minutes:
        return f"--minutes {minutes}, or none"
    if config.epochs:
        return f"--set epochs={max(4 * config.epochs, math.ceil(ENOUGH_STEPS / epoch_steps))}"
    return f"--set max_steps={max(2 * config.max_steps, ENOUGH_STEPS)}"


def enough_minutes(minutes: float, left_s: float, step_s: float) -> int:
    """Return a bound in which a training gets enough steps, and more than it got.

    Args:
        minutes: the bound.
        left_s: of it for steps; the rest goes into the start and the end.
        step_s: that a step takes.
    """
    needed = minutes + (_SPARE * ENOUGH_STEPS * step_s - left_s) / 60
    return math.ceil(max(needed, 2 * minutes) + _BEFORE_MINUTES)


def least_steps(config: TrainConfig) -> int:
    """Return the steps that an automatic length takes on data that is learned at once."""
    return min(ENOUGH_STEPS, config.max_steps)


def takes_in_epoch(config: TrainConfig, clips: int) -> int:
    """Return how many clips an epoch shows: each one once, or as many as `EPOCH_STEPS` need."""
    if config.epochs:
        return clips
    steps = max(EPOCH_STEPS, math.ceil(clips / config.batch_size))
    if config.max_steps:
        steps = min(steps, max(1, config.max_steps // PARTS))
    return steps * config.batch_size


def decay_steps(step: int) -> int:
    """Return for how long the rate falls after so many steps."""
    return max(LEAST_DECAY, round(DECAY_SHARE * step))


def soonest_end(step: int, epoch_steps: int, bound: int) -> int:
    """Return where an automatic length ends if the clips turn out to be learned when the next epoch ends.

    Args:
        step: at which this epoch began.
        epoch_steps: that it takes.
        bound: the most steps of the whole training.
    """
    learned = math.ceil(max(step + 1, min(LEAST_STEPS, bound - LEAST_DECAY)) / epoch_steps) * epoch_steps
    return min(bound, learned + decay_steps(learned))


def is_learned(rows: Sequence[dict[str, Any]], step: int, bound: int, labels: int) -> bool:
    """Tell whether the rate should begin to fall.

    Args:
        rows: of metrics.jsonl, one an epoch.
        step: optimiser steps so far.
        bound: the most steps of the whole training.
        labels: that the model tells apart.
    """
    if step + decay_steps(step) >= bound:
        return True
    if step < LEAST_STEPS:
        return False
    return bool(rows[-1]["train_accuracy"] >= LEARNED) or _is_flat([r["train_loss"] for r in rows], labels)


def _is_flat(losses: Sequence[float], labels: int) -> bool:
    """Tell whether the training loss has stopped falling, the last sixth of epochs against the one before.

    At chance it is flat too: many labels take hundreds of steps before the loss begins to fall.
    """
    window = max(2, len(losses) // 6)
    if len(losses) < 3 * window or losses[-1] > 0.8 * math.log(max(2, labels)):
        return False
    return sum(losses[-window:]) > FLAT * sum(losses[-2 * window : -window])


def check_minutes(minutes: float | None) -> None:
    """Check the number of minutes that somebody gives a training.

    Raises:
        UsageError: it is not more than 0.
    """
    if minutes is not None and not 0 < minutes < 1e6:
        raise UsageError(f"--minutes {minutes:g}: expected more than 0", fix="--minutes 5")
