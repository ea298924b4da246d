"""The files of a cross-validation: JSON, the page, and pictures for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from spoter_runtime.files import write_text
from spoter_toolkit.crossval.result import CrossValidation
from spoter_toolkit.crossval.run import CROSSVAL_JSON, begun
from spoter_toolkit.report.charts import Bar, BarChart
from spoter_toolkit.report.html import Page, Section, html_from_page
from spoter_toolkit.report.json_text import json_text
from spoter_toolkit.report.table import table_of
from spoter_toolkit.report.words import plural
from spoter_toolkit.training.page import score_sections
from spoter_toolkit.training.plots import draw_accuracy, draw_confusion

REPORT: Final = "report.html"
_MOST_BARS: Final = 30  # the table below has all of them


def write_files(found: CrossValidation, out: Path) -> None:
    """Write crossval.json, the page, and the pictures, each also as PDF."""
    title = f"{found.dataset.folder.name}, {plural(len(found.folds), 'fold')} by {found.by}"
    for suffix in (".png", ".pdf"):
        draw_confusion(found.scores, out / f"confusion{suffix}", title=title)
        draw_accuracy(found.scores, out / f"accuracy{suffix}", title=title)
    write_text(out / REPORT, html_from_cross_validation(found))
    content = begun(out) | {"status": "done", "found": found.as_json()}
    write_text(out / CROSSVAL_JSON, json_text(content) + "\n")


def html_from_cross_validation(found: CrossValidation) -> str:
    """Return the page of a cross-validation."""
    top1, dataset = found.top1, found.dataset
    columns = ("fold", "tested", "clips trained on", "clips tested", "top-1", "top-5", "macro F1")
    rows = [
        (f.name, f.tested, f.trained, f.clips, f"{f.top1:.1%}", f"{f.top5:.1%}", f"{f.macro_f1:.1%}")
        for f in found.folds
    ]
    generated = ["The clips are generated: nobody signed them."] if dataset.origin.synthetic else []
    interval = f"95 %: {top1.low:.1%} to {top1.high:.1%}"
    page = Page(
        verdict=f"Top-1 {top1.mean:.1%} ({interval}) over {len(found.folds)} folds",
        title=f"Cross-validation of {dataset.folder.name}",
        about=f"Folds by {found.by}; {plural(found.scores.clips, 'clip')}, each tested once.",
        lead=[_folds_chart(found)],
        caveats=[*found.findings, *found.remarks, *generated],
        sections=[
            Section(
                name="folds",
                title="Folds",
                paragraphs=(
                    f"Mean {top1.mean:.1%}, standard deviation {top1.sd:.1%}; top-5 {found.top5.mean:.1%}, "
                    f"macro F1 {found.macro_f1.mean:.1%}.",
                    "The interval is Student's, of 95 %, over the folds.",
                ),
                tables=[table_of("All folds", columns, rows)],
            ),
            _labels(found),
            *score_sections(found.scores, dataset),
        ],
        facts={"data": f"{dataset.folder.name}, sha256 {dataset.sha256}"},
    )
    return html_from_page(page)


def _folds_chart(found: CrossValidation) -> BarChart:
    bars = [
        Bar(name=fold.tested, value=fold.top1, shown=f"{fold.top1:.1%}", note=plural(fold.clips, "clip"))
        for fold in sorted(found.folds, key=lambda fold: fold.top1)[:_MOST_BARS]
    ]
    caption = f"Top-1 of each fold by what it was tested on, the worst first. Mean {found.top1.mean:.1%}."
    return BarChart(caption=caption, bars=bars, best_first=False, most=1.0)


def _labels(found: CrossValidation) -> Section:
    bars = [
        Bar(name=one.label, value=one.top1, shown=f"{one.top1:.1%}", note=plural(one.clips, "clip"))
        for one in found.labels[:_MOST_BARS]
    ]
    rows = [(one.label, one.clips, f"{one.top1:.1%}") for one in found.labels]
    return Section(
        name="labels",
        title="Labels",
        charts=[
            BarChart(
                caption="Share of clips recognised, label by label, the worst first.",
                bars=bars,
                best_first=False,
                most=1.0,
            )
        ],
        layout="wide",
        tables=[table_of(f"All {plural(len(rows), 'label')}", ("label", "clips", "recognised"), rows)],
    )
