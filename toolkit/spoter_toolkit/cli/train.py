"""`spoter-kit train`: a RUN from a dataset and a recipe."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from spoter_toolkit.cli.console import (
    ForceOption,
    JsonOption,
    emit_json,
    emit_table,
    in_a_row,
    next_step,
    progress_bar,
    say,
)


class TrainCommand(TyperCommand):
    """The verb `train`, which names ``--set epochs=5`` where somebody types ``--epochs 5``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse the words behind the verb.

        Raises:
            UsageError: an option is the name of a setting.
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
                    f"{option}: is a setting, no option",
                    fix=f"--set {setting}={value if given else following}",
                )
        return super().parse_args(ctx, args)


def train(
    data: Annotated[
        Path | None, typer.Argument(help="DATASET; default: a generated synthetic one (60 signs).")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="spoter, bdsl-spoter, strong, demo, or a .toml file; default: strong.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting: --set epochs=10.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="RUN folder; default: runs/NAME.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: the recipe's.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with a run that was stopped: RUN or -o RUN; default: the last one.",
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
    import os
    from contextlib import nullcontext

    from spoter_runtime.errors import UsageError, from_options, require
    from spoter_toolkit.training.recipes import DEFAULT, read_recipe
    from spoter_toolkit.training.start import plan_training

    trackers = tuple(name for name, wanted in (("tensorboard", tensorboard), ("wandb", wandb)) if wanted)
    for tracker in trackers:
        require(tracker, extra=tracker)
    config = None
    if resume:
        for option, value in {"a recipe": recipe, "--set": setting, "--seed": seed}.items():
            if value is not None:
                raise UsageError(f"a resumed run keeps its own settings; leave out {option}")
    else:
        settings = [*(setting or []), *([f"seed={seed}"] if seed is not None else [])]
        with nullcontext() if recipe and recipe.endswith(".toml") else from_options():
            config = read_recipe(recipe or DEFAULT, settings)
    with progress_bar() as on_progress:
        plan = plan_training(data, out, config=config, resume=resume, force=force, on_progress=on_progress)
    dataset, folder, place = plan.dataset, plan.folder, plan.place
    if dataset.origin.synthetic:
        say(f"{dataset.folder} is synthetic: nobody signed it. It shows that the tools work, nothing more.")
    say(f"training on {dataset.folder}: split {dataset.split}")
    if place != folder:
        say(f"the new run is in {place} until it is complete; then it replaces {folder}")
    from spoter_toolkit.training.loop import train as train_run  # not before: torch

    try:
        with progress_bar() as on_progress:
            run = train_run(
                plan.config,
                dataset,
                folder,
                resume=resume,
                force=force,
                allow_leak=allow_leak,
                trackers=trackers,  # type: ignore[arg-type]  # the two names above
                becomes_last=not in_a_row(),
                on_progress=on_progress,
            )
    except KeyboardInterrupt:  # nothing but the current epoch is lost
        stays = "" if place == folder else f"{folder} is still the run that was there before; "
        say(f"interrupted; {stays}go on with: spoter-kit train --resume -o {shlex.quote(str(folder))}")
        raise
    if int(os.environ.get("RANK", "0")):
        return  # one of several processes; the first one prints
    if json:
        emit_json({"run": str(run.folder)} | run.info)
        return
    metrics = run.info["metrics"]
    rows = [
        ("data", f"{run.info['data']['kind']}, split {run.info['data']['split']}"),
        ("epochs", metrics["epochs"]),
        ("seconds", metrics["seconds"]),
    ]
    if scores := metrics.get("val"):
        rows += [
            ("best epoch", metrics["best_epoch"]),
            ("val top-1 / top-5", f"{scores['top1']:.4f} / {scores['top5']:.4f}"),
            ("val macro F1", f"{scores['macro_f1']:.4f}"),
        ]
    else:
        rows.append(("validation", "no val split: the last epoch's weights were kept"))
    emit_table(str(run.folder), ("", "value"), rows)
    if dataset.clips_in("test"):
        next_step("spoter-kit eval {}", run.folder)
    else:
        next_step("spoter-kit export --onnx {}", run.folder)
