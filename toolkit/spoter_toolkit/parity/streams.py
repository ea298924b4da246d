"""Prove that a stream answers as `predict` does, and that every backend gives the same events."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from spoter_runtime._types import OnProgress
from spoter_runtime.bundle.libraries import FACE
from spoter_runtime.bundle.manifest import STREAM, STREAM_ANSWERS, Bundle, read_bundle
from spoter_runtime.errors import BackendError, BundleError, MissingExtraError
from spoter_runtime.live.events import Abstain, AnyEvent, Sign, SignStart
from spoter_runtime.live.frames import resample_segment, with_nan
from spoter_runtime.live.log import LogFrame, TakesFrames, read_frames, read_header, replay
from spoter_runtime.live.settings import Gate, StreamSettings
from spoter_runtime.live.stream import SignStream
from spoter_runtime.recognizer import Recognizer
from spoter_toolkit.backends import TORCH_BACKENDS, backends_of, split_backend
from spoter_toolkit.data.streams.golden import GATES, answers_in, golden_frames
from spoter_toolkit.faces.face import open_face


class _Stream(NamedTuple):
    """Frames to replay; the segments (start, end, label) that the bundle expects, where it says some."""

    title: str
    gate: Gate
    settings: StreamSettings
    frames: list[LogFrame]
    answers: list[tuple[Any, ...]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamProof:
    """One backend on one stream.

    Attributes:
        stream: its name, and the gate.
        signs: said, and segments that were refused.
        offline: whether each sign's segment, given to `predict`, has the same scores, bit for bit.
        repeats: whether the same frames gave the same events again, bit for bit.
        agrees: whether times and labels are those of the first backend.
        max_score_diff: largest difference from the first backend's scores.
        failures: in words; empty where it holds.
    """

    backend: str
    stream: str
    signs: int
    offline: bool
    repeats: bool
    agrees: bool
    max_score_diff: float
    failures: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"failures": list(self.failures)}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamParity:
    """All proofs of a bundle, and backend → why it was not run."""

    bundle: str
    proofs: tuple[StreamProof, ...]
    not_run: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether every proof holds."""
        return bool(self.proofs) and not any(proof.failures for proof in self.proofs)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "bundle": self.bundle,
            "passed": self.passed,
            "proofs": [proof.as_json() for proof in self.proofs],
            "not_run": self.not_run,
        }


def prove_streams(
    folder: Path,
    *,
    log: Path | None = None,
    backends: Sequence[str] | None = None,
    on_progress: OnProgress | None = None,
) -> StreamParity:
    """Replay a log on every backend and precision of a bundle, and compare the events.

    Args:
        folder: the BUNDLE.
        log: that `spoter-kit live --record` wrote; None takes the bundle's golden stream.
        backends: as in ``"ort-cpu:int8"`` or ``"face-c"``; None takes all that run here. The first is what
            the others are compared with; a face is compared with ``"ort-cpu"``.
        on_progress: called with (backends done, backends, what).

    Raises:
        BundleError: no bundle.
        DataError: no log.
        BackendError: none of the backends can be opened.
    """
    bundle = read_bundle(folder)
    streams = [_of_log(log)] if log else _of_bundle(bundle)
    names = list(backends or (name for name in backends_of(bundle) if name not in TORCH_BACKENDS))
    if names[0].startswith(FACE):
        names.insert(0, "ort-cpu")
    proofs: list[StreamProof] = []
    not_run: dict[str, str] = {}
    firsts: dict[str, list[AnyEvent]] = {}
    for done, name in enumerate(names):
        if on_progress:
            on_progress(done, len(names), name)
        try:
            recognizer, made = _opened(bundle, name)
            streams_of = [made(one.gate, one.settings) for one in streams]
        except (BackendError, BundleError, MissingExtraError) as error:
            not_run[name] = error.message
            continue
        for one, stream in zip(streams, streams_of, strict=True):
            events = list(replay(stream, one.frames))
            first = firsts.setdefault(one.title, events)
            again = list(replay(stream, one.frames))
            proofs.append(_proof(name, one, recognizer, (events, again, first)))
    if not proofs:
        raise BackendError(f"{folder}: no backend runs here: {'; '.join(not_run.values())}")
    return StreamParity(bundle=str(folder), proofs=tuple(proofs), not_run=not_run)


def _opened(bundle: Bundle, name: str) -> tuple[Recognizer, Callable[[Gate, StreamSettings], TakesFrames]]:
    """Return a backend's or a face's recogniser, and what makes its streams."""
    backend, precision = split_backend(name)
    if backend.startswith(FACE):
        face = open_face(backend, bundle, precision)
        return Recognizer(face), face.stream
    recognizer = Recognizer.load(bundle.folder, backend, precision=precision, tuned=False)
    return recognizer, lambda gate, settings: SignStream(recognizer, gate, settings=settings)


def _proof(
    backend: str,
    one: _Stream,
    recognizer: Recognizer,
    runs: tuple[list[AnyEvent], list[AnyEvent], list[AnyEvent]],
) -> StreamProof:
    """Compare one backend's events with a second run, with `predict`, and with the first backend."""
    events, again, first = runs
    signs = [event for event in events if isinstance(event, Sign)]
    wrong = [sign for sign in signs if not _is_offline(sign, recognizer, one)]
    kept, expected = _outline(events), _outline(first)
    failures = [f"{sign.label} at {sign.start_ms:.0f} ms: predict has other scores" for sign in wrong]
    if events != again:
        failures.append("the same frames gave other events the second time")
    if kept != expected:
        n = next((n for n, pair in enumerate(zip(kept, expected, strict=False)) if pair[0] != pair[1]), None)
        found = f"{kept[n]} where {expected[n]} is expected" if n is not None else "more or fewer events"
        failures.append(f"other events than the first backend's: {found}")
    answers = [_segment(answer) for answer in answers_in(events)]
    if one.answers is None and not answers:
        failures.append("nothing was compared: no movement in it got an answer")
    if one.answers is not None and answers != one.answers:
        failures.append(
            f"other answers than those in the bundle: {answers}, expected {one.answers}. If another version "
            "exported it, export the RUN again"
        )
    expected_signs = [event for event in first if isinstance(event, Sign)]
    diffs = [abs(a.score - b.score) for a, b in zip(signs, expected_signs, strict=False)]
    return StreamProof(
        backend=backend,
        stream=one.title,
        signs=len(signs),
        offline=not wrong,
        repeats=events == again,
        agrees=kept == expected,
        max_score_diff=max(diffs, default=0.0),
        failures=tuple(failures),
    )


def _is_offline(sign: Sign, recognizer: Recognizer, one: _Stream) -> bool:
    """Tell whether `predict` gives the sign's scores for its segment, cut out of the whole stream."""
    times = [frame.t_ms for frame in one.frames]
    poses = [with_nan(frame.landmarks_LD) for frame in one.frames]
    clip = resample_segment(times, poses, sign.start_ms, sign.end_ms, one.settings.fps)
    return tuple(recognizer.predict(clip).top(len(sign.best))) == sign.best


def _outline(events: Sequence[AnyEvent]) -> list[tuple[Any, ...]]:
    """Return times, kinds and labels: what may not differ between backends."""
    outline: list[tuple[Any, ...]] = []
    for event in events:
        if isinstance(event, Sign | Abstain):
            outline.append((event.type, event.start_ms, event.end_ms, event.label))
        elif isinstance(event, SignStart):
            outline.append((event.type, event.start_ms))
    return outline


def _of_log(path: Path) -> _Stream:
    gate, settings = read_header(path)
    return _Stream(f"{path.name}, {gate} gate", gate, settings, list(read_frames(path)))


def _of_bundle(bundle: Bundle) -> list[_Stream]:
    """Return the golden stream for each gate, with its answers; an older bundle's is made of its goldens.

    Raises:
        BundleError: the bundle was changed or damaged.
    """
    if STREAM not in bundle.files:
        frames = golden_frames(bundle.goldens())
        return [_Stream(f"goldens, {gate} gate", gate, StreamSettings(), frames) for gate in GATES]
    answers = [json.loads(line) for line in bundle.read(STREAM_ANSWERS).splitlines()]
    bundle.read(STREAM)  # checks its hash
    _, settings = read_header(bundle.folder / STREAM)
    frames = list(read_frames(bundle.folder / STREAM))
    return [
        _Stream(f"golden stream, {gate} gate", gate, settings, frames, _outline_of(answers, gate))
        for gate in GATES
    ]


def _outline_of(answers: Sequence[dict[str, Any]], gate: Gate) -> list[tuple[Any, ...]]:
    return [_segment(answer) for answer in answers if answer["gate"] == gate]


def _segment(answer: dict[str, Any]) -> tuple[Any, ...]:
    return answer["start_ms"], answer["end_ms"], answer["label"]
