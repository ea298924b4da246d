"""Keep the landmarks of each clip as soon as it is done, so that a run that was stopped goes on there."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from spoter_runtime.camera.clips import VideoClip
from spoter_runtime.files import put_back, remove, replacing
from spoter_runtime.strict import NUMBERS, TEXT, expect, json_from_text, read_arrays
from spoter_toolkit.data.extract.videos import VideoPart

_MOST_BYTES: Final = 1 << 30  # of a clip; an hour of video takes 50 MB
_VERSION: Final = 1  # of what is found in a frame, apart from the landmarker


@dataclass(frozen=True, slots=True)
class Store:
    """A hidden folder beside the data set that is to be written, with a file for each clip.

    Attributes:
        folder: of the files.
        setting: what the landmarks depend on besides the video: the landmarker's name, and mirroring.
    """

    folder: Path
    setting: str

    def clip(self, part: VideoPart) -> VideoClip | None:
        """Return a clip that was kept; None where there is none of this very video, part and setting."""
        try:
            with self._file(part).open("rb") as file:
                stored = read_arrays(file, ("poses", "facts"), most_bytes=_MOST_BYTES, kinds=NUMBERS + TEXT)
            facts = expect(json_from_text(str(stored["facts"])), dict[str, Any], "facts")
            return VideoClip(poses_TLD=stored["poses"], **facts)
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, part: VideoPart, clip: VideoClip) -> None:
        """Keep a clip.

        Raises:
            OSError: the disk is full; nothing of it is left behind.
        """
        facts = {
            "fps": clip.fps,
            "persons": clip.persons,
            "landmarker": clip.landmarker,
            "decode_ms": clip.decode_ms,
            "landmarks_ms": clip.landmarks_ms,
        }
        try:
            with replacing(self._file(part)) as temporary, temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, poses=clip.poses_TLD, facts=np.array(json.dumps(facts)))
        except OSError as error:
            error.filename = error.filename or str(self.folder)  # a full disk names no file
            raise

    def clear(self) -> None:
        """Remove the folder: the data set is written."""
        remove(self.folder)

    def _file(self, part: VideoPart) -> Path:
        put_back(self.folder)
        status = part.path.stat()
        video = str(part.path.resolve()), status.st_size, status.st_mtime_ns
        key = json.dumps([_VERSION, self.setting, video, part.start, part.end, part.unit])
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"


def store_beside(dataset: Path, setting: str) -> Store:
    """Return the store of a data set that is to be written."""
    return Store(_folder_beside(dataset), setting)


def clips_kept(dataset: Path) -> int:
    """Return how many clips of a data set that is to be written are kept."""
    return len(list(_folder_beside(dataset).glob("*.npz")))


def _folder_beside(dataset: Path) -> Path:
    return dataset.parent / f".{dataset.name}.extract"
