"""Read a clip of landmarks from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from spoter_runtime.errors import InputError
from spoter_runtime.files import check_regular
from spoter_runtime.strict import read_array

_NPY, _ZIP = b"\x93NUMPY", b"PK"  # how files of numpy.save and of numpy.savez begin
_MOST_BYTES: Final = 1 << 28  # an hour at 150 frames a second
_NO_CLIP: Final = "not a clip. A clip is a .npy file of landmarks, (frames, 54, 2), or a video"
_MAKE_CLIP: Final = (
    "numpy.save('clip.npy', landmarks_from_mediapipe(pose, left_hand, right_hand)); a video's name ends in "
    ".mp4, .mov, .webm, .gif, …"
)
# How the names of videos end; what is in them is found out by opening them.
VIDEOS: Final = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .gif .mpg .mpeg .wmv .flv .ts .3gp .ogv".split()  # noqa: SIM905
)


def is_video(path: Path | str) -> bool:
    """Tell whether a file is named as a video is."""
    return Path(path).suffix.lower() in VIDEOS


def load_clip(path: Path | str) -> npt.NDArray[Any]:
    """Return the array in a ``.npy`` file; its content is checked where it is used.

    Raises:
        InputError: the file is missing, truncated, larger than 256 MiB, or not a plain array of numbers.
    """
    head = b""
    try:
        check_regular(Path(path))
        with Path(path).open("rb") as file:  # not by its name: numpy leaves a damaged archive open
            head = file.read(512)
            if not head.startswith((_NPY, _ZIP)):
                raise InputError(f"{path}: {_NO_CLIP}", fix=_MAKE_CLIP)
            if head.startswith(_ZIP):
                raise InputError(
                    f"{path}: an archive of several arrays", fix="save one array with numpy.save"
                )
            file.seek(0)
            return read_array(file, most_bytes=_MOST_BYTES)
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror or error}", fix="check the path"
        ) from error
    except ValueError as error:
        if b"'|O'" in head:  # the type in numpy's header
            raise InputError(
                f"{path}: holds Python objects, not numbers",
                fix="numpy.save(path, numpy.asarray(frames, dtype='float32')), where each frame is (54, 2)",
            ) from error
        if "expected numbers" in str(error):  # numpy wrote it whole, of text or of records
            raise InputError(f"{path}: {error}", fix=_MAKE_CLIP) from error
        raise InputError(f"{path}: is damaged or cut off ({error})", fix="copy or save it again") from error
