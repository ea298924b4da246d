"""Read a list of labels from a data set, a text file, or BdSLW60's words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spoter_runtime.contract import Label
from spoter_runtime.errors import DataError
from spoter_runtime.files import read_text
from spoter_toolkit.data.bdslw60 import words
from spoter_toolkit.data.dataset import read_dataset


def read_labels(source: str) -> Sequence[Label]:
    """Return labels in the order of a model's classes.

    Args:
        source: ``"bdslw60"`` for that data set's 60 words in the order of its word table, a DATASET folder,
            or a text file with one label a line.

    Raises:
        DataError: no such source, or a label twice.
    """
    if source == "bdslw60":
        return words()
    path = Path(source)
    if path.is_dir():
        return read_dataset(path).labels
    try:
        names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"labels {source!r}: not readable: {error.strerror if isinstance(error, OSError) else error}",
            fix="name bdslw60, a DATASET, or a text file with one label a line",
        ) from error
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: the label {twice!r} is there twice")
    return [Label(name=name) for name in names]
