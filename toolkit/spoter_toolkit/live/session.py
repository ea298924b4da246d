"""Run a stream on a source, and give each event to those who listen."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from spoter_runtime.contract import Label
from spoter_runtime.errors import UsageError
from spoter_runtime.live.events import AnyEvent, Fault, Sign
from spoter_runtime.live.log import LOG_NAME, LogFrame, header_line, line_of
from spoter_runtime.live.settings import Gate
from spoter_runtime.live.stream import SignStream
from spoter_toolkit.live.film import FILM_NAME, Film
from spoter_toolkit.live.sources import Arrival

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
    end_ms: float = float("inf"),
) -> None:
    """Give each frame to the stream, and each event to every sink.

    A sink that raises is left out from then on, and the others get a fault that says so. A sink that blocks
    holds the frames up: a camera's are dropped then, and the next event says how many.

    Args:
        stream: is used by this thread.
        source: see `arrivals`.
        sinks: each takes one event.
        watchers: each takes one frame.
        end_ms: the last frame's time.
    """
    listening = list(sinks)
    try:
        for arrival in source:
            if arrival.fault:
                _tell(listening, [Fault(t_ms=arrival.t_ms, code="source", reason=arrival.fault)])
            if arrival.t_ms > end_ms:
                break
            if arrival.frame is None:
                continue
            stream.accept(arrival.frame, arrival.t_ms, dropped=arrival.dropped, persons=arrival.persons)
            for watcher in watchers:
                watcher.frame(arrival, stream.landmarks)
            _tell(listening, stream.events())
    finally:
        stream.flush()
        _tell(listening, stream.events())


def _tell(sinks: list[Sink], events: list[AnyEvent]) -> None:
    for event in events:
        for sink in list(sinks):
            try:
                sink(event)
            except Exception as error:  # noqa: BLE001  (a sink of the user's must not stop the others)
                sinks.remove(sink)
                name = getattr(sink, "__qualname__", type(sink).__name__)
                reason = f"{name} raised {type(error).__name__}: {error}; it gets no more events"
                _tell(sinks, [Fault(t_ms=event.t_ms, code="sink", reason=reason)])


class Recorder:
    """Keeps video, landmarks and events in a folder, each as it comes: a killed recording can be read."""

    def __init__(self, folder: Path, stream: SignStream, gate: Gate, *, film: bool = True) -> None:
        """Begin a recording in a new folder; without `film` no picture is kept."""
        folder.mkdir(parents=True)
        self._log = (folder / LOG_NAME).open("w", encoding="utf-8", newline="\n")
        self._events = (folder / EVENTS_NAME).open("w", encoding="utf-8", newline="\n")
        self._log.write(header_line(gate, stream.settings) + "\n")
        self._stream = stream
        self._film = Film(folder / FILM_NAME) if film else None

    def frame(self, arrival: Arrival, landmarks_LD: Any) -> None:
        """Write the picture of a frame and its landmarks, where there are some."""
        if self._film and np.ndim(arrival.frame) == 3:
            self._film.add(arrival.frame, arrival.t_ms)
        if landmarks_LD is not None:
            frame = LogFrame(arrival.t_ms, landmarks_LD, arrival.dropped, self._stream.persons)
            self._log.write(line_of(frame) + "\n")
            self._log.flush()

    def __call__(self, event: AnyEvent) -> None:
        """Write an event."""
        self._events.write(json.dumps(event.as_json(), ensure_ascii=False) + "\n")
        self._events.flush()

    def close(self) -> None:
        """Close all files."""
        if self._film:
            self._film.close()
        self._log.close()
        self._events.close()


class Speaker:
    """Runs a command for each sign, without a shell: a label is one argument, whatever is in it.

    Attributes:
        left_out: words for which it was not run, because the commands before were too slow.
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

    def __call__(self, event: AnyEvent) -> None:
        """Run the command for a sign; ``{}`` becomes the word, which else is the last argument."""
        if not isinstance(event, Sign):
            return
        self._running = [one for one in self._running if one.poll() is None]
        if len(self._running) >= _MOST_SPEAKING:
            self.left_out += 1  # it cannot follow: better nothing than the words of a minute ago
            return
        word = self._spoken[event.label]
        words = [part.replace("{}", word) for part in self._words]
        if words == self._words:
            words.append(word)
        self._running.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
        self.left_out = 0
