"""The steps of a run that are left, and how long they take: only of backends that run here."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import mean
from typing import Final

from spoter_toolkit.bench.worker.protocol import ROOFLINE
from spoter_toolkit.report.words import about_time

_PACE: Final = 2.0  # what measuring takes with its warm-up, ÷ what was planned, until it was seen


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a backend."""

    kind: str  # steps of one kind take about as long
    seconds: float | None = None  # that it is planned to measure; None for a start or a load
    needed: bool = True  # done also where the time is over


@dataclass(slots=True)
class Steps:
    """Steps by backend."""

    left: dict[str, list[Step]] = field(default_factory=dict)
    done: int = 0
    _took_s: dict[tuple[str, str], list[float]] = field(default_factory=dict)  # (backend, kind) → each step's
    _planned_s: float = 0.0  # of the steps that measured, and what they took
    _taken_s: float = 0.0
    _last: float = field(default_factory=lambda: time.monotonic())

    @property
    def total(self) -> int:
        """Steps that are done or left."""
        return self.done + sum(map(len, self.left.values()))

    def plan(self, name: str, step: Step) -> None:
        """Add a step of a backend."""
        self.left.setdefault(name, []).append(step)

    def drop(self, name: str) -> None:
        """Leave out the steps of a backend that cannot run here."""
        self.left.pop(name, None)

    def take(self, name: str, step: Step) -> bool:
        """Count a step as done, with the time since the last one; False for a step that was left out."""
        now = time.monotonic()
        took, self._last = now - self._last, now
        if name not in self.left:
            return False
        self.left[name].remove(step)
        self.done += 1
        self._took_s.setdefault((name, step.kind), []).append(took)
        if step.seconds is not None:
            self._planned_s, self._taken_s = self._planned_s + step.seconds, self._taken_s + took
        return True

    def time_left(self, limit_s: float | None = None) -> str:
        """Return how long the steps that are left take; empty until every backend was tried.

        Args:
            limit_s: the time after which only needed steps are done; None: all are.
        """
        if self.left.keys() - {name for name, _ in self._took_s} - {ROOFLINE}:
            return ""
        left = [
            (step.needed, self._expected_s(name, step)) for name, steps in self.left.items() for step in steps
        ]
        seconds = sum(expected for _, expected in left)
        if limit_s is not None:
            seconds = min(seconds, max(limit_s, sum(expected for needed, expected in left if needed)))
        return f"  {about_time(seconds)} left" if left else ""

    def _expected_s(self, name: str, step: Step) -> float:
        """Return how long a step takes: as others of its kind, best of the same backend."""
        of_kind = [took for (_, kind), times in self._took_s.items() if kind == step.kind for took in times]
        if seen := self._took_s.get((name, step.kind)) or of_kind:
            return mean(seen)
        pace = self._taken_s / self._planned_s if self._planned_s else _PACE
        return pace * (step.seconds or 0.0)
