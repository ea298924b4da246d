"""Compare a run with an earlier one, and fail a build only where the difference is sure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import ConfigError, DataError
from spoter_toolkit.bench.analysis.result import BenchResult, Timing
from spoter_toolkit.bench.analysis.serialize import SCHEMA_VERSION
from spoter_toolkit.bench.host.monitor import loop_ms
from spoter_toolkit.bench.settings import BenchSettings, Case
from spoter_toolkit.bench.statistics import Ratio, unpaired_ratio
from spoter_toolkit.input_files import BENCH_REPORT, json_of

Metric = Literal["p50", "clips_per_s"]
Verdict = Literal["beyond", "within", "cannot tell"]
_TOLD_APART_BY: Final = (
    "cpu",
    "architecture",
    "logical_cores",
    "usable_cores",
    "cpu_quota_cores",
    "governor",
    "system",
    "kernel",
    "python",
)
_COMPARED: Final = "latency"  # the scenario whose times are
_LOOP_MOVES: Final = 0.05  # a machine that does the same loop so much faster or slower is not the same
_BOUND: Final = re.compile(r"\s*(p50|clips_per_s)\s*([<>])\s*(\d+(?:\.\d+)?)\s*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What must not be: the metric's ratio, this run ÷ the earlier one, beyond a limit.

    Attributes:
        above: whether a ratio above the limit fails; else one below it.
    """

    metric: Metric
    above: bool
    limit: float

    def __str__(self) -> str:
        return f"{self.metric} {'>' if self.above else '<'} {self.limit:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One backend on one case, this run against the earlier one.

    Attributes:
        ratio: of the metric, this run ÷ the earlier one.
        verdict: ``"beyond"`` and ``"within"`` where the whole interval is on that side of the limit;
            ``"cannot tell"`` where the limit lies inside it, or there are too few rounds for one. None where
            no limit was set.
    """

    backend: str
    case: Case
    ratio: Ratio
    verdict: Verdict | None


def bound_from_text(text: str) -> Bound:
    """Read ``"p50 > 1.05"``.

    Raises:
        ConfigError: something else.
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
    """What a comparison needs of an earlier run.

    Attributes:
        loop_ms: a fixed loop of Python on that machine, then; None where it was not timed.
    """

    model_sha256: str
    environment: dict[str, Any]
    timings: dict[tuple[str, Case], Timing]
    loop_ms: float | None


def earlier_run(path: Path) -> EarlierRun:
    """Read an earlier run's bench.json.

    Args:
        path: the file, or the report folder that it is in.

    Raises:
        DataError: no such file, one of another kind or schema, or one without samples.
    """
    path = path / "bench.json" if path.is_dir() else path
    content = json_of(path, BENCH_REPORT)
    try:
        if content["schema_version"] != SCHEMA_VERSION:
            raise DataError(
                f"{path}: schema version {content['schema_version']}, this spoter-kit reads {SCHEMA_VERSION}",
                fix="measure again what it was made of",
            )
        timings = {}
        for row in content["timings"]:
            case = Case(batch=row["batch"], frames=row["frames"], threads=row["threads"])
            rounds_ns = tuple(tuple(samples_ns) for samples_ns in row["rounds_ns"])
            timings[row["backend"], case] = Timing(backend=row["backend"], case=case, rounds_ns=rounds_ns)
        states = content["machine"]
        compared = [state for state in states if state["scenario"] == _COMPARED] or states
        loops_ns = [ns for state in compared for ns in state["loop_ns"]]
        return EarlierRun(
            model_sha256=content["bundle"]["model_sha256"],
            environment=dict(content["environment"]),
            timings=timings,
            loop_ms=float(np.median(loops_ns)) / 1e6 if loops_ns else None,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: is no bench.json with samples: {error!r}", fix=f"{BENCH_REPORT.fix}"
        ) from error


def differences(result: BenchResult, earlier: EarlierRun) -> list[str]:
    """Return what else than the program differs between two runs, each as ``what: then → now``."""
    then, now = _flat(earlier.environment), _flat(result.environment)
    found = [
        f"{name}: {then.get(name, 'not recorded')} → {now.get(name, 'not recorded')}"
        for name in dict.fromkeys([*then, *now])
        if then.get(name) != now.get(name)
    ]
    if earlier.model_sha256 != result.model_sha256:
        found.insert(0, f"model: {earlier.model_sha256[:12]}… → {result.model_sha256[:12]}…")
    slower = _loop_ratio(result, earlier)
    if earlier.loop_ms and slower != 1:
        found.append(f"a fixed loop of Python: {earlier.loop_ms:.2f} ms → {slower * earlier.loop_ms:.2f} ms")
    return found


def _loop_ratio(result: BenchResult, earlier: EarlierRun) -> float:
    """Return how many times as long a fixed loop took as then; 1 where it was not timed, or moved little.

    In the rounds whose times are compared: in those of other scenarios the machine may have been another.
    """
    compared = [state for state in result.machine if state.scenario == _COMPARED]
    loop = loop_ms(compared or result.machine)
    ratio = loop / earlier.loop_ms if loop and earlier.loop_ms else 1.0
    return 1.0 if 1 - _LOOP_MOVES < ratio < 1 + _LOOP_MOVES else ratio


def _spread(ratio: Ratio, slower: float, metric: Metric) -> Ratio:
    """Return a ratio whose interval also holds what it would be without the change of the machine's speed."""
    if ratio.low is None or ratio.high is None:
        return ratio
    without = 1 / slower if metric == "p50" else slower
    ends = (ratio.low, ratio.high, ratio.low * without, ratio.high * without)
    return replace(ratio, low=min(ends), high=max(ends))


def check_comparable(earlier: EarlierRun, settings: BenchSettings, contract: GraphContract) -> None:
    """Check before anything is measured that there will be something to compare.

    Raises:
        DataError: no backend and case of the earlier run will be measured.
    """
    cases = settings.cases(contract) if "latency" in settings.scenarios else ()
    if not any((name, case) in earlier.timings for name in settings.backends for case in cases):
        raise DataError(
            "--against: that run has no backend and case of the scenario latency in common with this one",
            fix="measure what it has",
        )


def _flat(environment: dict[str, Any]) -> dict[str, Any]:
    """Return what tells one machine, or one installation, from another."""
    flat = {name: environment.get(name) for name in _TOLD_APART_BY}
    flat["gpu"] = (environment.get("gpu") or {}).get("name")
    return flat | {name: version or "not installed" for name, version in environment["packages"].items()}


def gates(result: BenchResult, earlier: EarlierRun, bound: Bound | None) -> list[Gate]:
    """Compare every backend and case that both runs have, and judge them where there is a bound.

    Without one the median of a call is compared, and nothing is judged.

    Where a fixed loop takes another time than then, the machine's speed has changed, and nobody knows what of
    a ratio is the machine's: a side is only claimed where it holds with the loop's change taken out, and with
    it left in.

    Raises:
        DataError: they have none in common.
    """
    found = []
    slower = _loop_ratio(result, earlier)
    for timing in result.timings:
        before = earlier.timings.get((timing.backend, timing.case))
        if before is not None:
            metric = bound.metric if bound else "p50"
            now, then = (_by_round(t, metric) for t in (timing, before))
            ratio = unpaired_ratio(now, then, seed=result.settings.seed)
            found.append(
                Gate(
                    backend=timing.backend,
                    case=timing.case,
                    ratio=ratio,
                    verdict=_verdict(_spread(ratio, slower, metric), bound) if bound else None,
                )
            )
    if not found:
        raise DataError("--against: that run has no backend and case in common with this one")
    return found


def comparison_in_words(found: Sequence[Gate], bound: Bound | None) -> str:
    """Return what a reader has to know of the comparison with an earlier run, or nothing."""
    if bound is None:
        return (
            "Compared: the median of a call, of every backend and case that both runs have. Nothing fails: "
            "that takes a bound, such as --fail-if 'p50 > 1.05'."
        )
    if any(gate.verdict == "cannot tell" for gate in found):
        return (
            "cannot tell: the bound lies within what the rounds and the machine's own change of speed leave "
            "open; this fails nothing. Run both again with more --rounds."
        )
    return ""


def _by_round(timing: Timing, metric: Metric) -> Sequence[float]:
    if metric == "p50":
        return [float(np.median(samples_ns)) for samples_ns in timing.rounds_ns]
    return [timing.case.batch * len(s) / sum(s) for s in timing.rounds_ns]


def _verdict(ratio: Ratio, bound: Bound) -> Verdict:
    if ratio.low is None or ratio.high is None:
        return "cannot tell"
    if ratio.low > bound.limit:
        return "beyond" if bound.above else "within"
    if ratio.high < bound.limit:
        return "within" if bound.above else "beyond"
    return "cannot tell"
