"""What a training is going to take: steps, and minutes on this machine."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

import torch

from spoter_toolkit.training.batches import read_batch
from spoter_toolkit.training.epochs import Loop
from spoter_toolkit.training.length import ENOUGH_STEPS, least_steps, longer

_TRIED: Final = 9  # steps that are timed, the first one apart
_TRIED_S: Final = 5.0  # fewer where they take longer, but two
# A plan is said again where a step takes so many times as long as was said, or as short, for so many seconds,
# and this moves the end by a minute or more.
_FAR_OFF: Final = 2.0
_WATCHED_S: Final = 20.0
_MATTERS_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The plan of a training: before its first step, or of the steps that are left."""

    clips: int
    labels: int
    least_steps: int  # if the clips are learned at once
    most_steps: int
    seconds_a_step: float  # here, now
    done: int = 0  # steps
    times_as_long: float = 1.0  # as said before
    longer: str = ""  # what gives it enough steps
    within_minutes: float | None = None  # it ends by then in any case
    threads: int | None = None  # that were chosen; None: PyTorch's

    def __str__(self) -> str:
        """Return the plan as one line for people."""
        least, most = self.least_steps - self.done, self.most_steps - self.done
        steps = f"{most:,} {'more ' if self.done else ''}step{'s' if most > 1 else ''}"
        minutes = f"about {self._minutes(most)}"
        if least < most:
            steps = f"{least:,} to {steps}, until the clips are learned"
            minutes = f"{minutes.replace('about', f'about {self._minutes(least)} to')}"
        time = f"{minutes} minutes here"
        if self.done:
            pace = f"{self.times_as_long:.3g} times as long as said"
            return f"plan now: a step takes {pace}; {steps}; {time}"
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


def forecast(loop: Loop, seconds: float, enough: int | None = None, threads: int | None = None) -> Forecast:
    """Return the plan of a training that is about to begin.

    Args:
        loop: before its first step.
        seconds: a step takes here.
        enough: minutes, where minutes bounded it.
        threads: that were chosen.
    """
    config = loop.config
    return Forecast(
        clips=len(loop.clips),
        labels=config.model.num_classes,
        least_steps=loop.length.end if config.epochs else least_steps(config),
        most_steps=loop.length.end,
        seconds_a_step=seconds,
        longer=longer(config, len(loop.batches(0)), enough),
        threads=threads,
    )


class Pace:
    """The time that steps take, against what was said: a machine becomes busy, or idle, on the way."""

    def __init__(self, plan: Forecast, on_plan: Callable[[Forecast], None]) -> None:
        self._plan, self._on_plan = plan, on_plan
        self._since: tuple[int, float] | None = None  # step and time from which on it measures
        self._watched_s = _WATCHED_S

    def after(self, step: int, soonest_end: int, latest_end: int) -> None:
        """Say a new plan after a step where the time that it takes is far off, each time more seldom."""
        now = time.monotonic()
        if self._since is None:  # what the first step sets up takes time too
            self._since = step, now
        steps, seconds = step - self._since[0], now - self._since[1]
        if seconds < self._watched_s or not steps:
            return
        self._since = step, now
        said, took = self._plan.seconds_a_step, seconds / steps
        moved = (latest_end - step) * abs(took - said)
        if 1 / _FAR_OFF < took / said < _FAR_OFF or moved < _MATTERS_S:
            return
        self._watched_s *= 2
        self._plan = replace(
            self._plan,
            least_steps=soonest_end,
            most_steps=latest_end,
            seconds_a_step=took,
            done=step,
            times_as_long=took / said,
        )
        self._on_plan(self._plan)


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
