"""`spoter-kit eval`: scores of a RUN or a BUNDLE on labelled clips."""

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
    say_passed_over,
)


def eval_(
    source: Annotated[Path | None, typer.Argument(help="RUN or BUNDLE; default: the last run.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="DATASET, or videos as for data extract; default: the one it was trained on."),
    ] = None,
    split: Annotated[str, typer.Option(help="train, val, test, or all; of videos always all.")] = "test",
    backend: Annotated[
        str | None,
        typer.Option(
            help="Backend to run, as doctor lists them; trt:fp16 for fp16; default: torch for a RUN."
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="For a BUNDLE: the RUN it was made from, where it has moved.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Write a page, .html; or the confusion alone, .png, .pdf or .svg."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Fetch the landmarker without asking.")] = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> float:
    """Print top-1, top-5, macro F1, the score of each signer, and the most confused pairs."""
    from spoter_runtime.errors import from_options
    from spoter_runtime.files import write_text
    from spoter_toolkit.backends import split_backend
    from spoter_toolkit.cli.landmarker import have_landmarker
    from spoter_toolkit.data.drawing import check_picture
    from spoter_toolkit.data.extract.extract import dataset_of, is_videos
    from spoter_toolkit.evaluation import check_split, evaluate_source
    from spoter_toolkit.input_files import check_target
    from spoter_toolkit.workspace import RUN_JSON, last_run

    with from_options():
        check_split(split)
        if backend:
            split_backend(backend)
    if out:
        check_target(out, force=force)
        check_picture(out, also=(".html",))
    if data and is_videos(data):
        have_landmarker(yes=yes)
        split = "all"
    with progress_bar() as on_progress, dataset_of(data, on_progress) as dataset_folder:
        found = evaluate_source(
            source or last_run(),
            split=split,
            backend=backend,
            run=run,
            data=dataset_folder,
            on_progress=on_progress,
        )
    say_passed_over(found.passed_over)
    scores, dataset = found.scores, found.dataset
    if out and out.suffix.lower() == ".html":
        from spoter_toolkit.training.page import html_from_evaluation

        write_text(out, html_from_evaluation(found))
    elif out:
        from spoter_toolkit.training.plots import draw_confusion

        draw_confusion(scores, out, title=f"{found.source.name} on {found.backend}, {split}: {dataset.split}")
    if json:
        emit_json(found.as_json())
        return scores.top1
    if dataset.origin.synthetic:
        say("the data is synthetic: these figures say nothing about people signing")
    emit_table(
        f"{found.source} on {found.backend}: {split} split of {dataset.folder} "
        f"({dataset.split or 'not split'})",
        ("", "clips", "value"),
        [
            ("top-1", scores.clips, f"{scores.top1:.4f}"),
            ("top-5", scores.clips, f"{scores.top5:.4f}"),
            ("macro F1", scores.clips, f"{scores.macro_f1:.4f}"),
            *((f"top-1, signer {s.signer}", s.clips, f"{s.top1:.4f}") for s in scores.signers),
        ],
    )
    if scores.confused:
        emit_table(
            "most confused",
            ("signed", "recognised as", "clips"),
            [(pair.label, pair.taken_for, f"{pair.clips} of {pair.of}") for pair in scores.confused],
        )
    if (found.source / RUN_JSON).is_file():
        next_step("spoter-kit export --onnx {}", found.source)
    else:
        next_step("spoter-kit bench {}", found.source)
    return scores.top1  # for the demo, which compares it with a target
