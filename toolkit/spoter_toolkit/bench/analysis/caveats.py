"""What a reader must know to judge a run's figures."""

from __future__ import annotations

from collections import Counter
from typing import Final

from spoter_runtime.contract import GraphContract
from spoter_toolkit.bench.analysis.result import BenchResult
from spoter_toolkit.bench.settings import WARMUP_TOLERANCE, Case, allows, notebook_case, plural
from spoter_toolkit.bench.worker.__main__ import FLOOR

_BUSY: Final = (
    0.25  # load average per core before the run, or cores that others used, from which on it counts
)
_STOLEN: Final = 0.02  # share of the processor's time that other guests of the host took
_SHOWN: Final = 5  # drifts that are named one by one
_UNSETTLED: Final = 0.1  # share of the turns from which on an unsettled warm-up is worth a word


def remarks_on(result: BenchResult, contract: GraphContract, cases: tuple[Case, ...]) -> list[str]:
    """Return one sentence for each thing that makes figures mean less than they seem to."""
    return [
        *_stop(result),
        *_cases(result, contract, cases),
        *_load(result),
        *_drift(result),
        *_warm_up(result),
        *_other(result),
    ]


def _stop(result: BenchResult) -> list[str]:
    if result.stopped_after is None:
        return []
    steps, of = result.stopped_after
    return [
        f"stopped early, after {steps} of {of} steps: cases and scenarios that are missing were not "
        "measured, others have fewer rounds than asked for"
    ]


def _cases(result: BenchResult, contract: GraphContract, cases: tuple[Case, ...]) -> list[str]:
    cores = result.environment["usable_cores"]
    remarks = []
    if crowded := sorted({case.threads for case in cases if case.threads > cores}):
        counts = ", ".join(map(str, crowded))
        remarks.append(
            f"threads {counts}: more than the {plural(cores, 'usable core')}, so they wait in turn"
        )
    notebook = notebook_case(cores)
    if not allows(contract, notebook):
        remarks.append(
            f"the notebook's case {notebook.shape} is not among the cases: the bundle takes at most "
            f"{contract.max_batch} × {contract.max_frames}"
        )
    return remarks


def _load(result: BenchResult) -> list[str]:
    cores = result.environment["usable_cores"]
    remarks = []
    before = result.environment.get("load_average_before")
    if before is not None and before > _BUSY * cores:
        remarks.append(
            f"the machine was busy before the run (load average {before:g} on "
            f"{plural(cores, 'core')}): trust the ratios more than the times"
        )
    others = [s.others_cores for s in result.machine if s.others_cores is not None]
    if others and max(others) > _BUSY:
        busy = sum(used > _BUSY for used in others)
        remarks.append(
            f"other programs used up to {max(others):.1f} cores during the run (more than {_BUSY:g} in "
            f"{busy} of {plural(len(others), 'round')})"
        )
    stolen = [s.steal_share for s in result.machine if s.steal_share is not None]
    if stolen and max(stolen) > _STOLEN:
        remarks.append(f"other guests of the host took up to {max(stolen):.0%} of the processor in a round")
    return remarks


def _drift(result: BenchResult) -> list[str]:
    found = result.drifts()
    if not found:
        return []
    named = "; ".join(map(str, found[:_SHOWN]))
    more = f"; and {len(found) - _SHOWN} more, see the table" if len(found) > _SHOWN else ""
    return [
        f"the speed changed during the run: {named}{more}. Times before and after differ, ratios are paired"
    ]


def _warm_up(result: BenchResult) -> list[str]:
    turns = Counter({t.backend: 0 for t in result.timings})
    unsettled = turns.copy()
    for timing in result.timings:
        turns[timing.backend] += len(timing.rounds_ns)
        unsettled[timing.backend] += len(timing.unsettled)
    named = [
        f"{backend} in {count} of {turns[backend]} turns"
        for backend, count in unsettled.items()
        if count > _UNSETTLED * turns[backend]
    ]
    if not named:
        return []
    return [
        f"warm-up ended at its limit while the speed still moved by more than {WARMUP_TOLERANCE:.0%}: "
        + ", ".join(named)
    ]


def _other(result: BenchResult) -> list[str]:
    remarks = []
    if result.no_energy:
        remarks.append(f"energy is not readable here: {result.no_energy}")
    if FLOOR in result.skipped:
        remarks.append(f"the floor was not measured: {result.skipped[FLOOR]}")
    if result.server:
        remarks += [
            f"{served.backend} could not keep up with {served.rate:.0f} clips a second: "
            f"{sum(served.unanswered)} of {served.clips} had no answer"
            for served in result.server.served
            if any(served.unanswered)
        ]
    return remarks
