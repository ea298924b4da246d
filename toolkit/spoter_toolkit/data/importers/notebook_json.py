"""Import the notebook's landmark JSON: one file per clip, named like BdSLW60's trials."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.errors import DataError, InputError, SpoterError
from spoter_runtime.files import read_text
from spoter_runtime.landmarks import LEFT_HAND, MIRRORED, RIGHT_HAND, landmarks_from_mediapipe
from spoter_runtime.strict import json_from_text
from spoter_toolkit.data.bdslw60 import FPS, Trial, trial_from_name
from spoter_toolkit.data.dataset_writer import NewClip
from spoter_toolkit.data.importers.common import ImportSettings, Source
from spoter_toolkit.data.names import natural_order
from spoter_toolkit.data.sources import wrong_source

_RIGHT_WRIST: Final = 10
_LEFT_WRIST: Final = 11
_POINTS: Final = {"pose": 33, "left": 21, "right": 21}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFile:
    """A file, with the facts in its name."""

    path: Path
    trial: Trial

    @property
    def label(self) -> str:
        """The trial's word."""
        return self.trial.word

    @property
    def signer(self) -> str:
        """The trial's signer."""
        return self.trial.signer


def find_notebook_json(source: Path, settings: ImportSettings) -> Source[TrialFile]:
    """Find the clips of a folder of landmark files that the notebook's extractor wrote.

    Each file is named ``U13W2F_trial_9_L.json`` (or ``…_landmarks.json``) and holds ``pose_landmarks``: for
    every frame 33 points x, y, z or null, and ``hand_landmarks``: ``{"left": …, "right": …}`` with 21 points
    or null for every frame, or a list with such a pair for every frame. Points may also be one flat list a
    frame, and the hands ``left_hand_landmarks`` and ``right_hand_landmarks``.

    MediaPipe Hands expects a mirrored picture; in others its "left" is the signer's right hand. If most hands
    are at the body's other wrist, left and right are swapped in the whole source, which `Origin.notes`
    states.

    Args:
        source: the folder, searched with its subfolders. A file with another name is an unusable clip.
        settings: gives the frame rate.

    Raises:
        DataError: no such files.
    """
    wrong = "a folder of .json files", "spoter-kit data import notebook-json"
    if not source.is_dir():
        raise wrong_source(source, *wrong)
    entries, misnamed = [], []
    for path in sorted(source.rglob("*.json"), key=lambda path: natural_order(str(path))):
        try:
            trial = trial_from_name(path.stem.removesuffix("_landmarks").removesuffix(".mp4"))
        except DataError as error:
            misnamed.append(DataError(f"{path}: {error.message}", fix=error.fix))
        else:
            entries.append(TrialFile(path=path, trial=trial))
    if not entries and not misnamed:
        raise wrong_source(source, *wrong)

    def read(entry: TrialFile) -> NewClip:
        try:
            data = read_landmarks(entry.path)
            poses_TLD = poses_of(data)
        except (DataError, InputError) as error:
            raise DataError(f"{entry.path}: {error.message}", fix=error.fix) from error
        fps, notes = settings.rate(rate_of(data) or FPS)
        return NewClip(
            id=entry.trial.name,
            label=entry.label,
            signer=entry.signer,
            fps=fps,
            poses_TLD=poses_TLD,
            source=entry.trial.recording,
            where=str(entry.path),
            notes=notes,
        )

    return Source(
        name=source.resolve().name,
        entries=entries,
        read=read,
        unit="files",
        bad=misnamed,
        mend=with_hands_by_body,
    )


def read_landmarks(path: Path) -> dict[str, Any]:
    """Return the content of a file.

    Raises:
        DataError: no JSON, or no landmarks in it.
    """
    try:
        data = json_from_text(read_text(path), with_nan=True)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read as JSON, truncated or foreign: {error}") from error
    if not isinstance(data, dict) or "pose_landmarks" not in data:
        raise DataError("not a landmark file: expected an object with pose_landmarks and hand_landmarks")
    return data


def poses_of(data: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Return a file's landmarks (frames, 54, 2), NaN where not detected.

    Raises:
        DataError: a part is not in one of the known forms.
        InputError: parts of different lengths.
    """
    hands = data.get("hand_landmarks")
    parts = {"pose": data["pose_landmarks"]}
    for side in ("left", "right"):
        if isinstance(hands, dict):
            parts[side] = hands.get(side)
        elif isinstance(hands, list):
            if not all(frame is None or isinstance(frame, dict) for frame in hands):
                raise DataError('hand_landmarks: expected {"left": …, "right": …} or null for every frame')
            parts[side] = [(frame or {}).get(side) for frame in hands]
        else:
            parts[side] = data.get(f"{side}_hand_landmarks")
    arrays = {name: None if part is None else points_of(part, name) for name, part in parts.items()}
    return landmarks_from_mediapipe(arrays["pose"], arrays["left"], arrays["right"])


def points_of(frames: Any, part: str) -> npt.NDArray[np.float64]:
    """Return one part's points (frames, points, 2), NaN where a frame is null.

    Raises:
        DataError: no list of frames, or a frame of other numbers.
    """
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


def rate_of(data: dict[str, Any]) -> float | None:
    """Return a file's frame rate; None if it has none."""
    for key in ("metadata", "video_info"):
        about = data.get(key)
        fps = about.get("fps") if isinstance(about, dict) else None
        if isinstance(fps, int | float) and fps > 0:
            return float(fps)
    return None


def with_hands_by_body(clips: list[NewClip | SpoterError]) -> list[NewClip | SpoterError]:
    """Swap left and right hands in all clips if most hands lie at the other side's body wrist."""
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
        return clips
    swapped = [*range(LEFT_HAND.start), *MIRRORED[LEFT_HAND.start :]]
    note = "left and right hand were named the other way round and swapped"
    return [
        replace(clip, poses_TLD=clip.poses_TLD[:, swapped], notes=(*clip.notes, note))
        if isinstance(clip, NewClip)
        else clip
        for clip in clips
    ]
