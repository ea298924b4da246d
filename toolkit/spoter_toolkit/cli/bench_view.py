"""Show a bench on the terminal: a bar for each backend, its ratio to the first one, and what to beware of."""

from __future__ import annotations

import math
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from spoter_runtime.statistics import times
from spoter_toolkit.cli.console import (
    emit_json,
    few_names,
    insist,
    is_quiet,
    is_verbose,
    progress_bar,
    say,
    show_table,
    tell,
    terminal_width,
)
from spoter_toolkit.report.words import format_sig3, plural

if TYPE_CHECKING:
    from spoter_toolkit.bench.analysis.compare import Against
    from spoter_toolkit.bench.analysis.result import BenchResult, Comparison, Latency
    from spoter_toolkit.bench.settings import Case

_BARS: Final = 7  # more backends are slower ones: the report has them
_WIDEST: Final = 100  # columns of a chart
_ROOM_BEHIND: Final = 1.15  # of the slowest median, for what is behind it; a long tail is cut
_NARROWEST: Final = 6  # columns of the longest bar, or the intervals are left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One backend's line of the chart."""

    name: str
    low_ms: float  # the 25th percentile
    middle_ms: float  # the median
    high_ms: float  # the 75th percentile
    ratio: str  # to the baseline
    ratio_interval: str  # empty where there is none


def show(result: BenchResult, *, json: bool, asked: Sequence[str] = ()) -> None:
    """Print the result on stdout, and its caveats on stderr; with ``-v`` all tables."""
    from spoter_toolkit.bench.analysis.serialize import (
        against_values,
        values_from_result,
        without_samples,
    )

    if json:
        compared = {"against": against_values(result.against)} if result.against else {}
        emit_json(without_samples(values_from_result(result)) | compared)
    elif is_verbose():
        from spoter_toolkit.bench.report.tables import problem_table, tables

        for table in tables(result):
            show_table(table)
        for row in problem_table(result).rows:
            tell(": ".join(row))
    else:
        show_summary(result, asked=asked)
    if json or is_verbose():
        for caveat in result.caveats:
            say(f"note: {caveat}")


def show_against(result: BenchResult, *, json: bool) -> bool:
    """Print the comparison with the earlier run; return whether a ratio is surely beyond the bound."""
    from spoter_toolkit.bench.report.tables import against_table

    assert result.against is not None
    for difference in result.against.differences:
        say(f"differs from the earlier run: {difference}")
    table = against_table(result.against)
    if json:
        for row in table.rows:
            say(f"{table.title}: {', '.join(row)}")
    elif is_verbose():
        show_table(table)
    else:
        show_gates(result.against)
    return result.against.failed


def show_gates(against: Against) -> None:
    """Print how many ratios are within the bound, and each one that is beyond it or furthest off."""
    gates = against.gates
    beyond = [gate for gate in gates if gate.verdict == "beyond"]
    for gate in beyond:
        insist(f"beyond {against.bound}: {gate.backend}, {gate.case}: {gate.ratio} times the earlier run")
    if against.bound:
        counts = Counter(gate.verdict for gate in gates)
        tell(f"{against.bound}: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
    if gates and not beyond:
        worst = max(gates, key=lambda gate: abs(math.log(gate.ratio.estimate)))
        tell(f"furthest from the earlier run: {worst.backend}, {worst.case}: {worst.ratio} times")
    if against.note:
        tell(against.note)


def show_summary(result: BenchResult, *, asked: Sequence[str]) -> None:
    """Print the fastest backend, the chart, and one line each for what was not measured and for caveats.

    Args:
        result: of the bench.
        asked: the backends that were named; where one of them cannot run, the reason is printed.
    """
    from spoter_toolkit.bench.report.summary import headline_case, summary_of

    if result.latencies:
        case = headline_case(result)
        bars = bars_of(result, case)
        tell(_verdict(result, case))
        _print_chart(bars[:_BARS])
        if bars[_BARS:]:
            tell(
                f"{plural(len(bars) - _BARS, 'slower backend')}: {few_names([b.name for b in bars[_BARS:]])}"
            )
    else:
        for said in summary_of(result):
            tell(textwrap.fill(said, _columns(), subsequent_indent="  ", break_on_hyphens=False))
    skipped = result.records.skipped
    for name in set(asked) & skipped.keys():
        say(f"{name}: cannot run here: {skipped[name]}")
    if others := [name for name in skipped if name not in asked]:
        say(f"{plural(len(others), 'backend')} cannot run here (-v: which, and why)")
    if caveats := result.caveats:
        more = f" (-v: {len(caveats) - 1} more)" if caveats[1:] else ""
        say(f"note: {_first_part(caveats[0], 80 - len(f'note: {more}'))}{more}")


def bars_of(result: BenchResult, case: Case) -> list[Bar]:
    """Return the backends of a case, the fastest first."""
    ratios = {one.backend: one for one in result.comparisons if one.case == case}
    latencies = [one for one in result.latencies if one.case == case]
    return [_bar(one, ratios.get(one.backend)) for one in sorted(latencies, key=_median)]


def _bar(latency: Latency, pair: Comparison | None) -> Bar:
    low, middle, high = latency.quartiles_ms
    ratio = interval = ""
    if pair is None:
        ratio = times(1)
    elif pair.claim in ("faster", "slower"):
        ratio = times(pair.ratio.estimate)
        interval = f"{pair.ratio.low:.2f}–{pair.ratio.high:.2f}"
    else:
        ratio = {"no difference detectable": "same", "not sure": "not sure"}.get(pair.claim, "?")
    return Bar(
        name=latency.backend,
        low_ms=low,
        middle_ms=middle,
        high_ms=high,
        ratio=ratio,
        ratio_interval=interval,
    )


def _median(latency: Latency) -> float:
    return latency.quartiles_ms[1]


def _verdict(result: BenchResult, case: Case) -> str:
    """Return which backend is fastest, and on what; the chart says by how much, and whether that is sure."""
    best = min((one for one in result.latencies if one.case == case), key=_median)
    what = f"{plural(case.batch, 'clip')} of {plural(case.frames, 'frame')}, {plural(case.threads, 'thread')}"
    return f"fastest: {best.backend}, {format_sig3(_median(best))} ms for {what}"


def _print_chart(bars: Sequence[Bar]) -> None:
    """Print the bars: solid to the 25th percentile, lighter to the 75th; figures and ratios behind them."""
    if is_quiet():
        return
    console = Console(soft_wrap=True, highlight=False)
    for line in chart(bars, _columns(), plain=not console.encoding.lower().startswith("utf")):
        console.print(line)


def _columns() -> int:
    return min(terminal_width(), _WIDEST) if sys.stdout.isatty() else 80


def chart(bars: Sequence[Bar], width: int, *, plain: bool = False) -> list[Text]:
    """Return a line for each bar, as long as its median, and one that explains them.

    Args:
        bars: the fastest first.
        width: of the terminal; where it is too narrow the intervals are left out.
        plain: draw with ASCII.
    """
    full, light = ("#", "-") if plain else ("█", "▒")
    figures = [
        [
            f"{format_sig3(bar.middle_ms)} ms",
            f"{format_sig3(bar.low_ms)}–{format_sig3(bar.high_ms)}",
            bar.ratio,
            bar.ratio_interval,
        ]
        for bar in bars
    ]
    name_width = max(len(bar.name) for bar in bars)
    room = width - name_width - 1 - _width_of(figures)
    if room < _NARROWEST:
        figures = [[middle, ratio] for middle, _, ratio, _ in figures]
        room = max(width - name_width - 1 - _width_of(figures), _NARROWEST)
    widths = [max(map(len, column)) for column in zip(*figures, strict=True)]
    longest = _ROOM_BEHIND * max(bar.middle_ms for bar in bars)
    lines = []
    for bar, cells in zip(bars, figures, strict=True):
        solid = max(1, round(room * bar.middle_ms / longest))
        spread = max(0, min(round(room * bar.high_ms / longest), room) - solid)
        line = Text(f"{bar.name:<{name_width}} ")
        line.append(full * solid, style="cyan" if bar is not bars[0] else "green")
        line.append(light * spread, style="dim")
        line.append(" " * (room - solid - spread))
        line.append("".join(f"  {cell:>{size}}" for cell, size in zip(cells, widths, strict=True)).rstrip())
        lines.append(line)
    baseline = next((bar.name for bar in bars if bar.ratio == times(1)), "the first backend")
    compared = f"× as fast as {baseline}"
    meanings = [
        f"median ({light} to the 75th percentile), its middle half; {compared}, 95 % interval",
        f"median, its middle half; {compared}, 95 % interval",
    ]
    if len(widths) == 2:
        meanings = [f"median ({light} to the 75th percentile); {compared}"]
    fitting = [text for text in meanings if len(text) <= width]
    return [*lines, Text((fitting or [f"median; {compared}"])[0], style="dim")]


def _width_of(figures: Sequence[Sequence[str]]) -> int:
    return sum(2 + max(map(len, column)) for column in zip(*figures, strict=True))


def _first_part(caveat: str, most: int) -> str:
    """Return a caveat without the list behind its colon, where it has more letters than `most`."""
    return caveat if len(caveat) <= most else caveat.partition(": ")[0]


def bench_url(
    url: str,
    bundle: Path | None,
    scenario: str | None,
    lengths: Path | None,
    *,
    rate: float | None,
    bound_ms: float | None,
    find_rate: bool,
    out: Path | None,
    force: bool,
    json: bool,
) -> None:
    """Load a server of the Open Inference Protocol, and print how fast and how completely it answers."""
    from spoter_runtime.bundle.manifest import read_bundle
    from spoter_runtime.errors import UsageError
    from spoter_runtime.files import write_json
    from spoter_toolkit.bench.settings import BOUND_MS
    from spoter_toolkit.bench.url import CLOSED_CLIENTS, measure_url
    from spoter_toolkit.data.lengths import lengths_from_bundle, lengths_from_path
    from spoter_toolkit.input_files import check_target
    from spoter_toolkit.workspace import newest_bundle

    if scenario != "server":
        raise UsageError("--url: is for the scenario server", fix="--scenario server")
    if out:
        check_target(out, force=force)
    opened = read_bundle(bundle or newest_bundle())
    chosen = lengths_from_path(lengths, opened.contract) if lengths else lengths_from_bundle(opened)
    with progress_bar() as on_progress:
        found = measure_url(
            url,
            chosen,
            rate=rate,
            bound_ms=BOUND_MS if bound_ms is None else bound_ms,
            find_rate=find_rate,
            on_progress=on_progress,
        )
    if out:
        write_json(out, found.as_json())
    if json:
        emit_json(found.as_json())
        return
    load, served = found.load, found.served
    tell(f"{url}: answered {load.statuses[200]} of {load.clips} clips, {found.rate:.0f} a second")
    tell(f"  within {served.bound_ms:g} ms: {100 * served.share_within:.1f} %")
    times = [f"p{percent} {ms:.1f}" for percent, ms in load.percentiles_ms().items() if ms is not None]
    tell(f"  milliseconds from when a clip was due: {', '.join(times) or 'too few answers'}")
    counts = {"refused as busy": load.statuses[429], "lost": load.lost, "wrong": load.wrong}
    tell("  " + "; ".join(f"{what}: {n}" for what, n in (counts | {"sent again": load.again}).items()))
    tell(f"  at most, {CLOSED_CLIENTS} clients without a pause: {found.capacity:.0f} clips a second")
    if found.highest:
        rate_found = f"{found.highest.rate or 0:.0f} clips a second"
        tell(f"  highest rate with p99 within {served.bound_ms:g} ms: {rate_found}")
