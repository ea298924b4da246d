"""The page of a stream evaluation: timeline, detection against false alarms, delays, and every stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from spoter_runtime.live.events import AnyEvent, Partial, Sign
from spoter_toolkit.data.streams.compose import MadeStream
from spoter_toolkit.report.charts import Bar, BarChart, Line, LineChart, Span, Timeline, lines_in_words
from spoter_toolkit.report.html import Chart, Page, Section, html_from_page
from spoter_toolkit.report.table import Table
from spoter_toolkit.streams.evaluation import StreamEvaluation
from spoter_toolkit.streams.score import IOUS, StreamScores, matches

COLUMNS: Final = (
    *("stream", "minutes", "signs", "said", *(f"F1 at IoU {iou:g}" for iou in IOUS)),
    *("sequence", "false alarms a minute", "delay p50 / p95", "frames right"),
)
_SHOWN_S: Final = 40.0  # of the timeline
_DELAY_BINS: Final = 8


def rows_of(scores: Sequence[StreamScores]) -> list[tuple[str, ...]]:
    """Return a row of formatted cells for each stream."""
    return [
        (
            one.name,
            f"{one.minutes:.1f}",
            str(one.signs),
            str(one.said),
            *(f"{one.f1[iou]:.3f}" if one.signs else "–" for iou in IOUS),
            "–" if one.sequence is None else f"{one.sequence:.3f}",
            f"{one.false_alarms_per_minute:.2f}",
            "–" if one.delay_ms is None else f"{one.delay_ms[0]:.0f} / {one.delay_ms[1]:.0f} ms",
            f"{one.signing:.3f}",
        )
        for one in scores
    ]


def html_from_streams(found: StreamEvaluation) -> str:
    """Return the page.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    first = found.scores[0]
    charts: list[Chart] = [*_det_chart(found), *_delay_chart(found.delays_ms)]
    page = Page(
        verdict=f"F1 {first.f1[0.5]:.3f} of {first.signs} signs in a stream, at IoU 0.5",
        title=f"Streams of {found.source.name} on {found.backend}",
        about=f"Made of the {found.split} clips of {found.data.name}.",
        lead=[_timeline(*found.shown)],
        caveats=[
            f"{found.made_of[0].upper()}{found.made_of[1:]}.",
            "They show the model new people only where no clip's signer was in its training data.",
        ],
        sections=[
            Section(name="curves", title="Misses, false alarms and delay", charts=charts),
            Section(
                name="streams",
                title="Streams",
                tables=[Table(title="Scores of each stream", columns=COLUMNS, rows=rows_of(found.scores))],
            ),
        ],
        facts={name: str(value) for name, value in found.settings.as_json().items()},
    )
    return html_from_page(page)


def _timeline(stream: MadeStream, events: Sequence[AnyEvent]) -> Timeline:
    said = [event for event in events if isinstance(event, Sign)]
    right = {id(event) for event, _ in matches(said, stream.signs, 0.25)}
    truths = [
        Span(
            start_s=truth.start_ms / 1000,
            end_s=truth.end_ms / 1000,
            text=truth.label,
            state="yes" if truth.kind == "sign" else "none",
        )
        for truth in stream.truths
        if truth.end_ms < 1000 * _SHOWN_S
    ]
    partials = [
        Span(start_s=event.t_ms / 1000 - 0.1, end_s=event.t_ms / 1000 + 0.1, text=event.label, state="none")
        for event in events
        if isinstance(event, Partial) and event.t_ms < 1000 * _SHOWN_S
    ]
    answers = [
        Span(
            start_s=event.start_ms / 1000,
            end_s=event.end_ms / 1000,
            text=event.label,
            state="yes" if id(event) in right else "no",
        )
        for event in said
        if event.end_ms < 1000 * _SHOWN_S
    ]
    wrong = sum(span.state == "no" for span in answers)
    return Timeline(
        caption=f"The first {_SHOWN_S:.0f} seconds: signed, best so far, said. Red: it was not signed.",
        alt=f"{len(truths)} segments were signed, {len(answers)} said, {wrong} of them wrong.",
        rows=[("signed", truths), ("so far", partials), ("said", answers)],
    )


def _det_chart(found: StreamEvaluation) -> list[LineChart]:
    points = list(dict.fromkeys((alarms, missed) for _, missed, alarms in reversed(found.det)))
    if len(points) < 2:
        return []
    lines = [Line(name=found.backend, points=points, place=0)]
    caption = "Signs missed against false alarms a minute on other clips, as the least confidence varies."
    return [
        LineChart(
            caption=caption,
            alt=f"{caption} {lines_in_words(lines, '')}.",
            lines=lines,
            x="false alarms a minute",
            y="signs missed",
            y_percent=True,
        )
    ]


def _delay_chart(delays_ms: Sequence[float]) -> list[BarChart]:
    if not delays_ms:
        return []
    counts, edges = np.histogram(delays_ms, bins=min(_DELAY_BINS, len(delays_ms)))
    bars = [
        Bar(name=f"{low:.0f} to {high:.0f} ms", value=float(count), shown=str(count))
        for count, low, high in zip(counts.tolist(), edges[:-1], edges[1:], strict=True)
    ]
    return [
        BarChart(caption="Signs by the delay from their end to their event.", bars=bars, best_first=False)
    ]
