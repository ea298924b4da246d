"""Run a stream on a source, and give each event to those who listen."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from spoter_runtime.contract import Label
from spoter_runtime.errors import DataError, SpoterError, UsageError
from spoter_runtime.live.events import AnyEvent, Fault, Sign
from spoter_runtime.live.log import LOG_NAME, LogFrame, header_line, line_of
from spoter_runtime.live.settings import Gate
from spoter_runtime.live.stream import SignStream
from spoter_toolkit.live.film import Recorded
from spoter_toolkit.live.sources import Arrival
from spoter_toolkit.report.words import plural

EVENTS_NAME: Final = "events.jsonl"
_MOST_SPEAKING: Final = 4  # commands of --say at once

Sink = Callable[[AnyEvent], None]


class Watches(Protocol):
    """What is told of each frame, before its events."""

    def frame(self, arrival: Arrival, landmarks_LD: Any) -> None:
        """Take a frame and its landmarks."""


def run_session(
    stream: SignStream,
    source: Iterable[Arrival],
    sinks: Sequence[Sink],
    *,
    watchers: Sequence[Watches] = (),
    lasts_ms: float = float("inf"),
) -> list[SpoterError]:
    """Give each frame to the stream and every watcher, and each event to every sink.

    A sink or watcher that raises is left out from then on, and the sinks get a fault that says so; without
    another sink the session ends. A sink that blocks holds the frames up: a camera's are dropped then, and
    the next event says how many.

    Args:
        stream: is used by this thread.
        source: see `arrivals`.
        sinks: each takes one event.
        watchers: each takes one frame.
        lasts_ms: from the first arrival to the last one.

    Returns:
        What was wrong with each sink or watcher that was left out.

    Raises:
        BrokenPipeError: nobody reads what a sink writes any more.
        Exception: of the last sink.
    """
    listeners = _Listeners(sinks, watchers)
    end_ms = None
    try:
        for arrival in source:
            end_ms = arrival.t_ms + lasts_ms if end_ms is None else end_ms
            if arrival.fault:
                listeners.tell([Fault(t_ms=arrival.t_ms, code="source", reason=arrival.fault)])
            if arrival.t_ms > end_ms:
                break
            if arrival.frame is None:
                continue
            stream.accept(arrival.frame, arrival.t_ms, dropped=arrival.dropped, persons=arrival.persons)
            listeners.show(arrival, stream.landmarks)
            listeners.tell(stream.events())
    finally:
        stream.flush()
        listeners.tell(stream.events())
    return listeners.left_out


class _Listeners:
    """The sinks and watchers of a session that have not raised yet."""

    def __init__(self, sinks: Sequence[Sink], watchers: Sequence[Watches]) -> None:
        self._sinks = list(sinks)
        self._watchers = list(watchers)
        self.left_out: list[SpoterError] = []

    def show(self, arrival: Arrival, landmarks_LD: Any) -> None:
        for watcher in list(self._watchers):
            try:
                watcher.frame(arrival, landmarks_LD)
            except Exception as error:  # noqa: BLE001  (as below)
                self._leave_out(watcher, error, arrival.t_ms)

    def tell(self, events: Sequence[AnyEvent]) -> None:
        for event in events:
            for sink in list(self._sinks):
                try:
                    sink(event)
                except BrokenPipeError:  # of stdout: the session would go on unseen
                    raise
                except Exception as error:  # noqa: BLE001  (a sink of the user's must not stop the others)
                    self._leave_out(sink, error, event.t_ms)

    def _leave_out(self, one: Sink | Watches, error: Exception, t_ms: float) -> None:
        """Leave one out, as a sink and as a watcher, and tell the others.

        Raises:
            Exception: the error, where no sink is left to tell.
        """
        self._sinks = [sink for sink in self._sinks if sink is not one]
        self._watchers = [watcher for watcher in self._watchers if watcher is not one]
        if not self._sinks:
            raise error
        if not isinstance(error, SpoterError):
            name = getattr(one, "__qualname__", type(one).__name__)
            error = SpoterError(f"{name} raised {type(error).__name__}: {error}")
        self.left_out.append(error)
        said = SpoterError(f"{error.message}; it is left out from now on", fix=error.fix)
        self.tell([Fault(t_ms=t_ms, code="sink", reason=str(said))])


class Recorder(Recorded):
    """Keeps landmarks and events in a folder, each as it comes: a killed recording can be read."""

    def __init__(self, folder: Path, stream: SignStream, gate: Gate) -> None:
        """Begin a recording in a new folder.

        Raises:
            DataError: the folder cannot be made.
        """
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise DataError(
                f"{folder}: cannot be made: {error.strerror}", fix="name another place with --record"
            ) from error
        self._folder, self._stream = folder, stream
        self._log = (folder / LOG_NAME).open("w", encoding="utf-8", newline="\n")
        self._events = (folder / EVENTS_NAME).open("w", encoding="utf-8", newline="\n")
        self._log.write(header_line(gate, stream.settings) + "\n")

    def frame(self, arrival: Arrival, landmarks_LD: Any) -> None:
        """Write the landmarks of a frame, where there are some."""
        if landmarks_LD is not None:
            frame = LogFrame(arrival.t_ms, landmarks_LD, self._stream.dropped, self._stream.persons)
            with self.writing(self._folder / LOG_NAME):
                self._log.write(line_of(frame) + "\n")
                self._log.flush()

    def __call__(self, event: AnyEvent) -> None:
        """Write an event."""
        with self.writing(self._folder / EVENTS_NAME):
            self._events.write(json.dumps(event.as_json(), ensure_ascii=False) + "\n")
            self._events.flush()

    def close(self) -> None:
        """Close both files, also where one of them cannot be."""
        with contextlib.ExitStack() as closing:
            for name, file in ((LOG_NAME, self._log), (EVENTS_NAME, self._events)):
                closing.enter_context(self.writing(self._folder / name))
                closing.callback(file.close)


class Speaker:
    """Runs a command for each sign, without a shell: a label is one argument, whatever is in it.

    A sign without a probability is not spoken: its bundle cannot tell a sign from any other movement.

    Attributes:
        left_out: words for which it was not run, because the commands before were too slow.
        unsure: words for which it was not run, because the bundle has no calibration.
        failed: words for which it ended with an error.
    """

    def __init__(self, command: str, labels: Sequence[Label]) -> None:
        """Split the command into its words.

        Raises:
            UsageError: it cannot be split, or there is no such program.
        """
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"--say {command!r}: {error}", fix="--say 'espeak {}'") from error
        if not self._words or shutil.which(self._words[0]) is None:
            raise UsageError(f"--say {command!r}: no such program", fix="--say 'espeak {}'")
        self._spoken = {label.name: label.bengali or label.gloss or label.name for label in labels}
        self._running: list[subprocess.Popen[bytes]] = []
        self.left_out = self.unsure = self.failed = 0

    def __call__(self, event: AnyEvent) -> None:
        """Run the command for a sign; ``{}`` becomes the word, which else is the last argument."""
        if not isinstance(event, Sign):
            return
        if event.probability is None:
            self.unsure += 1
            return
        self._forget_ended()
        if len(self._running) >= _MOST_SPEAKING:
            self.left_out += 1  # it cannot follow: better nothing than the words of a minute ago
            return
        word = self._spoken[event.label]
        words = [part.replace("{}", word) for part in self._words]
        if words == self._words:
            words.append(word)
        self._running.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))

    def _forget_ended(self) -> None:
        self.failed += sum(one.poll() not in (None, 0) for one in self._running)
        self._running = [one for one in self._running if one.poll() is None]

    def in_words(self) -> list[str]:
        """Return what was not spoken, and why."""
        self._forget_ended()
        why = {
            "its command is slower than the signs": self.left_out,
            "its command ended with an error": self.failed,
            "the bundle has no calibration. Fix: spoter-kit export RUN, with a validation split": self.unsure,
        }
        return [f"--say left out {plural(words, 'word')}: {reason}" for reason, words in why.items() if words]
