"""Extract: a DATASET from videos, which goes on where it was stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from spoter_runtime._types import OnProgress
from spoter_runtime.camera.files import read_landmarker
from spoter_runtime.camera.video import video_frames
from spoter_runtime.errors import ConfigError, DataError, SpoterError
from spoter_runtime.machine import usable_cores
from spoter_toolkit.data.bdslw60 import labels_named
from spoter_toolkit.data.dataset import DATASET_JSON, MAX_FRAMES, UNKNOWN_SIGNER, Dataset, Origin
from spoter_toolkit.data.dataset_writer import (
    LongClips,
    NewClip,
    check_dataset_folder,
    error_of_bad,
    write_dataset,
)
from spoter_toolkit.data.extract.landmarks import Backend, Finder, without_still_ends
from spoter_toolkit.data.extract.on_cores import Failed, on_cores
from spoter_toolkit.data.extract.store import Store, store_beside
from spoter_toolkit.data.extract.videos import FoundVideos, VideoPart, find_videos, videos_in

_MOST_PARTS: Final = 16  # of one video in one work: a long recording is shared by the cores

_MOST_OPENED: Final = 300  # videos, to find broken ones before the work: 3 s

LOCAL_RAY: Final = "local"  # an address: a cluster on this machine, for this run


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractSettings:
    """How the landmarks of videos are found, and what becomes of clips that do not fit.

    Attributes:
        backend: the landmarker of this project, or MediaPipe itself.
        landmarker: its folder; None means the user's cache.
        signer: of clips whose source names none.
        mirror: the videos show a mirror image: swap left and right.
        trim: cut the frames at both ends of a clip in which no hand moves.
        long: see `write_dataset`.
        skip_bad: see `write_dataset`.
        workers: processes on this machine; None means one per core.
        ray: address of a Ray cluster, or `LOCAL_RAY`; None uses this machine's cores without Ray.

    Raises:
        ConfigError: fewer than one worker, or workers with Ray.
    """

    backend: Backend = "ours"
    landmarker: Path | None = None
    signer: str = UNKNOWN_SIGNER
    mirror: bool = False
    trim: bool = False
    long: LongClips = "error"
    skip_bad: bool = False
    workers: int | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            fix = f"--workers {usable_cores()}"
            raise ConfigError(f"--workers {self.workers}: expected at least 1", fix=fix)
        if self.workers is not None and self.ray is not None:
            raise ConfigError("--workers: Ray has its own", fix="leave out --workers or --ray")


def extract(
    source: Path,
    out: Path,
    settings: ExtractSettings | None = None,
    *,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Dataset:
    """Write a DATASET of the landmarks in videos.

    A clip that is done is kept in a hidden folder beside `out` until all are done. So the next call goes on
    after a kill, an error or a full disk.

    Args:
        source: see `find_videos`.
        out: the DATASET folder to write.
        settings: None for the defaults.
        force: replace an existing dataset.
        on_progress: called with (clips done, clips in all, what).

    Raises:
        BundleError: there is no landmarker.
        DataError: the source cannot be used, or a clip cannot and `skip_bad` is not set; then all others are
            done all the same, and kept.
        MissingExtraError: PyAV, ONNX Runtime, MediaPipe or Ray is not installed.
        OSError: the disk is full.
    """
    settings = settings or ExtractSettings()
    check_dataset_folder(out, force=force)
    found = find_videos(source, signer=settings.signer)
    if not found.parts:
        raise found.bad[0] if found.bad else DataError(f"{source}: no clips there")
    if found.bad and not settings.skip_bad:  # not after hours of work
        bad = [*found.bad, *_unreadable(found.parts)]
        raise error_of_bad(bad, len(found.bad) + len(found.parts))
    finder, name = _finder(settings)
    store = store_beside(out, f"{name} mirror" if settings.mirror else name)
    missing = [part for part in found.parts if store.clip(part) is None]
    failed = _find_all(missing, len(found.parts), finder, store, settings, on_progress)
    dataset = _write(out, found, failed, name, store, settings, force=force)
    store.clear()
    return dataset


def is_videos(path: Path) -> bool:
    """Tell whether a path is a source of `extract`, and no DATASET."""
    if (path / DATASET_JSON).is_file():
        return False
    return path.suffix.lower() == ".csv" or (path.is_dir() and bool(videos_in(path)))


@contextmanager
def dataset_of(path: Path | None, on_progress: OnProgress | None = None) -> Iterator[Path | None]:
    """Yield a path as it is, or, for videos, a DATASET of them that is gone afterwards.

    Videos that cannot be used are left out; `skipped_clips` has them.

    Raises:
        SpoterError: as `extract`.
    """
    if path is None or not is_videos(path):
        yield path
        return
    with TemporaryDirectory() as folder:
        made = Path(folder) / (path.resolve().stem or "videos")
        extract(path, made, ExtractSettings(skip_bad=True), on_progress=on_progress)
        try:
            yield made
        except SpoterError as error:  # name what the user typed
            fix = error.fix.replace(str(made), str(path))
            raise type(error)(error.message.replace(str(made), str(path)), fix=fix) from error


def _unreadable(parts: Sequence[VideoPart]) -> list[SpoterError]:
    """Return an error for each video whose first frame cannot be decoded; opens at most `_MOST_OPENED`."""
    bad: list[SpoterError] = []
    for path in [*dict.fromkeys(part.path for part in parts)][:_MOST_OPENED]:
        try:
            next(video_frames(path))
        except DataError as error:
            bad.append(error)
    return bad


def _finder(settings: ExtractSettings) -> tuple[Finder, str]:
    """Return what finds the landmarks, and its name."""
    # A clip that will be refused is left as soon as it is known to be too long.
    most = MAX_FRAMES if settings.long == "error" and not settings.trim else None
    if settings.backend == "mediapipe":
        finder = Finder(landmarker=None, mirror=settings.mirror, most_frames=most)
        return finder, finder.load().sha256
    files = read_landmarker(settings.landmarker)
    folder = files.folder.absolute()
    return Finder(landmarker=folder, mirror=settings.mirror, most_frames=most), files.sha256


def _find_all(
    missing: Sequence[VideoPart],
    total: int,
    finder: Finder,
    store: Store,
    settings: ExtractSettings,
    on_progress: OnProgress | None,
) -> Failed:
    """Find the landmarks of the clips that are not kept yet; return those that failed, with their errors."""
    works = [
        parts[i : i + _MOST_PARTS]
        for _, group in groupby(sorted(missing, key=lambda p: p.path), key=lambda p: p.path)
        for parts in [sorted(group, key=lambda part: part.start)]
        for i in range(0, len(parts), _MOST_PARTS)
    ]
    if not works:
        return []
    done, rate = total - len(missing), FrameRate()

    def on_frames(frames: int) -> None:
        if on_progress:
            on_progress(done, total, f"clips{rate.words(frames)}")

    if settings.ray is None:
        workers = min(settings.workers or usable_cores(), len(works))
        results = on_cores(works, finder, store, workers=workers, on_frames=on_frames)
    else:
        from spoter_toolkit.data.extract.over_ray import over_ray

        address = None if settings.ray == LOCAL_RAY else settings.ray
        results = over_ray(works, finder, store, address=address, on_frames=on_frames)
    failed: Failed = []
    for count, bad in results:
        done += count
        failed += bad
    return failed


class FrameRate:
    """The speed since the first frame: the time before it went into loading the networks."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None  # frames, and when

    def words(self, frames: int) -> str:
        """Return the frames a second, after so many frames; nothing before there is a speed."""
        now = time.monotonic()
        if self._first is None and frames:
            self._first = frames, now
        first, since = self._first or (0, now)
        return f", {(frames - first) / (now - since):.0f} frames/s" if frames > first and now > since else ""


def _write(
    out: Path,
    found: FoundVideos,
    failed: Failed,
    landmarker: str,
    store: Store,
    settings: ExtractSettings,
    *,
    force: bool,
) -> Dataset:
    errors = {part.id: error for part, error in failed}

    def clips() -> Iterator[NewClip | SpoterError]:
        for part in found.parts:
            yield errors.get(part.id) or _new_clip(part, store, settings)

    return write_dataset(
        out,
        chain(found.bad, clips()),
        labels=labels_named(part.label for part in found.parts),
        coordinates="image",
        origin=Origin(kind=found.kind, source=found.name, licence=found.licence, landmarker=landmarker),
        long=settings.long,
        skip_bad=settings.skip_bad,
        force=force,
    )


def _new_clip(part: VideoPart, store: Store, settings: ExtractSettings) -> NewClip:
    clip = store.clip(part)
    if clip is None:
        raise DataError(f"{part.path}: what was found in it is gone", fix="run the same command again")
    poses, notes = clip.poses_TLD, []
    if settings.trim and len(poses := without_still_ends(poses, clip.fps)) < len(clip.poses_TLD):
        notes.append("still frames cut at its ends")
    if clip.persons > 1:
        notes.append("more than one person is in it; the larger was followed")
    if settings.mirror:
        notes.append("mirrored")
    return NewClip(
        id=part.id,
        label=part.label,
        signer=part.signer,
        fps=clip.fps,
        poses_TLD=poses,
        source=part.source or part.id,
        where=part.where,
        notes=tuple(notes),
    )
