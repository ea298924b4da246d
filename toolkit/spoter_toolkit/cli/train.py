"""`spoter-kit train`: a RUN from a dataset and a recipe."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from spoter_toolkit.cli.console import (
    ForceOption,
    JsonOption,
    OnProgress,
    emit_json,
    emit_table,
    in_a_row,
    next_step,
    progress_bar,
    say,
)


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

    from spoter_runtime.errors import ConfigError, from_options
    from spoter_toolkit.data.dataset import read_dataset
    from spoter_toolkit.runs.run import read_run
    from spoter_toolkit.training.loop import train as train_run
    from spoter_toolkit.training.recipes import DEFAULT, config_from_mapping, read_recipe
    from spoter_toolkit.workspace import (
        RUN_JSON,
        last_run,
        new_run_folder,
        place_to_train,
        point_last_at,
        without_link,
    )

    trackers = tuple(name for name, wanted in (("tensorboard", tensorboard), ("wandb", wandb)) if wanted)
    if resume:
        if data and not out and (data / RUN_JSON).exists():
            data, out = None, data
        folder = without_link(out) if out else last_run()
        begun = read_run(place_to_train(folder, resume=True))
        given = {"a recipe": recipe, "--set": setting, "--seed": seed}
        for name, value in given.items():
            if value is not None:
                raise typer.BadParameter(f"a resumed run keeps its own settings; leave out {name}")
        if begun.info["train"] is None or begun.data is None:
            raise typer.BadParameter(f"{folder} was imported, not trained: there is nothing to resume")
        config = config_from_mapping(begun.info["train"], where=f"{begun.folder}/run.json")
        dataset = read_dataset(data or begun.data["folder"])
    else:
        if data is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("several processes would each generate the data", fix="name a DATASET")
        settings = [*(setting or []), *([f"seed={seed}"] if seed is not None else [])]
        with nullcontext() if recipe and recipe.endswith(".toml") else from_options():
            config = read_recipe(recipe or DEFAULT, settings)
        with progress_bar() as on_progress:
            dataset = read_dataset(data or _synthetic_dataset(on_progress))
        folder = new_run_folder(out, f"{dataset.folder.name}-{config.model.architecture}", force=force)
    if dataset.origin.synthetic:
        say(f"{dataset.folder} is synthetic: nobody signed it. It shows that the tools work, nothing more.")
    say(f"training on {dataset.folder}: split {dataset.split}")
    place = place_to_train(folder, resume=resume)
    if place != folder:
        say(f"the new run is in {place} until it is complete; then it replaces {folder}")
    with progress_bar() as on_progress, _resume_told(folder, place):
        run = train_run(
            config,
            dataset,
            folder,
            resume=resume,
            force=force,
            allow_leak=allow_leak,
            trackers=trackers,  # type: ignore[arg-type]  # the two names above
            on_start=None if in_a_row() else lambda: point_last_at(folder),
            on_progress=on_progress,
        )
    if int(os.environ.get("RANK", "0")):
        return  # one of several processes, of which the first one speaks
    if json:
        emit_json({"run": str(run.folder)} | run.info)
        return
    emit_table(str(run.folder), ("", "value"), _rows(run.info))
    next_step("spoter-kit export --onnx {}", run.folder)


@contextmanager
def _resume_told(folder: Path, place: Path) -> Iterator[None]:
    """After Ctrl-C, say how to go on: nothing but the current epoch is lost."""
    try:
        yield
    except KeyboardInterrupt:
        stays = "" if place == folder else f"{folder} is still the run that was there before; "
        say(f"interrupted; {stays}go on with: spoter-kit train --resume -o {shlex.quote(str(folder))}")
        raise


def _rows(info: dict[str, Any]) -> list[tuple[str, str]]:
    metrics, data = info["metrics"], info["data"]
    rows = [
        ("data", f"{data['kind']}, split {data['split']}"),
        ("epochs", str(metrics["epochs"])),
        ("seconds", str(metrics["seconds"])),
    ]
    if "val" in metrics:
        scores = metrics["val"]
        rows.append(("best epoch", str(metrics["best_epoch"])))
        rows.append(("val top-1 / top-5", f"{scores['top1']:.4f} / {scores['top5']:.4f}"))
        rows.append(("val macro F1", f"{scores['macro_f1']:.4f}"))
    else:
        rows.append(("validation", "no val split: the last epoch's weights were kept"))
    return rows


def _synthetic_dataset(on_progress: OnProgress) -> Path:
    from spoter_toolkit.data.synth.generate import SynthSettings, synthesize
    from spoter_toolkit.workspace import DATASETS

    settings = SynthSettings()
    folder = DATASETS / f"synthetic-{settings.signs}"
    if not folder.is_dir():
        synthesize(folder, settings=settings, on_progress=on_progress)
    return folder
