"""Import the asl33 layout: a folder whose data.npz holds MediaPipe Holistic landmarks of all clips."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.errors import DataError
from spoter_runtime.landmarks import landmarks_from_mediapipe
from spoter_toolkit.data.bdslw60 import labels_named
from spoter_toolkit.data.dataset import Dataset, Origin
from spoter_toolkit.data.dataset_writer import NewClip, write_dataset
from spoter_toolkit.data.importers.common import ImportSettings, OnProgress, chosen, licence_of

_ARRAYS: Final = ("pose", "lh", "rh", "offset", "label", "label_names", "signer", "name")
_RECORDED_TOGETHER: Final = 30  # clips of one recording batch, numbered in sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    label: str
    signer: str
    name: str
    start: int
    end: int


def import_asl33(
    source: Path | str,
    out: Path | str,
    settings: ImportSettings | None = None,
    *,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Dataset:
    """Write a DATASET from a folder with data.npz in the asl33 layout.

    Args:
        source: the folder, or its data.npz: ``pose`` (F, 33, 3) x, y, visibility; ``lh``, ``rh``
            (F, 21, 2); zeros where not detected; ``offset`` (N + 1) cuts the F frames into N clips;
            ``label`` (N) indexes ``label_names``; ``signer`` (N); ``name`` (N) ``<word>/<number>``.
        out: the DATASET folder to write.
        settings: which clips to take; None: all. The source does not say its frame rate.
        force: replace an existing dataset.
        on_progress: called with (clips done, clips in all, what).

    Returns:
        The dataset; a clip's `source` is its recording batch (30 clips made in one go).

    Raises:
        DataError: not that layout, damaged, unknown labels or signers, or see `write_dataset`.
        OSError: see `write_dataset`.
    """
    settings = settings or ImportSettings()
    path = Path(source) / "data.npz" if Path(source).suffix != ".npz" else Path(source)
    arrays = _arrays(path)
    entries, left_out = chosen(_entries(path, arrays), settings, where=path)
    return write_dataset(
        out,
        _clips(path, arrays, entries, settings, on_progress),
        labels=labels_named(entry.label for entry in entries),
        coordinates=settings.coordinates,
        origin=Origin(
            kind="asl33",
            source=path.resolve().parent.name,
            licence=licence_of(path.parent),
            skipped=left_out,
        ),
        long=settings.long,
        skip_bad=settings.skip_bad,
        force=force,
    )


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; the asl33 layout is a folder with a data.npz")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: not an .npz file: empty, truncated or something else")
    try:
        with np.load(path, allow_pickle=False) as file:
            if missing := [name for name in _ARRAYS if name not in file]:
                raise DataError(f"{path}: not the asl33 layout: no array named {', '.join(missing)}")
            return {name: file[name] for name in _ARRAYS}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: its arrays cannot be read, it is damaged: {error}") from error


def _entries(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> list[_Entry]:
    _check_shapes(path, arrays)
    offset, label, names = arrays["offset"], arrays["label"], arrays["label_names"]
    if offset[0] != 0 or offset[-1] != len(arrays["pose"]) or (np.diff(offset) < 0).any():
        raise DataError(f"{path}: offset must rise from 0 to the {len(arrays['pose'])} frames of pose")
    if label.min(initial=0) < 0 or label.max(initial=0) >= len(names):
        raise DataError(f"{path}: label has values outside 0..{len(names) - 1}, the label_names")
    return [
        _Entry(
            label=str(names[label[i]]),
            signer=str(arrays["signer"][i]),
            name=str(arrays["name"][i]),
            start=int(offset[i]),
            end=int(offset[i + 1]),
        )
        for i in range(len(label))
    ]


def _check_shapes(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    frames = arrays["pose"].shape[:1]
    clips = arrays["label"].size
    expected = {
        "pose": (*frames, 33, 3),
        "lh": (*frames, 21, 2),
        "rh": (*frames, 21, 2),
        "offset": (clips + 1,),
        "label": (clips,),
        "label_names": arrays["label_names"].shape[:1],
        "signer": (clips,),
        "name": (clips,),
    }
    kinds = {"pose": "f", "lh": "f", "rh": "f", "offset": "iu", "label": "iu"}
    for name, shape in expected.items():
        array = arrays[name]
        if array.shape != shape or array.dtype.kind not in kinds.get(name, "U"):
            raise DataError(
                f"{path}: {name} is {array.dtype} {array.shape}, expected "
                f"{ {'f': 'floats', 'iu': 'integers', 'U': 'text'}[kinds.get(name, 'U')] } {shape}"
            )


def _clips(
    path: Path,
    arrays: dict[str, npt.NDArray[Any]],
    entries: list[_Entry],
    settings: ImportSettings,
    on_progress: OnProgress | None,
) -> Iterator[NewClip]:
    fps, notes = settings.rate(None)
    for done, entry in enumerate(entries, start=1):
        frames = slice(entry.start, entry.end)
        yield NewClip(
            id=entry.name,
            label=entry.label,
            signer=entry.signer,
            fps=fps,
            poses_TLD=landmarks_from_mediapipe(
                *(arrays[part][frames] for part in ("pose", "lh", "rh")),
            ),
            source=_recording(entry.name),
            where=f"{path}, clip {entry.name!r}",
            notes=notes,
        )
        if on_progress:
            on_progress(done, len(entries), "reading clips")


def _recording(name: str) -> str:
    word, _, number = name.rpartition("/")
    return f"{word}/batch {int(number) // _RECORDED_TOGETHER}" if number.isdecimal() else name
