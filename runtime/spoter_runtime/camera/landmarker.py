"""The landmarker: one frame after the other to the 54 landmarks, as MediaPipe's Holistic finds them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from spoter_runtime.bundle.libraries import LIBRARIES, Library
from spoter_runtime.camera.files import GRAPHS, LandmarkerFiles, read_landmarker
from spoter_runtime.camera.smoothing import OneEuroFilter
from spoter_runtime.engine_calls import ENGINE_CALLS
from spoter_runtime.errors import BackendError, InputError, nearest_known
from spoter_runtime.landmarks import (
    BODY,
    LEFT_HAND,
    MEDIAPIPE_POSE,
    NUM_LANDMARKS,
    RIGHT_HAND,
    Float32Array,
)
from spoter_runtime.model_file.check import check_onnx_file
from spoter_runtime.ort.installed import import_onnxruntime
from spoter_runtime.ort.session import SessionSettings, cpu_session, usable_threads
from spoter_runtime.strict import finite_float, shown

Frame = npt.NDArray[np.uint8]
Run = Callable[..., list[Any]]  # run(graph, **inputs) → its outputs

_PRESENT: Final = 0.5  # a body or a hand is there
# Another person is there. On seven clips of one person (460 pictures, some widened, shrunk or dark) the
# detector's second score is at most 0.03; with a second person of 0.6 of the size beside, at least 0.18.
_ANOTHER: Final = 0.15
_VISIBLE: Final = 0.1  # a wrist is worth a look for its hand
_VISIBILITY_WEIGHT: Final = 0.1  # of a new frame in the mean over time
_SOURCES: Final = [
    [each[n] for each in MEDIAPIPE_POSE] for n in (0, -1)
]  # a landmark is the mean of two points
_FRAME_MS: Final = 1000 / 30  # between frames without a time
_LEAST_MS: Final = 1e-3  # between frames: by a much smaller step the filters' speeds would be infinite
# How far a wrist may move, in sizes of the hand's region, before the hand is looked for anew. MediaPipe looks
# in every frame, and on seven clips only confirmed its region in 275 of 323 tracked frames. At 0.15 there are
# 118 looks instead of 391; the mean distance from MediaPipe is 0.0061 shoulder widths, and 326 of 340 hands
# are found by both; with all looks 0.0052, and 328 of 336.
_MOVED: Final = 0.15


@dataclass(slots=True)
class _Hand:
    """One hand of the signer, and where it was in the last frame; NaN where it was not found."""

    places: slice  # among the 54 landmarks
    pose: list[int]  # MediaPipe Pose indices of its wrist, little and index finger
    wrist: Float32Array = field(default_factory=lambda: np.full(2, np.nan, np.float32))
    landmarks: Float32Array = field(init=False)
    region: Float32Array = field(init=False)

    def __post_init__(self) -> None:
        self.lose()

    def lose(self) -> None:
        self.landmarks = np.full((1, 21, 2), np.nan, np.float32)
        self.region = np.full((1, 4), np.nan, np.float32)


class Landmarker:
    """Finds the landmarks of one person in the frames of one video, in their order.

    One object is for one video at a time and one thread at a time; `another` makes more of them.

    Attributes:
        sha256: names the landmarker that is loaded; what it found carries it.
        persons: how many were seen when the body was last looked for: 0, 1, or 2 for more than one. Of two,
            the larger is followed.
    """

    def __init__(self, run: Run, sha256: str) -> None:
        """Take the graphs as a function; `load` makes one with ONNX Runtime."""
        self._run = run
        self.sha256 = sha256
        self.persons = 0
        self._body = OneEuroFilter(min_cutoff=0.05, beta=80.0)
        self._body_region = OneEuroFilter(min_cutoff=0.01, beta=10.0)
        self.reset()

    @classmethod
    def load(
        cls,
        folder: Path | str | LandmarkerFiles | None = None,
        *,
        threads: int = 1,
        device: Literal["cpu", "cuda"] = "cpu",
        engine: Library | None = None,
    ) -> Landmarker:
        """Load the landmarker: with ONNX Runtime on the CPU, or on an NVIDIA GPU.

        On no GPU was it run yet: its engines were built, and their graphs compared on the CPU.

        Args:
            folder: as `spoter-kit landmarker fetch` writes it, or what was read of it; None means the user's
                cache.
            threads: that compute one graph. Two threads take a tenth off a frame's time; for many videos, one
                process per core with one thread each is faster.
            device: ``"cuda"`` means ONNX Runtime's CUDA provider.
            engine: ``"tensorrt"`` or ``"tensorrt_rtx"``: run the engines that `spoter-kit landmarker fetch`
                built with it on request, on the GPU.

        Raises:
            MissingExtraError: ONNX Runtime, or the engine's library, is not installed.
            BundleError: there is no landmarker, or a file of it was changed.
            BackendError: no such device, engine or GPU, or it cannot be loaded.
        """
        if device not in ("cpu", "cuda"):
            raise BackendError(f"device {device!r}: expected cpu or cuda")
        if engine is not None and engine not in LIBRARIES:
            raise BackendError(f"unknown engine {engine!r}; {nearest_known(str(engine), LIBRARIES)}")
        files = folder if isinstance(folder, LandmarkerFiles) else read_landmarker(folder)
        if engine is None and device == "cpu":
            return cls(load_graphs(files, threads), files.sha256)
        from spoter_runtime.camera.gpu_graphs import load_engines, load_on_cuda

        graphs = load_engines(files, engine) if engine else load_on_cuda(files)
        return cls(graphs.run, files.sha256)

    def another(self) -> Landmarker:
        """Return one for another video at the same time; it shares the networks, not what was seen."""
        return Landmarker(self._run, self.sha256)

    def reset(self) -> None:
        """Forget the frames before: the next one belongs to another video."""
        self._t_ms: float | None = None
        self._shape: tuple[int, ...] | None = None
        self._lose_body()

    def _lose_body(self) -> None:
        self._region: Float32Array | None = None
        self._visibility: Float32Array | None = None
        self._body.reset()
        self._body_region.reset()
        self._hands = (_Hand(LEFT_HAND, [15, 17, 19]), _Hand(RIGHT_HAND, [16, 18, 20]))

    def __call__(self, frame_rgb: Frame, t_ms: float | None = None) -> Float32Array:
        """Return the landmarks (54, 2) float32 in 0..1 of the frame, NaN where not detected.

        Args:
            frame_rgb: (height, width, 3) uint8.
            t_ms: when the frame was taken; a microsecond or more after the one before. None means 1/30 s
                after it, which is what MediaPipe's Python takes for every video.

        Raises:
            InputError: no such array, or a time that is not later.
            BackendError: ONNX Runtime failed.
        """
        # A view is a new object: a GPU's graphs know by it that this frame is new, even in the same memory.
        frame_rgb = check_frame(frame_rgb).view()
        elapsed_s = self._elapsed_s_until(t_ms)
        if self._shape not in (None, frame_rgb.shape):  # regions are in pixels
            self._lose_body()
        self._shape = frame_rgb.shape
        found = np.full((NUM_LANDMARKS, 2), np.nan, np.float32)
        try:
            pose = self._find_body(frame_rgb, elapsed_s)
            if pose is None:
                self._lose_body()
                return found
            found[BODY] = (pose[_SOURCES[0]] + pose[_SOURCES[1]]) / 2
            for hand in self._hands:
                self._find_hand(frame_rgb, hand, pose[hand.pose])
                found[hand.places] = hand.landmarks[0]
        except BaseException:
            self._lose_body()  # half of it is of this frame
            raise
        return found

    def _elapsed_s_until(self, t_ms: float | None) -> float:
        """Return the seconds since the frame before, and keep the time."""
        time_ms = None if t_ms is None else finite_float(t_ms)
        if t_ms is not None and time_ms is None:
            raise InputError(f"t_ms {shown(t_ms)}: expected milliseconds, a finite number")
        elapsed_ms = _FRAME_MS if time_ms is None or self._t_ms is None else time_ms - self._t_ms
        if not elapsed_ms >= _LEAST_MS:
            raise InputError(
                f"a frame of {time_ms} ms after one of {self._t_ms} ms: times grow from frame to frame",
                fix="landmarker.reset() before another video",
            )
        self._t_ms = time_ms
        return elapsed_ms / 1000

    def _find_body(self, frame: Frame, elapsed_s: float) -> Float32Array | None:
        """Return MediaPipe's 33 points of the body, smoothed over time."""
        region = self._region
        if region is None:
            region, score, other_score = self._run("pose_detection", frame=frame)
            self.persons = 1 + int(other_score >= _ANOTHER) if score >= _PRESENT else 0
            if score < _PRESENT:
                return None
        landmarks, ends, visibility, presence = self._run("pose", frame=frame, region=region)
        if presence[0] <= _PRESENT:
            return None
        if self._visibility is not None:
            visibility = self._visibility + _VISIBILITY_WEIGHT * (visibility - self._visibility)
        self._visibility = visibility
        size = np.array(frame.shape[1::-1], np.float64)
        height = 2 * float(np.hypot(*((ends[1] - ends[0]) * size)))
        smooth = self._body(landmarks * size, elapsed_s, height)
        hips, end = self._body_region(ends * size, elapsed_s, height)
        x, y = 2.5 * (end - hips)
        self._region = np.array([[*hips, -y, x]], np.float32)
        return (smooth / size).astype(np.float32)

    def _find_hand(self, frame: Frame, hand: _Hand, points: Float32Array) -> None:
        """Find a hand's landmarks in this frame, from the body's points of it."""
        before, hand.wrist = hand.wrist, points.mean(axis=0) * frame.shape[1::-1]
        outside = (np.abs(points - 0.5) > 0.5).any(axis=1).all()
        assert self._visibility is not None  # a body was found
        if self._visibility[hand.pose[0]] <= _VISIBLE or outside:
            hand.lose()
            return
        region = hand.region
        # NaN, where there was no hand, is not near
        if not np.hypot(*(hand.wrist - before)) < _MOVED * np.hypot(*region[0, 2:]):
            (region,) = self._run(
                "recrop", frame=frame, points=points[None], landmarks=hand.landmarks, tracked=region
            )
        landmarks, presence, following = self._run("hand", frame=frame, regions=region)
        if presence[0] > _PRESENT:
            hand.landmarks, hand.region = landmarks, following
        else:
            hand.lose()


def check_frame(frame: Any) -> Frame:
    """Return a frame as contiguous uint8 (height, width, 3), or say what is wrong with it.

    Raises:
        InputError: another type, shape or number of channels, or no pixels.
    """
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        kind = f"dtype {frame.dtype}" if isinstance(frame, np.ndarray) else f"a {type(frame).__name__}"
        raise InputError(
            f"a frame is an array (height, width, 3) of uint8, got {kind}",
            fix="numpy.asarray(frame, 'uint8'), with values 0..255",
        )
    if frame.ndim != 3 or frame.shape[2] != 3:
        fix = "frame[..., :3] drops an alpha channel; numpy.repeat(grey[..., None], 3, 2) makes grey RGB"
        raise InputError(f"a frame is (height, width, 3) RGB, got {frame.shape}", fix=fix)
    if frame.size == 0:
        raise InputError(f"a frame of {frame.shape} has no pixels", fix="give the whole picture, not cut")
    return np.ascontiguousarray(frame)


def load_graphs(files: LandmarkerFiles, threads: int) -> Run:
    """Return the four graphs as one function, with ONNX Runtime; each is loaded by a thread of its own.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        BundleError: a file is missing or was changed.
        BackendError: ONNX Runtime cannot load one.
    """
    ort = import_onnxruntime()
    settings = SessionSettings(threads=usable_threads(threads), spin=False)

    def load(name: str) -> Any:
        content, where = files.read(f"{name}.onnx"), str(files.folder / f"{name}.onnx")
        check_onnx_file(content, where)
        return cpu_session(ort, content, settings.options(ort), (), where)[0]

    with ThreadPoolExecutor(len(GRAPHS)) as pool:
        sessions = dict(zip(GRAPHS, pool.map(load, GRAPHS), strict=True))

    def run(graph: str, **inputs: Any) -> list[Any]:
        try:
            with ENGINE_CALLS:
                outputs: list[Any] = sessions[graph].run(None, inputs)
                return outputs
        except BackendError:
            raise
        except Exception as error:  # ONNX Runtime's own types are many
            raise BackendError(f"{graph}.onnx: ONNX Runtime {ort.__version__} failed: {error}") from error

    return run
