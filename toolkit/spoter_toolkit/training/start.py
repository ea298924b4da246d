"""Start or resume a training: choose the settings, the data and the folder before torch is imported."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from spoter_runtime._types import OnProgress
from spoter_runtime.errors import ConfigError, DataError, UsageError
from spoter_toolkit.data.dataset import Clip, Dataset, read_dataset
from spoter_toolkit.data.split import first_split_command
from spoter_toolkit.runs.run import Run, read_run
from spoter_toolkit.training.config import TrainConfig
from spoter_toolkit.training.recipes import DEFAULT, config_from_mapping, read_recipe
from spoter_toolkit.workspace import (
    DATASETS,
    RUN_JSON,
    last_run,
    new_run_folder,
    place_to_train,
    without_link,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """The arguments of `spoter_toolkit.training.loop.train`, and the folder that it writes to first."""

    config: TrainConfig
    dataset: Dataset
    folder: Path  # the RUN
    place: Path  # `folder`, or a hidden one until the run is complete: see `place_to_train`
    resume: bool
    begin_from: Run | None = None  # whose weights it begins from


def plan_training(
    data: Path | None = None,
    out: Path | None = None,
    *,
    config: TrainConfig | None = None,
    resume: bool = False,
    force: bool = False,
    begin_from: Path | None = None,
    on_progress: OnProgress | None = None,
) -> TrainingPlan:
    """Choose the settings, the data and the folder of a training.

    Args:
        data: a DATASET; None generates a synthetic one of 60 signs, or takes that of the resumed run, which
            may be named here too.
        out: the RUN; None takes the next free ``runs/NAME-N``, or resumes the last run.
        config: settings; None takes the recipe `DEFAULT`. A resumed run has its own.
        resume: continue a run that was stopped.
        force: an existing run may be replaced.
        begin_from: a RUN whose weights and sizes the new one takes over, see `begun_from`.
        on_progress: called with (clips done, clips, what) where data is generated.

    Raises:
        ConfigError: settings for a resumed run, a run that was imported, or several processes that would
            each generate the data.
        CheckpointError: no run to resume, or its folder is not free.
        DataError: no such data, or no train split.
    """
    source = None
    if resume:
        if config is not None:
            raise ConfigError("a resumed run keeps its own settings")
        data, folder, begun = run_to_resume(data, out)
        if begun.info["train"] is None or begun.data is None:
            raise UsageError(f"{folder} was imported, not trained: there is nothing to resume")
        config = config_from_mapping(begun.info["train"], where=f"{begun.folder}/run.json")
        dataset = read_dataset(data or begun.data["folder"])
    else:
        if data is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("several processes would each generate the data", fix="name a DATASET")
        config = config or read_recipe(DEFAULT)
        dataset = read_dataset(data or synthetic_dataset(on_progress))
        if begin_from:
            source = read_run(begin_from)
            config = begun_from(config, source, dataset)
        folder = new_run_folder(out, f"{dataset.folder.name}-{config.model.architecture}", force=force)
        clips_to_train(dataset)  # an unsplit data set is found before torch is imported
    place = place_to_train(folder, resume=resume)
    return TrainingPlan(
        config=config, dataset=dataset, folder=folder, place=place, resume=resume, begin_from=source
    )


def run_to_resume(data: Path | None, out: Path | None) -> tuple[Path | None, Path, Run]:
    """Return the data that is named for a resumed run, the RUN's folder, and the run that goes on.

    Args:
        data: a DATASET, or, where `out` names none, the RUN.
        out: the RUN; None takes the last one.

    Raises:
        CheckpointError: no run there.
    """
    if data and not out and (data / RUN_JSON).exists():
        data, out = None, data
    folder = without_link(out) if out else last_run()
    return data, folder, read_run(place_to_train(folder, resume=True))


def begun_from(config: TrainConfig, source: Run, dataset: Dataset) -> TrainConfig:
    """Return the settings with the model of another run; dropout stays as it is.

    Raises:
        CheckpointError: the run has no weights yet.
        ConfigError: its model was made for other landmarks than the data has, or for shorter clips.
    """
    source.weights_path()
    normalises = source.config.normalize != "none"
    if normalises and dataset.coordinates == "normalised":
        raise ConfigError(
            f"{source.folder}: its model normalises landmarks, and those of {dataset.folder} are normalised "
            "already",
            fix="begin from a run on normalised landmarks, or import the data as they were detected",
        )
    trained = source.data
    if not normalises and dataset.coordinates == "image" and trained:
        raise ConfigError(
            f"{source.folder}: was trained on normalised landmarks, those of {dataset.folder} are as "
            "detected",
            fix="begin from a run on landmarks as detected",
        )
    longest, most = max(clip.frames for clip in dataset.clips), source.config.max_frames
    if most < min(longest, config.model.max_frames):
        raise ConfigError(
            f"{source.folder}: its model takes {most} frames, a clip of {dataset.folder} has {longest}",
            fix=f"begin from a run with model.max_seq_length {longest + 1} or more, or without --from",
        )
    return replace(config, model=replace(source.config, dropout=config.model.dropout))


def clips_to_train(dataset: Dataset) -> tuple[Clip, ...]:
    """Return the clips of the train split.

    Raises:
        DataError: there are none, or all have one label.
    """
    clips = dataset.clips_in("train")
    if not clips:
        raise DataError(f"{dataset.folder}: no clip is in the train split", fix=first_split_command(dataset))
    if len({clip.label for clip in clips}) == 1:
        raise DataError(
            f"{dataset.folder}: all clips of the train split have the label {clips[0].label}: there is "
            "nothing to tell apart",
            fix="import clips of other labels too, and split again",
        )
    return clips


def synthetic_dataset(on_progress: OnProgress | None = None) -> Path:
    """Return the folder of the default synthetic data set; generate it if it is not there."""
    from spoter_toolkit.data.synth.generate import SynthSettings, synthesize

    settings = SynthSettings()
    folder = DATASETS / f"synthetic-{settings.signs}"
    if not folder.is_dir():
        synthesize(folder, settings=settings, on_progress=on_progress)
    return folder
