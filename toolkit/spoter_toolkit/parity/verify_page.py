"""Compose the page of `verify`: whether this machine gives the stored answers of the trained model."""

from __future__ import annotations

from collections.abc import Sequence

from spoter_runtime.bundle.goldens import threshold
from spoter_runtime.verify import VerifyReport
from spoter_toolkit.report.charts import Cell, Grid
from spoter_toolkit.report.html import Page, Section, html_from_page
from spoter_toolkit.report.table import Table
from spoter_toolkit.report.words import plural, without_places


def html_from_verified(reports: Sequence[VerifyReport]) -> str:
    """Return reports on one bundle as one HTML page, without the folders of this machine.

    Args:
        reports: one or more, each of another backend or precision.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    first = reports[0]
    passed = all(report.passed for report in reports)
    over = {name: without_places(why) for report in reports for name, why in report.passed_over.items()}
    files = f"{plural(first.files, 'file')} of the bundle match their hashes."
    page = Page(
        verdict=f"Same answers on this machine: {'yes' if passed else 'no'}",
        title=f"Verification of {first.bundle}",
        about=files,
        passed=passed,
        lead=[_grid(reports)],
        sections=[
            Section(
                name="answers",
                title="The stored answers",
                paragraphs=("The trained model answered these clips in PyTorch. Here they are run again.",),
                layout="wide",
                folded={"Backends that were passed over": [f"{n}: {why}." for n, why in over.items()]}
                if over
                else {},
                tables=[
                    _table(reports),
                    *(_differing(report) for report in reports if report.replay.differing),
                ],
            )
        ],
        facts={"machine": first.machine},
    )
    return html_from_page(page)


def _grid(reports: Sequence[VerifyReport]) -> Grid:
    precisions = sorted({one.precision for one in reports}, key=lambda name: (name != "fp32", name))
    cells = {(one.backend, one.precision): _cell(one) for one in reports}
    return Grid(
        caption="✓ gives the stored answers, ✗ does not, – was not run.",
        corner="backend",
        columns=precisions,
        rows=[
            (backend, [cells.get((backend, precision), Cell(state="none")) for precision in precisions])
            for backend in dict.fromkeys(one.backend for one in reports)
        ],
    )


def _cell(report: VerifyReport) -> Cell:
    replay = report.replay
    return Cell(
        state="yes" if report.passed else "no",
        text=f"{replay.labels_agree} of {replay.clips} agree; "
        f"differs by {_largest(replay.max_logit_diff)} of {threshold(replay.tolerance)} allowed",
    )


def _largest(difference: float | None) -> str:
    return "no number" if difference is None else f"{difference:.1e}"


def _table(reports: Sequence[VerifyReport]) -> Table:
    return Table(
        title="Each file that was run",
        columns=("backend", "file", "labels that agree", "largest logit difference", "allowed", "seconds"),
        rows=[
            (
                report.backend,
                report.artefact,
                f"{report.replay.labels_agree} of {report.replay.clips}",
                _largest(report.replay.max_logit_diff),
                threshold(report.replay.tolerance),
                f"{report.seconds:.1f}",
            )
            for report in reports
        ],
    )


def _differing(report: VerifyReport) -> Table:
    return Table(
        title=f"Answers that differ, {report.backend} in {report.precision}",
        columns=("stored clip", "frames", "largest logit difference", "same label"),
        rows=[
            (
                str(one.golden),
                str(one.frames),
                _largest(one.max_logit_diff),
                "yes" if one.label_agrees else "no",
            )
            for one in report.replay.differing
        ],
    )
