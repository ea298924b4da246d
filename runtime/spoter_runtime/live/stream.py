"""SignStream: frames with their times go in, events come out."""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.decision import hand_share, softmax
from spoter_runtime.errors import ConfigError, InputError, SpoterError
from spoter_runtime.landmarks import NUM_LANDMARKS, Float32Array, array_from, check_coordinates
from spoter_runtime.live.events import (
    Abstain,
    AbstainCode,
    AnyEvent,
    Dropped,
    Fault,
    FaultCode,
    Partial,
    Ready,
    Sign,
    SignStart,
)
from spoter_runtime.live.frames import MOST_FPS, Frames, with_nan
from spoter_runtime.live.gates import FindsSegments, Mark, PushGate, RestGate, WindowGate
from spoter_runtime.live.settings import GATES, Gate, StreamSettings
from spoter_runtime.live.tracking import TrackingReport
from spoter_runtime.strict import finite_float, shown, whole

if TYPE_CHECKING:
    from spoter_runtime.camera.clips import FindsLandmarks
    from spoter_runtime.recognizer import Prediction, Recognizer

MOST_EVENTS: Final = 4096  # that wait for `events`; older ones are lost, but not `Ready`
_BEST: Final = 5
_MANY: Final = 10  # frames in a row that come too soon, or too late: no camera does
_UNCALIBRATED: Final = (
    "the bundle has no calibration: every segment is answered with a sign, also one that is none"
)


class SignStream:
    """Recognise signs in a stream of frames, one thread at a time.

    It has no clock and starts no thread: the same frames with the same times give the same events. Memory is
    bounded by the longest sign.

    Attributes:
        settings: with a longest sign that the model takes.
        landmarks: of the last frame, (54, 2); None where it was left out.
        persons: in the last frame; None where that is not known.
        dropped: frames before the last one that the source dropped, or that were left out.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        gate: Gate = "rest",
        *,
        landmarker: FindsLandmarks | None = None,
        settings: StreamSettings | None = None,
    ) -> None:
        """Make a stream.

        Args:
            recognizer: that answers the segments.
            gate: that finds them: ``"rest"`` between rests, ``"window"`` without rests, ``"push"`` where
                `push` says.
            landmarker: for frames; None takes the recognizer's, when the first frame comes.
            settings: None takes the defaults.

        Raises:
            ConfigError: no such gate, or no recognizer or settings.
        """
        if gate not in GATES:
            raise ConfigError(f"gate {gate!r}: expected {', '.join(GATES)}")
        if not hasattr(recognizer, "predict"):
            raise ConfigError(f"expected a Recognizer, got {shown(recognizer)}", fix="Recognizer.load(path)")
        if not isinstance(settings, StreamSettings | None):
            raise ConfigError(f"settings: got {shown(settings)}", fix="StreamSettings(**settings)")
        self._recognizer = recognizer
        self._gate_name = gate
        self._landmarker = landmarker
        names = [label.name for label in recognizer.labels]
        self._background = [names.index(name) for name in recognizer.background]
        self.settings = (settings or StreamSettings()).fitted(recognizer.contract.max_frames)
        self.reset()

    def reset(self) -> None:
        """Forget everything: another video begins, or another thread takes over."""
        self._owner: int | None = None
        self._pending: deque[AnyEvent] = deque()
        self._last_ms: float | None = None
        self._warned = False
        self._is_first = True
        self.landmarks: Float32Array | None = None
        self.persons: int | None = None
        self.dropped = 0
        self._missed = 0  # frames since the last one that was taken
        self._begin()

    def _begin(self) -> None:
        """Forget the frames, but not the events."""
        s = self.settings
        keep_ms = s.longest_ms + s.gap_ms + s.rest_ms + s.window_ms + max(s.pad_start_ms, 0) + 1000
        self._frames = Frames(keep_ms)
        gates: dict[str, FindsSegments] = {
            "rest": RestGate(s),
            "window": WindowGate(s, self._shares),
            "push": PushGate(s),
        }
        self._gate = gates[self._gate_name]
        self._next_partial_ms = math.inf
        self._too_soon = self._too_late = 0  # frames in a row
        self._is_said: FaultCode | None = None  # of the frames in a row that are left out
        self._model_fails = False
        self._tracking = TrackingReport(s.tracking_ms)
        if self._landmarker is not None:
            self._landmarker.reset()

    def push(self, signing: bool) -> None:
        """Say that a sign begins or ends with the next frame; for the gate ``"push"``.

        Raises:
            ConfigError: another gate.
        """
        if not isinstance(self._gate, PushGate):
            raise ConfigError(f"push with the gate {self._gate_name!r}", fix="SignStream(recognizer, 'push')")
        self._gate.pushed = signing

    def events(self) -> list[AnyEvent]:
        """Return the events since the last call, in their order."""
        found = list(self._pending)
        self._pending.clear()
        return found

    def accept(self, frame: Any, t_ms: float, *, dropped: int = 0, persons: int | None = None) -> None:
        """Take the next frame.

        Args:
            frame: landmarks (54, 2) or (108,) floats, NaN where not detected; or a picture (height, width, 3)
                uint8, RGB.
            t_ms: when it was taken; later than the one before.
            dropped: frames that the source dropped before it.
            persons: in a frame that is given as landmarks; None: not known.

        Raises:
            InputError: no such array, or another thread than the one before; see `reset`.
        """
        self._check_thread()
        self.landmarks = None
        self._missed += whole(dropped, "dropped")
        persons = None if persons is None else whole(persons, "persons")
        if isinstance(t_ms, bool) or (time_ms := finite_float(t_ms)) is None:
            self._leave_out(self._last_ms or 0.0, "time", f"a frame has no time: {shown(t_ms)}")
            return
        if self._is_later(time_ms):
            self._accept(frame, time_ms, persons)

    def _accept(self, frame: Any, t_ms: float, persons: int | None) -> None:
        if self._is_first:
            self._is_first = False
            backend, labels = self._recognizer.runner.name, len(self._recognizer.labels)
            gate, fps = self._gate_name, self.settings.fps
            self._say(Ready(t_ms=t_ms, gate=gate, backend=backend, labels=labels, fps=fps))
        if self._last_ms is not None and t_ms - self._last_ms < 1000 / MOST_FPS:
            self._too_soon = self._count(
                self._too_soon, t_ms, f"less than {1000 / MOST_FPS:g} ms after the last one and are left out"
            )
            self._missed += 1
            return
        self._say_dropped(t_ms)
        if self._last_ms is not None and t_ms - self._last_ms > self.settings.gap_ms:
            self._mark(self._gate.end(self._last_ms, "gap"), t_ms)
            self._too_late = self._count(
                self._too_late, t_ms, f"more than {self.settings.gap_ms:g} ms after the one before"
            )
        else:
            self._too_late = 0
        self._last_ms = t_ms
        self._too_soon = 0
        self.persons = persons
        self.landmarks = self._landmarks_of(frame, t_ms)
        self._tracking.count_persons(self.persons)
        if self.landmarks is not None:
            self._take(t_ms, self.landmarks)

    def flush(self) -> None:
        """End what goes on: no frame will come any more."""
        self._check_thread()
        if self._last_ms is not None:
            self._say_dropped(self._last_ms)
            self._mark(self._gate.end(self._last_ms), self._last_ms)
            self._say(self._tracking.report(self._last_ms))

    def _count(self, before: int, t_ms: float, how: str) -> int:
        """Count a frame that comes too soon or too late; many in a row have times in another unit."""
        if before + 1 == _MANY:
            self._fault(t_ms, "time", f"{_MANY} frames in a row came {how}; t_ms is milliseconds")
        return before + 1

    def _leave_out(self, t_ms: float, code: FaultCode, reason: str) -> None:
        """Count a frame that cannot be used, and say why: once for many in a row."""
        self._missed += 1
        if code != self._is_said:
            self._fault(t_ms, code, f"{reason}; the frame is left out, and those like it behind it")
        self._is_said = code

    def _say_dropped(self, t_ms: float) -> None:
        self.dropped, self._missed = self._missed, 0
        self._say(Dropped(t_ms=t_ms, frames=self.dropped) if self.dropped else None)

    def _check_thread(self) -> None:
        me = threading.get_ident()
        if self._owner not in (None, me):
            raise InputError(
                "a stream takes the frames of one thread, another one has begun",
                fix="one SignStream for each thread, or stream.reset() before the other takes over",
            )
        self._owner = me

    def _is_later(self, t_ms: float) -> bool:
        if self._last_ms is None or t_ms > self._last_ms:
            return True
        went_back = f"a frame of {t_ms:.15g} ms after one of {self._last_ms:.15g} ms"
        if self._last_ms - t_ms > self.settings.gap_ms:  # another clock, or a file from its beginning
            self._mark(self._gate.end(self._last_ms, "gap"), self._last_ms)
            self._fault(t_ms, "time", f"{went_back}: the stream begins anew")
            self._begin()
            self._last_ms = None
            return True
        self._leave_out(self._last_ms, "time", f"{went_back}: t_ms grows from frame to frame")
        return False

    def _landmarks_of(self, frame: Any, t_ms: float) -> Float32Array | None:
        """Return the landmarks of a frame; None, and a fault, where they cannot be used.

        Raises:
            InputError: neither landmarks nor a picture.
        """
        array = array_from(frame, "frame")
        if array.ndim == 3 and array.dtype == np.uint8:
            try:
                if self._landmarker is None:
                    self._landmarker = self._recognizer.landmarker().another()
                pose_LD = self._landmarker(array)
            except InputError:
                raise
            except SpoterError as error:
                self._leave_out(t_ms, "landmarker", str(error))
                return None
            self.persons = self._landmarker.persons
            return pose_LD
        if array.dtype.kind != "f" or array.shape not in ((NUM_LANDMARKS, 2), (2 * NUM_LANDMARKS,)):
            from spoter_runtime.live.no_frame import no_frame  # not at the top: few need it

            raise no_frame(array)
        try:
            check_coordinates(array, where="frame")
        except InputError as error:
            self._leave_out(t_ms, "landmarks", error.message)
            return None
        return with_nan(array.reshape(NUM_LANDMARKS, 2))

    def _take(self, t_ms: float, pose_LD: Float32Array) -> None:
        self._is_said = None
        seen = self._frames.add(t_ms, pose_LD)
        self._say(self._tracking.add(seen))
        self._mark(self._gate.accept(seen), t_ms)
        since = self._gate.open_since
        if since is not None and t_ms >= self._next_partial_ms:
            self._partial(since, t_ms)

    def _mark(self, marks: list[Mark], t_ms: float) -> None:
        for mark in marks:
            if mark.kind == "start":
                self._say(SignStart(t_ms=t_ms, start_ms=mark.start_ms))
                self._next_partial_ms = t_ms + (self.settings.partial_ms or math.inf)
            elif mark.kind == "end":
                self._answer(mark.start_ms, min(mark.end_ms, t_ms), t_ms)
            else:
                self._abstain(mark.start_ms, mark.end_ms, t_ms, mark.code or "gap", self._refusal(mark))

    def _refusal(self, mark: Mark) -> str:
        if mark.code != "long":
            return f"no frame showed the wrists for more than {self.settings.gap_ms:g} ms"
        hint = "; signs without rests need the gate window" if self._gate_name == "rest" else ""
        return f"it lasts longer than {self.settings.longest_ms:g} ms{hint}"

    def _cut(self, start_ms: float, end_ms: float) -> Float32Array:
        return self._frames.cut(start_ms, end_ms, self.settings.fps)

    def _shares(self, start_ms: float, end_ms: float) -> npt.NDArray[np.float64]:
        """Return the softmax of a window; all equal where nothing was found or the model failed.

        A label that means "no sign" has 0: part of a sign often looks like none, and would cut it. Whether
        the whole segment is a sign is decided when it has ended.
        """
        if (prediction := self._predict(self._cut(start_ms, end_ms), end_ms)) is None:
            labels = len(self._recognizer.labels)
            return np.full(labels, 1 / labels)
        shares = np.array(softmax(prediction.logits_C.tolist()))
        shares[self._background] = 0.0
        return shares

    def _predict(self, clip_TLD: Float32Array, t_ms: float) -> Prediction | None:
        if np.isnan(clip_TLD).all():
            return None
        try:
            prediction = self._recognizer.predict(clip_TLD, name=f"the segment that ends at {t_ms:.15g} ms")
        except SpoterError as error:
            if not self._model_fails:
                self._fault(t_ms, "model", str(error))
            self._model_fails = True
            return None
        self._model_fails = False
        return prediction

    def _partial(self, start_ms: float, t_ms: float) -> None:
        self._next_partial_ms = t_ms + self.settings.partial_ms
        begin = max(start_ms, t_ms - self.settings.longest_ms)
        if prediction := self._predict(self._cut(begin, t_ms), t_ms):
            best = tuple(prediction.top(_BEST))
            self._say(Partial(t_ms=t_ms, start_ms=start_ms, label=best[0][0], score=best[0][1], best=best))

    def _answer(self, start_ms: float, end_ms: float, t_ms: float) -> None:
        """Recognise a segment, and say a sign or why not."""
        clip_TLD = self._cut(start_ms, end_ms)
        hands = hand_share(clip_TLD)
        if hands < self.settings.least_hands:
            reason = (
                f"a hand was found in {hands:.0%} of the frames, less than {self.settings.least_hands:.0%}"
            )
            self._abstain(start_ms, end_ms, t_ms, "tracking", reason)
            return
        if (prediction := self._predict(clip_TLD, t_ms)) is None:
            self._abstain(start_ms, end_ms, t_ms, "tracking", "the model gave no answer")
            return
        if prediction.is_sign is None and not self._warned:
            self._warned = True
            self._fault(t_ms, "uncalibrated", _UNCALIBRATED)
        sure = prediction.score if prediction.probability is None else prediction.probability
        least = self.settings.least_probability
        if prediction.is_sign is False:
            self._abstain(start_ms, end_ms, t_ms, "not_a_sign", prediction.reason, prediction)
        elif sure < least:
            self._abstain(start_ms, end_ms, t_ms, "unsure", f"{sure:.2f} is less than {least:g}", prediction)
        else:
            self._say(_sign(prediction, prediction.probability, start_ms, end_ms, t_ms))

    def _abstain(
        self,
        start_ms: float,
        end_ms: float,
        t_ms: float,
        code: AbstainCode,
        reason: str,
        prediction: Prediction | None = None,
    ) -> None:
        self._say(
            Abstain(
                t_ms=t_ms,
                start_ms=start_ms,
                end_ms=end_ms,
                code=code,
                reason=reason,
                label=prediction.label if prediction else None,
                score=prediction.score if prediction else None,
                probability=prediction.probability if prediction else None,
            )
        )

    def _fault(self, t_ms: float, code: FaultCode, reason: str) -> None:
        self._say(Fault(t_ms=t_ms, code=code, reason=reason))

    def _say(self, event: AnyEvent | None) -> None:
        if event and len(self._pending) == MOST_EVENTS:
            del self._pending[1 if self._pending[0].type == "ready" else 0]
        self._pending += [event] if event else []


def _sign(
    prediction: Prediction, probability: float | None, start_ms: float, end_ms: float, t_ms: float
) -> Sign:
    best = prediction.top(_BEST)
    return Sign(
        t_ms=t_ms,
        start_ms=start_ms,
        end_ms=end_ms,
        label=prediction.label,
        score=prediction.score,
        probability=probability,
        margin=best[0][1] - (best[1][1] if len(best) > 1 else 0.0),
        best=tuple(best),
        latency_ms=t_ms - end_ms,
    )
