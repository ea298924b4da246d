"""Prove that a stream answers as `predict` does, and that every backend gives the same events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from spoter_runtime._types import OnProgress
from spoter_runtime.bundle.manifest import Bundle, read_bundle
from spoter_runtime.errors import BackendError, BundleError, MissingExtraError
from spoter_runtime.landmarks import LEFT_SHOULDER, RIGHT_SHOULDER, Float32Array
from spoter_runtime.live.events import Abstain, AnyEvent, Sign, SignStart
from spoter_runtime.live.frames import resample_segment, with_nan
from spoter_runtime.live.log import LogFrame, read_frames, read_header, replay
from spoter_runtime.live.settings import Gate, StreamSettings
from spoter_runtime.live.stream import SignStream
from spoter_runtime.recognizer import Recognizer
from spoter_toolkit.backends import TORCH_BACKENDS, backends_of, split_backend
from spoter_toolkit.streams.compose import Piece, compose

_SHORTEST: Final = 9  # frames of a golden that goes into the stream
_NARROWEST: Final = 0.01  # its shoulders, in pictures: some goldens hold nobody, or somebody far away
_GATES: Final[tuple[Gate, ...]] = ("rest", "window")


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
        log: that `spoter-kit live --record` wrote; None makes a stream of the bundle's goldens.
        backends: as in ``"ort-cpu:int8"``; None takes all that run here. The first is what the others are
            compared with.
        on_progress: called with (backends done, backends, what).

    Raises:
        BundleError: no bundle.
        DataError: no log.
        BackendError: none of the backends can be opened.
    """
    bundle = read_bundle(folder)
    streams = [_of_log(log)] if log else [_of_goldens(bundle, gate) for gate in _GATES]
    names = list(backends or (name for name in backends_of(bundle) if name not in TORCH_BACKENDS))
    proofs: list[StreamProof] = []
    not_run: dict[str, str] = {}
    firsts: dict[str, list[AnyEvent]] = {}
    for done, name in enumerate(names):
        if on_progress:
            on_progress(done, len(names), name)
        backend, precision = split_backend(name)
        try:
            recognizer = Recognizer.load(folder, backend, precision=precision, tuned=False)
        except (BackendError, BundleError, MissingExtraError) as error:
            not_run[name] = error.message
            continue
        for title, gate, settings, frames in streams:
            stream = SignStream(recognizer, gate, settings=settings)
            events = list(replay(stream, frames))
            first = firsts.setdefault(title, events)
            again = list(replay(stream, frames))
            proofs.append(_proof(name, title, recognizer, stream, frames, (events, again, first)))
    if not proofs:
        raise BackendError(f"{folder}: no backend runs here: {'; '.join(not_run.values())}")
    return StreamParity(bundle=str(folder), proofs=tuple(proofs), not_run=not_run)


def _proof(
    backend: str,
    title: str,
    recognizer: Recognizer,
    stream: SignStream,
    frames: Sequence[LogFrame],
    runs: tuple[list[AnyEvent], list[AnyEvent], list[AnyEvent]],
) -> StreamProof:
    """Compare one backend's events with a second run, with `predict`, and with the first backend."""
    events, again, first = runs
    signs = [event for event in events if isinstance(event, Sign)]
    wrong = [sign for sign in signs if not _is_offline(sign, recognizer, stream, frames)]
    kept, expected = _outline(events), _outline(first)
    failures = [f"{sign.label} at {sign.start_ms:.0f} ms: predict has other scores" for sign in wrong]
    if events != again:
        failures.append("the same frames gave other events the second time")
    if kept != expected:
        n = next((n for n, pair in enumerate(zip(kept, expected, strict=False)) if pair[0] != pair[1]), None)
        found = f"{kept[n]} where {expected[n]} is expected" if n is not None else "more or fewer events"
        failures.append(f"other events than the first backend's: {found}")
    expected_signs = [event for event in first if isinstance(event, Sign)]
    diffs = [abs(a.score - b.score) for a, b in zip(signs, expected_signs, strict=False)]
    return StreamProof(
        backend=backend,
        stream=title,
        signs=len(signs),
        offline=not wrong,
        repeats=events == again,
        agrees=kept == expected,
        max_score_diff=max(diffs, default=0.0),
        failures=tuple(failures),
    )


def _is_offline(sign: Sign, recognizer: Recognizer, stream: SignStream, frames: Sequence[LogFrame]) -> bool:
    """Tell whether `predict` gives the sign's scores for its segment, cut out of the whole stream."""
    times = [frame.t_ms for frame in frames]
    poses = [with_nan(frame.landmarks_LD) for frame in frames]
    clip = resample_segment(times, poses, sign.start_ms, sign.end_ms, stream.settings.fps)
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


_Stream = tuple[str, Gate, StreamSettings, list[LogFrame]]


def _of_log(path: Path) -> _Stream:
    gate, settings = read_header(path)
    return f"{path.name}, {gate} gate", gate, settings, list(read_frames(path))


def _of_goldens(bundle: Bundle, gate: Gate) -> _Stream:
    """Return a stream of the bundle's goldens: made anew from them, so it travels with the bundle."""
    clips = [clip for clip in bundle.goldens().clips() if len(clip) >= _SHORTEST and _has_body(clip)]
    pieces = [Piece(kind="sign", label="", poses_TLD=clip) for clip in clips]
    stream = compose("goldens", pieces, np.random.default_rng(0), rests=gate == "rest")
    frames = [
        LogFrame(t_ms, pose) for t_ms, pose in zip(stream.times_ms.tolist(), stream.poses_FLD, strict=True)
    ]
    return f"{len(pieces)} goldens, {gate} gate", gate, StreamSettings(), frames


def _has_body(clip_TLD: Float32Array) -> bool:
    widths = np.hypot(*(clip_TLD[:, LEFT_SHOULDER] - clip_TLD[:, RIGHT_SHOULDER]).T)
    return bool((widths > _NARROWEST).any())
