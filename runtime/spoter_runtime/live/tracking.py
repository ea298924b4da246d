"""The report on how well a person is seen: counted frame by frame, said after a time."""

from __future__ import annotations

from spoter_runtime.live.events import Tracking
from spoter_runtime.live.frames import Seen


class TrackingReport:
    """Counts what the frames show since the last report."""

    def __init__(self, every_ms: float) -> None:
        """Report each `every_ms`; 0 gives no report."""
        self._every_ms = every_ms
        self._begin_ms: float | None = None
        self._forget()

    def _forget(self) -> None:
        self._frames = self._body = self._left_hand = self._right_hand = 0
        self._steps = 0  # from frame to frame: one less than frames in the first report
        self._persons: int | None = None

    def count_persons(self, persons: int | None) -> None:
        """Take the number of persons in a frame; None: not known."""
        if persons is not None:
            self._persons = max(self._persons or 0, persons)

    def add(self, seen: Seen) -> Tracking | None:
        """Take the next frame; return the report, where it is time for one."""
        if not self._every_ms:
            return None
        self._frames += 1
        self._body += seen.body
        self._left_hand += seen.left_hand
        self._right_hand += seen.right_hand
        if self._begin_ms is None:
            self._begin_ms = seen.t_ms
        else:
            self._steps += 1
        return self.report(seen.t_ms) if seen.t_ms - self._begin_ms >= self._every_ms else None

    def report(self, t_ms: float) -> Tracking | None:
        """Return the report on the frames since the last one; None where there are none."""
        begin, self._begin_ms = self._begin_ms, t_ms
        said = None
        if self._frames and begin is not None and t_ms > begin:
            said = Tracking(
                t_ms=t_ms,
                frames_per_s=round(1000 * self._steps / (t_ms - begin), 2),
                body=round(self._body / self._frames, 3),
                left_hand=round(self._left_hand / self._frames, 3),
                right_hand=round(self._right_hand / self._frames, 3),
                persons=self._persons,
            )
        self._forget()
        return said
