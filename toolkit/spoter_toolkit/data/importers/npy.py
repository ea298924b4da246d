"""Import a folder of .npy files: `<label>/<signer>/<clip>.npy`, or `<label>/<clip>.npy`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spoter_runtime.clip_files import load_clip
from spoter_runtime.errors import DataError, InputError
from spoter_toolkit.data.bdslw60 import labels_named, natural_order
from spoter_toolkit.data.dataset import Dataset, Origin
from spoter_toolkit.data.dataset_writer import BadClip, NewClip, write_dataset
from spoter_toolkit.data.importers.common import ImportSettings, OnProgress, chosen, licence_of


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    path: Path
    id: str
    label: str
    signer: str


def import_npy(
    source: Path | str,
    out: Path | str,
    settings: ImportSettings | None = None,
    *,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Dataset:
    """Write a DATASET from a folder of arrays, one file a clip.

    Args:
        source: a folder of ``<label>/<signer>/<clip>.npy`` or ``<label>/<clip>.npy``, each (frames, 54, 2)
            or (frames, 108) floats, NaN or (0, 0) = not detected.
        out: the DATASET folder to write.
        settings: which clips to take; `signer` is who signed where there is no folder for it. None: all.
        force: replace an existing dataset.
        on_progress: called with (files done, files in all, what).

    Raises:
        DataError: no such files, unknown labels or signers, or see `write_dataset`.
        OSError: see `write_dataset`.
    """
    settings = settings or ImportSettings()
    source = Path(source)
    entries, left_out = chosen(_entries(source, settings), settings, where=source)
    return write_dataset(
        out,
        _clips(entries, settings, on_progress),
        labels=labels_named(entry.label for entry in entries),
        coordinates=settings.coordinates,
        origin=Origin(kind="npy", source=source.resolve().name, licence=licence_of(source), skipped=left_out),
        long=settings.long,
        skip_bad=settings.skip_bad,
        force=force,
    )


def _entries(source: Path, settings: ImportSettings) -> list[_Entry]:
    layout = "<label>/<signer>/<clip>.npy or <label>/<clip>.npy"
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; expected one of {layout}")
    entries = []
    for path in sorted(source.rglob("*.npy"), key=lambda path: natural_order(str(path))):
        parts = path.relative_to(source).with_suffix("").parts
        if not 2 <= len(parts) <= 3:
            raise DataError(f"{path}: expected {layout} in {source}")
        entries.append(
            _Entry(
                path=path,
                id="/".join(parts),
                label=parts[0],
                signer=parts[1] if len(parts) == 3 else settings.signer,
            )
        )
    if not entries:
        raise DataError(f"{source}: no .npy files; expected {layout}")
    return entries


def _clips(
    entries: list[_Entry], settings: ImportSettings, on_progress: OnProgress | None
) -> Iterator[NewClip | BadClip]:
    fps, notes = settings.rate(None)
    for done, entry in enumerate(entries, start=1):
        try:
            poses_TLD = load_clip(entry.path)
        except InputError as error:
            yield BadClip(reason=str(error))
            continue
        yield NewClip(
            id=entry.id,
            label=entry.label,
            signer=entry.signer,
            fps=fps,
            poses_TLD=poses_TLD,
            source=entry.id,
            where=str(entry.path),
            notes=notes,
        )
        if on_progress:
            on_progress(done, len(entries), "reading files")
