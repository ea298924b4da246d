"""The training loop, readable top to bottom: from a config and a dataset to a RUN folder."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch.nn import functional as F

from spoter_export.torch_runner import TorchRunner
from spoter_runtime._types import OnProgress as OnProgress
from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import NotFiniteError, require
from spoter_toolkit.data.dataset import Clip, Dataset
from spoter_toolkit.data.leaks import check_no_leak
from spoter_toolkit.evaluation import infer_clips
from spoter_toolkit.model.spoter import Spoter
from spoter_toolkit.runs.run import Run, read_run
from spoter_toolkit.runs.weights import load_body, save_weights
from spoter_toolkit.training.config import TrainConfig, flatten
from spoter_toolkit.training.epochs import Loop, diverged
from spoter_toolkit.training.forecast import Forecast, Pace, forecast, seconds_a_step
from spoter_toolkit.training.length import enough_minutes, is_learned, longer, most_steps, soonest_end
from spoter_toolkit.training.record import EVAL_BATCH, Progress, RunRecord, read_metrics, save_last
from spoter_toolkit.training.start import clips_to_train
from spoter_toolkit.training.threads import choose_threads, take_threads, threads_kept
from spoter_toolkit.workspace import (
    RUN_WEIGHTS,
    folder_lock,
    place_to_train,
    point_last_at,
    replace_run,
    without_link,
)

Tracker = Literal["tensorboard", "wandb"]

# Of a bounded training's time, for what follows the last step.
_FINISHING_S: Final = 5.0  # pictures and page take less than a second on an idle machine
_FINISHING_SHARE: Final = 0.05

# Telemetry of the Hugging Face hub, which Accelerate may import, and of W&B. They read this when they are
# imported; a value that the user has set stays.
_SWITCHED_OFF: Final = {"HF_HUB_DISABLE_TELEMETRY": "1", "WANDB_ERROR_REPORTING": "false"}


@threads_kept()
def train(
    config: TrainConfig,
    dataset: Dataset,
    folder: Path,
    *,
    resume: bool = False,
    force: bool = False,
    allow_leak: bool = False,
    trackers: tuple[Tracker, ...] = (),
    becomes_last: bool = False,
    minutes: float | None = None,
    begin_from: Run | None = None,
    on_plan: Callable[[Forecast], None] | None = None,
    on_progress: OnProgress | None = None,
) -> Run:
    """Train a model on the train split and write a RUN folder.

    The weights kept are those of the best validation accuracy (then the lower loss); without a validation
    split, those of the last epoch. The test split is never looked at.

    Args:
        config: settings; `config.model.num_classes` is replaced by the dataset's number of labels.
        dataset: split into train and, better, val.
        folder: the RUN; see `check_run_target`.
        resume: go on from the last epoch of `folder`, or of the run that is to replace it; the config and
            the data must be the same.
        force: replace an existing run when the new one is complete; until then see `place_to_train`.
        allow_leak: train although the splits share a signer or a clip.
        trackers: log to these as well; each needs its extra.
        becomes_last: point ``runs/last`` at the run, before the first step.
        minutes: bounds the training, from this call to its end: a step of a new one is timed here, no more
            are planned than fit, and fewer are taken where the machine turns out to be slower. See
            `choose_threads`.
        begin_from: a run whose weights a new training begins from, all but the last layer's; the model must
            be that run's, see `begun_from`.
        on_plan: called with what a new training is going to take, before its first step; later again where a
            step takes twice as long, or half as long, and nothing bounds the time.
        on_progress: called with (step, steps, what) after each optimiser step; before, with (0, 0, what).

    Raises:
        DataError: no train split, or a leak between the splits.
        ConfigError: the model fails its checks, or the loss stops being a number.
        CheckpointError: `begin_from` has other sizes, resuming with other settings or other data, or another
            process trains this run.
        MissingExtraError: a tracker is not installed.
    """
    ends = time.monotonic() + 60 * minutes - _finishing_s(minutes) if minutes else math.inf
    for switch, value in _SWITCHED_OFF.items():
        os.environ.setdefault(switch, value)
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    for tracker in trackers:
        require(tracker, extra=tracker)
    clips, val = clips_to_train(dataset), dataset.clips_in("val")
    if not allow_leak:
        check_no_leak(dataset)
    dataset = dataset.without_dropped_labels()
    model = replace(config.model, num_classes=len(dataset.labels))
    if dataset.coordinates == "normalised":
        model = replace(model, normalize="none", hand_place=False)
    config = replace(config, model=model)
    if not config.epochs:  # stated in run.json: a resumed run has the same bound
        bound = most_steps(config, len(clips), len(dataset.labels))
        config = replace(config, max_steps=bound)
    folder = without_link(folder)
    place = place_to_train(folder, resume=resume)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision, log_with=list(trackers) or None, project_dir=place
    )
    set_seed(config.seed)
    loop, pace, enough = Loop.begin(config, dataset, clips, accelerator), None, None
    about: dict[str, Any] = {"processes": accelerator.num_processes, "leak_allowed": allow_leak}
    if not resume and (minutes or on_plan):
        if on_progress:
            on_progress(0, 0, "timing a step")
        seconds, threads = choose_threads(loop) if minutes else (seconds_a_step(loop), None)
        if threads:
            about["threads"] = threads
        if minutes:
            left_s = ends - time.monotonic()
            fit = int(left_s / seconds)
            enough = enough_minutes(minutes, left_s, seconds) if fit < loop.length.end else None
            loop = loop.ending(ends, most_steps=fit)
            config = loop.config
        if on_plan:
            on_plan(plan := forecast(loop, seconds, enough, threads))
            pace = None if minutes else Pace(plan, on_plan)
    elif resume:
        take_threads(read_run(place))
        loop = replace(loop, ends=ends)  # it ends at its own last step, or when this time is over
    if begin_from and not resume:
        weights = begin_from.load_model().state_dict()
        load_body(loop.model, weights, where=f"{begin_from.folder}, to begin from")
    if begin_from and not resume:
        about["from"] = {"name": begin_from.name, "weights_sha256": begin_from.weights_sha256()}
    more = longer(config, len(loop.batches(0)), enough)
    record = RunRecord(
        folder=place,
        target=folder,
        config=config,
        dataset=dataset,
        longer=more,
        about=about,
        learned=begin_from.learned() if begin_from else frozenset(),
    )
    progress = Progress()
    with folder_lock(folder) if accelerator.is_main_process else nullcontext():
        if resume:
            progress = record.restore(loop.model, loop.optimizer, loop.schedule)
        elif accelerator.is_main_process:
            record.begin(force=force)
            if begin_from:  # a run that is resumed before its first epoch has ended begins there too
                save_last(place, loop.model, loop.optimizer, loop.schedule, progress)
        if becomes_last and accelerator.is_main_process:
            point_last_at(folder)
        steps = len(loop.batches(0))
        with record.stopping(progress, steps) if accelerator.is_main_process else nullcontext():
            loop = loop.prepared()
            if trackers:
                accelerator.init_trackers(folder.name, config=flatten(config.as_json()))
            if on_progress:
                on_progress(0, 0, "training")
            run_epochs(loop, record, progress, val, on_progress, pace)
            if accelerator.is_main_process:
                record.finish(val, progress)
        for tracker in accelerator.trackers:  # not end_training, which also ends the group of processes
            tracker.finish()
        if accelerator.is_main_process and place != folder:
            replace_run(place, folder)
    accelerator.wait_for_everyone()
    return read_run(folder)


def run_epochs(
    loop: Loop,
    record: RunRecord,
    progress: Progress,
    val: tuple[Clip, ...],
    on_progress: OnProgress | None,
    pace: Pace | None = None,
) -> None:
    """Train for the epochs that are left; after each, evaluate, and save what a resumed run needs."""
    config, accelerator, folder, length = loop.config, loop.accelerator, record.folder, loop.length
    epoch_steps = len(loop.batches(0))

    def report(done: int, what: str) -> None:
        begun = progress.epoch * epoch_steps
        decided = bool(config.epochs or progress.decay_from)
        end = length.end if decided else soonest_end(begun, epoch_steps, length.end)
        if pace:
            pace.after(begun + done, end, length.end)
        if on_progress:
            best = f"val {progress.best_accuracy:.3f}  " if progress.best_epoch else ""
            on_progress(begun + done, end, f"steps  {best}{what}")  # a narrow bar cuts its end

    while (step := progress.epoch * epoch_steps) < length.end and not progress.stopped(config.patience):
        begun = time.monotonic()
        row = loop.run_epoch(progress.epoch, report)
        progress.epoch, step = progress.epoch + 1, step + epoch_steps
        if accelerator.is_main_process:
            bare = accelerator.unwrap_model(loop.model)
            due = progress.epoch % config.evaluate_every == 0 or step >= length.end
            if val and due:
                row |= validate(bare, loop.dataset, val)
            if not val or (due and progress.improved(row["val_accuracy"], row["val_loss"])):
                save_weights(bare, folder / RUN_WEIGHTS)
            record.append(row)
            progress.end = steps_until(loop.ends, step, begun, epoch_steps, length.end)
            if not (config.epochs or progress.decay_from):
                labels = config.model.num_classes
                if is_learned(read_metrics(folder), step, progress.end, labels):
                    progress.decay_from = step
        if accelerator.trackers:
            accelerator.log({k: v for k, v in row.items() if k != "epoch"}, step=progress.epoch)
        progress.share(accelerator)
        length.end = progress.end
        if progress.decay_from == step < length.end:
            length.begin_decay(step, epoch_steps)
        if accelerator.is_main_process:
            save_last(folder, bare, loop.optimizer, loop.schedule, progress)


def steps_until(ends: float, step: int, begun: float, epoch_steps: int, bound: int) -> int:
    """Return the step at which a training must end: its bound, or before where time runs out.

    Args:
        ends: `time.monotonic()` at which the last epoch must have ended.
        step: optimiser steps so far.
        begun: `time.monotonic()` at which the last epoch began.
        epoch_steps: that it took.
        bound: the end as planned.
    """
    now = time.monotonic()
    if now + (bound - step) / epoch_steps * (now - begun) <= ends:
        return bound
    return min(bound, step + max(0, int((ends - now) / (now - begun))) * epoch_steps)


def _finishing_s(minutes: float) -> float:
    """Return what is kept of the time for the pictures and the page."""
    return min(_FINISHING_S, 60 * minutes * _FINISHING_SHARE)


def validate(model: Spoter, dataset: Dataset, clips: tuple[Clip, ...]) -> dict[str, float]:
    """Return loss and accuracy on the validation clips.

    Raises:
        ConfigError: the logits are no longer finite.
    """
    contract = GraphContract(labels=dataset.labels, max_frames=model.config.max_frames, max_batch=EVAL_BATCH)
    runner = TorchRunner(model, contract)
    try:
        logits = torch.from_numpy(infer_clips(runner, [dataset.poses_of(clip) for clip in clips]))
    except NotFiniteError as error:
        raise diverged(error) from error
    index = dataset.label_index()
    labels = torch.tensor([index[clip.label] for clip in clips])
    return {
        "val_loss": F.cross_entropy(logits, labels).item(),
        "val_accuracy": (logits.argmax(1) == labels).float().mean().item(),
    }
