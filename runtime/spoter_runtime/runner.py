"""Runner: the base class of all backends; its `infer` checks inputs and outputs."""

from __future__ import annotations

import abc
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from spoter_runtime.contract import GraphContract
from spoter_runtime.engine_calls import ENGINE_CALLS
from spoter_runtime.errors import BackendError, InputError, NotFiniteError, SpoterError
from spoter_runtime.landmarks import NUM_FEATURES, Float32Array, array_from, check_coordinates

Int32Array = npt.NDArray[np.int32]


class Runner(abc.ABC):
    """Runs one artefact of one model.

    Attributes:
        name: the backend's name, for example ``"ort-cpu"``.
        contract: the shapes and labels of the artefact.
    """

    name: str
    contract: GraphContract

    def infer(self, poses_NTD: Any, lengths_N: Any = None) -> Float32Array:
        """Return logits (N, C) float32 for raw landmarks (N, T, 108) float32.

        Args:
            poses_NTD: x, y interleaved, NaN or (0, 0) where not detected; frames from a clip's length
                on are padding, and any value there leaves the answer as it is.
            lengths_N: whole numbers of real frames, one per clip; None means all T of them.

        Returns:
            Unnormalised scores in a fresh array the caller may keep.

        Raises:
            InputError: wrong type, rank, batch, frame or feature count, a length outside 1..T, or an
                infinity in a real frame.
            BackendError: the engine failed.
            NotFiniteError: it gave logits that are not finite.
        """
        return self.infer_checked(*check_batch(poses_NTD, lengths_N, self.contract))

    def infer_checked(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        """Return the logits of a checked batch, from `check_batch` or `pad_clips`."""
        try:
            with ENGINE_CALLS:
                logits = self._infer(poses_NTD, lengths_N)
        except SpoterError:
            raise
        except Exception as error:  # each engine raises errors of its own
            raise BackendError(
                f"{self.name}: failed on poses {poses_NTD.shape}: {type(error).__name__}: {error}"
            ) from error
        expected = (len(poses_NTD), self.contract.num_classes)
        if logits.shape != expected or logits.dtype != np.float32:
            raise BackendError(
                f"{self.name}: expected logits {expected} float32, got {logits.shape} {logits.dtype}"
            )
        # Python's sum of a few numbers, as `check_batch` explains; it may overflow, so ask again.
        if not math.isfinite(sum(logits.ravel().tolist())) and not np.isfinite(logits).all():
            raise NotFiniteError(f"{self.name}: logits are not finite for poses {poses_NTD.shape}")
        return logits

    @abc.abstractmethod
    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        """Compute the logits of a batch that has already been checked."""

    def close(self) -> None:  # noqa: B027  (most engines hold nothing that the garbage collector cannot free)
        """Free the engine's memory; the runner must not be used afterwards."""

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def check_batch(poses_NTD: Any, lengths_N: Any, contract: GraphContract) -> tuple[Float32Array, Int32Array]:
    """Check a batch against the contract; return contiguous float32 poses and int32 lengths.

    Uses few numpy operations: after a model has run, its weights fill the caches, and each operation takes
    some twenty microseconds instead of one.
    """
    poses = array_from(poses_NTD, "poses")
    if poses.dtype != np.float32:
        raise InputError(f"poses: expected float32, got {poses.dtype}", fix="poses.astype('float32')")
    if poses.ndim != 3 or poses.shape[2] != NUM_FEATURES:
        raise InputError(f"poses: expected (batch, frames, {NUM_FEATURES}), got {poses.shape}")
    batch, frames, _ = poses.shape
    if not 1 <= batch <= contract.max_batch:
        raise InputError(f"poses: batch of {batch}, the contract takes 1..{contract.max_batch}")
    if not 1 <= frames <= contract.max_frames:
        raise InputError(f"poses: {frames} frames, the contract takes 1..{contract.max_frames}")
    real = poses
    if lengths_N is None:
        lengths = np.array([frames] * batch, np.int32)
    else:
        lengths = check_lengths(lengths_N, batch, frames)
        # zeros in the padding keep the caller's indices in errors
        if lengths.min() < frames:
            real = np.where((np.arange(frames) < lengths[:, None])[..., None], poses, np.float32(0))
    check_coordinates(real, where="poses")
    return np.ascontiguousarray(poses), lengths


def check_lengths(lengths_N: Any, batch: int, frames: int) -> Int32Array:
    """Check the real frames of each clip of a batch, and return them as int32.

    Raises:
        InputError: not a whole number a clip, or one outside 1..`frames`.
    """
    lengths = array_from(lengths_N, "lengths")
    if lengths.shape != (batch,) or lengths.dtype.kind not in "iu":
        raise InputError(
            f"lengths: expected ({batch},) of a whole-number type, got {lengths.shape} {lengths.dtype}"
        )
    values = lengths.tolist()
    least, most = min(values), max(values)
    if least < 1 or most > frames:
        raise InputError(f"lengths: expected 1..{frames} (the frames given), got {least}..{most}")
    return np.ascontiguousarray(lengths, np.int32)


def pad_clips(clips: list[Float32Array], fill: float = 0.0) -> tuple[Float32Array, Int32Array]:
    """Pad clips (frames, 54, 2) to one batch (N, T, 108); return it with the lengths (N,)."""
    lengths = np.array([len(clip) for clip in clips], np.int32)
    poses = np.full((len(clips), int(lengths.max()), NUM_FEATURES), fill, np.float32)
    for row, clip in zip(poses, clips, strict=True):
        row[: len(clip)] = clip.reshape(len(clip), NUM_FEATURES)
    return poses, lengths
