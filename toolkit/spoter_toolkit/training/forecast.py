"""What a training is going to take: steps, and minutes on this machine."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

import torch

from spoter_toolkit.training.batches import read_batch
from spoter_toolkit.training.epochs import Loop
from spoter_toolkit.training.length import ENOUGH_STEPS, least_steps, longer

_TRIED: Final = 9  # steps that are timed, the first one apart
_TRIED_S: Final = 5.0  # fewer where they take longer, but two


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The plan of a training, before its first step."""

    clips: int
    labels: int
    least_steps: int  # if the clips are learned at once
    most_steps: int
    seconds_a_step: float  # here, now
    longer: str = ""  # what gives it enough steps
    within_minutes: float | None = None  # it ends by then in any case
    threads: int | None = None  # that were chosen; None: PyTorch's

    def __str__(self) -> str:
        """Return the plan as one line for people."""
        steps, minutes = (
            f"{self.most_steps:,} step{'s' if self.most_steps > 1 else ''}",
            f"about {self._minutes(self.most_steps)}",
        )
        if self.least_steps < self.most_steps:
            steps = f"{self.least_steps:,} to {steps}, until the clips are learned"
            minutes = f"{minutes.replace('about', f'about {self._minutes(self.least_steps)} to')}"
        time = f"{minutes} minutes here"
        if self.within_minutes:
            time = f"within {_plain(self.within_minutes)} here"
        threads = ", on one thread, the fastest now" if self.threads == 1 else ""
        return f"plan: {self.clips:,} clips, {self.labels:,} labels; {steps}; {time}{threads}"

    @property
    def is_short(self) -> bool:
        """Whether there are fewer steps than any data was seen to converge in."""
        return self.most_steps < ENOUGH_STEPS

    def _minutes(self, steps: int) -> str:
        minutes = steps * self.seconds_a_step / 60
        return f"{minutes:,.0f}" if minutes >= 10 else f"{max(0.1, minutes):.2g}"


def _plain(minutes: float) -> str:
    return f"{minutes:g} minute{'' if minutes == 1 else 's'}"


def forecast(
    loop: Loop, seconds: float, minutes: float | None = None, threads: int | None = None
) -> Forecast:
    """Return the plan of a training that is about to begin.

    Args:
        loop: before its first step.
        seconds: a step takes here.
        minutes: that bounded it.
        threads: that were chosen.
    """
    config = loop.config
    return Forecast(
        clips=len(loop.clips),
        labels=config.model.num_classes,
        least_steps=loop.length.end if config.epochs else least_steps(config),
        most_steps=loop.length.end,
        seconds_a_step=seconds,
        longer=longer(config, len(loop.batches(0)), minutes),
        threads=threads,
    )


def seconds_a_step(loop: Loop) -> float:
    """Take a few steps on a copy of the model; return their median time, with several processes that of 0."""
    from accelerate.utils import broadcast_object_list

    device = loop.accelerator.device
    model = copy.deepcopy(loop.model).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    trial = replace(loop, model=model, optimizer=optimizer)
    batches = loop.batches(0)
    taken = []
    for step in range(_TRIED + 1):
        begin = time.perf_counter()
        trial.update(read_batch(loop.dataset, batches[step % len(batches)], device)).cpu()
        taken.append(time.perf_counter() - begin)
        if len(taken) > 2 and sum(taken) > _TRIED_S:
            break
    found = median(taken[1:])
    return float(broadcast_object_list([found])[0]) if loop.accelerator.num_processes > 1 else found
