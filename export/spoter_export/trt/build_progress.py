"""Report an engine build's progress as one count, and let the caller stop the build."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final

from spoter_runtime._types import OnProgress

_PROGRESS_TOTAL: Final = 1000


@dataclass(slots=True, kw_only=True)
class Phase:
    """A phase of the build, with its number of completed steps."""

    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Turns the builder's nested phases, whose names repeat, into one count that never falls.

    Attributes:
        error: the callback's exception, which stopped the build; None without one.
    """

    def __init__(self, on_progress: OnProgress | None) -> None:
        """Begin at 0; `on_progress` is called at each step."""
        self._on_progress = on_progress
        self._lock = threading.Lock()  # the library may report from several threads
        self._phases: dict[str, Phase] = {}
        self._done = 0
        self._cancelled = False
        self.error: BaseException | None = None

    def cancel(self) -> None:
        """Stop the build at its next step."""
        self._cancelled = True

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begin a phase inside another one."""
        with self._lock:
            self._phases[name] = Phase(parent=parent, steps=steps)
            self.report(name)

    def step(self, name: str) -> bool:
        """Count a step; return False to stop the build."""
        with self._lock:
            if phase := self._phases.get(name):
                phase.done += 1
            self.report(name)
            return not self._cancelled

    def finish(self, name: str) -> None:
        """Remove a finished phase; the builder also counts it as a step of the parent."""
        with self._lock:
            self._phases.pop(name, None)

    def end(self) -> None:
        """Report 100 %. An exception from the callback propagates; `report` stores it instead."""
        self._done = _PROGRESS_TOTAL
        if self._on_progress:
            self._on_progress(_PROGRESS_TOTAL, _PROGRESS_TOTAL, "engine built")

    def report(self, what: str) -> None:
        """Call the callback with the count; store its exception and stop the build. Needs the lock."""
        # max: a phase removed after its parent has counted it would make the count fall.
        roots = sum(self.share_done(name) for name, phase in self._phases.items() if phase.parent is None)
        self._done = max(self._done, int(min(roots, 1.0) * (_PROGRESS_TOTAL - 1)))
        if self._on_progress and not self._cancelled:
            try:
                self._on_progress(self._done, _PROGRESS_TOTAL, what)
            except BaseException as error:  # noqa: BLE001  (the library would only print it; `run` raises it)
                self.error = error
                self._cancelled = True

    def share_done(self, name: str) -> float:
        """Return the completed share of a phase, 0..1, with its running inner phases."""
        phase = self._phases[name]
        inside = sum(self.share_done(child) for child, other in self._phases.items() if other.parent == name)
        return min(1.0, (phase.done + inside) / max(1, phase.steps))


def monitor_for(trt: Any, progress: BuildProgress) -> Any:
    """Return a progress monitor for the library that forwards to `progress`; it must outlive the build.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        progress: receives the calls, on the library's threads.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the bindings are untyped
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()
