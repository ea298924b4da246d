"""Write a DATASET folder: check every clip, then poses.npy, clips.csv and dataset.json, atomically."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from spoter_runtime.contract import Label
from spoter_runtime.errors import DataError, InputError, SpoterError
from spoter_runtime.files import check_replaceable, link_or_copy, replacing, sha256_of, write_json
from spoter_runtime.landmarks import NUM_LANDMARKS, Float32Array, check_clip, detected, resample_clip
from spoter_toolkit.data.dataset import (
    CLIPS,
    DATASET_JSON,
    MAX_FPS,
    MAX_FRAMES,
    MIN_FPS,
    POSES,
    SCHEMA_VERSION,
    SKIPPED,
    Clip,
    Coordinates,
    Dataset,
    Origin,
    read_dataset,
    read_meta,
)
from spoter_toolkit.report.words import lines_of_errors

LongClips = Literal["error", "resample", "cut"]  # treatment of clips with more than MAX_FRAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class NewClip:
    """A clip to write into a dataset: the fields of `Clip`, and landmarks instead of `start`, `frames`."""

    id: str
    label: str
    signer: str
    fps: float
    poses_TLD: npt.NDArray[Any]  # (frames, 54, 2) floats, NaN or (0, 0) = not detected
    split: str = ""
    source: str = ""
    where: str = ""  # its name in errors: file, row; empty for the id
    notes: tuple[str, ...] = ()  # changes and assumptions, counted in `Origin.notes`


def write_dataset(
    folder: Path | str,
    clips: Iterable[NewClip | SpoterError],
    *,
    labels: Sequence[Label],
    coordinates: Coordinates,
    origin: Origin,
    split: str = "",
    long: LongClips = "error",
    skip_bad: bool = False,
    force: bool = False,
) -> Dataset:
    """Check every clip and write a DATASET folder atomically.

    Args:
        folder: where to; an existing dataset is only replaced with `force`.
        clips: clips in any order, with unique ids and labels of `labels`; an error stands for an unreadable
            clip.
        labels: the classes, in the order of the model's logits; labels without a clip are dropped.
        coordinates: whether poses are as detected or already normalised.
        origin: origin of the clips.
        split: how the split was made, if the clips have one.
        long: refuse clips of more than `MAX_FRAMES` frames, resample them, or cut them; `Origin.notes` counts
            changed clips.
        skip_bad: leave out unusable clips, count them in `Origin.skipped` and name them in `SKIPPED`, instead
            of refusing all.
        force: replace an existing dataset.

    Raises:
        DataError: the folder exists, clips cannot be used (with their number and the first names), an id
            occurs twice, an unknown label, or no clip at all. Nothing is written.
        OSError: the disk is full or read-only; nothing is left behind.
    """
    folder = Path(folder)
    check_dataset_folder(folder, force=force)
    kept, bad = _checked_clips(clips, {label.name for label in labels}, long)
    if bad and not skip_bad:
        raise error_of_bad(bad, len(bad) + len(kept))
    if not kept:
        reason, fix = (f": {bad[0].message}", bad[0].fix) if bad else ("", "")
        raise DataError(f"{folder}: nothing to write, no clip can be used{reason}", fix=fix)
    used = {new.label for new in kept}
    notes = Counter(origin.notes) + Counter(note for new in kept for note in new.notes)
    skipped = Counter(origin.skipped) + Counter({"that cannot be used": len(bad)})
    with replacing(folder) as temporary:
        temporary.mkdir()
        _write_poses(temporary / POSES, [new.poses_TLD for new in kept])
        ends = np.cumsum([len(new.poses_TLD) for new in kept]).tolist()
        _write_clips(
            temporary / CLIPS,
            [
                Clip(
                    id=new.id,
                    label=new.label,
                    signer=new.signer,
                    start=end - len(new.poses_TLD),
                    frames=len(new.poses_TLD),
                    fps=new.fps,
                    split=new.split,
                    source=new.source,
                )
                for new, end in zip(kept, ends, strict=True)
            ],
        )
        meta = {
            "schema_version": SCHEMA_VERSION,
            "labels": [asdict(label) for label in labels if label.name in used],
            "coordinates": coordinates,
            "origin": asdict(replace(origin, skipped=dict(skipped), notes=dict(notes))),
            "split": split,
            "sha256": {name: sha256_of(temporary / name) for name in (POSES, CLIPS)},
        }
        write_json(temporary / DATASET_JSON, meta)
        if bad:
            lines = [" ".join(error.message.split()) for error in bad]
            (temporary / SKIPPED).write_text("\n".join([*lines, ""]), encoding="utf-8")
    return read_dataset(folder, check_hashes=False)


def check_dataset_folder(folder: Path, *, force: bool) -> None:
    """Raise a DataError if the folder exists; `force` allows to replace a dataset, and nothing else."""
    check_replaceable(folder, DATASET_JSON, force=force, foreign="is no dataset", error=DataError)


def error_of_bad(bad: Sequence[SpoterError], clips: int) -> DataError:
    """Return the error that names the first of the clips that cannot be used, of so many clips."""
    more = f"\n  … and {len(bad) - 5} more" if len(bad) > 5 else ""
    return DataError(
        f"{len(bad)} of {clips} clips cannot be used; nothing was written:\n"
        f"{lines_of_errors(bad[:5])}{more}\n",
        fix="correct them, or leave them out with --skip-bad",
    )


def _checked_clips(
    clips: Iterable[NewClip | SpoterError], labels: set[str], long: LongClips
) -> tuple[list[NewClip], list[SpoterError]]:
    """Return the usable clips, as they will be written, and an error for each of the others."""
    kept: list[NewClip] = []
    bad: list[SpoterError] = []
    ids = set()
    for new in clips:
        if isinstance(new, SpoterError):
            bad.append(new)
            continue
        where = new.where or f"clip {new.id!r}"
        if new.id in ids:
            raise DataError(f"{where}: the id {new.id!r} is there twice")
        ids.add(new.id)
        if new.label not in labels:
            raise DataError(f"{where}: unknown label {new.label!r}")
        if not MIN_FPS <= new.fps <= MAX_FPS:
            raise DataError(
                f"{where}: {new.fps} frames a second, expected {MIN_FPS:g}..{MAX_FPS:g}", fix="fps=30.0"
            )
        try:
            frames = new.poses_TLD.shape[0] if new.poses_TLD.ndim else 0
            poses = check_clip(new.poses_TLD, max_frames=max(MAX_FRAMES, frames), where=where)
            if len(poses) > MAX_FRAMES and long == "error":
                raise InputError(
                    f"{where}: {len(poses)} frames, the models take 1..{MAX_FRAMES}",
                    fix="--long resample, or --long cut",
                )
        except InputError as error:
            bad.append(error)
            continue
        kept.append(_shortened(replace(new, poses_TLD=poses), long))
    return kept, bad


def _shortened(new: NewClip, long: LongClips) -> NewClip:
    frames = len(new.poses_TLD)
    if frames <= MAX_FRAMES:
        return new
    if long == "cut":
        poses, fps, done = new.poses_TLD[:MAX_FRAMES].copy(), new.fps, "cut after"
    else:
        poses = resample_clip(new.poses_TLD, MAX_FRAMES)
        fps, done = new.fps * MAX_FRAMES / frames, "resampled to"
    return replace(new, poses_TLD=poses, fps=fps, notes=(*new.notes, f"{done} {MAX_FRAMES} frames"))


def _write_poses(path: Path, clips: Sequence[Float32Array]) -> None:
    """Write the clips one after the other; a memory map would crash on a full disk."""
    shape = (sum(len(poses) for poses in clips), NUM_LANDMARKS, 2)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for poses in clips:
            # NaN for every landmark not detected, so that equal clips have equal bytes
            marked = np.where(detected(poses)[..., None], poses, np.float32(np.nan))
            file.write(marked.astype("<f4").tobytes())


def _write_clips(path: Path, clips: Iterable[Clip]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f.name for f in fields(Clip)])
        writer.writerows([getattr(clip, f.name) for f in fields(Clip)] for clip in clips)


def rewrite_split(dataset: Dataset) -> None:
    """Replace the clips and the split name in the dataset's folder atomically; the poses stay."""
    _, meta = read_meta(dataset.folder)
    with replacing(dataset.folder) as temporary:
        temporary.mkdir()
        link_or_copy(dataset.folder / POSES, temporary / POSES)
        if (dataset.folder / SKIPPED).is_file():
            link_or_copy(dataset.folder / SKIPPED, temporary / SKIPPED)
        _write_clips(temporary / CLIPS, dataset.clips)
        meta["split"] = dataset.split
        meta["sha256"][CLIPS] = sha256_of(temporary / CLIPS)
        write_json(temporary / DATASET_JSON, meta)


def check_resplit(dataset: Dataset, *, force: bool) -> None:
    """Raise a DataError if the dataset has a split and `force` is not given."""
    if dataset.split and not force:
        raise DataError(
            f"{dataset.folder}: is split already ({dataset.split})", fix="replace the split with --force"
        )
