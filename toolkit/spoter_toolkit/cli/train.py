"""`spoter-kit train`: a RUN from a dataset and a recipe."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spoter_toolkit.cli.commands import Verb
from spoter_toolkit.cli.completion import complete_dataset, complete_run
from spoter_toolkit.cli.console import (
    ForceOption,
    JsonOption,
    busy_cores,
    emit_json,
    emit_table,
    ended_in_order,
    is_verbose,
    next_step,
    progress_bar,
    progress_lines,
    say,
    say_busy,
    tell,
)
from spoter_toolkit.report.words import plural

if TYPE_CHECKING:
    from spoter_toolkit.runs.run import Run
    from spoter_toolkit.training.forecast import Forecast


class TrainCommand(Verb):
    """The verb `train`, which names ``--set epochs=5`` where somebody types ``--epochs 5``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse the arguments of `train`.

        Raises:
            UsageError: a setting was written as an option; the fix has ``--set``.
        """
        from spoter_runtime.errors import UsageError
        from spoter_toolkit.training.config import TrainConfig

        options = {name for parameter in self.params for name in parameter.opts}
        settings = {field.name for field in fields(TrainConfig)}
        for word, following in zip(args, [*args[1:], "VALUE"], strict=True):
            option, given, value = word.partition("=")
            setting = option.removeprefix("--").replace("-", "_")
            if option.startswith("--") and option not in options and setting in settings:
                raise UsageError(
                    f"{option}: is a setting, not an option",
                    fix=f"--set {setting}={value if given else following}",
                )
        return super().parse_args(ctx, args)


def train(
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATASET",
            help="Train on this DATASET; default: 60 generated signs.",
            autocompletion=complete_dataset,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Take these settings: spoter, bdsl-spoter, strong, demo, or a .toml file; default: strong."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting: --set epochs=10.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the RUN to this folder; default: runs/NAME-N.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Set the random seed; default: the recipe's.")] = None,
    begin_from: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Begin with the model and weights of this RUN, with a new last layer.",
            autocompletion=complete_run,
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Take so long at most, from now on; default: until it has learned.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with a RUN that was stopped; default: the last one.",
        ),
    ] = False,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Train although the splits share a signer or a clip.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log to TensorBoard too.")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases too.")] = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Train a model on the train split; keep the best by validation accuracy, or the last without one."""
    import time
    from contextlib import nullcontext

    from spoter_runtime.errors import UsageError, from_options, require
    from spoter_toolkit.training.length import check_minutes
    from spoter_toolkit.training.recipes import DEFAULT, read_recipe
    from spoter_toolkit.training.start import plan_training, run_to_resume
    from spoter_toolkit.workspace import folder_lock

    begin = time.monotonic()
    check_minutes(minutes)
    trackers = tuple(name for name, wanted in (("tensorboard", tensorboard), ("wandb", wandb)) if wanted)
    for tracker in trackers:
        require(tracker, extra=tracker)
    config = None
    if resume:
        for option, value in {
            "a recipe": recipe,
            "--set": setting,
            "--seed": seed,
            "--from": begin_from,
        }.items():
            if value is not None:
                raise UsageError(f"a resumed run keeps its own settings; leave out {option}")
        named, begun = run_to_resume(data, out)[1:]
        if begun.is_finished and begun.data and begun.folder == named:  # else it has no name yet
            with folder_lock(named):  # what a killed training left beside it goes
                _show_finished(begun, json=json)
            return
    else:
        settings = [*(setting or []), *([f"seed={seed}"] if seed is not None else [])]
        with nullcontext() if recipe and recipe.endswith(".toml") else from_options():
            config = read_recipe(recipe or DEFAULT, settings)
        if begin_from and any(word.startswith("model.") for word in settings):
            raise UsageError("--from keeps the model of its RUN; leave out --set model.…")
    if not (data or resume):
        say("no DATASET is named: one of 60 generated signs is taken, or made")
    with progress_bar() as on_progress:
        plan = plan_training(
            data,
            out,
            config=config,
            resume=resume,
            force=force,
            begin_from=begin_from,
            on_progress=on_progress,
        )
    dataset, folder, place = plan.dataset, plan.folder, plan.place
    clips = dataset.clips_in("train")
    signs = plural(len({clip.label for clip in clips}), "label")
    say(f"reading {plural(len(clips), 'clip')} of {signs} from {dataset.folder}, split {dataset.split}")
    if dataset.origin.synthetic:
        say("nobody signed these clips: they show that the tools work, nothing more")
    if place != folder:
        say(f"the new run is in {place} until it is complete; then it replaces {folder}")
    if not minutes:  # else it finds out by itself
        say_busy()
    if not sys.stderr.isatty():  # a terminal shows it in its bar
        say(f"loading PyTorch{'' if resume else '; then a few steps are timed for the plan'}")
    # Nothing but the current epoch is lost.
    with ended_in_order(lambda: _say_interrupted(folder, place)), progress_lines() as on_progress:
        on_progress(0, 0, "loading PyTorch")
        from spoter_toolkit.training.loop import train as train_run  # not before: torch

        left = max(minutes - (time.monotonic() - begin) / 60, 0.001) if minutes else None
        run = train_run(
            plan.config,
            dataset,
            folder,
            resume=resume,
            force=force,
            allow_leak=allow_leak,
            trackers=trackers,  # type: ignore[arg-type]  # the two names above
            becomes_last=True,
            minutes=left,
            begin_from=plan.begin_from,
            on_plan=lambda plan: _say_plan(replace(plan, within_minutes=minutes), folder),
            on_progress=on_progress,
        )
    if int(os.environ.get("RANK", "0")):
        return  # one of several processes; the first one prints
    if minutes:
        _say_late((time.monotonic() - begin) / 60, minutes)
    _show_run(run, json=json)
    if json:
        return
    if dataset.clips_in("test"):
        next_step("spoter-kit eval {}", run.folder)
    else:
        say("no clip is left for a test: how often it is right, only new clips tell")
        next_step("spoter-kit export --onnx {}", run.folder)


def _show_finished(run: Run, *, json: bool) -> None:
    """Say that a run to resume has reached its end, and which training can begin from it."""
    data = shlex.quote(os.path.relpath(run.data["folder"])) if run.data else ""
    further = f"spoter-kit train {data} --from {shlex.quote(str(run.folder))}"
    say(f"{run.folder} is finished: no step is left. Train further in a new run", fix=further)
    _show_run(run, json=json)
    if not json:
        next_step("spoter-kit eval {}", run.folder)


def _show_run(run: Run, *, json: bool) -> None:
    if json:
        emit_json({"run": str(run.folder)} | run.info)
    else:
        show(run)


def show(run: Run) -> None:
    """Print top-1 on the validation, or in training where nothing was validated; with ``-v`` all figures."""
    metrics = run.info["metrics"]
    seconds = f"{metrics['seconds']:.0f} s"
    if scores := metrics.get("val"):
        kept = f"epoch {metrics['best_epoch']} of {metrics['epochs']} was the best; {seconds}"
        tell(f"{run.folder}: val top-1 {scores['top1']:.4f}; {kept}")
    else:
        learned = (
            f"top-1 {metrics['train_accuracy']:.4f} in training; " if "train_accuracy" in metrics else ""
        )
        tell(f"{run.folder}: {learned}no val split: the last epoch was kept; {seconds}")
    if is_verbose():
        rows = [("data", f"{run.info['data']['kind']}, split {run.info['data']['split']}")]
        if scores:
            rows.append(("val top-1 / top-5", f"{scores['top1']:.4f} / {scores['top5']:.4f}"))
            rows.append(("val macro F1", f"{scores['macro_f1']:.4f}"))
        emit_table("", ("", "value"), rows)
    for finding in metrics.get("findings", ()):
        say(finding["what"], fix=finding["fix"])


def _say_interrupted(folder: Path, place: Path) -> None:
    """Say what an interrupted training leaves, and the command that goes on."""
    from spoter_toolkit.runs.run import read_run, resume_command
    from spoter_toolkit.workspace import RUN_JSON, RUN_WEIGHTS

    if not (place / RUN_JSON).is_file():
        say("interrupted before the first step: nothing was written")
        return
    usable = place == folder and (folder / RUN_WEIGHTS).is_file()
    if usable:
        stays = "the weights so far are kept"
    elif place != folder:
        stays = f"{folder} is still the run that was there before"
    else:
        stays = "no epoch has ended, so there is no model yet"
    after = read_run(place).stopped_after()  # the steps of whole epochs: the bar counted further
    say(f"interrupted{f' in the epoch that began{after}' if after else ''}; {stays}")
    if usable:
        say(f"use them with: spoter-kit export --onnx {shlex.quote(str(folder))}")
    threads = os.environ.get("OMP_NUM_THREADS")  # as the whole training has them: see `say_busy`
    say(f"go on with: {f'OMP_NUM_THREADS={threads} ' if threads else ''}{resume_command(folder)}")


def _say_late(took: float, minutes: float) -> None:
    """Say that a training took longer than it was given: a step, or what follows the last one, was slow."""
    if took > max(1.05 * minutes, minutes + 0.1):
        say(f"took {took:.1f} of {minutes:g} minutes: the machine was busy")


def _say_plan(plan: Forecast, folder: Path) -> None:
    from spoter_toolkit.runs.run import resume_command
    from spoter_toolkit.training.length import ENOUGH_STEPS

    if int(os.environ.get("RANK", "0")):
        return
    if plan.done:
        is_slower = plan.times_as_long > 1 and busy_cores()
        go_on = f"Ctrl-C, then OMP_NUM_THREADS=1 {resume_command(folder)}"
        say(str(plan), fix=go_on if is_slower else "")
        return
    say(str(plan))
    if plan.is_short:
        say(f"too few steps: no data set was learned in fewer than {ENOUGH_STEPS}", fix=plan.longer)
