"""Recognise the signs in clips on disk: .npy files, videos, folders of them, and data sets."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spoter_runtime.bundle.manifest import MANIFEST, read_bundle
from spoter_runtime.camera.files import landmarker_in
from spoter_runtime.camera.video import video_frames
from spoter_runtime.clip_files import is_video, load_clip
from spoter_runtime.errors import ConfigError, InputError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.recognizer import LongClips, Prediction, Recognizer
from spoter_toolkit.data.dataset import DATASET_JSON, read_dataset
from spoter_toolkit.data.extract.videos import videos_in
from spoter_toolkit.workspace import newest_bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePredictions:
    """The signs that a bundle recognised in clips on disk."""

    bundle: Path
    backend: str  # that computed the logits
    names: tuple[str, ...]  # of the clips: a .npy file's or a video's path, or a clip's id in its data set
    predictions: tuple[Prediction, ...]  # one for each name
    passed_over: Mapping[str, str]  # backend → why it was not taken, where none was asked for by name


def predict_files(
    sources: Sequence[Path],
    bundle: Path | None = None,
    *,
    backend: str | None = None,
    precision: str = "fp32",
    long: LongClips = "error",
    mirror: bool = False,
) -> FilePredictions:
    """Return the predicted sign of each clip, with clip names, the backend, and why others were skipped.

    Args:
        sources: .npy files, videos of one sign each, folders of either, or DATASETs.
        bundle: a BUNDLE; None takes the newest in ``bundles/``.
        backend: see `Recognizer.load`.
        precision: see `Recognizer.load`.
        long: see `Recognizer.load`.
        mirror: see `Recognizer.predict_video`.

    Raises:
        SpoterError: a clip or the bundle cannot be used, or no engine runs here.
    """
    # Before the bundle: a file that is no clip is the user's first mistake.
    clips = [clip for source in sources for clip in clips_from(source)]
    bundle = bundle or newest_bundle()
    recognizer = Recognizer.load(bundle, backend, precision=precision, long=long)
    arrays = [(name, clip) for name, clip in clips if not isinstance(clip, Path)]
    answers = iter(
        recognizer.predict_many([clip for _, clip in arrays], names=[name for name, _ in arrays])
        if arrays
        else ()
    )
    return FilePredictions(
        bundle=bundle,
        backend=recognizer.runner.name,
        names=tuple(name for name, _ in clips),
        predictions=tuple(
            recognizer.predict_video(clip, mirror=mirror) if isinstance(clip, Path) else next(answers)
            for _, clip in clips
        ),
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


def bundle_finds_landmarks(bundle: Path | None) -> bool:
    """Tell whether a bundle, or the newest one for None, has a landmarker in it."""
    return landmarker_in(read_bundle(bundle or newest_bundle())) is not None


def has_videos(sources: Sequence[Path]) -> bool:
    """Tell whether some of the sources of `predict_files` are videos, so that a landmarker is needed.

    Raises:
        DataError: one of them cannot be opened, which is better known before a download.
        MissingExtraError: PyAV is not installed.
    """
    found = (file for source in sources for _, file in clips_from(source, read=False))
    videos = [file for file in found if isinstance(file, Path)]
    for video in videos:
        next(video_frames(video))
    return bool(videos)


def clips_from(source: Path, *, read: bool = True) -> Iterator[tuple[str, Float32Array | Path | None]]:
    """Yield name and landmarks of a .npy file, or name and path of a video, of each in a folder.

    Of a DATASET it is each clip. Landmarks are None where they are not to be read.

    Raises:
        InputError: a file is no clip.
        DataError: a folder holds neither a data set nor .npy files nor videos.
    """
    if is_video(source) and not source.is_dir():
        if not source.exists():
            raise InputError(f"{source}: cannot be read: No such file or directory", fix="check the path")
        yield str(source), source
        return
    files = []
    if not (source / DATASET_JSON).is_file():
        files = sorted(source.glob("*.npy"))
        videos = videos_in(source) if source.is_dir() else []
        yield from ((str(video), video) for video in videos)
        if videos and not files:
            return
    if not read:
        return
    if source.is_dir() and not files:
        dataset = read_dataset(source)
        yield from ((clip.id, dataset.poses_of(clip)) for clip in dataset.clips)
    else:
        yield from ((str(file), load_clip(file)) for file in files or [source])
