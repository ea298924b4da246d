"""What a training keeps in its RUN folder: run.json, metrics.jsonl, and last.pt to resume from."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import torch

from spoter_export.torch_runner import TorchRunner
from spoter_runtime.errors import CheckpointError
from spoter_runtime.files import read_text, remove, replacing, write_text
from spoter_runtime.strict import expect, json_from_text
from spoter_toolkit.data.dataset import Clip, Dataset
from spoter_toolkit.data.leaks import names_of
from spoter_toolkit.evaluation import infer_clips, scores_from_logits
from spoter_toolkit.model.spoter import Spoter
from spoter_toolkit.runs.run import RUNNING, STOPPED, mark_status, read_run, write_run_json
from spoter_toolkit.runs.weights import load_weights
from spoter_toolkit.training.config import TrainConfig, flatten
from spoter_toolkit.training.findings import findings_of
from spoter_toolkit.training.page import html_from_run
from spoter_toolkit.training.plots import draw_accuracy, draw_confusion, draw_curves
from spoter_toolkit.workspace import (
    RUN_JSON,
    RUN_LEARNED,
    check_run_target,
    hidden_beside,
    mark_as_replacing,
)

LAST: Final = "last.pt"
METRICS: Final = "metrics.jsonl"
REPORT: Final = "report.html"
EVAL_BATCH: Final = 64


@dataclass(slots=True)
class Progress:
    """How far a training is, and what it has reached; what `last.pt` keeps besides the weights."""

    epoch: int = 0
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    best_epoch: int = 0
    evaluations_since_best: int = 0
    end: int = 0  # the last step, as far as is known; 0: nothing was trained yet
    decay_from: int = 0  # step from which an automatic length lets the rate fall; 0: not yet decided

    def improved(self, accuracy: float, loss: float) -> bool:
        """Note one evaluation; True when it is the best so far."""
        if (accuracy, -loss) <= (self.best_accuracy, -self.best_loss):
            self.evaluations_since_best += 1
            return False
        self.best_accuracy, self.best_loss, self.best_epoch = accuracy, loss, self.epoch
        self.evaluations_since_best = 0
        return True

    def stopped(self, patience: int) -> bool:
        """Tell whether `patience` evaluations have passed without a better one; 0 never stops."""
        return bool(patience) and self.evaluations_since_best >= patience

    def share(self, accelerator: Any) -> None:
        """Tell the other processes what the main one found, so that all stop at the same epoch."""
        from accelerate.utils import broadcast_object_list

        if accelerator.num_processes > 1:
            for name, value in broadcast_object_list([asdict(self)])[0].items():
                setattr(self, name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One training's folder, and what run.json states besides the metrics."""

    folder: Path  # where the run is written
    target: Path  # the folder that it is for; another one where it is to replace a run, see `place_to_train`
    config: TrainConfig
    dataset: Dataset
    longer: str  # what gives it more steps, see `length.longer`
    about: dict[str, Any]  # facts that a resumed training must share, such as the number of processes
    learned: frozenset[str] = frozenset()  # `Run.learned` of the run that it begins from

    def begin(self, *, force: bool) -> None:
        """Make a folder with nothing but a run.json.

        Raises:
            CheckpointError: see `check_run_target`.
        """
        check_run_target(self.target, force=force)
        with replacing(self.folder) as temporary:
            temporary.mkdir()
            if self.folder != self.target:
                mark_as_replacing(temporary)
            self._write_info(temporary, RUNNING, {"epochs": 0})
            names = {*self.learned, *names_of(self.dataset, self.dataset.clips_in("train"))}
            write_text(temporary / RUN_LEARNED, "".join(f"{name}\n" for name in sorted(names)))
        if self.folder == self.target:
            remove(hidden_beside(self.target))  # or --resume would go on with what was begun there

    @contextlib.contextmanager
    def stopping(self, progress: Progress, epoch_steps: int) -> Iterator[None]:
        """Context manager of a training: if it does not reach its end, run.json says where it was stopped.

        Args:
            progress: of the training, up to date.
            epoch_steps: optimiser steps of an epoch.
        """
        try:
            yield
        except BaseException:  # Ctrl-C and SIGTERM too
            with contextlib.suppress(OSError, CheckpointError):  # the disk is full, or the folder is gone
                seconds = round(sum(row["seconds"] for row in read_metrics(self.folder)), 1)
                steps = {"steps": progress.epoch * epoch_steps, "most_steps": progress.end}
                metrics = {"epochs": progress.epoch, "seconds": seconds} | (steps if progress.epoch else {})
                mark_status(self.folder, STOPPED, metrics)
            raise

    def append(self, row: dict[str, Any]) -> None:
        """Add one epoch's row to metrics.jsonl."""
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def restore(
        self,
        model: Spoter,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LambdaLR,
    ) -> Progress:
        """Load the last finished epoch into the parts of a training; nothing where none was finished.

        Raises:
            CheckpointError: begun with other settings, on other data, or last.pt is damaged.
        """
        folder = self.folder
        self._check_same()
        mark_status(folder, RUNNING)
        for leftover in folder.glob(".*.tmp"):  # of a kill in the middle of a write
            remove(leftover)
        if not (folder / LAST).is_file():
            remove(folder / METRICS)
            return Progress()
        try:
            state = torch.load(folder / LAST, map_location="cpu", weights_only=True)
            load_weights(model, state["model"], where=str(folder / LAST))
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            progress = Progress(**state["progress"])
        except Exception as error:  # torch raises a different error for every way a file can be damaged
            raise CheckpointError(
                f"{folder / LAST}: cannot be read: {error}", fix="delete it, and --resume begins again"
            ) from error
        kept = [row for row in read_metrics(folder) if row["epoch"] <= progress.epoch]
        with replacing(folder / METRICS) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        return progress

    def _check_same(self) -> None:
        run = read_run(self.folder)
        stated = run.info["train"] or {}
        # What an older run.json does not state was as it is by default.
        ours, theirs = (flatten(values) for values in (self.config.as_json(), TrainConfig().as_json()))
        theirs = theirs | flatten(stated) if stated else {}
        changed = sorted(k for k in ours | theirs if ours.get(k) != theirs.get(k))
        if changed:
            raise CheckpointError(f"{self.folder}: was begun with other settings: {', '.join(changed)}")
        if run.data is None or run.data["sha256"] != self.dataset.sha256:
            raise CheckpointError(
                f"{self.folder}: was begun on other data than {self.dataset.folder}",
                fix=f"spoter-kit train {shlex.quote(str(self.dataset.folder))} begins a new run",
            )
        for name, now in self.about.items():
            if (then := run.data[name]) != now:
                raise CheckpointError(f"{self.folder}: was begun with {name} {then}, now it is {now}")

    def finish(self, val: tuple[Clip, ...], progress: Progress) -> None:
        """Draw the kept weights' pictures, write the page with the findings, and complete run.json."""
        folder, dataset = self.folder, self.dataset
        rows = read_metrics(folder)
        metrics: dict[str, Any] = {"epochs": progress.epoch}
        if rows:
            metrics["train_accuracy"] = rows[-1]["train_accuracy"]
        scores = None
        if val:
            run = read_run(folder)
            runner = TorchRunner(run.load_model(), run.contract(EVAL_BATCH))
            logits = infer_clips(runner, [dataset.poses_of(clip) for clip in val])
            scores = scores_from_logits(logits, val, dataset.labels)
            title = f"{self.target.name}, val ({dataset.split})"
            draw_confusion(scores, folder / "confusion.png", title=title)
            draw_accuracy(scores, folder / "accuracy.png", title=title)
            metrics |= {"best_epoch": progress.best_epoch, "val": scores.summary()}
        found = findings_of(rows, dataset, scores, longer=self.longer)
        best = progress.best_epoch if val else None
        draw_curves(rows, folder / "curves.png", best_epoch=best, notes=[str(one) for one in found])
        page = html_from_run(self.target.name, dataset, rows, scores, found)
        write_text(folder / REPORT, page)
        self._write_info(folder, "done", metrics | {"findings": [one.as_json() for one in found]})

    def _begun(self) -> dict[str, Any]:
        """Return what run.json states of how the run began; a resumed one keeps it."""
        stated = read_run(self.folder).data if (self.folder / RUN_JSON).is_file() else None
        return {name: stated[name] for name in ("from", "threads") if stated and name in stated}

    def _write_info(self, folder: Path, status: str, metrics: dict[str, Any]) -> None:
        seconds = round(sum(row["seconds"] for row in read_metrics(folder)), 1)
        dataset = self.dataset
        write_run_json(
            folder,
            name=self.target.name,
            config=self.config.model,
            labels=dataset.labels,
            status=status,
            train=self.config.as_json(),
            data={
                "folder": str(dataset.folder.resolve()),
                "sha256": dataset.sha256,
                "kind": dataset.origin.kind,
                "synthetic": dataset.origin.synthetic,
                "split": dataset.split,
                "coordinates": dataset.coordinates,
                "landmarker": dataset.origin.landmarker,
            }
            | self._begun()
            | self.about,
            metrics=metrics | {"seconds": seconds},
            origin="trained",
        )


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl, one an epoch; empty when there are none."""
    path = folder / METRICS
    if not path.is_file():
        return []
    rows = []
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}", fix="delete it") from error
    for line in lines:
        with contextlib.suppress(ValueError):  # a kill may leave half of the last line
            row = expect(json_from_text(line), dict[str, int | float | None], "")
            if {"epoch", "seconds"} <= row.keys():
                rows.append(row)
    return rows


def save_last(folder: Path, model: Spoter, optimizer: Any, schedule: Any, progress: Progress) -> None:
    """Write last.pt atomically.

    Raises:
        OSError: no room; the file of the epoch before stays.
    """
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
