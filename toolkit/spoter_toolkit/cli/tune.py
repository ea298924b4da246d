"""`spoter-kit tune`: find the fastest settings for a bundle on this machine."""

from __future__ import annotations

import statistics
from typing import Annotated, Any

import typer

from spoter_toolkit.cli.console import (
    BundleArgument,
    JsonOption,
    emit_json,
    emit_table,
    is_verbose,
    next_step,
    progress_bar,
    tell,
)


def tune(
    bundle: BundleArgument = None,
    precision: Annotated[str, typer.Option(help="Tune the file of this precision.")] = "fp32",
    seconds: Annotated[
        float, typer.Option(help="Measure for so many seconds; the time to open sessions comes on top.")
    ] = 20.0,
    json: JsonOption = False,
) -> None:
    """Find the fastest settings for a bundle on this CPU; Recognizer.load takes them from then on.

    Settings that change the bundle's answers here are never chosen. An interrupted run changes nothing.
    """
    from spoter_runtime.bundle.manifest import read_bundle
    from spoter_runtime.errors import from_options
    from spoter_runtime.tuning.search import check_seconds
    from spoter_runtime.tuning.search import tune as tune_bundle
    from spoter_runtime.tuning.store import tuned_path
    from spoter_toolkit.prediction import example_of_clip
    from spoter_toolkit.workspace import newest_bundle

    with from_options():
        check_seconds(seconds)
    found = read_bundle(bundle or newest_bundle())
    with progress_bar() as on_progress:
        tuned = tune_bundle(found, precision=precision, seconds=seconds, on_progress=on_progress)
    path = tuned_path(found, precision)
    if json:
        emit_json({"file": str(path)} | tuned.as_json())
        return
    for name, config in tuned.configs.items():
        tell(f"{_situation(name)}: {tuned.reasons[name]}", f"  {config}")
    if is_verbose():
        emit_table(
            "what was measured",
            ("for", "configuration", "ms a clip", "÷ the default's"),
            [_measured(row) for row in tuned.measured],
        )
    tell(f"kept in {path}")
    next_step("spoter-kit predict --bundle {} {}", found.folder, example_of_clip(found))


def _measured(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return a table row: situation, configuration, ms per clip, time relative to the default."""
    if "refused" in row:
        return _situation(row["situation"]), row["way"], "refused", row["refused"]
    ms = statistics.median(row["clips_ns"]) / 1e6
    return _situation(row["situation"]), row["way"], f"{ms:.3g}", f"{row['times_of_default']:.2f}"


def _situation(name: str) -> str:
    return {"one": "one clip", "many": "many clips"}[name]
