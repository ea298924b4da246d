"""Compose the page of a bench: summary, pictures, the stored proofs, tables, the machine."""

from __future__ import annotations

from spoter_export.bundle.files import read_proofs
from spoter_export.parity.proof import Proof
from spoter_export.parity.report import proof_rows
from spoter_runtime.backends import BACKENDS as DEVICE_BACKENDS
from spoter_runtime.bundle.manifest import Bundle
from spoter_runtime.errors import BundleError
from spoter_toolkit.backends import split_backend
from spoter_toolkit.bench.analysis.result import NOT_MEASURED, BenchResult
from spoter_toolkit.bench.report.batch_plot import batch_curves, batch_figure
from spoter_toolkit.bench.report.latency_plot import batches_with_lengths, latency_figure
from spoter_toolkit.bench.report.markdown import method_in_words
from spoter_toolkit.bench.report.percentile_plot import percentile_figure, tail_figure
from spoter_toolkit.bench.report.summary import (
    curves_in_words,
    headline_case,
    latencies_in_words,
    losses_in_words,
    summary_of,
)
from spoter_toolkit.bench.report.tables import environment_table, problem_table, tables
from spoter_toolkit.bench.settings import backend_of
from spoter_toolkit.parity.page import findings_from_rows, matrix_section
from spoter_toolkit.report.html import Page, Section, html_from_page
from spoter_toolkit.report.picture import Picture, picture_from_figure
from spoter_toolkit.report.words import format_sig3, plural, without_places


def html_from_result(result: BenchResult, bundle: Bundle) -> str:
    """Return the report as one HTML page; the stored proofs of the bundle are shown beside the times.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    records = result.records
    proven, proofs = proof_section(bundle, result)
    pictures = pictures_of(result)
    problems = problem_table(result)
    lost = losses_in_words(result)
    page = Page(
        title=f"Bench of {records.bundle}",
        facts={
            "processor": str(records.environment["cpu"]),
            "month": records.month,
            "model": f"sha256 {records.model_sha256}",
        },
        summary=[*summary_of(result), *proven],
        warnings=[*(f"{caveat}." for caveat in result.caveats), *([f"{lost}."] if lost else [])],
        sections=(
            *([Section(name="pictures", title="Pictures", pictures=pictures)] if pictures else []),
            proofs,
            Section(
                name="figures",
                title="Figures",
                paragraphs=(method_in_words(result).replace("`", ""),),
                tables=tables(result),
                new_page=True,
            ),
            Section(
                name="not-measured",
                title="Not measured",
                paragraphs=("These figures say nothing about:",),
                points=NOT_MEASURED,
                tables=[problems] if problems.rows else [],
                new_page=True,
            ),
            Section(name="environment", title="Environment", tables=[environment_table(records.environment)]),
        ),
    )
    return html_from_page(page)


def pictures_of(result: BenchResult) -> list[Picture]:
    """Return latency by batch, throughput, percentiles by thread count, and the tail of the headline case."""
    pictures = []
    by_length = sorted(result.latencies, key=lambda latency: latency.case.frames)
    for batch in batches_with_lengths(result):
        what = f"Median latency against frames, {plural(batch, 'clip')} a call"
        alt = f"{what}. {latencies_in_words([one for one in by_length if one.case.batch == batch])}"
        caption = f"{what}. Bars hold the middle half of the calls."
        pictures.append(picture_from_figure(latency_figure(result, (batch,)), alt=alt, caption=caption))
    if curves := batch_curves(result):
        caption = f"Throughput against clips a call: {curves_in_words(curves)}"
        pictures.append(picture_from_figure(batch_figure(curves), alt=caption, caption=caption))
    for threads in sorted({one.case.threads for one in result.latencies if one.median_ms is not None}):
        what = f"Percentiles of a call on {plural(threads, 'thread')}"
        shown = [one for one in result.latencies if one.case.threads == threads]
        caption = f"{what}: filled mark p50, bar p90, open mark p99; one with too few calls is not drawn."
        alt = f"{what}. {latencies_in_words(shown)}"
        pictures.append(picture_from_figure(percentile_figure(result, threads), alt=alt, caption=caption))
    if result.latencies:
        case = headline_case(result)
        slowest = [
            f"{one.backend}: slowest of {one.calls} calls {format_sig3(one.slowest_ms)} ms"
            for one in result.latencies
            if one.case == case
        ]
        what = f"The slowest calls, {case}"
        caption = f"{what}: the further right a line goes before it falls, the longer a caller may wait."
        figure = tail_figure(result, case)
        pictures.append(picture_from_figure(figure, alt=f"{what}. {'; '.join(slowest)}.", caption=caption))
    return pictures


def proof_section(bundle: Bundle, result: BenchResult) -> tuple[list[str], Section]:
    """Return the bundle's stored proofs as sentences and as a table; the bench compares no answers itself."""
    not_run = {
        name: why
        for name, why in result.records.skipped.items()
        if split_backend(backend_of(name))[0] in DEVICE_BACKENDS
    }
    said = "From the proofs that the bundle carries; the bench measures times and compares no answers."
    proofs: tuple[Proof, ...] = ()
    try:
        proofs = read_proofs(bundle)
    except BundleError as error:
        said = f"The bundle's proofs cannot be read: {without_places(str(error), bundle.folder)}."
    rows = proof_rows(proofs, bundle.artefacts, not_run)
    return findings_from_rows(rows), matrix_section(rows, said)
