"""Compose the page of a bench: what was found, pictures, the stored proofs, tables, the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Final

from spoter_export.bundle.files import read_proofs
from spoter_export.parity.proof import Proof
from spoter_export.parity.report import proof_rows
from spoter_runtime.backends import BACKENDS as DEVICE_BACKENDS
from spoter_runtime.bundle.manifest import Bundle
from spoter_runtime.errors import BundleError
from spoter_toolkit.backends import split_backend
from spoter_toolkit.bench.analysis.result import NOT_MEASURED, BenchResult
from spoter_toolkit.bench.host.environment import without_places
from spoter_toolkit.bench.report.batch_plot import batch_curves, batch_figure
from spoter_toolkit.bench.report.latency_plot import batches_with_lengths, latency_figure
from spoter_toolkit.bench.report.markdown import environment_rows, method_in_words, problems, tables
from spoter_toolkit.bench.report.percentile_plot import percentile_figure, tail_figure
from spoter_toolkit.bench.report.summary import (
    batches_in_words,
    findings,
    headline_case,
    latency_in_words,
    losses,
    percentiles_in_words,
    tail_in_words,
)
from spoter_toolkit.bench.settings import backend_of, plural
from spoter_toolkit.parity.page import findings_from_rows, matrix_section
from spoter_toolkit.report.html import Page, Picture, Section, Table, html_from_page
from spoter_toolkit.report.svg import svg_from_figure

BENCH_HTML: Final = "bench.html"


def html_from_result(result: BenchResult, bundle: Bundle) -> str:
    """Return the report as one HTML page.

    Args:
        result: from `run_bench`.
        bundle: that was measured; its stored proofs are shown beside the times.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    proven, proofs = _proof_section(bundle, result.skipped)
    pictures = _pictures(result)
    page = Page(
        title=f"Bench of {result.bundle}",
        facts={
            "processor": str(result.environment["cpu"]),
            "month": result.month,
            "model": f"sha256 {result.model_sha256}",
        },
        findings=[*findings(result), *proven],
        warnings=[*(f"{remark}." for remark in result.remarks), *losses(result)],
        sections=(
            *([Section(name="pictures", title="Pictures", pictures=pictures)] if pictures else []),
            proofs,
            Section(
                name="figures",
                title="Figures",
                paragraphs=(method_in_words(result).replace("`", ""),),
                tables=[Table(**asdict(table)) for table in tables(result)],
                new_page=True,
            ),
            _missing_section(result),
            Section(
                name="environment",
                title="Environment",
                tables=[
                    Table(
                        title="Machine and packages",
                        columns=("what", "value"),
                        rows=environment_rows(result.environment),
                        sentences=True,
                    )
                ],
            ),
        ),
    )
    return html_from_page(page)


def _pictures(result: BenchResult) -> list[Picture]:
    """Return latency by batch, throughput, percentiles by thread count, and the tail of the first case."""
    if not result.timings:
        return []
    pictures = []
    for batch in batches_with_lengths(result):
        what = f"Median latency against frames, {plural(batch, 'clip')} a call"
        svg = svg_from_figure(
            latency_figure(result, (batch,)),
            f"latency-{batch}",
            title=what,
            description=latency_in_words(result, batch),
        )
        pictures.append(Picture(svg=svg, caption=f"{what}. Bars hold the middle half of the calls."))
    if batch_curves(result):
        what = "Throughput against clips a call"
        svg = svg_from_figure(
            batch_figure(result), "batches", title=what, description=batches_in_words(result)
        )
        pictures.append(Picture(svg=svg, caption=f"{what}: {batches_in_words(result)}"))
    for threads in sorted({t.case.threads for t in result.timings if t.percentile_ms(50) is not None}):
        what = f"Percentiles of a call on {plural(threads, 'thread')}"
        svg = svg_from_figure(
            percentile_figure(result, threads),
            f"percentiles-{threads}",
            title=what,
            description=percentiles_in_words(result, threads),
        )
        caption = f"{what}: filled mark p50, bar p90, open mark p99; one with too few calls is not drawn."
        pictures.append(Picture(svg=svg, caption=caption))
    case = headline_case(result)
    what = f"The slowest calls, {case}"
    svg = svg_from_figure(
        tail_figure(result, case), "tail", title=what, description=tail_in_words(result, case)
    )
    caption = f"{what}: the further a line goes to the right before it falls, the longer a caller may wait."
    return [*pictures, Picture(svg=svg, caption=caption)]


def _proof_section(bundle: Bundle, skipped: Mapping[str, str]) -> tuple[list[str], Section]:
    """Return the bundle's stored proofs as findings and as a matrix; the bench compares no answers itself."""
    here = {
        name: why for name, why in skipped.items() if split_backend(backend_of(name))[0] in DEVICE_BACKENDS
    }
    said = "From the proofs that the bundle carries; the bench measures times and compares no answers."
    proofs: tuple[Proof, ...] = ()
    try:
        proofs = read_proofs(bundle)
    except BundleError as error:
        said = f"The bundle's proofs cannot be read: {without_places(str(error), bundle.folder)}."
    rows = proof_rows(proofs, bundle.artefacts, here)
    return findings_from_rows(rows), matrix_section(rows, said)


def _missing_section(result: BenchResult) -> Section:
    lost = problems(result)
    table = Table(
        title="Cannot run here, or was lost", columns=("backend", "what", "why"), rows=lost, sentences=True
    )
    return Section(
        name="not-measured",
        title="Not measured",
        paragraphs=("These figures say nothing about:",),
        points=NOT_MEASURED,
        tables=[table] if lost else [],
        new_page=True,
    )
