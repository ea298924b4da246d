"""The training loop, readable top to bottom: from a config and a dataset to a RUN folder.

Everything random in an epoch follows from (seed, epoch, process), so a killed run that resumes at the start
of an epoch takes the same steps as one that was never interrupted.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spoter_export.torch_runner import TorchRunner
from spoter_runtime._types import OnProgress as OnProgress
from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import ConfigError, NotFiniteError, require
from spoter_toolkit.data.dataset import Clip, Dataset
from spoter_toolkit.data.leaks import check_no_leak
from spoter_toolkit.evaluation import infer_clips
from spoter_toolkit.model.self_test import check_model
from spoter_toolkit.model.spoter import Spoter, model_from_config
from spoter_toolkit.runs.run import Run, read_run
from spoter_toolkit.runs.weights import save_weights
from spoter_toolkit.training.augment import augment
from spoter_toolkit.training.batches import Batch, Take, longest, plan_epoch, read_batch, share_of
from spoter_toolkit.training.config import TrainConfig, flatten
from spoter_toolkit.training.cuda_graphs import FRAMES_STEP, StepGraphs, make_recordable
from spoter_toolkit.training.record import EVAL_BATCH, LAST, Progress, RunRecord, save_last
from spoter_toolkit.training.start import clips_to_train
from spoter_toolkit.workspace import (
    RUN_WEIGHTS,
    folder_lock,
    place_to_train,
    point_last_at,
    replace_run,
    without_link,
)

# Steps between looks at the loss: each one makes a GPU wait for the CPU, and the CPU for the GPU.
_STEPS_BETWEEN_LOOKS: Final = 16

Tracker = Literal["tensorboard", "wandb"]

# Telemetry of the Hugging Face hub, which Accelerate may import, and of W&B. They read this when they are
# imported; a value that the user has set stays.
_SWITCHED_OFF: Final = {"HF_HUB_DISABLE_TELEMETRY": "1", "WANDB_ERROR_REPORTING": "false"}


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
        on_progress: called with (step, steps, what) after each optimiser step.

    Raises:
        DataError: no train split, or a leak between the splits.
        ConfigError: the model fails its checks, or the loss stops being a number.
        CheckpointError: resuming with other settings or other data, or another process trains this run.
        MissingExtraError: a tracker is not installed.
    """
    for switch, value in _SWITCHED_OFF.items():
        os.environ.setdefault(switch, value)
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    for tracker in trackers:
        require(tracker, extra=tracker)
    clips, val = clips_to_train(dataset), dataset.clips_in("val")
    if not allow_leak:
        check_no_leak(dataset)
    model = replace(config.model, num_classes=len(dataset.labels))
    if dataset.coordinates == "normalised":
        model = replace(model, normalize="none")
    config = replace(config, model=model)
    folder = without_link(folder)
    place = place_to_train(folder, resume=resume)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision, log_with=list(trackers) or None, project_dir=place
    )
    set_seed(config.seed)
    loop = Loop.begin(config, dataset, clips, accelerator)
    about = {"processes": accelerator.num_processes, "leak_allowed": allow_leak}
    record = RunRecord(folder=place, target=folder, config=config, dataset=dataset, about=about)
    progress = Progress()
    with folder_lock(folder) if accelerator.is_main_process else nullcontext():
        if resume:
            progress = record.restore(loop.model, loop.optimizer, loop.schedule)
        elif accelerator.is_main_process:
            record.begin(force=force)
        if becomes_last and accelerator.is_main_process:
            point_last_at(folder)
        loop = loop.prepared()
        if trackers:
            accelerator.init_trackers(folder.name, config=flatten(config.as_json()))
        run_epochs(loop, record, progress, val, on_progress)
        if accelerator.is_main_process:
            if not val:
                save_weights(accelerator.unwrap_model(loop.model), place / RUN_WEIGHTS)
            record.finish(val, progress)
        for tracker in accelerator.trackers:  # not end_training, which also ends the group of processes
            tracker.finish()
        if accelerator.is_main_process and place != folder:
            replace_run(place, folder)
    accelerator.wait_for_everyone()
    return read_run(folder)


def run_epochs(
    loop: Loop, record: RunRecord, progress: Progress, val: tuple[Clip, ...], on_progress: OnProgress | None
) -> None:
    """Train for the epochs that are left; after each, evaluate, and save what a resumed run needs."""
    config, accelerator, folder = loop.config, loop.accelerator, record.folder
    steps_per_epoch = len(loop.batches(0))

    def report(done: int, what: str) -> None:
        if on_progress:
            done += progress.epoch * steps_per_epoch
            best = f"  best val {progress.best_accuracy:.3f}" if progress.best_epoch else ""
            on_progress(done, config.epochs * steps_per_epoch, what + best)

    while progress.epoch < config.epochs and not progress.stopped(config.patience):
        row = loop.run_epoch(progress.epoch, report)
        progress.epoch += 1
        if accelerator.is_main_process:
            bare = accelerator.unwrap_model(loop.model)
            due = progress.epoch % config.evaluate_every == 0 or progress.epoch == config.epochs
            if val and due:
                row |= validate(bare, loop.dataset, val)
                if progress.improved(row["val_accuracy"], row["val_loss"]):
                    save_weights(bare, folder / RUN_WEIGHTS)
            record.append(row)
            save_last(folder, bare, loop.optimizer, loop.schedule, progress)
        if accelerator.trackers:
            accelerator.log({k: v for k, v in row.items() if k != "epoch"}, step=progress.epoch)
        progress.share(accelerator)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """What one epoch needs, from the config to the optimiser."""

    config: TrainConfig
    dataset: Dataset
    clips: tuple[Clip, ...]
    model: Any  # Accelerate wraps it on several GPUs
    optimizer: Any
    schedule: torch.optim.lr_scheduler.LambdaLR
    accelerator: Any
    generator: torch.Generator  # what augmentation draws from, on the model's device
    graphs: StepGraphs | None = None  # the steps' recordings; None where steps are launched kernel by kernel

    @classmethod
    def begin(cls, config: TrainConfig, dataset: Dataset, clips: tuple[Clip, ...], accelerator: Any) -> Loop:
        """Make a fresh model and its optimiser.

        Raises:
            ConfigError: the model fails its checks.
        """
        model = model_from_config(config.model)
        check_model(model)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        planned = plan_epoch(clips, config, 0)
        steps = config.epochs * len(share_of(planned, accelerator.process_index, accelerator.num_processes))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, warmup_then_linear(config.warmup_steps, steps)
        )
        return cls(
            config=config,
            dataset=dataset,
            clips=clips,
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            accelerator=accelerator,
            generator=torch.Generator(accelerator.device),
        )

    def prepared(self) -> Loop:
        """Return the loop with the model on the accelerator's device, wrapped for several processes."""
        accelerator = self.accelerator
        model, optimizer = accelerator.prepare(self.model, self.optimizer)
        # Several processes wait for each other within a step, and fp16's scaler looks at every gradient.
        alone = accelerator.device.type == "cuda" and accelerator.num_processes == 1
        recordable = alone and self.config.cuda_graphs and accelerator.mixed_precision != "fp16"
        make_recordable(optimizer, accelerator.device, recordable=recordable)
        graphs = StepGraphs(self.generator) if recordable else None
        return replace(self, model=model, optimizer=optimizer, graphs=graphs)

    def batches(self, epoch: int) -> list[list[Take]]:
        """Return this process's batches of one epoch."""
        accelerator = self.accelerator
        planned = plan_epoch(self.clips, self.config, epoch)
        return share_of(planned, accelerator.process_index, accelerator.num_processes)

    def run_epoch(self, epoch: int, on_step: Callable[[int, str], None]) -> dict[str, Any]:
        """Take one step a batch; return the epoch's row of metrics.jsonl, without validation.

        Args:
            epoch: from 0.
            on_step: called with (step, words) after each step; the words are renewed every few steps.

        Raises:
            ConfigError: the loss is no longer a number.
        """
        from accelerate.utils import set_seed

        begin = time.perf_counter()
        # one seed of three numbers, without the overlaps that their sum has
        sequence = np.random.SeedSequence((self.config.seed, epoch, self.accelerator.process_index))
        seed = int(sequence.generate_state(1)[0]) // 2
        set_seed(seed)  # dropout
        self.generator.manual_seed(seed + 1)
        batches = self.batches(epoch)
        seen: list[Tensor] = []  # loss and accuracy of each step, left where they are until somebody looks
        loss = accuracy = 0.0
        self.model.train()
        for step, takes in enumerate(batches, start=1):
            frames = longest(takes)
            if self.graphs:  # few shapes: each is recorded
                whole = -(-frames // FRAMES_STEP) * FRAMES_STEP
                frames = max(frames, min(whole, self.config.model.max_frames))
            seen.append(self.step(read_batch(self.dataset, takes, self.accelerator.device, frames)))
            if step % _STEPS_BETWEEN_LOOKS == 1 or step == len(batches):
                loss, accuracy = mean_of_steps(seen)
            on_step(
                step,
                f"epoch {epoch + 1}/{self.config.epochs}  loss {loss:.3f}  accuracy {accuracy:.3f}",
            )
        seconds = time.perf_counter() - begin
        return {
            "epoch": epoch + 1,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "learning_rate": float(self.schedule.get_last_lr()[0]),
            "seconds": round(seconds, 3),
            "clips_per_second": round(len(self.clips) / seconds, 1),
        }

    def step(self, batch: Batch) -> Tensor:
        """Update weights and learning rate on one batch; return loss and accuracy (2,) on the device."""
        seen = self.graphs.run(self.update, batch) if self.graphs else self.update(batch)
        self.schedule.step()
        return seen

    def update(self, batch: Batch) -> Tensor:
        """Do a step's work on the device, without waiting for it."""
        poses_NTL2 = augment(
            batch.poses_NTL2,
            batch.lengths_N,
            self.config.augment,
            self.generator,
            centre=(0.5, 0.5) if self.dataset.coordinates == "image" else (0.0, 0.0),
        )
        with self.accelerator.autocast():
            logits_NC = self.model(poses_NTL2.flatten(2), batch.lengths_N)
        loss = loss_of(logits_NC.float(), batch.labels_N, self.config)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        return torch.stack((loss.detach(), (logits_NC.argmax(1) == batch.labels_N).float().mean()))


def mean_of_steps(seen: list[Tensor]) -> tuple[float, float]:
    """Return the mean loss and accuracy of some steps; waits for the device.

    Raises:
        ConfigError: the loss is no longer a number.
    """
    loss, accuracy = torch.stack(seen).cpu().double().mean(0).tolist()
    if not math.isfinite(loss):
        raise diverged(f"the loss is {loss}")
    return loss, accuracy


def diverged(found: object) -> ConfigError:
    """Return the error of a training whose numbers are no longer finite."""
    return ConfigError(
        f"{found}: training has diverged; the last good epoch is in {LAST}",
        fix="a smaller learning_rate, or a larger warmup_steps",
    )


def loss_of(logits_NC: Tensor, labels_N: Tensor, config: TrainConfig) -> Tensor:
    """Return the mean loss of a batch."""
    losses_N = F.cross_entropy(logits_NC, labels_N, reduction="none", label_smoothing=config.label_smoothing)
    if config.loss == "focal":  # alpha 1; p is the probability of the true class (Lin et al. 2017, eq. 4)
        p_N = logits_NC.softmax(1).gather(1, labels_N[:, None])[:, 0]
        # 0 ** gamma has no gradient for gamma below 1
        losses_N = (1 - p_N).clamp_min(1e-7) ** config.focal_gamma * losses_N
    return losses_N.mean()


def warmup_then_linear(warmup: int, steps: int) -> Callable[[int], float]:
    """Return step → factor of the learning rate: linear warm-up, then linear to 0.

    A short run keeps the shape of the schedule: warm-up takes at most a tenth of it.
    """
    warmup = min(warmup, max(1, steps // 10))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return max(0.0, (steps - step) / max(1, steps - warmup))

    return factor


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
