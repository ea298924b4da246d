"""Recognise the signs in clips on disk: .npy files, videos, folders of them, and data sets."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spoter_runtime.bundle.manifest import MANIFEST, Bundle, read_bundle
from spoter_runtime.camera.files import landmarker_in
from spoter_runtime.camera.video import video_frames
from spoter_runtime.clip_files import is_video, load_clip
from spoter_runtime.errors import ConfigError, DataError, InputError, SpoterError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.recognizer import LongClips, Prediction, Recognizer
from spoter_toolkit.data.dataset import DATASET_JSON, POSES, read_dataset
from spoter_toolkit.data.extract.videos import videos_in
from spoter_toolkit.report.words import lines_of_errors
from spoter_toolkit.workspace import RUN_JSON, newest_bundle

BadClip = tuple[str, SpoterError]  # a clip that cannot be used: its name, and an error that holds it too


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipsOnDisk:
    """The clips of some sources, and those that cannot be used."""

    clips: tuple[tuple[str, Float32Array | Path], ...]  # name, and landmarks or the path of a video
    bad: tuple[BadClip, ...]

    @property
    def has_videos(self) -> bool:
        """Whether some are videos, so that a landmarker is needed."""
        return any(isinstance(clip, Path) for _, clip in self.clips)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePredictions:
    """The signs that a bundle recognised in clips on disk."""

    bundle: Path
    backend: str  # that computed the logits
    names: tuple[str, ...]  # of the clips: a .npy file's or a video's path, or a clip's id in its data set
    predictions: tuple[Prediction, ...]  # one for each name
    bad: tuple[BadClip, ...]
    passed_over: Mapping[str, str]  # backend → why it was not taken, where none was asked for by name


def read_clips(sources: Sequence[Path]) -> ClipsOnDisk:
    """Return the landmarks of each clip, and the paths of videos, whose first frame was decoded.

    Args:
        sources: .npy files, videos of one sign each, folders of either, or DATASETs.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    clips: list[tuple[str, Float32Array | Path]] = []
    bad: list[BadClip] = []
    for source in sources:
        with _collecting(bad, str(source)):
            if not (files := _files_of(source)):
                dataset = read_dataset(source)
                clips += ((clip.id, dataset.poses_of(clip)) for clip in dataset.clips)
            for file in files:
                with _collecting(bad, str(file)):
                    clips.append((str(file), _opened(file)))
    return ClipsOnDisk(clips=tuple(clips), bad=tuple(bad))


def predict_files(
    found: ClipsOnDisk,
    bundle: Path | None = None,
    *,
    backend: str | None = None,
    precision: str = "fp32",
    long: LongClips = "error",
    mirror: bool = False,
) -> FilePredictions:
    """Return the predicted sign of each clip, with clip names, the backend, and why others were skipped.

    Args:
        found: the clips.
        bundle: a BUNDLE; None takes the newest in ``bundles/``.
        backend: see `Recognizer.load`.
        precision: see `Recognizer.load`.
        long: see `Recognizer.load`.
        mirror: see `Recognizer.predict_video`.

    Raises:
        SpoterError: the bundle cannot be used, or no engine runs here.
    """
    bundle = bundle or newest_bundle()
    recognizer = Recognizer.load(bundle, backend, precision=precision, long=long)
    answers: list[tuple[str, Prediction]] = []
    bad = list(found.bad)
    arrays = iter(_predictions(recognizer, found))
    for name, clip in found.clips:
        with _collecting(bad, name):
            if isinstance(clip, Path):
                answers.append((name, recognizer.predict_video(clip, mirror=mirror)))
            elif isinstance(answer := next(arrays), Prediction):
                answers.append((name, answer))
            else:
                bad.append((name, answer))
    return FilePredictions(
        bundle=bundle,
        backend=recognizer.runner.name,
        names=tuple(name for name, _ in answers),
        predictions=tuple(prediction for _, prediction in answers),
        bad=tuple(bad),
        passed_over=recognizer.passed_over,
    )


def error_of_bad_clips(bad: Sequence[SpoterError], clips: int) -> SpoterError:
    """Return one error that names the clips that cannot be used, with the reasons.

    Args:
        bad: an error for each.
        clips: how many clips there are, with the bad ones.
    """
    if clips == 1:
        return bad[0]
    return DataError(f"{len(bad)} of {clips} clips cannot be used:\n{lines_of_errors(bad)}")


def bundle_before(paths: Sequence[Path]) -> tuple[Path | None, Sequence[Path]]:
    """Return the BUNDLE that stands before the clips, if one does, and the clips.

    Raises:
        ConfigError: no clips stand after it, or a RUN stands there.
    """
    first, *others = paths
    if (first / RUN_JSON).is_file():
        fix = f"spoter-kit export {shlex.quote(str(first))}"
        raise ConfigError(f"{first}: is a RUN, expected a BUNDLE before the clips", fix=fix)
    if not os.path.lexists(first / MANIFEST):
        return None, paths
    if not others:
        fix = f"spoter-kit predict {shlex.quote(str(first))} {example_of_clip(read_bundle(first))}"
        raise ConfigError(f"{first}: is a BUNDLE, expected clips after it", fix=fix)
    return first, others


def example_of_clip(bundle: Bundle) -> str:
    """Return the name of a clip as a bundle's users have it: of a video where videos trained it."""
    data = bundle.provenance.get("data")
    of_videos = isinstance(data, dict) and bool(data.get("landmarker"))
    return "video.mp4" if of_videos or landmarker_in(bundle) is not None else "clip.npy"


def bundle_finds_landmarks(bundle: Path | None) -> bool:
    """Tell whether a bundle, or the newest one for None, has a landmarker in it."""
    return landmarker_in(read_bundle(bundle or newest_bundle())) is not None


@contextmanager
def _collecting(bad: list[BadClip], name: str) -> Iterator[None]:
    """Collect the error of a clip, so that the others get their answers."""
    try:
        yield
    except (InputError, DataError) as error:
        bad.append((name, error))


def _files_of(source: Path) -> list[Path]:
    """Return a file, or the videos and .npy files of a folder; nothing for a DATASET."""
    if not source.is_dir():
        if source.name == POSES and (source.parent / DATASET_JSON).is_file():
            fix = f"spoter-kit predict {shlex.quote(str(source.parent))}"
            raise DataError(f"{source}: holds all clips of a DATASET, expected one clip", fix=fix)
        return [source]
    if (source / DATASET_JSON).is_file():
        return []
    return [*videos_in(source), *sorted(source.glob("*.npy"))]


def _opened(file: Path) -> Float32Array | Path:
    """Return the landmarks of a .npy file, or the path of a video that can be opened."""
    if not is_video(file):
        return load_clip(file)
    if not file.exists():
        raise InputError(f"{file}: cannot be read: No such file or directory", fix="check the path")
    next(video_frames(file))
    return file


def _predictions(recognizer: Recognizer, found: ClipsOnDisk) -> list[Prediction | SpoterError]:
    """Return the answer to each clip of landmarks, or its error."""
    arrays = [(name, clip) for name, clip in found.clips if not isinstance(clip, Path)]
    if not arrays:
        return []
    names, clips = zip(*arrays, strict=True)
    answers: list[Prediction | SpoterError] = []
    try:
        answers += recognizer.predict_many(clips, names=names)
    except InputError:  # of one of them
        for name, clip in arrays:
            try:
                answers.append(recognizer.predict(clip, name=name))
            except InputError as error:
                answers.append(error)
    return answers
