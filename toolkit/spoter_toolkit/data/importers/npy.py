"""Import a folder of .npy files: `<label>/<signer>/<clip>.npy`, or `<label>/<clip>.npy`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spoter_runtime.clip_files import load_clip
from spoter_runtime.errors import DataError
from spoter_toolkit.data.dataset import DATASET_JSON
from spoter_toolkit.data.dataset_writer import NewClip
from spoter_toolkit.data.importers.common import ImportSettings, Source, licence_of
from spoter_toolkit.data.names import natural_order
from spoter_toolkit.data.sources import is_dataset_already, misplaced, wrong_source

_LAYOUT: Final = "<label>/<signer>/<clip>.npy or <label>/<clip>.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class NpyEntry:
    """A file, with the facts in its path."""

    path: Path
    id: str
    label: str
    signer: str


def find_npy(source: Path, settings: ImportSettings) -> Source[NpyEntry]:
    """Find the clips of a folder of arrays, one file a clip.

    Args:
        source: a folder of ``<label>/<signer>/<clip>.npy`` or ``<label>/<clip>.npy``, each (frames, 54, 2)
            or (frames, 108) floats, NaN or (0, 0) = not detected.
        settings: its `signer` is for clips without a signer's folder.

    Raises:
        DataError: no such files, or those of a DATASET.
    """
    wrong = f"a folder of {_LAYOUT}", "spoter-kit data import npy"
    if not source.is_dir():
        raise wrong_source(source, *wrong)
    entries, bad = [], []
    arrays = [*source.rglob("*.npy")]
    archives = [path for folder in {path.parent for path in arrays} for path in folder.glob("*.npz")]
    for path in sorted([*arrays, *archives], key=lambda path: natural_order(str(path))):
        if (path.parent / DATASET_JSON).is_file():  # its poses.npy holds many clips
            raise is_dataset_already(path.parent, wrong[0])
        parts = path.relative_to(source).with_suffix("").parts
        if not 2 <= len(parts) <= 3:
            bad.append(misplaced(path, source, _LAYOUT))
            continue
        if path.suffix == ".npz":  # else its clip is lost without a word
            bad.append(
                DataError(f"{path}: an archive of several arrays", fix="save one array with numpy.save")
            )
            continue
        signer = parts[1] if len(parts) == 3 else settings.signer
        entries.append(NpyEntry(path=path, id="/".join(parts), label=parts[0], signer=signer))
    if not (entries or bad):
        raise wrong_source(source, *wrong)
    fps, notes = settings.rate(None)

    def read(entry: NpyEntry) -> NewClip:
        return NewClip(
            id=entry.id,
            label=entry.label,
            signer=entry.signer,
            fps=fps,
            poses_TLD=load_clip(entry.path),
            source=entry.id,
            where=str(entry.path),
            notes=notes,
        )

    return Source(
        name=source.resolve().name,
        entries=entries,
        read=read,
        unit="files",
        licence=licence_of(source),
        bad=bad,
    )
