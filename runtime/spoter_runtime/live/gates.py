"""Gates: what a frame shows → where a sign begins and ends. They know times and heights, and no labels."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from spoter_runtime.live.frames import Seen
from spoter_runtime.live.settings import StreamSettings

_HANGING: Final = 2.5  # of resting hands below the shoulders, at most; in the lap 1.4
_REST_SECONDS: Final = 20

Floats = npt.NDArray[np.float64]
Shares = Callable[[float, float], Floats]  # shares(start_ms, end_ms) → a score for each label


class Mark(NamedTuple):
    """What a gate found.

    Attributes:
        kind: a sign has begun; it has ended; it is refused.
        start_ms, end_ms: of the segment, padding included; `end_ms` of one that has begun is now.
        code: why it is refused.
    """

    kind: Literal["start", "end", "refused"]
    start_ms: float
    end_ms: float
    code: Literal["", "long", "gap"] = ""


class FindsSegments(Protocol):
    """What all gates have in common."""

    @property
    def open_since(self) -> float | None:
        """Start of the sign that goes on."""

    def accept(self, seen: Seen) -> list[Mark]:
        """Take the next frame."""

    def end(self, t_ms: float, code: Literal["", "gap"] = "") -> list[Mark]:
        """End what goes on: nothing comes any more, or (`gap`) no wrists were seen for too long."""


class RestGate:
    """Finds where a sign begins and ends: between hands at rest, by the height or speed of the wrists.

    A frame that does not show the wrists counts like one that never came: it keeps the state, up or down.
    More than `gap_ms` of such frames refuse the sign.
    """

    def __init__(self, settings: StreamSettings, longest_ms: float | None = None) -> None:
        self._settings = settings
        self._longest_ms = settings.longest_ms if longest_ms is None else longest_ms
        self._lowest: deque[tuple[int, float]] = deque()  # second → the lowest hands in it
        self.since: float | None = None  # the hands are up since
        self._last_up_ms = 0.0
        self._down_since: float | None = None  # the hands rest since; None: they are up, or nothing goes on
        self._end_ms: float | None = None  # of the segment, if the hands do not come up again
        self._said = self._refused = False

    @property
    def open_since(self) -> float | None:
        """Start of the sign that goes on."""
        return self.since if self._said and not self._refused else None

    @property
    def is_signing(self) -> bool:
        """Whether the hands are up in this frame, and have been for long enough."""
        return self._said and self._end_ms is None

    def accept(self, seen: Seen) -> list[Mark]:
        """Take the next frame."""
        t_ms, up = seen.t_ms, self._is_up(seen)
        if up:
            self._down_since = self._end_ms = None
            self._last_up_ms = t_ms
            self.since = t_ms if self.since is None else self.since
            return self._goes_on(t_ms)
        if self.since is None:
            return []
        if self._end_ms is None:
            self._end_ms = self._last_up_ms if up is None else t_ms
        if self._down_since is None:
            if up is None:
                is_lost = t_ms - self._last_up_ms > self._settings.gap_ms
                return self.end(self._last_up_ms, "gap") if is_lost else []
            self._down_since = t_ms
        return [] if t_ms - self._down_since < self._settings.rest_ms else self._close(self._end_ms)

    def end(self, t_ms: float, code: Literal["", "gap"] = "") -> list[Mark]:
        """End what goes on; after a gap without an answer."""
        if self.since is None:
            return []
        if code and self.open_since is not None:
            marks = [Mark("refused", self.since, t_ms, code)]
            self._forget()
            return marks
        return self._close(t_ms if self._end_ms is None else self._end_ms)

    def _goes_on(self, t_ms: float) -> list[Mark]:
        assert self.since is not None
        length = t_ms - self.since
        if not self._said and length >= self._settings.shortest_ms:
            self._said = True
            return [Mark("start", self.since, t_ms)]
        if self._said and not self._refused and length > self._longest_ms:
            self._refused = True  # until the hands rest
            return [Mark("refused", self.since, t_ms, "long")]
        return []

    def _close(self, end_ms: float) -> list[Mark]:
        since, answered = self.since, self.open_since is not None
        self._forget()
        return [self._padded(since, end_ms)] if answered and since is not None else []

    def _padded(self, start_ms: float, end_ms: float) -> Mark:
        settings = self._settings
        padded = start_ms - settings.pad_start_ms, end_ms + settings.pad_end_ms
        return Mark("end", *(padded if padded[1] - padded[0] >= settings.shortest_ms else (start_ms, end_ms)))

    def _forget(self) -> None:
        self.since = self._down_since = self._end_ms = None
        self._said = self._refused = False

    def _is_up(self, seen: Seen) -> bool | None:
        """Return whether the hands are up; None: the frame does not show them."""
        settings, was_up = self._settings, self.since is not None and self._down_since is None
        if settings.rest_by == "motion":
            least = settings.still if was_up else settings.moving
            return None if math.isnan(seen.speed) else seen.speed > least
        if math.isnan(seen.height):
            return None
        return seen.height < self._rest_height(seen) - (settings.fall if was_up else settings.rise)

    def _rest_height(self, seen: Seen) -> float:
        second = math.floor(seen.t_ms / 1000)
        if not self._lowest or self._lowest[-1][0] != second:
            self._lowest.append((second, seen.height))
        elif seen.height > self._lowest[-1][1]:
            self._lowest[-1] = (second, seen.height)
        while self._lowest[0][0] < second - _REST_SECONDS:
            self._lowest.popleft()
        return min(max(height for _, height in self._lowest), _HANGING)


class PushGate:
    """The application says when a sign begins and ends."""

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings
        self._seen_ms = -math.inf
        self.pushed = False
        self.open_since: float | None = None

    def accept(self, seen: Seen) -> list[Mark]:
        """Take the next frame."""
        t_ms, since = seen.t_ms, self.open_since
        if not self.pushed:
            return self.end(t_ms)
        if since is None or not math.isnan(seen.height):
            self._seen_ms = t_ms
        if since is None:
            self.open_since = t_ms
            return [Mark("start", t_ms, t_ms)]
        is_lost = t_ms - self._seen_ms > self._settings.gap_ms
        if is_lost or t_ms - since > self._settings.longest_ms:
            self.pushed = False
            return self.end(self._seen_ms, "gap") if is_lost else self.end(t_ms, "long")
        return []

    def end(self, t_ms: float, code: Literal["", "long", "gap"] = "") -> list[Mark]:
        """End what goes on; after a gap without an answer."""
        since, self.open_since = self.open_since, None
        if since is None:
            return []
        return [Mark("refused", since, t_ms, code)] if code else [Mark("end", since, t_ms)]


class WindowGate:
    """Cuts signing without rests where the best label of overlapping windows changes.

    It is inside a rest gate: nothing is asked while the hands are down. A window's answer counts for the
    window's middle. Another label must hold for `hold_ms`. The hands' way to the next sign is cut off as at a
    rest; what is left must be long enough, and as a whole have the label of its windows: else it was the way.
    A score that falls by `valley` and rises again between two of the same label makes two signs of them.
    """

    def __init__(self, settings: StreamSettings, shares: Shares) -> None:
        self._settings = settings
        self._shares = shares
        self._rest = RestGate(settings, longest_ms=math.inf)  # signs in a row may take any time
        self._forget()

    def _forget(self) -> None:
        self._recent: deque[tuple[float, Floats]] = deque()  # the windows to average
        self._next_ms = -math.inf
        self._run: _Run | None = None
        self._other: _Run | None = None
        self._refused = False

    @property
    def open_since(self) -> float | None:
        """Start of the sign that goes on."""
        return self._run.start_ms if self._run and not self._refused else None

    def accept(self, seen: Seen) -> list[Mark]:
        """Take the next frame."""
        for mark in self._rest.accept(seen):
            if mark.kind == "end":
                return self._close(mark.end_ms)
            if mark.kind == "refused":
                return self.end(mark.end_ms, "gap")
        since = self._rest.since
        if since is None:
            self._forget()
            return []
        if seen.t_ms < self._next_ms or not self._rest.is_signing:
            return []
        self._next_ms = seen.t_ms + self._settings.hop_ms - 1e-6
        length = min(self._settings.window_ms, seen.t_ms - since)
        return self._asked(seen.t_ms, seen.t_ms - length / 2, self._shares(seen.t_ms - length, seen.t_ms))

    def end(self, t_ms: float, code: Literal["", "gap"] = "") -> list[Mark]:
        """End what goes on; after a gap without an answer."""
        self._rest.end(t_ms, code)
        if code and self._run:
            marks = [Mark("refused", self._run.start_ms, t_ms, code)]
            self._forget()
            return marks
        return self._close(t_ms)

    def _close(self, end_ms: float) -> list[Mark]:
        run, refused = self._run, self._refused
        self._forget()
        return [] if run is None or refused else self._segment(run, end_ms)

    def _asked(self, t_ms: float, middle_ms: float, shares_C: Floats) -> list[Mark]:
        """Take one window's scores."""
        self._recent.append((middle_ms, shares_C))
        while self._recent[0][0] < middle_ms - self._settings.smooth_ms:
            self._recent.popleft()
        mean_C = np.mean([shares for _, shares in self._recent], axis=0)
        middle_ms = (self._recent[0][0] + middle_ms) / 2
        best = int(mean_C.argmax())
        if self._run is None:
            assert self._rest.since is not None
            self._run = _Run(best, self._rest.since, float(mean_C[best]))
            return [Mark("start", self._run.start_ms, t_ms)]
        if best != self._run.label:
            return self._another(best, middle_ms, t_ms, float(mean_C[best]))
        self._other = None
        valley = self._run.follow(float(mean_C[best]), middle_ms, self._settings.valley)
        if valley is not None and valley - self._run.start_ms >= self._settings.shortest_ms:
            return self._next_run(_Run(best, valley, float(mean_C[best])), t_ms)
        if t_ms - self._run.start_ms > self._settings.longest_ms and not self._refused:
            self._refused = True
            return [Mark("refused", self._run.start_ms, t_ms, "long")]
        return []

    def _another(self, label: int, middle_ms: float, t_ms: float, share: float) -> list[Mark]:
        """Another label is best: a new sign where it holds long enough, else a flicker."""
        if self._other is None or self._other.label != label:
            self._other = _Run(label, middle_ms, share)
        if middle_ms - self._other.start_ms < self._settings.hold_ms:
            return []
        return self._next_run(self._other, t_ms)

    def _next_run(self, run: _Run, t_ms: float) -> list[Mark]:
        before, refused = self._run, self._refused
        assert before is not None
        self._run, self._other, self._refused = run, None, False
        started = Mark("start", run.start_ms, t_ms)
        if refused:
            return [started]
        ended = self._segment(before, run.start_ms + self._settings.pad_end_ms)
        return [*ended, started] if ended else []

    def _segment(self, run: _Run, end_ms: float) -> list[Mark]:
        """End a run's segment; a flicker has none: too short, or as a whole of another label."""
        start_ms = run.start_ms - self._settings.pad_start_ms
        if end_ms - start_ms < self._settings.shortest_ms:
            return []
        whole = int(self._shares(start_ms, end_ms).argmax())
        return [Mark("end", start_ms, end_ms)] if whole == run.label else []


class _Run:
    """Windows in a row with one best label."""

    def __init__(self, label: int, start_ms: float, share: float) -> None:
        self.label = label
        self.start_ms = start_ms
        self._peak = self._trough = share
        self._trough_ms = start_ms

    def follow(self, share: float, middle_ms: float, valley: float) -> float | None:
        """Take the next window's score; return the time of a valley that has just been left."""
        if min(self._peak, share) - self._trough > valley:
            return self._trough_ms
        if share >= self._peak:
            self._peak, self._trough, self._trough_ms = share, share, middle_ms
        elif share < self._trough:
            self._trough, self._trough_ms = share, middle_ms
        return None
