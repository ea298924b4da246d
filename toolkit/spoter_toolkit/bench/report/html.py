"""Compose the page of a bench: who is faster, small charts, the stored proofs, tables, the machine."""

from __future__ import annotations

from spoter_export.bundle.files import read_proofs
from spoter_export.parity.proof import Proof
from spoter_export.parity.report import proof_rows
from spoter_runtime.backends import BACKENDS as DEVICE_BACKENDS
from spoter_runtime.bundle.manifest import Bundle
from spoter_runtime.errors import BundleError
from spoter_toolkit.backends import split_backend
from spoter_toolkit.bench.analysis.result import NOT_MEASURED, BenchResult
from spoter_toolkit.bench.report.charts import (
    headline_chart,
    length_charts,
    memory_chart,
    start_chart,
    tail_chart,
    throughput_charts,
)
from spoter_toolkit.bench.report.markdown import method_in_words
from spoter_toolkit.bench.report.summary import headline_case, losses_in_words, summary_of
from spoter_toolkit.bench.report.tables import environment_table, problem_table, tables
from spoter_toolkit.bench.settings import backend_of
from spoter_toolkit.parity.page import proofs_section
from spoter_toolkit.report.html import Chart, Page, Section, html_from_page
from spoter_toolkit.report.words import without_places


def html_from_result(result: BenchResult, bundle: Bundle) -> str:
    """Return the report as one HTML page; the stored proofs of the bundle are shown beside the times.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    records = result.records
    headline, lost = headline_chart(result), losses_in_words(result)
    page = Page(
        verdict=verdict_of(result),
        title=f"Bench of {records.bundle}",
        about=f"{records.environment['cpu']}, {records.month}.",
        lead=[headline] if headline else (),
        caveats=[*([f"{lost}."] if lost else []), *(f"{caveat}." for caveat in result.caveats)],
        sections=(
            *(section for section in chart_sections(result) if section.charts),
            proof_section(bundle, result),
            figures_section(result),
            Section(name="environment", title="The machine", tables=[environment_table(records.environment)]),
        ),
        facts={"model": f"sha256 {records.model_sha256}"},
    )
    return html_from_page(page)


def verdict_of(result: BenchResult) -> str:
    """Return the page's first line: the backend with the least median time."""
    headline = headline_chart(result)
    if headline is None:
        return f"Bench of {result.records.bundle}: no latency was measured"
    first = headline.bars[0]
    return f"Fastest here: {first.name}, {first.shown}"


def chart_sections(result: BenchResult) -> list[Section]:
    """Return a section for each scenario with a chart; those that were not measured have none."""
    start, memory = start_chart(result), memory_chart(result)
    tail = [tail_chart(result, headline_case(result))] if result.latencies else []
    charts: dict[str, tuple[str, list[Chart]]] = {
        "latency": ("Latency by length", [*length_charts(result)]),
        "throughput": ("Throughput", [*throughput_charts(result)]),
        "memory": ("Memory", [memory] if memory else []),
        "start": ("Start-up", [start] if start else []),
        "tail": ("Slow calls", [*tail]),
    }
    return [Section(name=name, title=title, charts=shown) for name, (title, shown) in charts.items()]


def figures_section(result: BenchResult) -> Section:
    """Return every figure: in words, in tables, how it was measured, and what was not."""
    problems = problem_table(result)
    method = method_in_words(result).replace("`", "")
    return Section(
        name="figures",
        title="All figures",
        folded={
            "In words": summary_of(result),
            "How it was measured": (method,),
            "Not measured": NOT_MEASURED,
        },
        tables=[*tables(result), *([problems] if problems.rows else [])],
    )


def proof_section(bundle: Bundle, result: BenchResult) -> Section:
    """Return the bundle's stored proofs; the bench compares no answers itself."""
    not_run = {
        name: why
        for name, why in result.records.skipped.items()
        if split_backend(backend_of(name))[0] in DEVICE_BACKENDS
    }
    said = "These proofs come with the bundle. The bench measures times and compares no answers."
    proofs: tuple[Proof, ...] = ()
    try:
        proofs = read_proofs(bundle)
    except BundleError as error:
        said = f"The bundle's proofs cannot be read: {without_places(str(error), bundle.folder)}."
    return proofs_section(proof_rows(proofs, bundle.artefacts, not_run), said)
