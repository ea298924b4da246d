"""Find the circumstances that make a run's figures less reliable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from spoter_toolkit.bench.analysis.drift import Drifted
from spoter_toolkit.bench.records import BenchRecords
from spoter_toolkit.bench.settings import WARM_UP, allows
from spoter_toolkit.bench.worker.protocol import ROOFLINE
from spoter_toolkit.report.words import plural

_BUSY: Final = 0.25  # limit of the load average per core before the run, and of cores used by others
_STOLEN: Final = 0.02  # limit of the share of processor time that other guests of the host took
_SHOWN: Final = 5  # largest number of drifts to name one by one
_UNSETTLED: Final = 0.1  # limit of the share of turns with an unsettled warm-up


def caveats_of(records: BenchRecords, drifts: Sequence[Drifted]) -> tuple[str, ...]:
    """Return the caveats of a run, the weightiest first: one sentence each, without its full stop."""
    return (
        *caveats_of_stop(records),
        *caveats_of_load(records),
        *caveats_of_speed(records, drifts),
        *caveats_of_scenarios(records),
    )


def caveats_of_stop(records: BenchRecords) -> list[str]:
    """Return the caveat that the run did not come to its end; none where it did."""
    caveats = []
    rest = "cases and scenarios that are missing were not measured, others have fewer rounds than asked for"
    if records.stopped_after:
        steps, of = records.stopped_after
        caveats.append(f"stopped early, after {steps} of {of} steps: {rest}")
    if records.cut_after:
        steps, of = records.cut_after
        caveats.append(
            f"{records.settings.limit_s:g} s were over after {steps} of {of} steps, --rounds "
            f"{records.settings.rounds} measures all: {rest}"
        )
    return caveats


def caveats_of_scenarios(records: BenchRecords) -> list[str]:
    """Return the caveats about cases and scenarios that are missing or incomplete."""
    cores = records.environment["usable_cores"]
    caveats = []
    cases = records.settings.cases(records.contract)
    if crowded := sorted({case.threads for case in cases if case.threads > cores}):
        counts = ", ".join(map(str, crowded))
        caveats.append(
            f"threads {counts}: more than the {plural(cores, 'usable core')}, so they wait in turn"
        )
    if not allows(records.contract, records.notebook_case):
        caveats.append(
            f"the notebook's case {records.notebook_case.shape} is not among the cases: the bundle takes at "
            f"most {records.contract.max_batch} × {records.contract.max_frames}"
        )
    if records.no_energy:
        caveats.append(f"energy is not readable here: {records.no_energy}")
    if ROOFLINE in records.skipped:
        caveats.append(f"the GEMM roofline was not measured: {records.skipped[ROOFLINE]}")
    caveats += [
        f"{served.backend} could not keep up with {served.rate:.0f} clips a second: "
        f"{sum(served.unanswered)} of {served.clips} had no answer"
        for served in records.served
        if any(served.unanswered)
    ]
    return caveats


def caveats_of_load(records: BenchRecords) -> list[str]:
    """Return the caveats about other programs and other guests of the host."""
    cores = records.environment["usable_cores"]
    caveats = []
    before = records.environment.get("load_average_before")
    if before is not None and before > _BUSY * cores:
        caveats.append(
            f"the machine was busy before the run (load average {before:g} on "
            f"{plural(cores, 'core')}): trust the ratios more than the times"
        )
    others = [state.others_cores for state in records.machine if state.others_cores is not None]
    if busy := sum(used > _BUSY for used in others):
        caveats.append(
            f"other programs used up to {max(others):.1f} cores during the run (more than {_BUSY:g} in "
            f"{busy} of {plural(len(others), 'round')})"
        )
    stolen = max((state.steal_share or 0.0 for state in records.machine), default=0.0)
    if stolen > _STOLEN:
        caveats.append(f"other guests of the host took up to {stolen:.0%} of the processor in a round")
    return caveats


def caveats_of_speed(records: BenchRecords, drifts: Sequence[Drifted]) -> list[str]:
    """Return the caveats about a speed that changed during the run, or during the warm-up."""
    caveats = []
    if drifts:
        named = "; ".join(map(str, drifts[:_SHOWN]))
        more = f"; and {len(drifts) - _SHOWN} more, see the table" if len(drifts) > _SHOWN else ""
        caveats.append(
            f"the speed changed during the run: {named}{more}. Times before and after differ, ratios are "
            "paired"
        )
    turns: Counter[str] = Counter()
    unsettled: Counter[str] = Counter()
    for timing in records.timings:
        turns[timing.backend] += len(timing.rounds_ns)
        unsettled[timing.backend] += len(timing.unsettled)
    named_backends = [
        f"{backend} in {count} of {turns[backend]} turns"
        for backend, count in unsettled.items()
        if count > _UNSETTLED * turns[backend]
    ]
    if named_backends:
        caveats.append(
            "warm-up ended at its limit while the speed still moved by more than "
            f"{WARM_UP['tolerance']:.0%}: {', '.join(named_backends)}"
        )
    return caveats
