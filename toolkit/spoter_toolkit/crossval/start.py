"""A cross-validation from a DATASET's path to its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from spoter_runtime._types import OnProgress
from spoter_toolkit.crossval.folds import By, Folds, folds_of
from spoter_toolkit.crossval.page import write_files
from spoter_toolkit.crossval.result import CrossValidation, scored
from spoter_toolkit.crossval.run import Settings, begin, train_folds
from spoter_toolkit.data.dataset import read_dataset
from spoter_toolkit.report.words import plural
from spoter_toolkit.runs.run import read_run
from spoter_toolkit.training.config import TrainConfig
from spoter_toolkit.training.start import begun_from

CROSSVALS: Final = Path("crossval")


def cross_validate(
    data: Path,
    out: Path | None = None,
    *,
    config: TrainConfig,
    by: By | None = None,
    count: int | None = None,
    minutes: float | None = None,
    begin_from: Path | None = None,
    workers: int | None = None,
    force: bool = False,
    on_begin: Callable[[str], None] | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[CrossValidation, Path]:
    """Train and test every fold of a DATASET; return the scores and the folder that holds everything.

    Args:
        data: the DATASET; its split does not count.
        out: the folder; None takes ``crossval/`` and the dataset's name. What is done there stays.
        config: settings of each fold's training.
        by: see `folds_of`.
        count: see `folds_of`.
        minutes: bounds each fold's training.
        begin_from: a RUN whose weights each fold begins from.
        workers: see `train_folds`.
        force: begin again in a folder that holds another cross-validation.
        on_begin: called with each remark, and with the plan, before the first fold.
        on_progress: see `train_folds`.

    Raises:
        SpoterError: see `folds_of`, `begin`, `begun_from` and `train_folds`.
    """
    dataset = read_dataset(data)
    folds = folds_of(dataset, by=by, count=count)
    if begin_from:
        config = begun_from(config, read_run(begin_from), dataset)
    settings = Settings(config=config, minutes=minutes, begin_from=begin_from)
    out = out or CROSSVALS / dataset.folder.resolve().name
    begin(out, folds, settings, force=force)
    if on_begin:
        for remark in folds.remarks:
            on_begin(remark)
        on_begin(f"{plural(len(folds.folds), 'fold')} by {folds.by}, in {out}; stopped, it goes on there")
    logits = train_folds(out, folds, settings, workers=workers, on_progress=on_progress)
    found = scored(dataset, folds, logits)
    if finding := _not_converged(out, folds):
        found = replace(found, findings=(finding,))
    write_files(found, out)
    return found, out


def _not_converged(out: Path, folds: Folds) -> str:
    """Return the first fold's finding that it has not converged, and how many have it; empty for none."""
    found = [
        (fold.name, one)
        for fold in folds.folds
        for one in read_run(out / fold.name).info["metrics"].get("findings", ())
        if one["what"].startswith("not converged")
    ]
    if not found:
        return ""
    name, one = found[0]
    return f"{len(found)} of {plural(len(folds.folds), 'fold')}, as {name}: {one['what']}. Fix: {one['fix']}"
