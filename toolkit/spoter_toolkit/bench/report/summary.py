"""Say in sentences what a bench has found; every figure is one that the tables have too."""

from __future__ import annotations

import math
from collections.abc import Mapping

from spoter_toolkit.bench.analysis.result import START_UP, BenchResult, Comparison, joules_per_clip, median_ms
from spoter_toolkit.bench.analysis.verdict import is_claim
from spoter_toolkit.bench.report.batch_plot import batch_curves
from spoter_toolkit.bench.report.markdown import figure
from spoter_toolkit.bench.scenarios.offline import WAYS_IN_WORDS
from spoter_toolkit.bench.scenarios.server import Served
from spoter_toolkit.bench.settings import START_UP_FRAMES, Case, plural
from spoter_toolkit.bench.statistics import SAMPLES_NEEDED


def findings(result: BenchResult) -> list[str]:
    """Return a sentence or two for each scenario; of latency for one clip and for the notebook's case."""
    comparisons = result.comparisons()
    measured = dict.fromkeys(timing.case for timing in result.timings)
    found = []
    first = (headline_case(result),) if measured else ()
    for case in dict.fromkeys((*first, result.notebook_case)):
        if case in measured:
            medians = {t.backend: t.percentile_ms(50) for t in result.timings if t.case == case}
            pairs = [c for c in comparisons if c.case == case]
            work = f"{plural(case.batch, 'clip')} of {plural(case.frames, 'frame')}"
            found.append(
                _race(f"{work} on {plural(case.threads, 'thread')}, median of a call", medians, pairs)
            )
    found += [*_many_at_once(result, comparisons), *_arriving(result, comparisons), *_energy(result)]
    if result.starts:
        starts = {name: median_ms(result.starts[name], "total") for name in result.starts}
        pairs = [c for c in comparisons if c.what == START_UP]
        found.append(_race("Fresh process to its first answer", starts, pairs))
    most = max((memory.threads for memory in result.memory), default=0)
    peaks = [
        f"{m.backend} {figure(m.after_runs / 1e6)} MB"
        for m in result.memory
        if m.threads == most and m.after_runs is not None
    ]
    if peaks:
        found.append(f"Peak memory of the process, {plural(most, 'thread')}: {', '.join(peaks)}.")
    return found


def _many_at_once(result: BenchResult, comparisons: list[Comparison]) -> list[str]:
    """Return the clips a second in the way of padding that wastes least."""
    if not result.offline:
        return []
    way = min(result.offline, key=lambda passes: passes.padding).way
    rates = [
        f"{passes.backend} {figure(passes.clips_per_s)} clips a second"
        for passes in result.offline
        if passes.way == way
    ]
    words = WAYS_IN_WORDS[way]
    pairs = [c for c in comparisons if c.what == f"offline, {words}"]
    told = f"{result.offline[0].clips} clips at once, {words}: {', '.join(rates)}."
    return [" ".join([told, *map(_pair_in_words, pairs)])]


def _arriving(result: BenchResult, comparisons: list[Comparison]) -> list[str]:
    """Return how fast clips that arrive at random are answered, and the highest rate where it was found."""
    if result.server is None or not result.server.served:
        return []
    told = [
        f"{one.backend} {_median_in_words(one)}, {one.share_within:.1%} within {one.bound_ms:g} ms"
        for one in result.server.served
    ]
    rate = figure(result.server.served[0].rate)
    pairs = [c for c in comparisons if c.what == "server"]
    said = f"Single clips at random times, {rate} a second, from when each was due: {'; '.join(told)}."
    highest = [
        f"{found.backend} {'at no rate' if found.rate is None else f'up to {figure(found.rate)} a second'}"
        for found in result.server.highest
    ]
    kept = f"The bound of {result.settings.bound_ms:g} ms is kept by {', '.join(highest)}."
    return [" ".join([said, *map(_pair_in_words, pairs)]), *([kept] if highest else [])]


def _median_in_words(served: Served) -> str:
    median = served.percentile_ms(50)
    if median is None:
        return "too few clips for a median"
    return f"median {figure(median)} ms" if math.isfinite(median) else "no answer for most clips"


def _energy(result: BenchResult) -> list[str]:
    told = [
        f"{passes.backend} {', '.join(f'{figure(j)} J ({meter})' for meter, j in joules.items())}"
        for passes in result.energy
        if (joules := joules_per_clip(passes))
    ]
    return [f"Energy a clip, idle power included: {'; '.join(told)}."] if told else []


def headline_case(result: BenchResult) -> Case:
    """Return the case that is told first: one clip of about a second or two, on the fewest threads."""
    return min(
        (timing.case for timing in result.timings),
        key=lambda case: (case.batch, case.threads, abs(case.frames - START_UP_FRAMES)),
    )


def _race(what: str, medians_ms: Mapping[str, float | None], pairs: list[Comparison]) -> str:
    told = ", ".join(
        f"{backend} {'too few calls' if ms is None else f'{figure(ms)} ms'}"
        for backend, ms in medians_ms.items()
    )
    return " ".join([f"{what}: {told}.", *map(_pair_in_words, pairs)])


def _pair_in_words(pair: Comparison) -> str:
    ratio = pair.ratio
    times = f"{pair.baseline} takes {ratio.estimate:.2f} times as long as {pair.backend}"
    if ratio.low is None or ratio.high is None:
        return f"{times}; too few rounds for an interval."
    interval = f"95 % interval {ratio.low:.2f}–{ratio.high:.2f}"
    if is_claim(pair.verdict):
        return f"{times} ({interval})."
    return f"{pair.baseline} against {pair.backend}: {pair.verdict} ({interval})."


def losses(result: BenchResult) -> list[str]:
    """Return a sentence that names the workers that were lost, or nothing."""
    if not result.failures:
        return []
    lost = "; ".join(f"{f.backend}, {plural(f.threads, 'thread')}: {f.reason}" for f in result.failures)
    return [f"{plural(len(result.failures), 'worker')} lost on the way: {lost}."]


def latency_in_words(result: BenchResult, batch: int) -> str:
    """Return the medians of a batch, a part of the sentence a backend and thread count."""
    lines: dict[str, list[str]] = {}
    for timing in sorted(result.timings, key=lambda timing: timing.case.frames):
        if timing.case.batch == batch:
            line = f"{timing.backend} on {plural(timing.case.threads, 'thread')}"
            median = timing.percentile_ms(50)
            told = "too few calls" if median is None else f"{figure(median)} ms"
            lines.setdefault(line, []).append(f"{told} at {timing.case.frames} frames")
    return "; ".join(f"{line}: {', '.join(points)}" for line, points in lines.items()) + "."


def batches_in_words(result: BenchResult) -> str:
    """Return the clips a second along the batches, a part of the sentence a backend."""
    told = []
    for backend, timings in batch_curves(result).items():
        points = ", ".join(f"{figure(t.clips_per_s)} at {t.case.batch}" for t in timings)
        told.append(f"{backend}, clips of {timings[0].case.frames} frames, clips a second: {points}")
    return "; ".join(told) + "."


def percentiles_in_words(result: BenchResult, threads: int) -> str:
    """Return the percentiles that have enough samples, of every case on so many threads."""
    told = []
    for timing in result.timings:
        known = [
            f"p{percent} {figure(value)} ms"
            for percent in SAMPLES_NEEDED
            if (value := timing.percentile_ms(percent)) is not None
        ]
        if timing.case.threads == threads:
            told.append(f"{timing.case.shape}, {timing.backend}: {', '.join(known) or 'too few calls'}")
    return "; ".join(told) + "."


def tail_in_words(result: BenchResult, case: Case) -> str:
    """Return each backend's slowest call of a case."""
    told = [
        f"{t.backend}: slowest of {len(t.samples_ns)} calls {figure(max(t.samples_ns) / 1e6)} ms"
        for t in result.timings
        if t.case == case
    ]
    return "; ".join(told) + "."
