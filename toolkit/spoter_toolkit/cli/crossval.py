"""`spoter-kit crossval`: every signer tested on once, by a model that never saw them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from spoter_toolkit.cli.completion import complete_run
from spoter_toolkit.cli.console import (
    DatasetArgument,
    ForceOption,
    JsonOption,
    aligned,
    emit_json,
    emit_table,
    is_verbose,
    next_step,
    progress_lines,
    say,
    tell,
)
from spoter_toolkit.report.words import plural

if TYPE_CHECKING:
    from spoter_toolkit.crossval.result import CrossValidation

_SHOWN: Final = 3  # worst folds on the terminal; -v prints all


def crossval(
    data: DatasetArgument = None,
    by: Annotated[
        Literal["signer", "recording"] | None,
        typer.Option(
            help="Keep whole signers together (signer), or whole recordings; default: signer, where known."
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(help="Make so many folds; default: one a signer, at most 10; by recording 5."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Take these settings, as `train` does; default: strong.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting: --set epochs=10.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Set the random seed; default: the recipe's.")] = None,
    begin_from: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Begin each fold with the model and weights of this RUN.",
            autocompletion=complete_run,
        ),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Train each fold for about so long at most.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Train so many folds at a time; default: one a core, or one a GPU.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Write to this folder; default: crossval/ and the data's name."),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Train once a fold and test on the signers left out; say mean, spread and interval.

    A cross-validation that was stopped goes on where it was: run the same command again.
    """
    from contextlib import nullcontext

    from spoter_runtime.errors import UsageError, from_options
    from spoter_toolkit.training.length import check_minutes
    from spoter_toolkit.training.recipes import DEFAULT, read_recipe

    check_minutes(minutes)
    if workers is not None and workers < 1:
        raise UsageError(f"--workers {workers}: expected at least 1", fix="--workers 1")
    settings = [*(setting or []), *([f"seed={seed}"] if seed is not None else [])]
    with nullcontext() if recipe and recipe.endswith(".toml") else from_options():
        config = read_recipe(recipe or DEFAULT, settings)
    from spoter_toolkit.crossval.start import cross_validate
    from spoter_toolkit.workspace import newest_dataset

    with progress_lines() as on_progress:
        found, folder = cross_validate(
            data or newest_dataset(),
            out,
            config=config,
            by=by,
            count=folds,
            minutes=minutes,
            begin_from=begin_from,
            workers=workers,
            force=force,
            on_begin=say,
            on_progress=on_progress,
        )
    if json:
        emit_json({"folder": str(folder)} | found.as_json())
        return
    show(found, folder)
    next_step("spoter-kit train {}", found.dataset.folder)


def show(found: CrossValidation, folder: Path) -> None:
    """Print mean and interval first, then the weak places; with ``-v`` every fold and every label."""
    scores, top1 = found.scores, found.top1
    clips = f"{scores.clips} {'generated ' if found.dataset.origin.synthetic else ''}clips"
    tell(
        f"top-1 {top1.mean:.4f} (95 %: {top1.low:.4f} to {top1.high:.4f}), mean of "
        f"{plural(len(found.folds), 'fold')} by {found.by}; {clips}",
        f"spread {top1.sd:.4f}; top-5 {found.top5.mean:.4f}, macro F1 {found.macro_f1.mean:.4f}",
    )
    columns = ("fold", "tested", "clips", "top-1", "top-5")
    worst_first = sorted(found.folds, key=lambda fold: fold.top1)
    rows = [
        (fold.name, fold.tested[:40], str(fold.clips), f"{fold.top1:.4f}", f"{fold.top5:.4f}")
        for fold in worst_first
    ]
    if is_verbose():
        emit_table("", columns, rows)
        labels = [(one.label, str(one.clips), f"{one.top1:.4f}") for one in found.labels]
        emit_table("", ("label", "clips", "top-1"), labels)
    else:
        tell(*aligned([columns, *rows[:_SHOWN]]))
        if len(rows) > _SHOWN:
            tell(f"{plural(len(rows) - _SHOWN, 'better fold')} (-v: all)")
    for pair in scores.confused[:1]:
        tell(f"most confused: {pair.label} taken for {pair.taken_for}, {pair.clips} of {pair.of}")
    tell(f"{folder}: report.html, crossval.json, confusion and accuracy as .png and .pdf")
    for finding in found.findings:
        say(finding)
