"""The DATASET folder: poses.npy, clips.csv, dataset.json, read and written with their hashes."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from spoter_runtime.contract import Label
from spoter_runtime.errors import DataError
from spoter_runtime.files import put_back, read_text, sha256_of
from spoter_runtime.landmarks import NUM_LANDMARKS, Float32Array

SCHEMA_VERSION: Final = 1
POSES: Final = "poses.npy"
CLIPS: Final = "clips.csv"
DATASET_JSON: Final = "dataset.json"  # marks a DATASET
MAX_FRAMES: Final = 299  # what the models take (a table of 300 positions, one for the class token)
SPLITS: Final = ("train", "val", "test")
MIN_FPS: Final = 0.1
MAX_FPS: Final = 1000.0
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

    def with_clips(self, clips: Iterable[Clip], split: str) -> Dataset:
        """Return the same dataset with other rows (a subset, or other split names)."""
        return replace(self, clips=tuple(clips), split=split)


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
    meta = read_meta(folder)
    for name in (POSES, CLIPS):
        path = folder / name
        if not path.is_file():
            found = "not a file" if path.exists() else "missing"
            raise DataError(f"{path}: {found}, although dataset.json lists it", fix="import the data again")
        if check_hashes and (digest := sha256_of(path)) != meta["sha256"][name]:
            raise DataError(
                f"{path}: sha256 is {digest[:12]}…, dataset.json says {meta['sha256'][name][:12]}…, so the "
                "data changed after it was written",
                fix="import it again (splits are made by spoter-kit data split, not by editing)",
            )
    try:
        poses = np.load(folder / POSES, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{folder / POSES}: not a readable array: {error}") from error
    if poses.ndim != 3 or poses.shape[1:] != (NUM_LANDMARKS, 2) or poses.dtype != np.float32:
        raise DataError(
            f"{folder / POSES}: expected (frames, {NUM_LANDMARKS}, 2) float32, "
            f"got {poses.shape} {poses.dtype}"
        )
    try:
        labels = tuple(Label(**label) for label in meta["labels"])
        origin = Origin(**meta["origin"])
    except TypeError as error:
        raise DataError(f"{folder / DATASET_JSON}: labels or origin cannot be read: {error}") from error
    # The hash covers all that training depends on: both data files, the order of the labels, the coordinates.
    parts = [meta["sha256"], meta["labels"], meta["coordinates"], meta["split"]]
    identity = json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()
    return Dataset(
        folder=folder,
        poses_FLD=poses,
        clips=_read_clips(folder / CLIPS, len(poses), {label.name for label in labels}),
        labels=labels,
        coordinates=meta["coordinates"],
        origin=origin,
        split=meta["split"],
        sha256=hashlib.sha256(identity).hexdigest(),
    )


def read_meta(folder: Path) -> dict[str, Any]:
    """Return the content of dataset.json after checking its fields.

    Raises:
        DataError: no such file, no JSON, a newer schema, or a field is missing.
    """
    path = folder / DATASET_JSON
    try:
        meta = json.loads(read_text(path))
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
    if not isinstance(meta["sha256"], dict) or {POSES, CLIPS} - meta["sha256"].keys():
        raise DataError(f"{path}: sha256 must name the hashes of poses.npy and clips.csv")
    return meta


def _read_clips(path: Path, total_frames: int, labels: set[str]) -> tuple[Clip, ...]:
    types = {"start": int, "frames": int, "fps": float}
    names = [f.name for f in fields(Clip)]
    clips = []
    try:
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
