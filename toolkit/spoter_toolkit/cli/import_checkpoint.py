"""`spoter-kit import-checkpoint`: a notebook's .pth becomes a RUN."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spoter_toolkit.cli.console import (
    ForceOption,
    JsonOption,
    emit_json,
    emit_table,
    is_verbose,
    next_step,
    tell,
)


def import_checkpoint(
    checkpoint: Annotated[
        Path, typer.Argument(help="Read this file of the notebook's torch.save.", metavar="FILE")
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            help="Take the labels of bdslw60, of a DATASET, or of a text file with one label a line, in the "
            "order of the classes; default: class-00, class-01, …, because the file does not name them."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the RUN to this folder; default: runs/FILE.")
    ] = None,
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
    tell(
        f"{folder}: {run.config.architecture} of {run.config.num_classes} classes, "
        f"{imported.parameters:,} parameters"
    )
    if imported.dropped:
        left_out = f"{imported.dropped_parameters:,} parameters"
        tell(f"left out: the plain classifier, which the model never reads ({left_out})")
    tell("no normalisation inside: feed the landmarks as the notebook did")
    if is_verbose():
        rows = [
            ("parameters in the file", f"{imported.parameters + imported.dropped_parameters:,}"),
            ("parameters of the run", f"{imported.parameters:,}"),
            ("normalisation", "none, as in the notebook"),
            ("landmark weights", run.config.landmark_weights),
        ]
        emit_table("", ("", "value"), rows)
    next_step("spoter-kit export --onnx {}", folder)
