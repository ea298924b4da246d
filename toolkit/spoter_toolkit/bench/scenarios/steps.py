"""The steps of a run that are left, and how long they take: only of backends that run here."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import mean
from typing import Final

from spoter_toolkit.bench.worker.protocol import ROOFLINE
from spoter_toolkit.report.words import about_time

_PACE: Final = 2.0  # what measuring takes with its warm-up, ÷ what was planned, until it was seen


@dataclass(slots=True)
class Steps:
    """Steps by backend, each with the seconds that it is planned to measure; None for a start or a load."""

    left: dict[str, list[float | None]] = field(default_factory=dict)
    done: int = 0
    _seen: set[str] = field(default_factory=set)  # backends with a step that is done
    _starts_s: list[float] = field(default_factory=list)  # what starts and loads took
    _planned_s: float = 0.0  # of the other steps that are done, and what they took
    _taken_s: float = 0.0
    _last: float = field(default_factory=lambda: time.monotonic())

    @property
    def total(self) -> int:
        """Steps that are done or left."""
        return self.done + sum(map(len, self.left.values()))

    def plan(self, name: str, seconds: float | None) -> None:
        """Add a step of a backend."""
        self.left.setdefault(name, []).append(seconds)

    def drop(self, name: str) -> None:
        """Leave out the steps of a backend that cannot run here."""
        self.left.pop(name, None)

    def take(self, name: str, seconds: float | None) -> bool:
        """Count a step as done, with the time since the last one; False for a step that was left out."""
        now = time.monotonic()
        took, self._last = now - self._last, now
        if name not in self.left:
            return False
        self.left[name].remove(seconds)
        self._seen.add(name)
        self.done += 1
        if seconds is None:
            self._starts_s.append(took)
        else:
            self._planned_s, self._taken_s = self._planned_s + seconds, self._taken_s + took
        return True

    def time_left(self) -> str:
        """Return how long the steps that are left take; empty until every backend was tried."""
        if self.left.keys() - self._seen - {ROOFLINE}:
            return ""
        steps = [seconds for of_one in self.left.values() for seconds in of_one]
        measuring = sum(seconds for seconds in steps if seconds is not None)
        pace = self._taken_s / self._planned_s if self._planned_s else _PACE
        start_s = mean(self._starts_s or [0.0])
        return f"  {about_time(steps.count(None) * start_s + measuring * pace)} left" if steps else ""
