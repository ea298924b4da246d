"""The training loop, readable top to bottom: from a config and a dataset to a RUN folder.

Everything random in an epoch follows from (seed, epoch, process), so a killed run that resumes at the start
of an epoch takes the same steps as one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spoter_export.torch_runner import TorchRunner
from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import CheckpointError, ConfigError, DataError, NotFiniteError, require
from spoter_runtime.files import remove, replacing
from spoter_runtime.progress import OnProgress as OnProgress
from spoter_runtime.runner import pad_clips
from spoter_toolkit.augment import AugmentConfig, augment
from spoter_toolkit.checkpoint import (
    Run,
    load_weights,
    read_run,
    save_weights,
    write_run_json,
)
from spoter_toolkit.checks import check_model
from spoter_toolkit.data.dataset import Clip, Dataset
from spoter_toolkit.data.split import check_no_leak
from spoter_toolkit.evaluation import Scores, infer_clips, scores_from_logits
from spoter_toolkit.locate import RUN_WEIGHTS
from spoter_toolkit.models import ModelConfig, Spoter, model_from_config
from spoter_toolkit.pictures import draw_confusion, draw_curves
from spoter_toolkit.runs import check_run_target

LAST: Final = "last.pt"
METRICS: Final = "metrics.jsonl"
_EVAL_BATCH: Final = 64
_DIVERGED: Final = (
    f"training has diverged; the last good epoch is in {LAST}. "
    "Fix: a smaller learning_rate, or a larger warmup_steps"
)

Tracker = Literal["tensorboard", "wandb"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training, but the data.

    Attributes:
        warmup_steps: optimiser steps of linear warm-up; then linear to 0 over the remaining ones.
        focal_gamma: the focusing exponent of Lin et al. 2017; only used by the focal loss.
        evaluate_every: epochs between evaluations on the validation split.
        balance: 0 takes every clip once an epoch; towards 1, clips of rare labels are drawn more often, until
            at 1 all labels are as frequent.
        patience: evaluations without a better validation accuracy before stopping; 0 never stops early.
        mixed_precision: ``"no"``, ``"fp16"`` or ``"bf16"``, as Accelerate takes it.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    epochs: int = 50
    batch_size: int = 16
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    warmup_steps: int = 1000
    loss: Literal["cross-entropy", "focal"] = "cross-entropy"
    focal_gamma: float = 2.0
    label_smoothing: float = 0.0
    balance: float = 0.0
    gradient_clip: float = 1.0
    evaluate_every: int = 1
    patience: int = 0
    seed: int = 0
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected at least 1")
        for name in ("learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected more than 0")
        for name in ("weight_decay", "warmup_steps", "focal_gamma", "patience", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected at least 0")
        for name in ("learning_rate", "weight_decay", "gradient_clip", "focal_gamma"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name}: {getattr(self, name)}, expected a finite number")
        if self.seed >= 2**32:
            raise ConfigError(f"seed: {self.seed}, expected less than 2**32")
        for name in ("label_smoothing", "balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected 0..1")
        choices = {"loss": ("cross-entropy", "focal"), "mixed_precision": ("no", "fp16", "bf16")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}: {getattr(self, name)!r}, expected one of {', '.join(allowed)}")


def train(
    config: TrainConfig,
    dataset: Dataset,
    folder: Path,
    *,
    resume: bool = False,
    force: bool = False,
    allow_leak: bool = False,
    trackers: tuple[Tracker, ...] = (),
    on_start: Callable[[], None] | None = None,
    on_progress: OnProgress | None = None,
) -> Run:
    """Train a model on the train split and write a RUN folder.

    The weights kept are those of the best validation accuracy (then the lower loss); without a validation
    split, those of the last epoch. The test split is never looked at.

    Args:
        config: settings; `config.model.num_classes` is replaced by the dataset's number of labels.
        dataset: split into train and, better, val.
        folder: the RUN; see `check_run_target`.
        resume: go on from the last epoch that `folder` holds; the config and the data must be the same.
        force: replace an existing run, once everything has been checked.
        allow_leak: train although the splits share a signer or a clip.
        trackers: log to these as well; each needs its extra.
        on_start: called when the run folder stands, before the first step.
        on_progress: called with (step, steps, what) after each optimiser step.

    Raises:
        DataError: no train split, or a leak between the splits.
        ConfigError: the model fails its checks, or the loss stops being a number.
        CheckpointError: resuming with other settings or other data.
        MissingExtraError: a tracker is not installed.
    """
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    for tracker in trackers:
        require(tracker, extra=tracker)
    splits = _Splits.of(dataset, allow_leak=allow_leak)
    config = _fitted(config, dataset)
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision, log_with=list(trackers) or None, project_dir=folder
    )
    set_seed(config.seed)
    model = model_from_config(config.model)
    check_model(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    steps_per_epoch = len(_epoch_batches(splits.train, config, 0, accelerator))
    steps = config.epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_then_linear(config.warmup_steps, steps))
    progress = _Progress()
    about = {"processes": accelerator.num_processes, "leak_allowed": allow_leak}
    if resume:
        progress = _restore(folder, model, optimizer, schedule, config, dataset, about)
    elif accelerator.is_main_process:
        check_run_target(folder, force=force)
        remove(folder)
        folder.mkdir(parents=True)
        _write_info(folder, config, dataset, "running", progress, about)
    if on_start and accelerator.is_main_process:
        on_start()
    model, optimizer = accelerator.prepare(model, optimizer)
    if trackers:
        accelerator.init_trackers(folder.name, config=_flat(config))

    def report(done: int, what: str) -> None:
        if on_progress:
            on_progress(done, steps, what)

    loop = _Loop(config, dataset, splits.train, model, optimizer, schedule, accelerator)

    while progress.epoch < config.epochs and not progress.stopped(config.patience):
        row = loop.run_epoch(
            progress.epoch,
            lambda done, what: report(progress.epoch * steps_per_epoch + done, what + progress.best_words()),
        )
        progress.epoch += 1
        if accelerator.is_main_process:
            bare = accelerator.unwrap_model(model)
            if splits.val and (
                progress.epoch % config.evaluate_every == 0 or progress.epoch == config.epochs
            ):
                row |= _evaluate(bare, dataset, splits.val)
                if progress.improved(row["val_accuracy"], row["val_loss"]):
                    save_weights(bare, folder / RUN_WEIGHTS)
            _append_metrics(folder, row)
            _save_last(folder, bare, optimizer, schedule, progress)
        if trackers:
            accelerator.log({k: v for k, v in row.items() if k != "epoch"}, step=progress.epoch)
        progress.share(accelerator)
    if accelerator.is_main_process:
        if not splits.val:
            save_weights(accelerator.unwrap_model(model), folder / RUN_WEIGHTS)
        _finish(folder, config, dataset, splits, progress, about)
    if trackers:
        accelerator.end_training()
    accelerator.wait_for_everyone()
    return read_run(folder)


@dataclass(frozen=True, slots=True)
class _Loop:
    """What one epoch needs, from the config to the optimiser."""

    config: TrainConfig
    dataset: Dataset
    clips: tuple[Clip, ...]
    model: Any  # Accelerate wraps it on several GPUs
    optimizer: Any
    schedule: torch.optim.lr_scheduler.LambdaLR
    accelerator: Any

    def run_epoch(self, epoch: int, on_step: Callable[[int, str], None]) -> dict[str, Any]:
        """Take one step a batch; return the epoch's row of metrics.jsonl, without validation."""
        from accelerate.utils import set_seed

        config, device = self.config, self.accelerator.device
        begin = time.perf_counter()
        seed = _mixed(config.seed, epoch, self.accelerator.process_index)
        set_seed(seed)  # dropout
        generator = torch.Generator(device).manual_seed(seed + 1)  # augmentation
        batches = _epoch_batches(self.clips, config, epoch, self.accelerator)
        loss, accuracy = 0.0, 0.0
        self.model.train()
        for step, clips in enumerate(batches, start=1):
            batch_loss, batch_accuracy = self._step(clips, generator)
            loss += batch_loss / len(batches)
            accuracy += batch_accuracy / len(batches)
            so_far = len(batches) / step
            on_step(
                step,
                f"epoch {epoch + 1}/{config.epochs}  loss {loss * so_far:.3f}  "
                f"accuracy {accuracy * so_far:.3f}",
            )
        seconds = time.perf_counter() - begin
        return {
            "epoch": epoch + 1,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "learning_rate": self.schedule.get_last_lr()[0],
            "seconds": round(seconds, 3),
            "clips_per_second": round(len(self.clips) / seconds, 1),
        }

    def _step(self, clips: list[Clip], generator: torch.Generator) -> tuple[float, float]:
        """Update the weights on one batch; return its loss and accuracy."""
        poses_NTL2, lengths_N, labels_N = _batch(self.dataset, clips, self.accelerator.device)
        poses_NTL2, lengths_N = augment(
            poses_NTL2,
            lengths_N,
            self.config.augment,
            generator,
            max_frames=self.config.model.max_frames,
            centre=(0.5, 0.5) if self.dataset.coordinates == "image" else (0.0, 0.0),
        )
        with self.accelerator.autocast():
            logits_NC = self.model(poses_NTL2.flatten(2), lengths_N)
        loss = _loss(logits_NC.float(), labels_N, self.config)
        if not loss.isfinite():
            raise ConfigError(f"the loss is {loss.item()}: {_DIVERGED}")
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        self.schedule.step()
        return loss.item(), (logits_NC.argmax(1) == labels_N).float().mean().item()


@dataclass(frozen=True, slots=True)
class _Splits:
    train: tuple[Clip, ...]
    val: tuple[Clip, ...]

    @classmethod
    def of(cls, dataset: Dataset, *, allow_leak: bool) -> _Splits:
        if not dataset.clips_in("train"):
            raise DataError(
                f"{dataset.folder}: no clip is in the train split. "
                f"Fix: spoter-kit data split {dataset.folder}"
            )
        if not allow_leak:
            check_no_leak(dataset)
        return cls(dataset.clips_in("train"), dataset.clips_in("val"))


@dataclass(slots=True)
class _Progress:
    """How far a training is, and what it has reached; what `last.pt` keeps besides the weights."""

    epoch: int = 0
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    best_epoch: int = 0
    evaluations_since_best: int = 0

    def improved(self, accuracy: float, loss: float) -> bool:
        """Note one evaluation; True when it is the best so far."""
        if (accuracy, -loss) <= (self.best_accuracy, -self.best_loss):
            self.evaluations_since_best += 1
            return False
        self.best_accuracy, self.best_loss, self.best_epoch = accuracy, loss, self.epoch
        self.evaluations_since_best = 0
        return True

    def stopped(self, patience: int) -> bool:
        return bool(patience) and self.evaluations_since_best >= patience

    def best_words(self) -> str:
        return f"  best val {self.best_accuracy:.3f}" if self.best_epoch else ""

    def share(self, accelerator: Any) -> None:
        """Tell the other processes what the main one found, so that all stop at the same epoch."""
        from accelerate.utils import broadcast_object_list

        if accelerator.num_processes > 1:
            shared = broadcast_object_list([asdict(self)])[0]
            for name, value in shared.items():
                setattr(self, name, value)


def _fitted(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """Return the config with the dataset's classes, and normalisation off for normalised clips."""
    model = replace(config.model, num_classes=len(dataset.labels))
    if dataset.coordinates == "normalised":
        model = replace(model, normalize="none")
    return replace(config, model=model)


def _mixed(seed: int, epoch: int, process: int) -> int:
    """Return one seed of 32 bits from three numbers, without the overlaps that a sum has."""
    return int(np.random.SeedSequence((seed, epoch, process)).generate_state(1)[0]) // 2


def _epoch_batches(
    clips: tuple[Clip, ...], config: TrainConfig, epoch: int, accelerator: Any
) -> list[list[Clip]]:
    """Return this process's batches of one epoch: shuffled, but with clips of similar length together."""
    generator = np.random.default_rng((config.seed, epoch))
    order = generator.permutation(len(clips))
    if config.balance:
        counts = Counter(clip.label for clip in clips)
        weights = np.array([counts[clip.label] ** -config.balance for clip in clips])
        order = generator.choice(len(clips), len(clips), p=weights / weights.sum())
    size = config.batch_size
    window = 16 * size  # sorting within a window keeps the order random and the padding small
    sorted_in_windows = [
        index
        for start in range(0, len(order), window)
        for index in sorted(order[start : start + window], key=lambda i: clips[i].frames)
    ]
    batches = [
        [clips[i] for i in sorted_in_windows[start : start + size]]
        for start in range(0, len(sorted_in_windows), size)
    ]
    generator.shuffle(batches)
    processes = accelerator.num_processes
    usable = len(batches) - len(batches) % processes if len(batches) > processes else len(batches)
    return batches[accelerator.process_index : usable : processes] or batches[:1]


def _batch(dataset: Dataset, clips: list[Clip], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    index = dataset.label_index()
    poses_NTD, lengths_N = pad_clips([dataset.poses_of(clip) for clip in clips])
    labels_N = torch.tensor([index[clip.label] for clip in clips])
    poses = torch.from_numpy(poses_NTD).to(device)
    return poses.reshape(*poses.shape[:2], -1, 2), torch.from_numpy(lengths_N).to(device), labels_N.to(device)


def _loss(logits_NC: Tensor, labels_N: Tensor, config: TrainConfig) -> Tensor:
    losses_N = F.cross_entropy(logits_NC, labels_N, reduction="none", label_smoothing=config.label_smoothing)
    if config.loss == "focal":  # alpha 1; p is the probability of the true class (Lin et al. 2017, eq. 4)
        p_N = logits_NC.softmax(1).gather(1, labels_N[:, None])[:, 0]
        # 0 ** gamma has no gradient for gamma below 1
        losses_N = (1 - p_N).clamp_min(1e-7) ** config.focal_gamma * losses_N
    return losses_N.mean()


def _warmup_then_linear(warmup: int, steps: int) -> Callable[[int], float]:
    # a short run keeps the shape of the schedule: warm-up takes at most a tenth of it
    warmup = min(warmup, max(1, steps // 10))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return max(0.0, (steps - step) / max(1, steps - warmup))

    return factor


def _evaluate(model: Spoter, dataset: Dataset, clips: tuple[Clip, ...]) -> dict[str, float]:
    contract = GraphContract(labels=dataset.labels, max_frames=model.config.max_frames, max_batch=_EVAL_BATCH)
    runner = TorchRunner(model, contract)
    try:
        logits = torch.from_numpy(infer_clips(runner, [dataset.poses_of(clip) for clip in clips]))
    except NotFiniteError as error:
        raise ConfigError(f"{error}: {_DIVERGED}") from error
    index = dataset.label_index()
    labels = torch.tensor([index[clip.label] for clip in clips])
    return {
        "val_loss": F.cross_entropy(logits, labels).item(),
        "val_accuracy": (logits.argmax(1) == labels).float().mean().item(),
    }


def _append_metrics(folder: Path, row: dict[str, Any]) -> None:
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl, one an epoch; empty when there are none."""
    path = folder / METRICS
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # a kill may leave half of the last line
            rows.append(json.loads(line))
    return rows


def _save_last(folder: Path, model: Spoter, optimizer: Any, schedule: Any, progress: _Progress) -> None:
    buffer = BytesIO()  # torch's own file writer turns a full disk into a RuntimeError
    torch.save(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "progress": asdict(progress),
        },
        buffer,
    )
    with replacing(folder / LAST) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _restore(
    folder: Path,
    model: Spoter,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    config: TrainConfig,
    dataset: Dataset,
    about: dict[str, Any],
) -> _Progress:
    """Load the last finished epoch into the parts of a training; nothing where none was finished."""
    run = read_run(folder)
    if run.info["train"] != _as_json(config):
        ours, theirs = _flat(config), _flatten(run.info["train"] or {})
        changed = sorted(k for k in ours | theirs if ours.get(k) != theirs.get(k))
        raise CheckpointError(f"{folder}: was begun with other settings: {', '.join(changed)}")
    if run.data is None or run.data["sha256"] != dataset.sha256:
        raise CheckpointError(f"{folder}: was begun on other data than {dataset.folder}")
    for name, value in about.items():
        if run.data[name] != value:
            raise CheckpointError(f"{folder}: was begun with {name} {run.data[name]}, now it is {value}")
    if not (folder / LAST).is_file():
        remove(folder / METRICS)
        return _Progress()
    for leftover in folder.glob(".*.tmp"):  # of a kill in the middle of a write
        remove(leftover)
    try:
        state = torch.load(folder / LAST, map_location="cpu", weights_only=True)
        load_weights(model, state["model"], where=str(folder / LAST))
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        progress = _Progress(**state["progress"])
    except Exception as error:  # torch raises a different error for every way a file can be damaged
        raise CheckpointError(
            f"{folder / LAST}: cannot be read: {error}. Fix: delete it, and --resume begins again"
        ) from error
    kept = [row for row in read_metrics(folder) if row["epoch"] <= progress.epoch]
    with replacing(folder / METRICS) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return progress


def _finish(
    folder: Path,
    config: TrainConfig,
    dataset: Dataset,
    splits: _Splits,
    progress: _Progress,
    about: dict[str, Any],
) -> None:
    """Draw the curves and the confusion of the kept weights, and note in run.json that the run is done."""
    draw_curves(read_metrics(folder), folder / "curves.png")
    scores = None
    if splits.val:
        run = read_run(folder)
        runner = TorchRunner(run.load_model(), run.contract(_EVAL_BATCH))
        logits = infer_clips(runner, [dataset.poses_of(clip) for clip in splits.val])
        scores = scores_from_logits(logits, splits.val, dataset.labels)
        draw_confusion(scores, folder / "confusion.png", title=f"{folder.name}, val ({dataset.split})")
    _write_info(folder, config, dataset, "done", progress, about, scores)


def _write_info(
    folder: Path,
    config: TrainConfig,
    dataset: Dataset,
    status: str,
    progress: _Progress,
    about: dict[str, Any],
    scores: Scores | None = None,
) -> None:
    metrics: dict[str, Any] = {"epochs": progress.epoch}
    if scores is not None:
        metrics |= {"best_epoch": progress.best_epoch, "val": scores.summary()}
    metrics["seconds"] = round(sum(row["seconds"] for row in read_metrics(folder)), 1)
    write_run_json(
        folder,
        name=folder.name,
        config=config.model,
        labels=dataset.labels,
        status=status,
        train=_as_json(config),
        data={
            "folder": str(dataset.folder.resolve()),
            "sha256": dataset.sha256,
            "kind": dataset.origin.kind,
            "synthetic": dataset.origin.synthetic,
            "split": dataset.split,
            "coordinates": dataset.coordinates,
        }
        | about,
        metrics=metrics,
        origin="trained",
    )


def _as_json(config: TrainConfig) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return values


def _flat(config: TrainConfig) -> dict[str, Any]:
    return _flatten(_as_json(config))


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
