"""From a RUN to a BUNDLE: find the clips to prove it on, and say where the weights come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from spoter_export.bundle.writer import Exported, export_bundle
from spoter_export.probes import ClipSet, spread_by_length
from spoter_runtime._types import OnProgress
from spoter_runtime.errors import DataError
from spoter_toolkit.data.dataset import Dataset, read_dataset
from spoter_toolkit.runs.run import Run, installed_versions

# Enough to meet every label and length of a test split; `spoter-kit parity` runs all of a dataset.
EXPORT_CLIPS: Final = 256
_PACKAGES: Final = ("spoter-kit", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


def bundle_from_run(
    run: Run,
    folder: Path,
    *,
    dataset: Dataset | None = None,
    precisions: Sequence[str] = ("fp32",),
    max_batch: int = 32,
    keep_goldens: bool = True,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Exported:
    """Export a run to ONNX, prove it, and write its bundle.

    Args:
        run: with weights.
        folder: ``<name>.spoter``.
        dataset: clips to prove it on, usually `training_data`; None leaves generated ones.
        precisions: an ONNX file for each; fp32 is always among them.
        max_batch: the largest batch that the bundle claims, and that is run.
        keep_goldens: whether some of the clips may travel in the bundle.
        force: replace an existing bundle.
        on_progress: called with (done, total, what).

    Raises:
        CheckpointError: the run has no weights.
        ExportError: see `export_bundle`.
    """
    return export_bundle(
        run.load_model(),
        run.contract(max_batch),
        folder,
        provenance=_provenance(run),
        clips=proof_clips(dataset),
        keep_goldens=keep_goldens,
        precisions=precisions,
        force=force,
        on_progress=on_progress,
    )


def training_data(run: Run) -> Dataset | None:
    """Return the dataset that a run was trained on; None for an imported run, or when it is no longer there.

    Raises:
        DataError: it is there, but is not the one that the run saw.
    """
    if run.data is None or not Path(run.data["folder"]).is_dir():
        return None
    folder = Path(run.data["folder"])
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())  # shorter to read in reports
    dataset = read_dataset(folder)
    if dataset.sha256 != run.data["sha256"]:
        raise DataError(
            f"{dataset.folder}: is not the data that {run.folder} was trained on: sha256 "
            f"{dataset.sha256[:12]}…, the run says {run.data['sha256'][:12]}…",
            fix="name the data with --data",
        )
    return dataset


def proof_clips(
    dataset: Dataset | None, *, limit: int | None = EXPORT_CLIPS, all_splits: bool = False
) -> ClipSet | None:
    """Return clips to prove a model on: ones that it was not trained on where there are any.

    Args:
        dataset: the test split is taken before the val split; None gives None.
        limit: take this many, of all lengths; None takes all.
        all_splits: take the clips of every split.
    """
    if dataset is None:
        return None
    held_out = [] if all_splits else [name for name in ("test", "val") if dataset.clips_in(name)]
    split = held_out[0] if held_out else "all"
    rows = list(dataset.clips if split == "all" else dataset.clips_in(split))
    if limit is not None:
        rows = [rows[i] for i in spread_by_length([dataset.poses_of(clip) for clip in rows], limit)]
    return ClipSet(
        source=f"{dataset.origin.kind}, {split} clips",
        clips=[dataset.poses_of(clip) for clip in rows],
        names=[clip.id for clip in rows],
        labels=[clip.label for clip in rows],
        signers=[clip.signer for clip in rows],
    )


def _frame_counts(run: Run) -> dict[str, int] | None:
    """Return how many clips of the training data have how many frames; None where it is no longer there.

    It travels in the bundle: engines are planned from it, also on a device that has no data.
    """
    dataset = training_data(run)
    if dataset is None:
        return None
    counts = Counter(clip.frames for clip in dataset.clips_in("train") or dataset.clips)
    return {str(frames): counts[frames] for frames in sorted(counts)}


def _provenance(run: Run) -> dict[str, Any]:
    data = dict(run.data) if run.data else None
    if data:
        del data["folder"]  # says nothing on another machine
        data["frame_counts"] = _frame_counts(run)
    return {
        "run": {"name": run.name, "weights_sha256": run.weights_sha256(), "config": run.config.as_json()},
        "origin": run.info["origin"] + ("" if run.is_finished else ", and stopped before its end"),
        "data": data,
        "metrics": run.info["metrics"],
        "commit": run.info["commit"],
        "versions": installed_versions(_PACKAGES),
    }
