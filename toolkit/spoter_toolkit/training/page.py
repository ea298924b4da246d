"""Compose the page of a training and the page of an evaluation: curves, confusion, signers, worst clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from spoter_runtime.contract import Label
from spoter_toolkit.calibration.figures import BINS, Figures
from spoter_toolkit.data.dataset import Dataset
from spoter_toolkit.evaluation import Evaluation, Scores
from spoter_toolkit.report.charts import Bar, BarChart, Confusion, Line, LineChart, lines_in_words
from spoter_toolkit.report.html import Page, Section, html_from_page
from spoter_toolkit.report.skeleton import Skeleton, skeleton_of
from spoter_toolkit.report.table import table_of
from spoter_toolkit.report.words import plural
from spoter_toolkit.training.findings import Finding

_MOST_SIGNERS: Final = 20  # bars; the table below has all of them
_GENERATED: Final = "The clips are generated: nobody signed them."
_PARTS: Final = ("train", "val")


def html_from_run(
    name: str,
    dataset: Dataset,
    metrics: Sequence[Mapping[str, Any]],
    scores: Scores | None,
    findings: Sequence[Finding] = (),
) -> str:
    """Return the page of a finished training.

    Args:
        name: of the RUN.
        dataset: that it was trained on.
        metrics: rows of metrics.jsonl, one an epoch.
        scores: of the kept weights on the val split; None without one.
        findings: what the training did not reach.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    epochs = plural(len(metrics), "epoch")
    page = Page(
        verdict=f"Trained for {epochs}" if scores is None else f"{_share(scores)} by validation",
        title=f"Training of {name}",
        about=f"{epochs}, {dataset.split or 'not split'}.",
        lead=curve_charts(metrics)[:1],
        caveats=[*map(str, findings), *_caveats(dataset)],
        sections=[
            Section(name="loss", title="Loss", charts=curve_charts(metrics)[1:]),
            *(score_sections(scores, dataset) if scores else ()),
        ],
        facts={"data": f"{dataset.folder.name}, sha256 {dataset.sha256}"},
    )
    return html_from_page(page)


def html_from_evaluation(found: Evaluation) -> str:
    """Return the page of an evaluation.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    dataset, scores = found.dataset, found.scores
    confusion, *others = score_sections(scores, dataset)
    if found.calibration:
        others.insert(0, calibration_section(found.calibration, calibrated=found.calibrated))
    page = Page(
        verdict=_share(scores),
        title=f"Evaluation of {found.source.name} on {found.backend}",
        about=f"The {found.split} clips, {dataset.split or 'not split'}.",
        lead=confusion.charts,
        caveats=_caveats(dataset),
        sections=others,
        facts={"data": f"{dataset.folder.name}, sha256 {dataset.sha256}"},
    )
    return html_from_page(page)


def curve_charts(metrics: Sequence[Mapping[str, Any]]) -> list[LineChart]:
    """Return accuracy and loss over the epochs of metrics.jsonl; none where nothing was trained."""
    charts = []
    for quantity, caption in (
        ("accuracy", "Share of clips recognised, epoch by epoch."),
        ("loss", "The loss that training makes smaller. With smoothed labels it stays above 0."),
    ):
        points = {
            part: [
                (row["epoch"], row[f"{part}_{quantity}"]) for row in metrics if f"{part}_{quantity}" in row
            ]
            for part in _PARTS
        }
        lines = [Line(name=n, points=p, place=i) for i, (n, p) in enumerate(points.items()) if p]
        if lines:
            charts.append(
                LineChart(
                    caption=caption,
                    alt=f"{caption} {lines_in_words(lines, '')}.",
                    lines=lines,
                    x="epoch",
                    y=quantity,
                    y_range=(0.0, 1.0) if quantity == "accuracy" else None,
                    marks=len(metrics) <= 40,
                )
            )
    return charts


def score_sections(scores: Scores, dataset: Dataset) -> list[Section]:
    """Return the confusion matrix, the signers, and the worst clips, a section each."""
    names = {label.name: label_text(label) for label in dataset.labels}
    return [
        Section(name="confusion", title="Confusion", charts=[confusion_chart(scores, names)], layout="wide"),
        Section(
            name="signers",
            title="Signers",
            charts=[signer_chart(scores)],
            layout="wide",
            tables=[
                table_of(
                    f"All {plural(len(scores.signers), 'signer')}",
                    ("signer", "clips", "recognised"),
                    [(one.signer, one.clips, f"{one.top1:.1%}") for one in scores.signers],
                )
            ],
        ),
        Section(
            name="worst",
            title="Worst clips",
            paragraphs=("The model gave these clips' own labels the least.",),
            charts=worst_clips(scores, dataset, names),
            layout="wide",
        ),
    ]


def calibration_section(figures: Figures, *, calibrated: bool) -> Section:
    """Return the reliability diagram, and a table of the negatives where there are some."""
    which = "calibrated probabilities" if calibrated else "softmax values, which are not calibrated"
    caption = f"How often the label is right, by probability: {which}. Bins of few clips jump about."
    lines = [
        Line(name="the model", points=[(one.probability, one.right) for one in figures.bins], place=0),
        Line(name="as it should be", points=[(0.0, 0.0), (1.0, 1.0)], place=1),
    ]
    rows = [
        (
            kind.kind,
            kind.clips,
            f"{kind.auroc:.3f}",
            f"{kind.false_at_95:.1%}",
            "" if kind.false_answers is None else f"{kind.false_answers:.1%}",
        )
        for kind in figures.kinds
    ]
    columns = (
        "clips without a sign",
        "clips",
        "AUROC",
        "false answers at 95 % of signs kept",
        "by thresholds",
    )
    bins = [(f"{one.probability:.3f}", one.clips, f"{one.right:.1%}") for one in figures.bins]
    kept = "" if figures.kept is None else f" It keeps {figures.kept:.1%} of the signs."
    return Section(
        name="calibration",
        title="Calibration",
        paragraphs=(
            f"Calibration error {figures.calibration_error:.4f} in {BINS} bins, of the plain softmax "
            f"{figures.softmax_error:.4f}.{kept}",
        ),
        charts=[
            LineChart(
                caption=caption,
                alt=f"{caption} {lines_in_words(lines[:1], 'right')}.",
                lines=lines,
                x="probability",
                y="right",
                y_range=(0.0, 1.0),
            )
        ],
        tables=[
            table_of("The bins", ("mean probability", "clips", "right"), bins),
            *([table_of("Clips without a sign", columns, rows)] if rows else []),
        ],
    )


def label_text(label: Label) -> str:
    """Return a label's name, with the Bengali word where it has one."""
    return " ".join(filter(None, (label.name, label.bengali)))


def confusion_chart(scores: Scores, names: Mapping[str, str]) -> Confusion:
    """Return the confusion matrix of the labels that have clips, or were recognised."""
    counts_CC = scores.confusion_CC
    present = np.flatnonzero(counts_CC.sum(0) + counts_CC.sum(1))
    labels = [names.get(scores.labels[i], scores.labels[i]) for i in present]
    counts = counts_CC[np.ix_(present, present)].tolist()
    pair = scores.confused[0] if scores.confused else None
    most = f" Most often {pair.label} was taken for {pair.taken_for}." if pair else ""
    return Confusion(caption=f"Clips by signed and by recognised label.{most}", labels=labels, counts=counts)


def signer_chart(scores: Scores) -> BarChart:
    """Return the share of recognised clips by signer, the worst first."""
    worst_first = sorted(scores.signers, key=lambda one: one.top1)
    bars = [
        Bar(name=one.signer, value=one.top1, shown=f"{one.top1:.1%}", note=f"of {plural(one.clips, 'clip')}")
        for one in worst_first[:_MOST_SIGNERS]
    ]
    which = f"the {_MOST_SIGNERS} worst" if len(bars) < len(worst_first) else "the worst first"
    return BarChart(
        caption=f"Share of clips recognised, signer by signer, {which}.",
        bars=bars,
        best_first=False,
        most=1.0,
    )


def worst_clips(scores: Scores, dataset: Dataset, names: Mapping[str, str]) -> list[Skeleton]:
    """Return the clips whose own label got the least, as skeletons with both labels."""
    drawn = []
    for one in scores.worst:
        signed, answer = (names.get(label, label) for label in (one.clip.label, one.answer))
        said = "recognised" if one.clip.label == one.answer else f"recognised as {answer}"
        caption = f"{one.clip.id}: {signed}, {said} ({one.score:.0%}). Its own label got {one.own_score:.0%}."
        poses = dataset.poses_of(one.clip)
        drawn.append(skeleton_of(poses, caption=caption, alt=caption, fps=one.clip.fps))
    return drawn


def _share(scores: Scores) -> str:
    right = round(scores.top1 * scores.clips)
    return f"{right} of {plural(scores.clips, 'clip')} recognised ({scores.top1:.1%})"


def _caveats(dataset: Dataset) -> list[str]:
    return [_GENERATED] if dataset.origin.synthetic else []
