"""Train and test every fold, in one process a core; a cross-validation that was stopped goes on."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from spoter_runtime._types import OnProgress
from spoter_runtime.errors import CheckpointError
from spoter_runtime.files import check_replaceable, remove, replacing, write_text
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.machine import usable_cores
from spoter_runtime.strict import expect, read_array, read_json
from spoter_toolkit.crossval.folds import Fold, Folds
from spoter_toolkit.data.dataset import Clip, Dataset, read_dataset
from spoter_toolkit.report.json_text import json_text
from spoter_toolkit.report.words import plural
from spoter_toolkit.runs.run import read_run
from spoter_toolkit.training.config import TrainConfig, flatten
from spoter_toolkit.worker_process import follow_parent
from spoter_toolkit.workspace import RUN_JSON

CROSSVAL_JSON: Final = "crossval.json"  # marks the folder of a cross-validation
_MOST_BYTES: Final = 1 << 28  # of crossval.json, and of a fold's answers
ANSWERS: Final = "answers.npy"  # a fold's logits of its test clips; its presence ends the fold
_POLL_S: Final = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides the weights of every fold, but the data."""

    config: TrainConfig
    minutes: float | None = None  # for each fold, see `train`
    begin_from: Path | None = None  # a RUN

    def as_json(self) -> dict[str, Any]:
        """Return them as plain JSON values; a run that is begun from is known by its weights."""
        source = read_run(self.begin_from).weights_sha256() if self.begin_from else None
        return self.config.as_json() | {"minutes": self.minutes, "from": source}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A fold for another process: the clips without the landmarks, which it reads itself."""

    data: Path
    clips: tuple[Clip, ...]
    split: str
    sha256: str
    folder: Path  # the fold's RUN
    settings: Settings

    def dataset(self) -> Dataset:
        """Return the fold's dataset."""
        whole = read_dataset(self.data, check_hashes=False)  # checked when the folds were made
        return replace(whole, clips=self.clips, split=self.split, sha256=self.sha256)


def begin(out: Path, folds: Folds, settings: Settings, *, force: bool = False) -> None:
    """Make the folder of a cross-validation, or check that the one that is there is this one.

    Raises:
        CheckpointError: something else is there, or a cross-validation with other settings or other data.
    """
    path = out / CROSSVAL_JSON
    stated: dict[str, Any] = {
        "settings": settings.as_json(),
        "folds": [_stated(fold) for fold in folds.folds],
    }
    if path.is_file() and not force:
        before = begun(out)
        changed = [name for name in ("settings", "folds") if before.get(name) != stated[name]]
        if changed:
            ours, theirs = (flatten(one.get("settings") or {}) for one in (stated, before))
            other = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
            what = f"settings: {', '.join(other)}" if other else "data, or other folds"
            raise CheckpointError(f"{out}: was begun with other {what}", fix="another -o, or --force")
        return
    check_replaceable(
        out, CROSSVAL_JSON, force=force, foreign="is no cross-validation", error=CheckpointError
    )
    remove(out)
    out.mkdir(parents=True)
    write_text(path, json_text({"status": "running", **stated}) + "\n")


def begun(out: Path) -> dict[str, Any]:
    """Return the content of crossval.json.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = out / CROSSVAL_JSON
    try:
        found: dict[str, Any] = expect(read_json(path, most_bytes=_MOST_BYTES), dict[str, Any], "")
        expect(found.get("settings"), dict[str, Any], "settings")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}", fix="another -o, or --force") from error
    return found


def _stated(fold: Fold) -> dict[str, Any]:
    return {"name": fold.name, "tested": fold.tested, "sha256": fold.dataset.sha256}


def train_folds(
    out: Path,
    folds: Folds,
    settings: Settings,
    *,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> list[Float32Array]:
    """Train and test the folds that are not done; return the logits of each fold's test clips.

    Every fold is a RUN and takes one thread, so that its weights do not depend on how many run beside it.

    Args:
        out: from `begin`.
        folds: from `folds_of`.
        settings: of each fold's training.
        workers: processes; None means one a core, on a machine with GPUs one a GPU.
        on_progress: called with (steps, steps of all folds, folds that are done) now and then.

    Raises:
        CheckpointError: a process was killed; what was done is kept.
        SpoterError: a fold cannot be trained, see `train`.
    """
    works = [
        Work(
            data=fold.dataset.folder,
            clips=fold.dataset.clips,
            split=fold.dataset.split,
            sha256=fold.dataset.sha256,
            folder=out / fold.name,
            settings=settings,
        )
        for fold in folds.folds
    ]
    left = [work for work in works if not (work.folder / ANSWERS).is_file()]
    if left:
        _in_processes(left, len(works), workers, on_progress)
    return [_answers(work.folder / ANSWERS) for work in works]


def _answers(path: Path) -> Float32Array:
    try:
        with path.open("rb") as file:
            return read_array(file, most_bytes=_MOST_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read: {error}", fix="delete it, and run it again"
        ) from error


def _in_processes(
    works: Sequence[Work], count: int, workers: int | None, on_progress: OnProgress | None
) -> None:
    import torch

    gpus = torch.cuda.device_count()
    workers = min(workers or gpus or usable_cores(), len(works))
    context = multiprocessing.get_context("spawn")
    shared: Any = context.Array(ctypes.c_int64, 1 + 2 * len(works))  # whether to stop; steps, all, of each
    order: Any = context.Value(ctypes.c_int64, 0)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(shared, order, gpus)
    )
    try:
        waiting = {pool.submit(_work, number, work) for number, work in enumerate(works)}
        while waiting:
            done, waiting = wait(waiting, _POLL_S, FIRST_COMPLETED)
            for future in done:
                future.result()
            if on_progress:
                _report(on_progress, list(shared), count - len(waiting), count)
    except BrokenProcessPool as error:
        raise CheckpointError(
            "a process that trains a fold ended (killed by hand, or by the system when memory ran out); what "
            "was done is kept",
            fix="run the same command again: it goes on; --workers 1 takes the least memory",
        ) from error
    finally:
        shared[0] = 1
        pool.shutdown(wait=True, cancel_futures=True)


def _report(on_progress: OnProgress, shared: list[int], ended: int, count: int) -> None:
    steps, ends = shared[1::2], [end for end in shared[2::2] if end]
    if ends:  # folds that have not begun are taken for as long as those that have
        total = sum(ends) + round(sum(ends) / len(ends)) * (len(steps) - len(ends))
        on_progress(sum(steps), total, f"{ended} of {plural(count, 'fold')}")


class _Stopped(Exception):
    """The main process wants no more steps."""


_state: dict[str, Any] = {}  # of a worker process


def _begin(shared: Any, order: Any, gpus: int) -> None:
    """Begin a worker process: one thread, a GPU of its own, and an end with the process that started it."""
    follow_parent()
    if gpus:
        with order.get_lock():
            os.environ["CUDA_VISIBLE_DEVICES"] = _own_gpu(order.value, gpus)
            order.value += 1
    _state.update(shared=shared)


def _own_gpu(worker: int, gpus: int) -> str:
    """Return the name of a worker's GPU, among those that this process may use."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    return names.split(",")[worker % gpus]


def _work(number: int, work: Work) -> None:
    shared = _state["shared"]

    def on_progress(done: int, total: int, what: str) -> None:
        shared[1 + 2 * number], shared[2 + 2 * number] = done, total
        if shared[0]:
            raise _Stopped

    if not shared[0]:
        train_fold(work, on_progress)


def train_fold(work: Work, on_progress: OnProgress | None = None) -> None:
    """Train a fold, or go on with it, and keep the logits of its test clips."""
    import torch

    from spoter_export.torch_runner import TorchRunner
    from spoter_toolkit.evaluation import infer_clips
    from spoter_toolkit.training.loop import train
    from spoter_toolkit.training.recipes import config_from_mapping
    from spoter_toolkit.training.record import EVAL_BATCH

    torch.set_num_threads(1)
    dataset, folder, settings = work.dataset(), work.folder, work.settings
    run = read_run(folder) if (folder / RUN_JSON).is_file() else None
    if run is None or not run.is_finished:
        config = (
            config_from_mapping(run.info["train"], where=f"{folder}/run.json") if run else settings.config
        )
        run = train(
            config,
            dataset,
            folder,
            resume=run is not None,
            minutes=settings.minutes,
            begin_from=read_run(settings.begin_from) if settings.begin_from else None,
            on_progress=on_progress,
        )
    runner = TorchRunner(run.load_model(), run.contract(EVAL_BATCH))
    logits_NC = infer_clips(runner, [dataset.poses_of(clip) for clip in dataset.clips_in("test")])
    with replacing(folder / ANSWERS) as temporary, temporary.open("wb") as file:
        np.save(file, logits_NC)
