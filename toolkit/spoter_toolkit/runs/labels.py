"""Read a list of labels from wherever a user has one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spoter_runtime.contract import Label
from spoter_runtime.errors import DataError
from spoter_runtime.files import read_text


def read_labels(source: str) -> Sequence[Label]:
    """Return labels in the order of a model's classes.

    Args:
        source: ``"bdslw60"`` for that data set's 60 words in the order of its word table, a DATASET folder,
            or a text file with one label a line.

    Raises:
        DataError: no such source, or a label twice.
    """
    from spoter_toolkit.data.bdslw60 import words
    from spoter_toolkit.data.dataset import read_dataset

    if source == "bdslw60":
        return words()
    path = Path(source)
    if path.is_dir():
        labels: Sequence[Label] = read_dataset(path).labels
        return labels
    try:
        names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"labels {source!r}: not readable: {error}. Expected bdslw60, a dataset, or a text file"
        ) from error
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: the label {twice!r} is there twice")
    return [Label(name=name) for name in names]
