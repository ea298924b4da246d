"""Write the folder of a report: bench.json, bench.md, pictures, and a page if it is asked for."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from spoter_runtime.bundle.manifest import Bundle
from spoter_runtime.errors import ConfigError
from spoter_runtime.files import is_replaceable, replacing
from spoter_runtime.machine import cpu_model
from spoter_toolkit.bench.analysis.result import BenchResult
from spoter_toolkit.bench.analysis.serialize import json_from_result
from spoter_toolkit.bench.report.batch_plot import batch_curves, batch_figure
from spoter_toolkit.bench.report.latency_plot import batches_with_lengths, latency_figure
from spoter_toolkit.bench.report.markdown import BATCHES_PNG, LATENCY_PNG, markdown_from_result
from spoter_toolkit.input_files import check_place
from spoter_toolkit.report.axes import save_png
from spoter_toolkit.report.words import plural, slug

BENCHES: Final = Path("bench")
BENCH_JSON: Final = "bench.json"
BENCH_HTML: Final = "bench.html"


def default_folder(bundle_name: str) -> Path:
    """Return ``bench/<bundle>-<processor>-<month>``: a figure belongs to all three."""
    month = f"{datetime.now(timezone.utc):%Y-%m}"
    return BENCHES / f"{slug(bundle_name)}-{slug(cpu_model())}-{month}"


def check_folder(folder: Path, *, force: bool) -> None:
    """Check before the measuring that a report can be written; `force` replaces an older report.

    Raises:
        ConfigError: something is there already.
        DataError: nothing can be written there.
    """
    if not is_replaceable(folder, BENCH_JSON):
        raise ConfigError(f"{folder}: is there already and is no bench report", fix="name another with -o")
    if (folder / BENCH_JSON).exists() and not force:
        raise ConfigError(f"{folder}: is there already", fix="--force replaces it, or name another with -o")
    check_place(folder)


def write_report(result: BenchResult, folder: Path, *, page_of: Bundle | None = None) -> None:
    """Write ``bench.json`` (raw samples included), ``bench.md`` and the pictures into a folder.

    ``latency.png`` where cases were measured, ``batches.png`` where they make a curve, ``bench.html`` where
    the bundle is given. The folder's former content is replaced when the new report is complete.

    Raises:
        MissingExtraError: matplotlib, or for the page jinja2, is not installed.
        OSError: the disk is full or the place is read-only.
    """
    name = result.records.bundle
    with replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / BENCH_JSON).write_text(json_from_result(result), encoding="utf-8")
        (temporary / "bench.md").write_text(markdown_from_result(result), encoding="utf-8")
        if batches := batches_with_lengths(result):
            title = f"{name}: median latency; bars hold the middle half of the calls"
            save_png(latency_figure(result, batches), title, temporary / LATENCY_PNG)
        if curves := batch_curves(result):
            case = next(iter(curves.values()))[0].case
            title = f"{name}: {case.frames} frames a clip, {plural(case.threads, 'thread')}"
            save_png(batch_figure(curves), title, temporary / BATCHES_PNG)
        if page_of is not None:
            from spoter_toolkit.bench.report.html import html_from_result  # imports the export floor

            (temporary / BENCH_HTML).write_text(html_from_result(result, page_of), encoding="utf-8")
