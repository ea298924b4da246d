"""`spoter-kit import-checkpoint`: a notebook's .pth becomes a RUN."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spoter_toolkit.cli.console import ForceOption, JsonOption, emit_json, emit_table, next_step


def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="What the notebook's torch.save wrote.")],
    labels: Annotated[
        str | None,
        typer.Option(
            help="bdslw60, a DATASET, or a text file with one label a line, in the order of the classes; "
            "default: class-00, class-01, …, because the file does not say."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="RUN folder; default: runs/FILE.")] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Turn a notebook checkpoint into a RUN, without running any code that the file may hold."""
    from spoter_toolkit.runs.labels import read_labels
    from spoter_toolkit.runs.notebook import import_checkpoint as import_run
    from spoter_toolkit.workspace import RUNS, point_last_at

    folder = out or RUNS / checkpoint.stem
    run, imported = import_run(checkpoint, folder, read_labels(labels) if labels else None, force=force)
    point_last_at(folder)
    if json:
        emit_json(
            {
                "run": str(folder),
                "parameters": imported.parameters,
                "dropped_parameters": imported.dropped_parameters,
                "dropped": list(imported.dropped),
                "model": run.config.as_json(),
            }
        )
        return
    rows = [
        ("model", run.config.architecture),
        ("parameters in the file", f"{imported.parameters + imported.dropped_parameters:,}"),
        (
            "dropped: the plain classifier, which the model never reads",
            f"{imported.dropped_parameters:,}",
        ),
        ("parameters of the run", f"{imported.parameters:,}"),
        ("classes", str(run.config.num_classes)),
        ("normalisation", "none, as in the notebook"),
        ("landmark weights", run.config.landmark_weights),
    ]
    if not imported.dropped:
        del rows[2]
    emit_table(str(folder), ("", "value"), rows)
    next_step("spoter-kit export --onnx {}", folder)
