"""The DATASET folder: poses.npy, clips.csv, dataset.json, read and written with their hashes."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from shlex import join
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from spoter_runtime.contract import Label
from spoter_runtime.errors import DataError, nearest, upgrade_fix
from spoter_runtime.files import check_regular, put_back, sha256_of
from spoter_runtime.landmarks import NUM_LANDMARKS, Float32Array
from spoter_runtime.strict import array_header, made_from, read_json, shown
from spoter_toolkit.data.names import retyped

SCHEMA_VERSION: Final = 1
POSES: Final = "poses.npy"
CLIPS: Final = "clips.csv"
SKIPPED: Final = (
    "skipped.txt"  # a line for each clip that was left out, with the reason; only if there is one
)
DATASET_JSON: Final = "dataset.json"  # marks a DATASET
MAX_FRAMES: Final = 299  # what the models take (a table of 300 positions, one for the class token)
SPLITS: Final = ("train", "val", "test")
MIN_FPS: Final = 0.1
MAX_FPS: Final = 1000.0
_META_BYTES: Final = 1 << 24  # of dataset.json
_CLIPS_BYTES: Final = 1 << 28  # of clips.csv; a million clips take half of it
_MOST_DIGITS: Final = 15  # of a number in clips.csv
UNKNOWN_SIGNER: Final = "unknown"  # signer of clips whose source names none

Coordinates = Literal["image", "normalised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One row of clips.csv; the clip is `frames` rows of poses.npy from `start` on."""

    id: str
    label: str
    signer: str
    start: int
    frames: int
    fps: float
    split: str = ""  # "train", "val", "test", or empty: not split yet, or left out
    source: str = ""  # the clip's recording, shared by all clips cut from it


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The origin of a dataset."""

    kind: str  # the importer or generator: "synthetic", "asl33", …
    source: str = ""  # file or folder names, or the generator's settings, for people
    licence: str = ""  # as stated by the source, or empty
    synthetic: bool = False  # True when nobody signed this
    landmarker: str = ""  # name of the landmarker that found the landmarks; empty: unknown
    # reason → number of clips of the source that are not in the dataset
    skipped: dict[str, int] = field(default_factory=dict)
    # a change to clips, or an assumption about them → number of clips
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset opened for reading."""

    folder: Path
    poses_FLD: npt.NDArray[np.float32]  # (total frames, 54, 2) float32, memory-mapped, NaN = not detected
    clips: tuple[Clip, ...]  # the rows of clips.csv, in order
    labels: tuple[Label, ...]  # every label, sorted as in dataset.json; a model's classes are in this order
    # "image": as detected, for the model to normalise; "normalised": normalised already
    coordinates: Coordinates
    origin: Origin
    split: str  # how the split was made, for reports; empty before `data split`
    sha256: str  # hash over the data files, to tell one dataset from another

    def poses_of(self, clip: Clip) -> Float32Array:
        """Return one clip's landmarks (frames, 54, 2), a read-only view of the file."""
        return self.poses_FLD[clip.start : clip.start + clip.frames]

    def clips_in(self, split: str) -> tuple[Clip, ...]:
        """Return the clips of one split, in order; empty when there are none."""
        return tuple(clip for clip in self.clips if clip.split == split)

    def label_index(self) -> dict[str, int]:
        """Return label name → column of the logits."""
        return {label.name: i for i, label in enumerate(self.labels)}

    def split_command(self, *options: str) -> str:
        """Return the command that splits these clips, or splits them anew, for the fix of an error."""
        words = ["spoter-kit", "data", "split", str(self.folder), *options]
        return join([*words, "--force"] if self.split else words)

    def with_clips(self, clips: Iterable[Clip], split: str) -> Dataset:
        """Return the same dataset with other rows (a subset, or other split names)."""
        return replace(self, clips=tuple(clips), split=split)

    def without_dropped_labels(self) -> Dataset:
        """Return the same dataset without labels of which no clip is in a split: no model can learn them."""
        used = {clip.label for clip in self.clips if clip.split}
        return replace(self, labels=tuple(label for label in self.labels if label.name in used))


def read_dataset(folder: Path | str, *, check_hashes: bool = True) -> Dataset:
    """Open a dataset and check its files.

    Args:
        folder: a DATASET folder.
        check_hashes: compare the files with the hashes in dataset.json (about 1 s per 2 GB).

    Raises:
        DataError: not a dataset; a file is missing, truncated or changed; a newer schema; or clips.csv does
            not fit the poses.
    """
    folder = Path(folder)
    put_back(folder)
    meta, content = read_meta(folder)
    for name in (POSES, CLIPS):
        path = folder / name
        if not path.is_file():
            found = "not a file" if path.exists() else "missing"
            raise DataError(f"{path}: {found}, although dataset.json lists it", fix="import the data again")
        if check_hashes and (digest := sha256_of(path)) != meta.sha256[name]:
            raise DataError(
                f"{path}: sha256 is {digest[:12]}…, dataset.json says {meta.sha256[name][:12]}…, so the "
                "data changed after it was written",
                fix="import it again (splits are made by spoter-kit data split, not by editing)",
            )
    poses = _map_poses(folder / POSES)
    # The hash covers all that training depends on: both data files, the order of the labels, the coordinates.
    parts = [meta.sha256, content["labels"], meta.coordinates, meta.split]
    identity = json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()
    return Dataset(
        folder=folder,
        poses_FLD=poses,
        clips=_read_clips(folder / CLIPS, len(poses), {label.name for label in meta.labels}),
        labels=meta.labels,
        coordinates=meta.coordinates,
        origin=meta.origin,
        split=meta.split,
        sha256=hashlib.sha256(identity).hexdigest(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """The fields of dataset.json; see `Dataset`."""

    schema_version: int
    labels: tuple[Label, ...]
    coordinates: Coordinates
    origin: Origin
    split: str
    sha256: dict[str, str]  # of poses.npy and clips.csv


def skipped_clips(folder: Path) -> list[str]:
    """Return a line for each clip that a DATASET was to have and that cannot be used: name and reason."""
    path = folder / SKIPPED
    return path.read_text("utf-8").splitlines() if path.is_file() else []


def read_meta(folder: Path) -> tuple[Meta, dict[str, Any]]:
    """Return the fields of dataset.json, checked, and the same as plain JSON values.

    Raises:
        DataError: no such file, no JSON, a newer schema, a field is missing, unknown, or of another type.
    """
    path = folder / DATASET_JSON
    try:
        content = read_json(path, most_bytes=_META_BYTES)
    except FileNotFoundError as error:
        what = "not a dataset: it has no dataset.json"
        fix = "spoter-kit data import or spoter-kit data synth makes one"
        if not folder.exists():
            others = [path.parent.name for path in folder.parent.glob(f"[!.]*/{DATASET_JSON}")]
            near = nearest(folder.name, others)
            what = "no such folder"
            if near:
                what += f"; did you mean {folder.parent / near[0]}?"
                fix = retyped(folder, folder.parent / near[0])
        raise DataError(f"{folder}: {what}", fix=fix) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or "schema_version" not in content:
        raise DataError(f"{path}: not the description of a spoter-kit dataset")
    if content["schema_version"] != SCHEMA_VERSION:
        raise DataError(
            f"{path}: schema version {shown(content['schema_version'])}, this spoter-kit reads "
            f"{SCHEMA_VERSION}",
            fix=upgrade_fix(),
        )
    try:
        meta = made_from(Meta, content)
    except ValueError as error:
        raise DataError(f"{path}: {error}", fix="import the data again") from error
    if {POSES, CLIPS} - meta.sha256.keys():
        raise DataError(f"{path}: sha256 must name the hashes of poses.npy and clips.csv")
    return meta, content


def _map_poses(path: Path) -> npt.NDArray[np.float32]:
    try:
        with path.open("rb") as file:
            shape, fortran, dtype = array_header(file)
            if shape[1:] != (NUM_LANDMARKS, 2) or dtype != np.float32 or fortran:
                raise ValueError(f"expected (frames, {NUM_LANDMARKS}, 2) float32, got {shape} {dtype}")
            expected, size = file.tell() + math.prod(shape) * dtype.itemsize, check_regular(path).st_size
            if size < expected:
                raise ValueError(f"{size} bytes, expected {expected}, so it is cut off")
            return np.memmap(file, dtype, "r", offset=file.tell(), shape=shape)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable array: {error}") from error


def _read_clips(path: Path, total_frames: int, labels: set[str]) -> tuple[Clip, ...]:
    types: dict[str, Callable[[str], Any]] = {"start": _whole, "frames": _whole, "fps": float}
    names = [f.name for f in fields(Clip)]
    clips = []
    try:
        if (size := check_regular(path).st_size) > _CLIPS_BYTES:
            raise DataError(f"{path}: {size} bytes, expected at most {_CLIPS_BYTES}")
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != names:
                raise DataError(f"{path}: expected the columns {', '.join(names)}, got {reader.fieldnames}")
            for number, row in enumerate(reader, start=2):
                try:
                    clip = Clip(**{name: types.get(name, str)(row[name]) for name in names})
                except (TypeError, ValueError) as error:
                    raise DataError(f"{path}, line {number}: {error}") from error
                _check_clip(clip, total_frames, labels, where=f"{path}, line {number}")
                clips.append(clip)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable table: {error}") from error
    if not clips:
        raise DataError(f"{path}: no clips")
    return tuple(clips)


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"{shown(digits)}: a number of {len(digits)} digits")
    return int(digits)


def _check_clip(clip: Clip, total_frames: int, labels: set[str], *, where: str) -> None:
    if not 0 <= clip.start < clip.start + clip.frames <= total_frames:
        raise DataError(
            f"{where}: clip {clip.id!r} is frames {clip.start}..{clip.start + clip.frames}, "
            f"poses.npy has {total_frames}"
        )
    if clip.label not in labels:
        raise DataError(f"{where}: label {clip.label!r} is not in dataset.json")
    if clip.split not in ("", *SPLITS):
        raise DataError(f"{where}: split {clip.split!r}, expected {SPLITS}")
    if not MIN_FPS <= clip.fps <= MAX_FPS:
        raise DataError(
            f"{where}: clip {clip.id!r} has {clip.fps:g} frames a second, expected {MIN_FPS:g}..{MAX_FPS:g}",
            fix="import the data again, with --fps 30 where the source names none",
        )
