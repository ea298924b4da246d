"""Say the result of a bench in sentences; every figure is one that the tables have too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from spoter_toolkit.bench.analysis.result import START_UP, BenchResult, Comparison
from spoter_toolkit.bench.records import STRATEGY_IN_WORDS
from spoter_toolkit.bench.settings import Case, headline_of
from spoter_toolkit.report.words import format_sig3, plural


def summary_of(result: BenchResult) -> list[str]:
    """Return a sentence or two for each scenario; of latency for one clip and for the notebook's case."""
    records = result.records
    said = []
    cases = {latency.case for latency in result.latencies}
    first = (headline_case(result),) if cases else ()
    for case in dict.fromkeys((*first, records.notebook_case)):
        if case in cases:
            medians = {one.backend: one.median_ms for one in result.latencies if one.case == case}
            clips = f"{plural(case.batch, 'clip')} of {plural(case.frames, 'frame')}"
            what = f"{clips} on {plural(case.threads, 'thread')}, median of a call"
            said.append(medians_in_words(what, medians, (c for c in result.comparisons if c.case == case)))
    said += [*offline_summary(result), *server_summary(result)]
    energy = [
        f"{one.backend} {', '.join(f'{format_sig3(j)} J ({meter})' for meter, j in joules.items())}"
        for one in records.energy
        if (joules := one.joules_per_clip)
    ]
    said += [f"Energy a clip, idle power included: {'; '.join(energy)}."] if energy else []
    if result.start_ms:
        starts = {name: parts["total"] for name, parts in result.start_ms.items()}
        pairs = (c for c in result.comparisons if c.what == START_UP)
        said.append(medians_in_words("Fresh process to its first answer", starts, pairs))
    most = max((memory.threads for memory in records.memory), default=0)
    peaks = [
        f"{m.backend} {format_sig3(m.after_runs / 1e6)} MB"
        for m in records.memory
        if m.threads == most and m.after_runs is not None
    ]
    said += [f"Peak memory of the process, {plural(most, 'thread')}: {', '.join(peaks)}."] if peaks else []
    return said


def offline_summary(result: BenchResult) -> list[str]:
    """Return the clips per second with the padding strategy that wastes least."""
    if not result.records.offline:
        return []
    best = min(result.records.offline, key=lambda passes: passes.padding)
    words = STRATEGY_IN_WORDS[best.strategy]
    rates = ", ".join(
        f"{passes.backend} {format_sig3(passes.clips_per_s)} clips a second"
        for passes in result.records.offline
        if passes.strategy == best.strategy
    )
    pairs = [pair_in_words(c) for c in result.comparisons if c.what == f"offline, {words}"]
    return [" ".join([f"{best.clips} clips at once, {words}: {rates}.", *pairs])]


def server_summary(result: BenchResult) -> list[str]:
    """Return how fast arriving clips are answered, and the highest rate where it was searched."""
    server = result.records.server
    if server is None or not server.served:
        return []
    answers = []
    for one in server.served:
        median = result.served_ms[one.backend][50]
        if median is None:
            words = "too few clips for a median"
        else:
            words = (
                f"median {format_sig3(median)} ms" if math.isfinite(median) else "no answer for most clips"
            )
        answers.append(f"{one.backend} {words}, {one.share_within:.1%} within {one.bound_ms:g} ms")
    rate = format_sig3(server.served[0].rate)
    said = f"Single clips at random times, {rate} a second, from when each was due: {'; '.join(answers)}."
    pairs = [pair_in_words(c) for c in result.comparisons if c.what == "server"]
    highest = [
        f"{one.backend} {'at no rate' if one.rate is None else f'up to {format_sig3(one.rate)} a second'}"
        for one in server.highest
    ]
    kept = f"The bound of {result.records.settings.bound_ms:g} ms is kept by {', '.join(highest)}."
    return [" ".join([said, *pairs]), *([kept] if highest else [])]


def headline_case(result: BenchResult) -> Case:
    """Return the case that is said first, of those that were measured."""
    return headline_of(latency.case for latency in result.latencies)


def medians_in_words(what: str, medians_ms: Mapping[str, float | None], pairs: Iterable[Comparison]) -> str:
    """Return the median of each backend, and every comparison between them."""
    medians = ", ".join(f"{backend} {median_in_words(ms)}" for backend, ms in medians_ms.items())
    return " ".join([f"{what}: {medians}.", *map(pair_in_words, pairs)])


def median_in_words(ms: float | None) -> str:
    """Return a median with its unit, or that there are too few calls for one."""
    return "too few calls" if ms is None else f"{format_sig3(ms)} ms"


def pair_in_words(pair: Comparison) -> str:
    """Return a comparison as a sentence."""
    return f"{pair.backend} against {pair.baseline}: {pair.verdict}."


def losses_in_words(result: BenchResult) -> str:
    """Return which workers were lost; empty where none was."""
    failures = result.records.failures
    lost = "; ".join(f"{f.backend}, {plural(f.threads, 'thread')}: {f.reason}" for f in failures)
    return f"{plural(len(failures), 'worker')} lost on the way: {lost}" if failures else ""
