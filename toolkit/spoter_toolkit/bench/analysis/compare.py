"""Compare a run with an earlier one, and fail a build only for a significant difference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import ConfigError, DataError
from spoter_runtime.statistics import Ratio
from spoter_runtime.strict import expect, made_from, shown
from spoter_toolkit.bench.records import BenchRecords, Timing
from spoter_toolkit.bench.settings import BenchSettings, Case
from spoter_toolkit.bench.statistics import unpaired_ratio
from spoter_toolkit.input_files import BENCH_REPORT, json_of

SCHEMA_VERSION: Final = 2  # schema of bench.json

Metric = Literal["p50", "clips_per_s"]
_MACHINE_FACTS: Final = (  # facts of the environment that identify a machine
    *("cpu", "architecture", "logical_cores", "usable_cores", "cpu_quota_cores"),
    *("governor", "system", "kernel", "python"),
)
_COMPARED: Final = "latency"  # the scenario whose times are compared
_LOOP_MOVES: Final = 0.05  # least change of the fixed loop's time that counts as a change of the machine
_BOUND: Final = re.compile(r"\s*(p50|clips_per_s)\s*([<>])\s*(\d+(?:\.\d+)?)\s*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The limit of a metric's ratio, this run ÷ the earlier one; a ratio beyond it fails the build."""

    metric: Metric
    above: bool
    limit: float

    def __str__(self) -> str:
        return f"{self.metric} {'>' if self.above else '<'} {self.limit:g}"


def bound_from_text(text: str) -> Bound:
    """Parse a bound such as ``"p50 > 1.05"``.

    Raises:
        ConfigError: another form.
    """
    match = _BOUND.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"--fail-if {text!r}: expected p50 or clips_per_s, > or <, a number", fix="'p50 > 1.05'"
        )
    metric, sign, limit = match.groups()
    return Bound(metric="p50" if metric == "p50" else "clips_per_s", above=sign == ">", limit=float(limit))


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierRun:
    """The parts of an earlier run to compare with; `loop_ms` is the fixed loop's time, None if unknown."""

    model_sha256: str
    environment: dict[str, Any]
    timings: dict[tuple[str, Case], Timing]
    loop_ms: float | None


def earlier_run(path: Path) -> EarlierRun:
    """Read the bench.json of an earlier run, given the file or its folder.

    Raises:
        DataError: no such file, another kind of file or schema, or no samples in it.
    """
    path = path / "bench.json" if path.is_dir() else path
    content = json_of(path, BENCH_REPORT)
    try:
        expect(content, dict[str, Any], "")
        if content["schema_version"] != SCHEMA_VERSION:
            raise DataError(
                f"{path}: schema version {shown(content['schema_version'])}, this spoter-kit reads "
                f"{SCHEMA_VERSION}",
                fix="measure again with this spoter-kit",
            )
        rows = expect(content["timings"], list[dict[str, Any]], "timings")
        states = expect(content["machine"], list[dict[str, Any]], "machine")
        environment = expect(content["environment"], dict[str, Any], "environment")
        expect(environment["packages"], dict[str, str | None], "environment.packages")
        expect(environment.get("gpu"), dict[str, Any] | None, "environment.gpu")
        model = expect(content["bundle"], dict[str, Any], "bundle")
        timings = [_timing(row, f"timings[{i}]") for i, row in enumerate(rows)]
        loops = [
            (state["scenario"], expect(state["loop_ns"], tuple[int | float, ...], f"machine[{i}].loop_ns"))
            for i, state in enumerate(states)
        ]
        return EarlierRun(
            model_sha256=expect(model["model_sha256"], str, "bundle.model_sha256"),
            environment=environment,
            timings={(timing.backend, timing.case): timing for timing in timings},
            loop_ms=median_loop_ms(loops),
        )
    except KeyError as error:
        raise DataError(f"{path}: is no bench.json: {error} is missing", fix=BENCH_REPORT.fix) from error
    except ValueError as error:
        raise DataError(f"{path}: is no bench.json with samples: {error}", fix=BENCH_REPORT.fix) from error


def _timing(row: dict[str, Any], where: str) -> Timing:
    sizes = {name: row[name] for name in ("batch", "frames", "threads")}
    rounds_ns = expect(row["rounds_ns"], tuple[tuple[int, ...], ...], f"{where}.rounds_ns")
    if not rounds_ns or not all(samples and min(samples) > 0 for samples in rounds_ns):
        raise ValueError(f"{where}.rounds_ns: a round without samples, or a time that is none")
    backend = expect(row["backend"], str, f"{where}.backend")
    return Timing(backend=backend, case=made_from(Case, sizes, where), rounds_ns=rounds_ns)


def check_comparable(earlier: EarlierRun, settings: BenchSettings, contract: GraphContract) -> None:
    """Check, before measuring, that this run will share a backend and case with the earlier one.

    Raises:
        DataError: it will not.
    """
    cases = settings.cases(contract) if _COMPARED in settings.scenarios else ()
    if not any((name, case) in earlier.timings for name in settings.backends for case in cases):
        raise DataError(
            "--against: that run has no backend and case of the scenario latency in common with this one",
            fix="measure the backends and cases that it has",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The comparison of one backend on one case with the earlier run."""

    backend: str
    case: Case
    ratio: Ratio  # of the metric, this run ÷ the earlier one
    # ``"beyond"`` or ``"within"`` if the whole interval is on that side of the limit, ``"cannot tell"`` if
    # the limit is inside it or there are too few rounds; None without a limit
    verdict: Literal["beyond", "within", "cannot tell"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """The comparison of a run with an earlier one."""

    bound: Bound | None  # None: the medians are compared, and nothing is judged
    # every backend and case that both runs have; empty for a run that is not complete
    gates: tuple[Gate, ...]
    differences: tuple[str, ...]  # between the two runs besides the program, each as ``name: then → now``

    @property
    def failed(self) -> bool:
        """True if a ratio is significantly beyond the bound."""
        return any(gate.verdict == "beyond" for gate in self.gates)

    @property
    def note(self) -> str:
        """An explanation of the gates for readers; may be empty."""
        if self.bound is None:
            return (
                "Compared: the median of a call, of every backend and case that both runs have. Nothing "
                "fails: that takes a bound, such as --fail-if 'p50 > 1.05'."
            )
        if any(gate.verdict == "cannot tell" for gate in self.gates):
            return (
                "cannot tell: the bound lies within what the rounds and the machine's own change of speed "
                "leave open; this fails nothing. Run both again with more --rounds."
            )
        return ""


def compare_runs(records: BenchRecords, earlier: EarlierRun, bound: Bound | None) -> Against:
    """Compare a run with an earlier one, and judge every ratio by the bound, if any.

    If a fixed Python loop takes another time than then, the host changed speed; a difference is claimed only
    if it holds with and without the correction.

    Raises:
        DataError: the runs have no backend and case in common.
    """
    slower = loop_ratio(records, earlier)
    then, now = environment_facts(earlier.environment), environment_facts(records.environment)
    then["model"], now["model"] = (f"{run.model_sha256[:12]}…" for run in (earlier, records))
    if earlier.loop_ms:
        loop = "a fixed loop of Python"
        then[loop], now[loop] = (f"{ms:.2f} ms" for ms in (earlier.loop_ms, slower * earlier.loop_ms))
    differences = tuple(
        f"{name}: {then.get(name, 'not recorded')} → {now.get(name, 'not recorded')}"
        for name in dict.fromkeys(["model", *then, *now])
        if then.get(name) != now.get(name)
    )
    if records.failures or records.stopped_after:
        return Against(bound=bound, gates=(), differences=differences)
    metric: Metric = bound.metric if bound else "p50"
    gates = []
    for timing in records.timings:
        if before := earlier.timings.get((timing.backend, timing.case)):
            of_both = (by_round(t, metric) for t in (timing, before))
            ratio = unpaired_ratio(*of_both, seed=records.settings.seed)
            verdict = judge_gate(ratio, bound, 1 / slower if metric == "p50" else slower) if bound else None
            gates.append(Gate(backend=timing.backend, case=timing.case, ratio=ratio, verdict=verdict))
    if not gates and not records.cut_after:
        raise DataError("--against: that run has no backend and case in common with this one")
    return Against(bound=bound, gates=tuple(gates), differences=differences)


def loop_ratio(records: BenchRecords, earlier: EarlierRun) -> float:
    """Return the fixed loop's time ÷ its time in the earlier run; 1 if unknown or almost unchanged."""
    now = median_loop_ms([(state.scenario, state.loop_ns) for state in records.machine])
    ratio = now / earlier.loop_ms if now and earlier.loop_ms else 1.0
    return 1.0 if 1 - _LOOP_MOVES < ratio < 1 + _LOOP_MOVES else ratio


def median_loop_ms(loops: Sequence[tuple[str, Sequence[int]]]) -> float | None:
    """Return the fixed loop's median time, from (scenario, times in ns) of each round; None without rounds.

    Uses the rounds of the compared scenario if there are any: in others the machine's speed may differ.
    """
    compared = [ns for scenario, loop_ns in loops for ns in loop_ns if scenario == _COMPARED]
    loops_ns = compared or [ns for _, loop_ns in loops for ns in loop_ns]
    return float(np.median(loops_ns)) / 1e6 if loops_ns else None


def environment_facts(environment: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of an environment that identify the machine and the installation."""
    facts = {name: environment.get(name) for name in _MACHINE_FACTS}
    facts["gpu"] = (environment.get("gpu") or {}).get("name")
    return facts | {name: version or "not installed" for name, version in environment["packages"].items()}


def by_round(timing: Timing, metric: Metric) -> Sequence[float]:
    """Return the metric of each round."""
    if metric == "p50":
        return [float(np.median(samples_ns)) for samples_ns in timing.rounds_ns]
    return [timing.case.batch * len(samples_ns) / sum(samples_ns) for samples_ns in timing.rounds_ns]


def judge_gate(ratio: Ratio, bound: Bound, without: float) -> Literal["beyond", "within", "cannot tell"]:
    """Return the verdict of a gate; `without` is the factor that corrects the host's change of speed."""
    if ratio.low is None or ratio.high is None:
        return "cannot tell"
    ends = (ratio.low, ratio.high, ratio.low * without, ratio.high * without)
    if min(ends) > bound.limit:
        return "beyond" if bound.above else "within"
    if max(ends) < bound.limit:
        return "within" if bound.above else "beyond"
    return "cannot tell"
