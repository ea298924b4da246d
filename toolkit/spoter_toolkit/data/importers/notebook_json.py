"""Import the notebook's landmark JSON: a file a clip, named as BdSLW60 names its trials."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.errors import DataError, InputError
from spoter_runtime.files import read_text
from spoter_runtime.landmarks import LEFT_HAND, MIRRORED, RIGHT_HAND, landmarks_from_mediapipe
from spoter_toolkit.data.bdslw60 import FPS, Trial, labels_named, natural_order, trial_from_name
from spoter_toolkit.data.dataset import Dataset, Origin
from spoter_toolkit.data.dataset_writer import BadClip, NewClip, write_dataset
from spoter_toolkit.data.importers.common import ImportSettings, OnProgress, chosen

_RIGHT_WRIST: Final = 10
_LEFT_WRIST: Final = 11
_POINTS: Final = {"pose": 33, "left": 21, "right": 21}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    path: Path
    trial: Trial

    @property
    def label(self) -> str:
        return self.trial.word

    @property
    def signer(self) -> str:
        return self.trial.signer


def import_notebook_json(
    source: Path | str,
    out: Path | str,
    settings: ImportSettings | None = None,
    *,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Dataset:
    """Write a DATASET from a folder of landmark files that the notebook's extractor wrote.

    Each file is named ``U13W2F_trial_9_L.json`` (or ``…_landmarks.json``) and holds ``pose_landmarks``: for
    every frame 33 points x, y, z or null, and ``hand_landmarks``: ``{"left": …, "right": …}`` with 21 points
    or null for every frame, or a list with such a pair for every frame. Points may also be one flat list a
    frame, and the hands ``left_hand_landmarks`` and ``right_hand_landmarks``.

    MediaPipe Hands names the hands of a mirrored picture; on others its "left" is the signer's right. Where
    most hands lie at the other side's wrist of the body, left and right are swapped in the whole source;
    `Origin.notes` says so.

    Args:
        source: the folder, searched with its subfolders.
        out: the DATASET folder to write.
        settings: which clips to take, by ``W2`` and ``U13``; None: all.
        force: replace an existing dataset.
        on_progress: called with (files done, files in all, what).

    Raises:
        DataError: no such files, a name that does not follow the scheme, unknown words or signers, or see
            `write_dataset`.
        OSError: see `write_dataset`.
    """
    settings = settings or ImportSettings()
    source = Path(source)
    entries, misnamed = _entries(source)
    if entries or not misnamed:
        entries, left_out = chosen(entries, settings, where=source)
    else:
        raise DataError(misnamed[0].reason)
    clips = list(_clips(entries, settings, on_progress))
    return write_dataset(
        out,
        [*misnamed, *_hands_by_body(clips)],
        labels=labels_named(entry.label for entry in entries),
        coordinates=settings.coordinates,
        origin=Origin(kind="notebook-json", source=source.resolve().name, skipped=left_out),
        long=settings.long,
        skip_bad=settings.skip_bad,
        force=force,
    )


def _entries(source: Path) -> tuple[list[_Entry], list[BadClip]]:
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; expected one of .json files")
    entries, misnamed = [], []
    for path in sorted(source.rglob("*.json"), key=lambda path: natural_order(str(path))):
        try:
            trial = trial_from_name(path.stem.removesuffix("_landmarks").removesuffix(".mp4"))
        except DataError as error:
            misnamed.append(BadClip(reason=f"{path}: {error}"))
        else:
            entries.append(_Entry(path=path, trial=trial))
    if not entries and not misnamed:
        raise DataError(f"{source}: no .json files in this folder")
    return entries, misnamed


def _clips(
    entries: list[_Entry], settings: ImportSettings, on_progress: OnProgress | None
) -> Iterator[NewClip | BadClip]:
    for done, entry in enumerate(entries, start=1):
        try:
            data = _read(entry.path)
            poses_TLD = _poses(data)
        except (DataError, InputError) as error:
            yield BadClip(reason=f"{entry.path}: {error}")
            continue
        fps, notes = settings.rate(_fps(data) or FPS)
        yield NewClip(
            id=entry.trial.name,
            label=entry.label,
            signer=entry.signer,
            fps=fps,
            poses_TLD=poses_TLD,
            source=entry.trial.recording,
            where=str(entry.path),
            notes=notes,
        )
        if on_progress:
            on_progress(done, len(entries), "reading files")


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_text(path))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"cannot be read as JSON, truncated or foreign: {error}") from error
    if not isinstance(data, dict) or "pose_landmarks" not in data:
        raise DataError("not a landmark file: expected an object with pose_landmarks and hand_landmarks")
    return data


def _poses(data: dict[str, Any]) -> npt.NDArray[np.float32]:
    parts = {"pose": data["pose_landmarks"], **_hands(data)}
    arrays = {name: None if part is None else _points(part, name) for name, part in parts.items()}
    return landmarks_from_mediapipe(arrays["pose"], arrays["left"], arrays["right"])


def _hands(data: dict[str, Any]) -> dict[str, Any]:
    sides = ("left", "right")
    hands = data.get("hand_landmarks")
    if isinstance(hands, dict):
        return {side: hands.get(side) for side in sides}
    if isinstance(hands, list):
        if not all(frame is None or isinstance(frame, dict) for frame in hands):
            raise DataError('hand_landmarks: expected {"left": …, "right": …} or null for every frame')
        return {side: [(frame or {}).get(side) for frame in hands] for side in sides}
    return {side: data.get(f"{side}_hand_landmarks") for side in sides}


def _points(frames: Any, part: str) -> npt.NDArray[np.float64]:
    """Return one part's (frames, points, 2), NaN where a frame is null."""
    if not isinstance(frames, list):
        raise DataError(f"{part} landmarks: expected a list of frames, got {type(frames).__name__}")
    count = _POINTS[part]
    points_TPD = np.full((len(frames), count, 2), np.nan)
    for i, frame in enumerate(frames):
        if not frame:
            continue
        try:
            points = np.asarray(frame, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{part} landmarks, frame {i}: not numbers: {error}") from error
        if points.shape == (3 * count,):
            points = points.reshape(count, 3)
        if points.ndim != 2 or len(points) != count or points.shape[1] < 2:
            raise DataError(
                f"{part} landmarks, frame {i}: expected {count}×3 numbers or null, "
                f"got {'×'.join(map(str, points.shape))}"
            )
        points_TPD[i] = points[:, :2]
    return points_TPD


def _fps(data: dict[str, Any]) -> float | None:
    for key in ("metadata", "video_info"):
        about = data.get(key)
        fps = about.get("fps") if isinstance(about, dict) else None
        if isinstance(fps, int | float) and fps > 0:
            return float(fps)
    return None


def _hands_by_body(clips: Sequence[NewClip | BadClip]) -> list[NewClip | BadClip]:
    """Swap left and right hands in all clips where most hands lie at the other side's body wrist."""
    own = other = 0
    for clip in clips:
        if isinstance(clip, NewClip):
            for hand, side, opposite in (
                (LEFT_HAND, _LEFT_WRIST, _RIGHT_WRIST),
                (RIGHT_HAND, _RIGHT_WRIST, _LEFT_WRIST),
            ):
                at_T = clip.poses_TLD[:, hand.start]
                to_own = np.linalg.norm(at_T - clip.poses_TLD[:, side], axis=-1)
                to_other = np.linalg.norm(at_T - clip.poses_TLD[:, opposite], axis=-1)
                own += int((to_own < to_other).sum())
                other += int((to_other < to_own).sum())
    if other <= own:
        return list(clips)
    return [_swapped(clip) if isinstance(clip, NewClip) else clip for clip in clips]


def _swapped(clip: NewClip) -> NewClip:
    poses_TLD = clip.poses_TLD.copy()
    poses_TLD[:, LEFT_HAND.start :] = clip.poses_TLD[:, MIRRORED[LEFT_HAND.start :]]
    return replace(
        clip,
        poses_TLD=poses_TLD,
        notes=(*clip.notes, "left and right hand were named the other way round and swapped"),
    )
