"""Recognise the signs in clips on disk: .npy files, folders of them, and data sets."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spoter_runtime.bundle.manifest import MANIFEST
from spoter_runtime.clip_files import load_clip
from spoter_runtime.errors import ConfigError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.recognizer import LongClips, Prediction, Recognizer
from spoter_toolkit.data.dataset import DATASET_JSON, read_dataset
from spoter_toolkit.workspace import newest_bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePredictions:
    """The signs that a bundle recognised in clips on disk."""

    bundle: Path
    backend: str  # that computed the logits
    names: tuple[str, ...]  # of the clips: a file's path, or a clip's id in its data set
    predictions: tuple[Prediction, ...]  # one for each name
    passed_over: Mapping[str, str]  # backend → why it was not taken, where none was asked for by name


def predict_files(
    sources: Sequence[Path],
    bundle: Path | None = None,
    *,
    backend: str | None = None,
    precision: str = "fp32",
    long: LongClips = "error",
) -> FilePredictions:
    """Recognise the sign in each clip.

    Args:
        sources: .npy files, folders of .npy files, or DATASETs.
        bundle: a BUNDLE; None takes the newest in ``bundles/``.
        backend: see `Recognizer.load`.
        precision: see `Recognizer.load`.
        long: see `Recognizer.load`.

    Raises:
        SpoterError: a clip or the bundle cannot be used, or no engine runs here.
    """
    # Before the bundle: a file that is no clip is the user's first mistake.
    clips = [clip for source in sources for clip in clips_from(source)]
    bundle = bundle or newest_bundle()
    recognizer = Recognizer.load(bundle, backend, precision=precision, long=long)
    names = tuple(name for name, _ in clips)
    return FilePredictions(
        bundle=bundle,
        backend=recognizer.runner.name,
        names=names,
        predictions=tuple(recognizer.predict_many([clip for _, clip in clips], names=names)),
        passed_over=recognizer.passed_over,
    )


def bundle_before(paths: Sequence[Path]) -> tuple[Path | None, Sequence[Path]]:
    """Return the BUNDLE that stands before the clips, if one does, and the clips.

    Raises:
        ConfigError: no clips stand after it.
    """
    first, *others = paths
    if not os.path.lexists(first / MANIFEST):
        return None, paths
    if not others:
        fix = f"spoter-kit predict {shlex.quote(str(first))} clip.npy"
        raise ConfigError(f"{first}: is a BUNDLE, expected clips after it", fix=fix)
    return first, others


def clips_from(source: Path) -> Iterator[tuple[str, Float32Array]]:
    """Yield name and landmarks of a .npy file, of each .npy file in a folder, or of each clip of a DATASET.

    Raises:
        InputError: a file is no clip.
        DataError: a folder holds neither a data set nor .npy files.
    """
    files = sorted(source.glob("*.npy")) if not (source / DATASET_JSON).is_file() else []
    if source.is_dir() and not files:
        dataset = read_dataset(source)
        yield from ((clip.id, dataset.poses_of(clip)) for clip in dataset.clips)
    else:
        yield from ((str(file), load_clip(file)) for file in files or [source])
