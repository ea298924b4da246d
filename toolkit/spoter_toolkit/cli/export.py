"""`spoter-kit export`: a proven BUNDLE from a RUN."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spoter_toolkit.cli.console import (
    ForceOption,
    JsonOption,
    emit_json,
    emit_table,
    next_step,
    progress_bar,
    say,
)


def export(
    run: Annotated[Path | None, typer.Argument(help="RUN; default: the last one.")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="ONNX, for ONNX Runtime; the default.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="DATASET to prove it on; default: the one it was trained on.")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Largest batch to claim and to run.")] = 32,
    no_real_goldens: Annotated[
        bool, typer.Option("--no-real-goldens", help="Keep no clip of the data in the bundle.")
    ] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Default: bundles/RUN.spoter.")] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Export a RUN to ONNX with dynamic batch and frames, run it over its whole grid, write a BUNDLE."""
    from spoter_runtime.errors import ConfigError
    from spoter_toolkit.checkpoint import read_run
    from spoter_toolkit.cli.parity import fact_rows
    from spoter_toolkit.data.dataset import read_dataset
    from spoter_toolkit.exporting import bundle_from_run, training_data
    from spoter_toolkit.locate import BUNDLES, last_run

    source = read_run(run or last_run())
    folder = out or BUNDLES / f"{source.name}.spoter"
    if folder.suffix != ".spoter":
        raise ConfigError(f"{folder}: a bundle's name ends in .spoter. Fix: -o {folder}.spoter")
    if not source.is_finished:
        say(f"{source.folder} was stopped before its end: its best weights so far are exported")
    dataset = read_dataset(data) if data else training_data(source)
    if dataset is None:
        say("no data: the proof and the goldens hold generated clips only. Fix: name real ones with --data")
    elif not no_real_goldens and not dataset.origin.synthetic:
        say("some clips of the data travel in the bundle as goldens; --no-real-goldens keeps them here")
    with progress_bar() as on_progress:
        exported = bundle_from_run(
            source,
            folder,
            dataset=dataset,
            max_batch=max_batch,
            keep_goldens=not no_real_goldens,
            force=force,
            on_progress=on_progress,
        )
    artefact = exported.bundle.artefacts[0]
    if json:
        emit_json(
            {
                "bundle": str(folder),
                "sha256": artefact.sha256,
                "size_bytes": artefact.size_bytes,
                "parity": exported.facts.as_json(),
            }
        )
        return
    emit_table(
        f"{folder}/{artefact.path}  {artefact.size_bytes / 1e6:.2f} MB  sha256 {artefact.sha256[:16]}…",
        ("onnxruntime against torch", "largest logit difference", ""),
        fact_rows(exported.facts),
    )
    next_step("spoter-kit parity {}", folder)
