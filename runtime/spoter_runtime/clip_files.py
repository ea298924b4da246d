"""Read a clip of landmarks from a file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spoter_runtime.errors import InputError


def load_clip(path: Path | str) -> npt.NDArray[Any]:
    """Return the array in a ``.npy`` file; its content is checked where it is used.

    Raises:
        InputError: the file is missing, truncated, or not a plain array.
    """
    try:
        with Path(path).open("rb") as file:  # not by its name: numpy leaves a damaged archive open
            array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable .npy array: {error}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: an archive of several arrays. Fix: save one array with numpy.save")
    return array
