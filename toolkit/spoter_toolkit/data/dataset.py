"""The DATASET folder: poses.npy, clips.csv, dataset.json, read and written with their hashes."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from spoter_runtime.contract import Label
from spoter_runtime.errors import DataError, InputError
from spoter_runtime.files import put_back, replacing, sha256_of, write_json
from spoter_runtime.landmarks import NUM_LANDMARKS, Float32Array, check_clip, detected, resample_clip

SCHEMA_VERSION: Final = 1
MAX_FRAMES: Final = 299  # what the models take (a table of 300 positions, one for the class token)
SPLITS: Final = ("train", "val", "test")
UNKNOWN_SIGNER: Final = "unknown"  # where a source does not say who signed

Coordinates = Literal["image", "normalised"]
LongClips = Literal["error", "resample", "cut"]  # what becomes of a clip of more than MAX_FRAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One row of clips.csv. `start` and `frames` cut the clip out of poses.npy.

    Attributes:
        split: ``"train"``, ``"val"``, ``"test"``, or empty: not split yet, or left out of the split.
        source: the recording that the clip was made from; clips of one recording have the same source.
    """

    id: str
    label: str
    signer: str
    start: int
    frames: int
    fps: float
    split: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a dataset came from.

    Attributes:
        kind: the importer or generator: ``"synthetic"``, ``"asl33"``, …
        source: file or folder names, or the generator's settings, for people.
        licence: as stated by the source, or empty.
        synthetic: True when nobody signed this.
        skipped: reason → how many clips of the source are not in the dataset.
        notes: what was done to clips, or assumed of them → how many of the dataset's clips.
    """

    kind: str
    source: str = ""
    licence: str = ""
    synthetic: bool = False
    skipped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset opened for reading.

    Attributes:
        poses_FLD: (total frames, 54, 2) float32, memory-mapped, NaN = not detected.
        clips: the rows of clips.csv, in order.
        labels: every label, sorted as in dataset.json; a model's classes are in this order.
        coordinates: ``"image"``: as detected, to be normalised by the model; ``"normalised"``: already.
        split: how the split was made, for reports; empty before `data split`.
        sha256: hash over the data files, to tell one dataset from another.
    """

    folder: Path
    poses_FLD: npt.NDArray[np.float32]
    clips: tuple[Clip, ...]
    labels: tuple[Label, ...]
    coordinates: Coordinates
    origin: Origin
    split: str
    sha256: str

    def poses_of(self, clip: Clip) -> Float32Array:
        """Return one clip's landmarks (frames, 54, 2), a read-only view into the file."""
        return self.poses_FLD[clip.start : clip.start + clip.frames]

    def clips_in(self, split: str) -> tuple[Clip, ...]:
        """Return the clips of one split, in order; empty when there are none."""
        return tuple(clip for clip in self.clips if clip.split == split)

    def label_index(self) -> dict[str, int]:
        """Return label name → column of the logits."""
        return {label.name: i for i, label in enumerate(self.labels)}

    def with_clips(self, clips: Iterable[Clip], split: str) -> Dataset:
        """Return the same dataset with other rows (a subset, or other split names)."""
        return replace(self, clips=tuple(clips), split=split)


def read_dataset(folder: Path | str, *, check_hashes: bool = True) -> Dataset:
    """Open a dataset and check that it is what was written.

    Args:
        folder: a DATASET folder.
        check_hashes: compare the files with the hashes in dataset.json (about 1 s per 2 GB).

    Raises:
        DataError: not a dataset, a file is missing, truncated or changed, a newer schema, or rows that
            do not fit the poses.
    """
    folder = Path(folder)
    put_back(folder)
    meta = _read_meta(folder)
    for name in ("poses.npy", "clips.csv"):
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: missing, although dataset.json lists it")
        if check_hashes and (digest := sha256_of(path)) != meta["sha256"][name]:
            raise DataError(
                f"{path}: sha256 is {digest[:12]}…, dataset.json says {meta['sha256'][name][:12]}…, so the "
                "data changed after it was written",
                fix="import it again (splits are made by spoter-kit data split, not by editing)",
            )
    try:
        poses = np.load(folder / "poses.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{folder / 'poses.npy'}: not a readable array: {error}") from error
    if poses.ndim != 3 or poses.shape[1:] != (NUM_LANDMARKS, 2) or poses.dtype != np.float32:
        raise DataError(
            f"{folder / 'poses.npy'}: expected (frames, {NUM_LANDMARKS}, 2) float32, "
            f"got {poses.shape} {poses.dtype}"
        )
    try:
        labels = tuple(Label(**label) for label in meta["labels"])
        origin = Origin(**meta["origin"])
    except TypeError as error:
        raise DataError(f"{folder / 'dataset.json'}: labels or origin cannot be read: {error}") from error
    try:
        clips = _read_clips(folder / "clips.csv", len(poses), {label.name for label in labels})
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{folder / 'clips.csv'}: not a readable table: {error}") from error
    return Dataset(
        folder=folder,
        poses_FLD=poses,
        clips=clips,
        labels=labels,
        coordinates=meta["coordinates"],
        origin=origin,
        split=meta["split"],
        sha256=_identity(meta),
    )


def _identity(meta: dict[str, Any]) -> str:
    """Hash all that decides what a model learns: both data files, the order of the labels, coordinates."""
    parts = [meta["sha256"], meta["labels"], meta["coordinates"], meta["split"]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        what = "no such folder" if not folder.exists() else "not a dataset: it has no dataset.json"
        raise DataError(
            f"{folder}: {what}", fix="spoter-kit data import or spoter-kit data synth makes one"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(meta, dict) or "schema_version" not in meta:
        raise DataError(f"{path}: not the description of a spoter-kit dataset")
    if meta["schema_version"] != SCHEMA_VERSION:
        raise DataError(
            f"{path}: schema version {meta['schema_version']}, this spoter-kit reads {SCHEMA_VERSION}",
            fix="pip install --upgrade spoter-kit",
        )
    missing = {"labels", "coordinates", "origin", "split", "sha256"} - meta.keys()
    if missing:
        raise DataError(f"{path}: missing {', '.join(sorted(missing))}")
    if meta["coordinates"] not in ("image", "normalised"):
        raise DataError(f"{path}: coordinates {meta['coordinates']!r}, expected image or normalised")
    if not isinstance(meta["sha256"], dict) or {"poses.npy", "clips.csv"} - meta["sha256"].keys():
        raise DataError(f"{path}: sha256 must name the hashes of poses.npy and clips.csv")
    return meta


def _read_clips(path: Path, total_frames: int, labels: set[str]) -> tuple[Clip, ...]:
    names = [f.name for f in fields(Clip)]
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != names:
            raise DataError(f"{path}: expected the columns {', '.join(names)}, got {reader.fieldnames}")
        clips = []
        for number, row in enumerate(reader, start=2):
            try:
                clip = Clip(
                    id=row["id"],
                    label=row["label"],
                    signer=row["signer"],
                    start=int(row["start"]),
                    frames=int(row["frames"]),
                    fps=float(row["fps"]),
                    split=row["split"],
                    source=row["source"],
                )
            except (TypeError, ValueError) as error:
                raise DataError(f"{path}, line {number}: {error}") from error
            if not 0 <= clip.start < clip.start + clip.frames <= total_frames:
                raise DataError(
                    f"{path}, line {number}: clip {clip.id!r} is frames {clip.start}.."
                    f"{clip.start + clip.frames}, poses.npy has {total_frames}"
                )
            if clip.label not in labels:
                raise DataError(f"{path}, line {number}: label {clip.label!r} is not in dataset.json")
            if clip.split not in ("", *SPLITS):
                raise DataError(f"{path}, line {number}: split {clip.split!r}, expected {SPLITS}")
            if not 0 < clip.fps < np.inf:
                raise DataError(
                    f"{path}, line {number}: clip {clip.id!r} has {row['fps']} frames a second, expected a "
                    "positive number",
                    fix="import the data again, with --fps 30 where the source names none",
                )
            clips.append(clip)
    if not clips:
        raise DataError(f"{path}: no clips")
    return tuple(clips)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewClip:
    """A clip on its way into a dataset: everything of `Clip` but its place in poses.npy.

    Attributes:
        poses_TLD: (frames, 54, 2) floats, NaN or (0, 0) = not detected.
        where: how an error names it: file, row; the id where empty.
        notes: what was done to it or assumed of it; `Origin.notes` counts them.
    """

    id: str
    label: str
    signer: str
    fps: float
    poses_TLD: npt.NDArray[Any]
    split: str = ""
    source: str = ""
    where: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BadClip:
    """A clip of the source that cannot be read; `reason` says which one, and why."""

    reason: str


def write_dataset(
    folder: Path | str,
    clips: Iterable[NewClip | BadClip],
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
        clips: any order; ids must be unique, labels among `labels`.
        labels: the classes, in the order of the model's logits; those without a clip are dropped.
        coordinates: whether poses are as detected or already normalised.
        origin: where the clips came from.
        split: how the split was made, where the clips bring one.
        long: a clip of more than `MAX_FRAMES` frames is refused as one that cannot be used, or resampled
            to that many, or cut after them; `Origin.notes` then counts it.
        skip_bad: leave out clips that the models cannot take and count them in `Origin.skipped`,
            instead of refusing the whole import.
        force: replace an existing dataset.

    Raises:
        DataError: the folder exists, a clip cannot be used (all such clips are counted, the first few
            named), an id twice, an unknown label, or no clip at all. Nothing is written then.
        OSError: the disk is full or read-only; nothing is left behind.
    """
    folder = Path(folder)
    _check_folder(folder, force=force)
    kept, bad = _checked_clips(clips, {label.name for label in labels}, long)
    if bad and not skip_bad:
        shown = "\n".join(f"  {reason}" for reason in bad[:5])
        more = f"\n  … and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(
            f"{len(bad)} of {len(bad) + len(kept)} clips cannot be used; nothing was written:\n"
            f"{shown}{more}\n",
            fix="mend them, or leave them out with --skip-bad",
        )
    if not kept:
        reason = f": {bad[0]}" if bad else ""
        raise DataError(f"{folder}: nothing to write, no clip can be used{reason}")
    used = {new.label for new in kept}
    notes = Counter(origin.notes) + Counter(note for new in kept for note in new.notes)
    skipped = Counter(origin.skipped) + Counter({"that cannot be used": len(bad)})
    with replacing(folder) as temporary:
        temporary.mkdir()
        _write_poses(temporary / "poses.npy", [new.poses_TLD for new in kept])
        _write_clips(temporary / "clips.csv", _rows(kept))
        meta = {
            "schema_version": SCHEMA_VERSION,
            "labels": [asdict(label) for label in labels if label.name in used],
            "coordinates": coordinates,
            "origin": asdict(replace(origin, skipped=dict(skipped), notes=dict(notes))),
            "split": split,
            "sha256": {name: sha256_of(temporary / name) for name in ("poses.npy", "clips.csv")},
        }
        write_json(temporary / "dataset.json", meta)
    return read_dataset(folder, check_hashes=False)


def _checked_clips(
    clips: Iterable[NewClip | BadClip], labels: set[str], long: LongClips
) -> tuple[list[NewClip], list[str]]:
    """Return the clips that can be used, as they will be written, and what is wrong with the others."""
    kept, bad, ids = [], [], set()
    for new in clips:
        if isinstance(new, BadClip):
            bad.append(new.reason)
            continue
        where = new.where or f"clip {new.id!r}"
        if new.id in ids:
            raise DataError(f"{where}: the id {new.id!r} is there twice")
        ids.add(new.id)
        if new.label not in labels:
            raise DataError(f"{where}: unknown label {new.label!r}")
        if not 0 < new.fps < np.inf:
            raise DataError(f"{where}: {new.fps} frames a second, expected a positive number", fix="fps=30.0")
        try:
            frames = new.poses_TLD.shape[0] if new.poses_TLD.ndim else 0
            poses = check_clip(new.poses_TLD, max_frames=max(MAX_FRAMES, frames), where=where)
        except InputError as error:
            bad.append(str(error))
            continue
        if len(poses) > MAX_FRAMES and long == "error":
            bad.append(
                f"{where}: {len(poses)} frames, the models take 1..{MAX_FRAMES}. "
                "Fix: --long resample, or --long cut"
            )
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


def _rows(kept: Iterable[NewClip]) -> list[Clip]:
    rows, start = [], 0
    for new in kept:
        rows.append(
            Clip(
                id=new.id,
                label=new.label,
                signer=new.signer,
                start=start,
                frames=len(new.poses_TLD),
                fps=new.fps,
                split=new.split,
                source=new.source,
            )
        )
        start += len(new.poses_TLD)
    return rows


def _write_poses(path: Path, clips: Sequence[Float32Array]) -> None:
    """Write the clips one after the other; not through a memory map, which dies on a full disk."""
    shape = (sum(len(poses) for poses in clips), NUM_LANDMARKS, 2)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for poses in clips:
            # one way to say "not detected", so that equal clips have equal bytes
            marked = np.where(detected(poses)[..., None], poses, np.float32(np.nan))
            file.write(marked.astype("<f4").tobytes())


def _write_clips(path: Path, clips: Iterable[Clip]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([f.name for f in fields(Clip)])
        writer.writerows([getattr(clip, f.name) for f in fields(Clip)] for clip in clips)


def rewrite_split(dataset: Dataset) -> None:
    """Write the dataset's clips and split name over those of its folder; the poses stay as they are.

    The new folder is complete before it takes the name: a kill leaves the old split or the new one.
    """
    meta = _read_meta(dataset.folder)
    with replacing(dataset.folder) as temporary:
        temporary.mkdir()
        _link_or_copy(dataset.folder / "poses.npy", temporary / "poses.npy")
        _write_clips(temporary / "clips.csv", dataset.clips)
        meta["split"] = dataset.split
        meta["sha256"]["clips.csv"] = sha256_of(temporary / "clips.csv")
        write_json(temporary / "dataset.json", meta)


def check_resplit(dataset: Dataset, *, force: bool) -> None:
    """Refuse to replace a split that is there.

    Raises:
        DataError: the dataset has a split and `force` is not given.
    """
    if dataset.split and not force:
        raise DataError(
            f"{dataset.folder}: is split already ({dataset.split})", fix="replace the split with --force"
        )


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _check_folder(folder: Path, *, force: bool) -> None:
    """Refuse to write over something that is there; `force` replaces a dataset and nothing else."""
    if folder.exists() and not force:
        raise DataError(f"{folder}: exists already", fix="choose another -o, or replace it with --force")
    if folder.exists() and not (folder / "dataset.json").is_file():
        raise DataError(
            f"{folder}: not a dataset, and --force replaces nothing else", fix="choose another -o"
        )
