"""Import landmarks in a foreign format: find the clips, choose, read, and write a DATASET."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

from spoter_runtime._types import OnProgress
from spoter_runtime.errors import ConfigError, DataError, InputError, SpoterError, nearest_known
from spoter_toolkit.data.bdslw60 import labels_named
from spoter_toolkit.data.dataset import Dataset, Origin
from spoter_toolkit.data.dataset_writer import NewClip, check_dataset_folder, write_dataset
from spoter_toolkit.data.importers.asl33 import find_asl33
from spoter_toolkit.data.importers.common import E, Format, ImportSettings, Source, chosen
from spoter_toolkit.data.importers.notebook_json import find_notebook_json
from spoter_toolkit.data.importers.npy import find_npy
from spoter_toolkit.data.importers.spoter_csv import find_spoter_csv

FORMATS: Final[dict[str, Format]] = {
    "asl33": find_asl33,
    "spoter-csv": find_spoter_csv,
    "notebook-json": find_notebook_json,
    "npy": find_npy,
}


def import_dataset(
    kind: str,
    source: Path | str,
    out: Path | str,
    settings: ImportSettings | None = None,
    *,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Dataset:
    """Write a DATASET from landmarks in a foreign format.

    Args:
        kind: one of `FORMATS`, whose functions describe the formats.
        source: file or folder.
        out: the DATASET folder to write.
        settings: the choice of clips and the treatment of unusable ones; None takes all.
        force: replace an existing dataset.
        on_progress: called with (clips done, clips in all, what).

    Raises:
        ConfigError: an unknown format.
        DataError: the source is not of that format, or damaged; unknown labels or signers; or see
            `write_dataset`.
        OSError: see `write_dataset`.
    """
    if kind not in FORMATS:
        raise ConfigError(f"unknown format {kind!r}; {nearest_known(kind, list(FORMATS))}")
    settings, source = settings or ImportSettings(), Path(source)
    check_dataset_folder(Path(out), force=force)
    found = FORMATS[kind](source, settings)
    if found.bad and not found.entries:
        raise found.bad[0]
    entries, left_out = chosen(found.entries, settings, where=source)
    clips = _read_clips(found, entries, on_progress)
    return write_dataset(
        out,
        chain(found.bad, found.mend(list(clips)) if found.mend else clips),
        labels=labels_named(entry.label for entry in entries),
        coordinates=settings.coordinates,
        origin=Origin(kind=kind, source=found.name, licence=found.licence, skipped=left_out),
        long=settings.long,
        skip_bad=settings.skip_bad,
        force=force,
    )


def _read_clips(
    source: Source[E], entries: list[E], on_progress: OnProgress | None
) -> Iterator[NewClip | SpoterError]:
    for done, entry in enumerate(entries, start=1):
        try:
            yield source.read(entry)
        except (DataError, InputError) as error:
            yield error
        if on_progress:
            on_progress(done, len(entries), f"reading {source.unit}")
