"""Find a machine or a backend whose speed changed between the rounds: a step, or a trend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from spoter_runtime.statistics import ROUNDS_NEEDED

DRIFT_AT_LEAST: Final = 0.05  # least change of speed that is reported
_BESIDE_STEP: Final = 3  # least rounds on either side of a step: one or two are a disturbance

# Share of false alarms among series without a drift. A report examines some hundred series.
_FALSE_ALARMS: Final = 1e-3
_SIMULATED: Final = 20_000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The change of speed in one series of rounds."""

    kind: Literal["step", "trend"]  # a step between two rounds, or a trend over all of them
    # later time ÷ earlier time - 1: 0.3 is 30 % slower; for a trend from the first round to the last
    change: float
    from_round: int  # first round after the step, from 1; for a trend 1
    rounds: int

    def __str__(self) -> str:
        if self.kind == "step":
            return f"step of {self.change:+.0%} from round {self.from_round} of {self.rounds} on"
        return f"trend of {self.change:+.0%} over {self.rounds} rounds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drifted:
    """A series of rounds with a drift; `backend` is None for the machine itself."""

    backend: str | None
    what: str
    drift: Drift

    def __str__(self) -> str:
        return f"{self.backend or 'the machine'}, {self.what}: {self.drift}"


def find_drift(rounds_ns: Sequence[Sequence[int]]) -> Drift | None:
    """Return the drift of a series of rounds; None if noise explains the changes, or with too few rounds.

    Fits every step and a straight line to the logarithms of the rounds' medians. The noise is the residual,
    but at least the standard error of the medians. The strength of a fit is its change ÷ the standard error
    of the change. A drift needs a strength that only `_FALSE_ALARMS` of series without drift exceed
    (simulated for this number of rounds), and a change of `DRIFT_AT_LEAST`.
    """
    count = len(rounds_ns)
    if count < ROUNDS_NEEDED:
        return None
    medians = np.log([float(np.median(samples_ns)) for samples_ns in rounds_ns])
    uncertain = float(np.median([log_median_error(samples_ns) for samples_ns in rounds_ns]))
    changes, noise = fit_changes(medians[None])
    noise = np.maximum(noise, uncertain * change_errors(count))
    strengths = np.abs(changes[0]) / np.maximum(noise[0], 1e-12)
    best = int(strengths.argmax())
    change = float(np.expm1(changes[0, best]))
    if strengths[best] < strength_of_noise(count) or abs(changes[0, best]) < np.log1p(DRIFT_AT_LEAST):
        return None
    if best == len(strengths) - 1:
        return Drift(kind="trend", change=change, from_round=1, rounds=count)
    return Drift(kind="step", change=change, from_round=best + _BESIDE_STEP + 1, rounds=count)


def log_median_error(samples_ns: Sequence[int]) -> float:
    """Return the standard error of the logarithm of a round's median."""
    if len(samples_ns) < 2:
        return 0.0
    logs = np.log(np.asarray(samples_ns, np.float64))
    quartiles = np.percentile(logs, (25, 75))
    deviation = float(quartiles[1] - quartiles[0]) / 1.349  # for a normal distribution
    return 1.2533 * deviation / float(np.sqrt(len(samples_ns)))  # 1.2533: a median's; a mean has 1


def fit_changes(series: Floats) -> tuple[Floats, Floats]:
    """Fit (series, rounds); return each fit's change and the change's standard error.

    Columns: the steps from round `_BESIDE_STEP` on, then the straight line.
    """
    count = series.shape[1]
    changes, noises = [], []
    spreads = change_errors(count)
    for column, place in enumerate(range(_BESIDE_STEP, count - _BESIDE_STEP + 1)):
        before, after = series[:, :place], series[:, place:]
        change = after.mean(1) - before.mean(1)
        left = ((before - before.mean(1, keepdims=True)) ** 2).sum(1)
        left = left + ((after - after.mean(1, keepdims=True)) ** 2).sum(1)
        changes.append(change)
        noises.append(np.sqrt(left / (count - 2)) * spreads[column])
    times = np.arange(count) - (count - 1) / 2
    slope = series @ times / (times @ times)
    left = ((series - series.mean(1, keepdims=True) - slope[:, None] * times) ** 2).sum(1)
    changes.append(slope * (count - 1))
    noises.append(np.sqrt(left / (count - 2)) * spreads[-1])
    return np.stack(changes, 1), np.stack(noises, 1)


def change_errors(count: int) -> Floats:
    """Return the standard error of each fit's change, for rounds with a standard error of 1."""
    places = np.arange(_BESIDE_STEP, count - _BESIDE_STEP + 1)
    times = np.arange(count) - (count - 1) / 2
    return np.append(np.sqrt(1 / places + 1 / (count - places)), (count - 1) / np.sqrt(times @ times))


@lru_cache
def strength_of_noise(count: int) -> float:
    """Return the critical strength for `count` rounds: 0.1 % of series without drift exceed it."""
    noise = np.random.default_rng(0).standard_normal((_SIMULATED, count))
    changes, noises = fit_changes(noise)
    strongest = (np.abs(changes) / noises).max(1)
    return float(np.quantile(strongest, 1 - _FALSE_ALARMS))
