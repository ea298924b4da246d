"""Import the asl33 layout: a folder whose data.npz has MediaPipe Holistic landmarks of all clips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.errors import DataError
from spoter_runtime.files import check_regular
from spoter_runtime.landmarks import landmarks_from_mediapipe
from spoter_runtime.strict import NUMBERS, TEXT, read_arrays
from spoter_toolkit.data.dataset_writer import NewClip
from spoter_toolkit.data.importers.common import ImportSettings, Source, licence_of
from spoter_toolkit.data.sources import ASL33, wrong_source

_ARRAYS: Final = ("pose", "lh", "rh", "offset", "label", "label_names", "signer", "name")
_SMALL_BYTES: Final = 1 << 26  # of arrays: so many are read, however well they were packed
_RECORDED_TOGETHER: Final = 30  # clips of one recording batch, numbered in sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Asl33Entry:
    """A clip's name, label, signer, and its frames in the arrays."""

    label: str
    signer: str
    name: str
    start: int
    end: int


def find_asl33(source: Path, settings: ImportSettings) -> Source[Asl33Entry]:
    """Find the clips of a folder with data.npz in the asl33 layout.

    The frame rate is unknown. A clip's `source` is its recording batch of 30 clips.

    Args:
        source: the folder, or its data.npz: ``pose`` (F, 33, 3) x, y, visibility; ``lh``, ``rh``
            (F, 21, 2); zeros where not detected; ``offset`` (N + 1) cuts the F frames into N clips;
            ``label`` (N) indexes ``label_names``; ``signer`` (N); ``name`` (N) ``<word>/<number>``.
        settings: gives the frame rate.

    Raises:
        DataError: not that layout, or damaged.
    """
    path = source / ASL33 if source.suffix != ".npz" else source
    if not path.exists():
        raise wrong_source(source, f"a folder with a {ASL33}", "spoter-kit data import asl33")
    arrays = arrays_of(path)
    check_arrays(path, arrays)
    fps, notes = settings.rate(None)

    def read(entry: Asl33Entry) -> NewClip:
        word, _, number = entry.name.rpartition("/")
        batch = f"{word}/batch {int(number) // _RECORDED_TOGETHER}" if number.isdecimal() else entry.name
        frames = slice(entry.start, entry.end)
        return NewClip(
            id=entry.name,
            label=entry.label,
            signer=entry.signer,
            fps=fps,
            poses_TLD=landmarks_from_mediapipe(*(arrays[part][frames] for part in ("pose", "lh", "rh"))),
            source=batch,
            where=f"{path}, clip {entry.name!r}",
            notes=notes,
        )

    entries = [
        Asl33Entry(
            label=str(arrays["label_names"][label]),
            signer=str(arrays["signer"][i]),
            name=str(arrays["name"][i]),
            start=int(arrays["offset"][i]),
            end=int(arrays["offset"][i + 1]),
        )
        for i, label in enumerate(arrays["label"])
    ]
    return Source(
        name=path.resolve().parent.name,
        entries=entries,
        read=read,
        unit="clips",
        licence=licence_of(path.parent),
    )


def arrays_of(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a data.npz.

    Raises:
        DataError: damaged, an array is missing, or they unpack to a hundred times the file's
            size, which landmarks never do.
    """
    try:
        most = max(_SMALL_BYTES, 100 * check_regular(path).st_size)
        with path.open("rb") as file:
            return read_arrays(file, _ARRAYS, most_bytes=most, kinds=NUMBERS + TEXT)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not the asl33 layout, or damaged: {error}") from error


def check_arrays(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Check types, shapes and ranges of the arrays.

    Raises:
        DataError: names the first array that is wrong, and what was expected.
    """
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
    offset, label, names = arrays["offset"].astype(np.int64), arrays["label"], arrays["label_names"]
    if offset[0] != 0 or offset[-1] != len(arrays["pose"]) or (np.diff(offset) < 0).any():
        raise DataError(f"{path}: offset must rise from 0 to the {len(arrays['pose'])} frames of pose")
    if label.min(initial=0) < 0 or label.max(initial=0) >= len(names):
        raise DataError(f"{path}: label has values outside 0..{len(names) - 1}, the label_names")
