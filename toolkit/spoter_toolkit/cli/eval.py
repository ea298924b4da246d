"""`spoter-kit eval`: scores of a RUN or a BUNDLE on labelled clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from spoter_toolkit.cli.completion import complete_backend, complete_dataset, complete_run, complete_source
from spoter_toolkit.cli.console import (
    ForceOption,
    JsonOption,
    emit_json,
    emit_table,
    is_verbose,
    next_step,
    progress_bar,
    say,
    say_passed_over,
    tell,
)
from spoter_toolkit.report.words import plural

if TYPE_CHECKING:
    from spoter_toolkit.evaluation import Evaluation

NOT_CALIBRATED: Final = "not calibrated, export does that"


def eval_(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            help="Evaluate this RUN or BUNDLE; default: the last RUN.",
            autocompletion=complete_source,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Take the clips of this DATASET, or videos as for data extract; default: its training data.",
            autocompletion=complete_dataset,
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(help="Take the clips of this split: train, val, test, or all; of videos always all."),
    ] = "test",
    negatives: Annotated[
        Path | None,
        typer.Option(
            help="Count false answers on clips of this DATASET, in which nobody signs a word of the model.",
            autocompletion=complete_dataset,
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Run this backend, as in ort-cpu or trt:fp16; default: torch for a RUN.",
            autocompletion=complete_backend,
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Name the RUN that the BUNDLE was made from, where it has moved.",
            autocompletion=complete_run,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="Write a page, .html, or the confusion alone, .png, .pdf or .svg, to this file.",
        ),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Find signs in streams that are made of the clips, by a BUNDLE.")
    ] = False,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Make each stream about so long, with --stream.")
    ] = 5.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Fetch the landmarker without asking.")] = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> float:
    """Print top-1, top-5, macro F1, calibration, the score of each signer, and the most confused pairs.

    A video that cannot be used is named, the others are evaluated, and the exit code is 1.
    """
    from spoter_runtime.errors import DataError, from_options
    from spoter_runtime.files import write_text
    from spoter_toolkit.backends import split_backend
    from spoter_toolkit.cli.landmarker import have_landmarker
    from spoter_toolkit.data.dataset import skipped_clips
    from spoter_toolkit.data.drawing import check_picture
    from spoter_toolkit.data.extract.extract import dataset_of, is_videos
    from spoter_toolkit.evaluation import check_split, check_videos, evaluate_source
    from spoter_toolkit.input_files import check_target
    from spoter_toolkit.prediction import error_of_bad_clips
    from spoter_toolkit.runs.run import read_run
    from spoter_toolkit.workspace import RUN_JSON, last_run

    with from_options():
        check_split(split)
        if backend:
            split_backend(backend)
    if out:
        check_target(out, force=force)
        check_picture(out, also=(".html",))
    if stream:
        return _eval_streams(
            source,
            data,
            split,
            negatives=negatives,
            backend=backend,
            run=run,
            minutes=minutes,
            out=out,
            json=json,
        )
    source = source or last_run()
    if data and is_videos(data):
        check_videos(source, data)
        have_landmarker(yes=yes)
        split = "all"
    with progress_bar() as on_progress, dataset_of(data, on_progress) as dataset_folder:
        found = evaluate_source(
            source,
            split=split,
            backend=backend,
            run=run,
            data=dataset_folder,
            negatives=negatives,
            on_progress=on_progress,
        )
        bad = skipped_clips(dataset_folder) if dataset_folder and dataset_folder != data else []
    scores, dataset = found.scores, found.dataset
    if out and out.suffix.lower() == ".html":
        from spoter_toolkit.training.page import html_from_evaluation

        write_text(out, html_from_evaluation(found))
    elif out:
        from spoter_toolkit.training.plots import draw_confusion

        draw_confusion(scores, out, title=f"{found.source.name} on {found.backend}, {split}: {dataset.split}")
    if json:
        emit_json(found.as_json() | {"bad": bad})
        say_passed_over(found.passed_over)
    else:
        show(found)
        if out:
            say(f"picture: {out}")
        if (found.source / RUN_JSON).is_file():
            if unfinished := read_run(found.source).unfinished():
                say(str(unfinished))
            next_step("spoter-kit export --onnx {}", found.source)
        else:
            next_step("spoter-kit bench {}", found.source)
    if bad:
        raise error_of_bad_clips([DataError(line) for line in bad], len(bad) + scores.clips)
    return scores.top1  # for the demo, which compares it with a target


def _eval_streams(
    source: Path | None,
    data: Path | None,
    split: str,
    *,
    negatives: Path | None,
    backend: str | None,
    run: Path | None,
    minutes: float,
    out: Path | None,
    json: bool,
) -> float:
    """Evaluate a bundle on streams, and print F1, false alarms and delay."""
    from spoter_runtime.errors import UsageError
    from spoter_runtime.files import write_text
    from spoter_runtime.recognizer import Recognizer
    from spoter_toolkit.backends import find_source, split_choice
    from spoter_toolkit.runs.learned import learned_among, run_of
    from spoter_toolkit.streams.evaluation import evaluate_streams
    from spoter_toolkit.streams.page import COLUMNS, html_from_streams, rows_of
    from spoter_toolkit.workspace import RUN_JSON, newest_bundle

    source = source or newest_bundle()
    if (source / RUN_JSON).is_file():
        raise UsageError(f"eval --stream {source}: is a RUN, expected a BUNDLE", fix="spoter-kit export")
    if out and out.suffix.lower() != ".html":
        raise UsageError(f"-o {out}: the streams are drawn on a page", fix="-o streams.html")
    found, dataset = find_source(source, run=run, data=data)
    learned_among(dataset, split, run_of(found, run))
    name, precision = split_choice(backend, None)
    recognizer = Recognizer.load(source, name, precision=precision)
    with progress_bar() as on_progress:
        scored = evaluate_streams(
            recognizer,
            dataset,
            source=source,
            split=split,
            negatives=negatives,
            minutes=minutes,
            on_progress=on_progress,
        )
    if out:
        write_text(out, html_from_streams(scored))
    if json:
        emit_json(scored.as_json())
        return scored.scores[0].f1[0.5]
    for one in scored.plain:
        says = f"F1 {one.f1[0.5]:.3f} at IoU 0.5, " if one.signs else ""
        tell(f"{one.name}: {says}{one.false_alarms_per_minute:.2f} false alarms a minute")
    if delay := scored.scores[0].delay_ms:
        tell(f"delay from a sign's end: {delay[0]:.0f} ms, 95 % within {delay[1]:.0f} ms")
    if is_verbose():
        emit_table("", COLUMNS, rows_of(scored.scores))
    say(scored.made_of)
    if out:
        say(f"page: {out}")
    return scored.scores[0].f1[0.5]


def show(found: Evaluation) -> None:
    """Print top-1 first, then the weak places; with ``-v`` every signer and every confused pair."""
    scores, dataset = found.scores, found.dataset
    clips = plural(scores.clips, "generated clip" if dataset.origin.synthetic else "clip")
    tell(
        f"{found.source}: top-1 {scores.top1:.4f} on {clips}: {found.split} split, "
        f"{dataset.split or 'not split'}",
        f"top-5 {scores.top5:.4f}, macro F1 {scores.macro_f1:.4f}; on {found.backend}",
    )
    show_calibration(found)
    if is_verbose():
        show_tables(found)
    else:
        if len(scores.signers) > 1:
            worst = min(scores.signers, key=lambda one: one.top1)
            tell(f"weakest signer: {worst.signer}, top-1 {worst.top1:.4f} of {plural(worst.clips, 'clip')}")
        for pair in scores.confused[:1]:
            tell(f"most confused: {pair.label} taken for {pair.taken_for}, {pair.clips} of {pair.of}")
    if found.learned and found.split == "all":
        say(f"the model was trained on {found.learned} of these clips: that flatters")
    if dataset.origin.synthetic:
        say("the data is synthetic: these figures say nothing about people signing")
    say_passed_over(found.passed_over)


def show_calibration(found: Evaluation) -> None:
    """Print the calibration error, and a line for each kind of negatives."""
    if (figures := found.calibration) is None:
        return
    error = f"calibration error {figures.calibration_error:.4f}"
    if figures.kept is None:
        tell(f"{error} of the plain softmax: {NOT_CALIBRATED}")
    else:
        tell(f"{error}, of the plain softmax {figures.softmax_error:.4f}; kept {figures.kept:.1%} as signs")
    for kind in figures.kinds:
        answered = "" if kind.false_answers is None else f"; the thresholds answer {kind.false_answers:.1%}"
        tell(
            f"{kind.kind}, {kind.clips}: AUROC {kind.auroc:.3f}, false answers {kind.false_at_95:.1%} at 95 "
            f"% of the signs kept{answered}"
        )


def show_tables(found: Evaluation) -> None:
    """Print the score of every signer, and the pairs of labels that are confused most."""
    scores = found.scores
    emit_table(
        "",
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
