"""An epoch's optimiser steps: model, optimiser, batches, loss.

Everything random in an epoch follows from (seed, epoch, process), so a killed run that resumes at the start
of an epoch takes the same steps as one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spoter_runtime.errors import ConfigError
from spoter_toolkit.data.dataset import Clip, Dataset
from spoter_toolkit.model.self_test import check_model
from spoter_toolkit.model.spoter import model_from_config
from spoter_toolkit.training.augment import augment
from spoter_toolkit.training.batches import Batch, Take, longest, plan_epoch, read_batch, share_of
from spoter_toolkit.training.config import TrainConfig
from spoter_toolkit.training.cuda_graphs import FRAMES_STEP, StepGraphs, make_recordable
from spoter_toolkit.training.length import Schedule, schedule_of
from spoter_toolkit.training.record import LAST

# Steps between looks at the loss: each one makes a GPU wait for the CPU, and the CPU for the GPU.
_STEPS_BETWEEN_LOOKS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """What one epoch needs, from the config to the optimiser."""

    config: TrainConfig
    dataset: Dataset
    clips: tuple[Clip, ...]
    model: Any  # Accelerate wraps it on several GPUs
    optimizer: Any
    schedule: torch.optim.lr_scheduler.LambdaLR
    length: Schedule  # what `schedule` asks
    accelerator: Any
    generator: torch.Generator  # what augmentation draws from, on the model's device
    ends: float = math.inf  # `time.monotonic()` after which an epoch takes no further step
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
        epoch_steps = len(share_of(planned, accelerator.process_index, accelerator.num_processes))
        length = schedule_of(config, epoch_steps)
        return cls(
            config=config,
            dataset=dataset,
            clips=clips,
            model=model,
            optimizer=optimizer,
            schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, length),
            length=length,
            accelerator=accelerator,
            generator=torch.Generator(accelerator.device),
        )

    def ending(self, ends: float, *, most_steps: int) -> Loop:
        """Return the loop with a length of so many steps at most, and the time at which it must end."""
        config, most_steps = self.config, max(1, most_steps)
        if config.epochs:
            epochs = min(config.epochs, most_steps // len(self.batches(0)))
            config = replace(config, epochs=max(1, epochs))
        else:
            config = replace(config, max_steps=min(most_steps, config.max_steps))
        length = schedule_of(config, len(replace(self, config=config).batches(0)))
        schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, length)
        return replace(self, config=config, length=length, schedule=schedule, ends=ends)

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
        alone = self.accelerator.num_processes == 1  # several take the same number of steps
        for step, takes in enumerate(batches, start=1):
            frames = longest(takes)
            if self.graphs:  # few shapes: each is recorded
                whole = -(-frames // FRAMES_STEP) * FRAMES_STEP
                frames = max(frames, min(whole, self.config.model.max_frames))
            seen.append(self.step(read_batch(self.dataset, takes, self.accelerator.device, frames)))
            if alone and time.monotonic() > self.ends:
                batches = batches[:step]
            if step % _STEPS_BETWEEN_LOOKS == 1 or step == len(batches):
                loss, accuracy = mean_of_steps(seen)
            on_step(step, f"accuracy {accuracy:.3f}  loss {loss:.3f}")
            if step == len(batches):
                break
        seconds = time.perf_counter() - begin
        return {
            "epoch": epoch + 1,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "learning_rate": float(self.schedule.get_last_lr()[0]),
            "seconds": round(seconds, 3),
            "clips_per_second": round(sum(map(len, batches)) / seconds, 1),
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
