"""Recognizer: from a bundle and a clip of landmarks to a label, without torch."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from spoter_runtime.backends import open_later, open_runner
from spoter_runtime.batching import Answered, infer_many
from spoter_runtime.bundle.manifest import SIGNATURE, Bundle, read_bundle
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.decision import decide, softmax
from spoter_runtime.errors import BackendError, BundleError, InputError, SpoterError, warn
from spoter_runtime.landmarks import Float32Array, array_from, check_clip, resample_clip
from spoter_runtime.machine import usable_cores
from spoter_runtime.ort.execution import ON_CPU, ExecutionConfig, default_batch_config
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.ort.session import usable_threads
from spoter_runtime.runner import Runner
from spoter_runtime.tuning.store import Tuned, read_tuned

if TYPE_CHECKING:
    from spoter_runtime.bundle.signature import Trust
    from spoter_runtime.camera.clips import FindsLandmarks, VideoClip

LongClips = Literal["error", "resample"]

_said: set[str] = set()
_UNCHECKED: Final = "nobody has checked who made it"
_NONE: Final = object()

STREAM_CLIPS = 256  # window of `Recognizer.stream`: enough clips of similar length for full batches


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """The sign recognised in one clip. Compares by identity, because it holds an array.

    Attributes:
        sign: the best label with its gloss, Bengali and romanised form.
        score: its softmax value, 0..1. It is not calibrated: use it to rank.
        logits_C: (classes,) float32.
        labels: one per logit.
        latency_ms: wall time of this clip's inference; of its whole batch in `predict_many`.
        video: of `predict_video`: the landmarks, which landmarker found them, and the time that took.
        probability: calibrated probability that the label is right, 0..1; None without a calibration.
        is_sign: whether the clip shows a sign that the model knows; None without a calibration.
        reason: why it is no sign, or why nothing is known of that; empty for a sign.
    """

    sign: Label
    score: float
    logits_C: Float32Array
    labels: tuple[Label, ...]
    latency_ms: float
    video: VideoClip | None = None
    probability: float | None = None
    is_sign: bool | None = None
    reason: str = ""

    @property
    def label(self) -> str:
        """The best label's name."""
        return self.sign.name

    def top(self, k: int) -> list[tuple[str, float]]:
        """Return the `k` best (label, score), best first; fewer if the model has fewer labels.

        Raises:
            InputError: `k` is less than 1.
        """
        if k < 1:
            raise InputError(f"top {k}: expected at least 1")
        logits = self.logits_C.tolist()
        shares = softmax(logits)
        order = sorted(range(len(logits)), key=lambda i: -logits[i])[:k]
        return [(self.labels[i].name, shares[i]) for i in order]


class Many:
    """Answers many clips with concurrent calls; one single-threaded call per core by default.

    Its runner is opened lazily: it uses one thread per call, the runner for single clips uses all threads. If
    it cannot be opened, the runner for single clips answers.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        open: Callable[[], Runner] | None = None,
        workers: int = 1,
        most_clips: int | None = None,
    ) -> None:
        self._runner = runner
        self._open = open
        self._lock = threading.Lock()
        self.workers = workers
        self.most_clips = most_clips

    def answers(self, clips: list[Float32Array]) -> list[Answered]:
        """Return the logits of checked clips, in the order given."""
        with self._lock:
            if self._open is not None:
                self._open_runner(self._open)
        return infer_many(self._runner, clips, workers=self.workers, most_clips=self.most_clips)

    def _open_runner(self, open: Callable[[], Runner]) -> None:
        try:
            self._runner = open()
        except (SpoterError, OSError) as error:
            self.workers = 1  # the runner for single clips uses all cores in each call
            reason = error.message if isinstance(error, SpoterError) else str(error)
            warn(
                f"many clips are answered one after another, which is slower: {reason}. "
                "Fix: Recognizer.load it again"
            )
        self._open = None  # this closes the kept file


class _Origin(NamedTuple):
    """The source of a recognizer, from which another process loads it.

    Attributes:
        path: absolute path.
        options: arguments of `Recognizer.load`.
        model: the model's hash or contract, which tells whether the path still holds the same model.
    """

    path: Path
    options: dict[str, Any]
    model: str | GraphContract


class Recognizer:
    """Recognise signs in clips of landmarks; as thread-safe as its runner.

    Attributes:
        runner: the engine in use.
        why: backend → why it was taken or skipped, for each that was tried.
        passed_over: the part of `why` about skipped backends for which the bundle has a special file.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        why: dict[str, str] | None = None,
        passed_over: dict[str, str] | None = None,
        long: LongClips = "error",
        many: Many | None = None,
    ) -> None:
        if long not in ("error", "resample"):
            raise InputError(f"long={long!r}: expected 'error' or 'resample'")
        self.runner = runner
        self.why = why or {}
        self.passed_over = passed_over or {}
        self._long = long
        self._many = many or Many(runner)
        self._origin: _Origin | None = None
        self._bundle: Bundle | None = None
        self._landmarker: FindsLandmarks | None = None
        self._process = os.getpid()

    @classmethod
    def load(
        cls,
        path: Path | str,
        backend: str | None = None,
        *,
        precision: str = "fp32",
        threads: int | None = None,
        long: LongClips = "error",
        allow_host_code: bool = False,
        tuned: bool = True,
        trust: Trust | None = None,
    ) -> Recognizer:
        """Open a bundle folder, or a lone ``.onnx`` file that spoter-kit exported.

        Args:
            path: the bundle, or the ONNX file.
            backend: one of `spoter_runtime.backends.BACKENDS`; None for the best that works here.
            precision: ``"fp32"``, or another that the bundle has.
            threads: threads on a CPU; None means the tuned number, or else one per core.
            long: treatment of a clip longer than the model takes: ``"error"``, or ``"resample"``.
            allow_host_code: take TensorRT engines that bring code which runs on the CPU of this process; only
                for a bundle whose author you trust.
            tuned: use the result of `tune` for this bundle on this machine, if there is one. A result of
                another machine, version or bundle is ignored, with a warning.
            trust: public keys and certificates of authorities: PEM files, or their bytes. One of the keys,
                or somebody whom an authority certified, has to have signed the bundle. Nothing of another
                bundle reaches an engine. None: nobody checks who made it; the log says so once.

        Raises:
            BundleError: missing, damaged, newer, not a bundle, or not signed as `trust` asks.
            ConfigError: a key of `trust` cannot be read.
            BackendError: no engine can run it here.
            MissingExtraError: the engine is not installed.
        """
        path = Path(path)
        threads = None if threads is None else usable_threads(threads)
        options: dict[str, Any] = {
            "backend": backend,
            "precision": precision,
            "threads": threads,
            "long": long,
            "allow_host_code": allow_host_code,
            "tuned": tuned,
            "trust": None if trust is None else _pem_of(trust),
        }
        if path.suffix == ".onnx" and os.path.lexists(path) and not path.is_dir():
            if backend not in (None, "ort-cpu"):
                raise BackendError(f"{path}: a lone ONNX file runs on ort-cpu, not on {backend}")
            if trust is not None:
                raise BundleError(f"{path}: a lone ONNX file is not signed", fix="load its bundle")
            lone = cls(OrtRunner(path, threads=threads), why={"ort-cpu": "a lone ONNX file"}, long=long)
            lone._origin = _Origin(path.absolute(), options, lone.contract)
            return lone
        bundle = _checked_bundle(path, options["trust"])
        found = (_tuned(bundle, precision) if tuned else None) or Tuned(configs={}, reasons={})
        configs = found.configs if threads is None else {}
        opened = open_runner(
            bundle,
            backend,
            precision=precision,
            threads=threads,
            allow_host_code=allow_host_code,
            config=configs.get("one"),
            rejected=found.rejected,
        )
        config = configs.get("many")
        if config and backend not in (None, config.backend):
            config = None  # the named backend is used for many clips too
        many = _many(bundle, precision, opened.runner, threads, config)
        passed_over = opened.passed_over(bundle) if backend is None else {}
        recognizer = cls(opened.runner, why=opened.why, passed_over=passed_over, long=long, many=many)
        recognizer._bundle = bundle
        recognizer._origin = _Origin(path.absolute(), options, bundle.onnx(precision).sha256)
        return recognizer

    def __copy__(self) -> Recognizer:
        """Return itself: it is immutable, and threads may share it."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Recognizer:
        """Return itself, as `copy.copy` does."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path and the options of `load`; unpickling loads the model again and checks its hash.

        Raises:
            BackendError: the recognizer was made from a runner, without `load`.
        """
        if self._origin is None:
            raise BackendError(
                "a recogniser of a runner of your own cannot be sent to another process",
                fix="make it there, or use Recognizer.load",
            )
        return _arrived, (type(self), self._origin)

    @property
    def contract(self) -> GraphContract:
        """Shapes, ranges and labels of the model."""
        return self.runner.contract

    @property
    def labels(self) -> tuple[Label, ...]:
        """The labels this model knows, in the order of its logits."""
        return self.contract.labels

    @property
    def background(self) -> tuple[str, ...]:
        """The labels that stand for no sign; see `Abstention`."""
        rule = self._bundle.abstention if self._bundle else None
        return rule.background if rule else ()

    def predict(self, clip: Any, *, name: str = "clip") -> Prediction:
        """Return the sign in one clip.

        Args:
            clip: (frames, 54, 2) or (frames, 108) floats, raw image coordinates, NaN or (0, 0) where a
                landmark was not detected; order as in `spoter_runtime.landmarks.LANDMARK_NAMES`.
            name: how an error names the clip.

        Raises:
            InputError: see `check_clip`; the message says what to do.
        """
        return self.predict_many([clip], names=[name])[0]

    def predict_video(
        self, path: Path | str, *, landmarker: FindsLandmarks | None = None, mirror: bool = False
    ) -> Prediction:
        """Return the sign in a video file that shows one sign.

        Args:
            path: any format that FFmpeg decodes; see `spoter_runtime.camera.video.video_frames`.
            landmarker: that finds the landmarks; None takes the bundle's own, or else the user's.
            mirror: swap left and right in each picture, for videos that show a mirror image.

        Raises:
            MissingExtraError: PyAV or ONNX Runtime is not installed.
            BundleError: there is no landmarker.
            DataError: the file is no video, or damaged.
            InputError: nobody was found in it, or it has more frames than the model takes.
        """
        from dataclasses import replace

        from spoter_runtime.camera.clips import clip_from_video
        from spoter_runtime.camera.video import check_video

        check_video(path)  # before the landmarker
        limit = self.contract.max_frames if self._long == "error" else None
        finder = landmarker or self.landmarker().another()
        clip = clip_from_video(path, finder, mirror=mirror, max_frames=limit)
        self.warn_of_landmarker(clip.landmarker)
        return replace(self.predict(clip.poses_TLD, name=str(path)), video=clip)

    def landmarker(self) -> FindsLandmarks:
        """Return the landmarker of the bundle, or else that of the user's cache; loaded once.

        Raises:
            BundleError: neither is there.
        """
        if self._landmarker is None:
            from spoter_runtime.camera.files import landmarker_in
            from spoter_runtime.camera.landmarker import Landmarker

            self._landmarker = Landmarker.load(landmarker_in(self._bundle) if self._bundle else None)
        return self._landmarker

    def warn_of_landmarker(self, given: str) -> None:
        """Warn where the model was trained on the landmarks of another landmarker than `given`."""
        if self._bundle is not None:
            from spoter_runtime.camera.files import trained_on, warn_of_other_landmarker

            warn_of_other_landmarker(trained_on(self._bundle.provenance), given, where=self._bundle.folder)

    def predict_many(self, clips: Iterable[Any], *, names: Iterable[str] | None = None) -> list[Prediction]:
        """Return the sign in each clip, in the order given; clips of similar length share a batch.

        Args:
            clips: each as in `predict`.
            names: the clips' names in errors; None counts from "clip 0".

        Raises:
            InputError: a clip cannot be used; the message names the first. Nothing is predicted.
        """
        if self._process != os.getpid():
            self._load_after_fork()
        checked = [self._checked(clip, name) for clip, name in _named(clips, names)]
        answers = infer_many(self.runner, checked) if len(checked) == 1 else self._many.answers(checked)
        return [self._prediction(answer, clip) for answer, clip in zip(answers, checked, strict=True)]

    def stream(self, clips: Iterable[Any], *, names: Iterable[str] | None = None) -> Iterator[Prediction]:
        """Yield the sign in each clip, in the order given; the source may be endless.

        Takes `STREAM_CLIPS` clips from the source at a time, so memory is bounded.

        Args:
            clips: each as in `predict`.
            names: the clips' names in errors; None counts from "clip 0".

        Raises:
            InputError: a clip cannot be used; the message names the first. The other clips of its window are
                lost.
        """
        named = _named(clips, names)
        while window := list(itertools.islice(named, STREAM_CLIPS)):
            yield from self.predict_many([clip for clip, _ in window], names=[name for _, name in window])

    def _load_after_fork(self) -> None:
        """Load the model again in a forked process, which lacks the threads of the parent's session.

        Raises:
            BackendError: the model cannot be loaded again.
        """
        if self._origin is None:
            return  # a runner of the caller's own decides itself
        if self.runner.name not in ON_CPU:
            raise BackendError(
                f"{self.runner.name}: loaded before this process was forked, and a GPU cannot be used then",
                fix="multiprocessing.get_context('spawn'), or load the recogniser in the worker",
            )
        try:
            loaded = _load_again(type(self), self._origin)
        except SpoterError as error:
            reason = error.message
            raise BackendError(
                f"loaded before this process was forked, and it cannot be loaded here again: {reason}",
                fix="keep the bundle in its place until each worker has predicted once, or load it there",
            ) from error
        vars(self).update(vars(loaded))

    def _checked(self, clip: Any, where: str) -> Float32Array:
        limit = self.contract.max_frames
        if self._long == "error":
            return check_clip(clip, max_frames=limit, where=where)
        array = array_from(clip, where)
        if not array.ndim:  # numpy could not convert it (a generator, say): let `check_clip` raise with a fix
            return check_clip(clip, max_frames=limit, where=where)
        frames = len(array)
        checked = check_clip(array, max_frames=max(frames, limit), where=where)
        return resample_clip(checked, limit) if frames > limit else checked

    def _prediction(self, answer: Answered, clip: Float32Array) -> Prediction:
        logits = answer.logits_C.tolist()
        best = logits.index(max(logits))
        rule = self._bundle.abstention if self._bundle else None
        return Prediction(
            sign=self.labels[best],
            score=softmax(logits)[best],
            logits_C=answer.logits_C,
            labels=self.labels,
            latency_ms=answer.latency_ms,
            **decide(logits, self.labels, clip, rule)._asdict(),
        )


_last_arrived: list[Recognizer] = []


def _arrived(kind: type[Recognizer], origin: _Origin) -> Recognizer:
    """Unpickle a recognizer; the last one is cached, because a pool sends it with each task."""
    for last in _last_arrived:
        if type(last) is kind and last._origin == origin:
            return last
    recognizer = _load_again(kind, origin)
    _last_arrived[:] = [recognizer]
    return recognizer


def _load_again(kind: type[Recognizer], origin: _Origin) -> Recognizer:
    """Return a recognizer loaded from the same source again.

    Raises:
        BundleError: as `Recognizer.load`, or the path holds another model now.
    """
    recognizer = kind.load(origin.path, **origin.options)
    if recognizer._origin is None or recognizer._origin.model != origin.model:
        raise BundleError(
            f"{origin.path}: another model lies there than when the recogniser was loaded",
            fix="load the recogniser again, and then start the processes",
        )
    return recognizer


def _named(clips: Iterable[Any], names: Iterable[str] | None) -> Iterator[tuple[Any, str]]:
    """Return (clip, name) pairs.

    Raises:
        InputError: `clips` is not iterable, or the numbers of clips and names differ.
    """
    try:
        each = iter(clips)
    except TypeError as error:
        raise InputError(
            f"clips: expected several, got {type(clips).__name__}", fix="predict(clip) for one"
        ) from error
    if names is None:
        return ((clip, f"clip {i}") for i, clip in enumerate(each))
    if not hasattr(names, "__iter__"):
        raise InputError(f"names: expected one for each clip, got {type(names).__name__}", fix="names=None")
    return _paired(each, names)


def _paired(clips: Iterator[Any], names: Iterable[str]) -> Iterator[tuple[Any, str]]:
    pairs: Iterator[tuple[Any, Any]] = itertools.zip_longest(clips, names, fillvalue=_NONE)
    for count, (clip, name) in enumerate(pairs):
        if clip is _NONE or name is _NONE:
            more = "names than clips" if clip is _NONE else "clips than names"
            raise InputError(f"names: more {more}, of which there are {count}", fix="give each clip one name")
        yield clip, name


def _pem_of(trust: Trust) -> tuple[bytes, ...]:
    from spoter_runtime.bundle.signature import pem_of  # not at the top: only trust needs it

    return pem_of(trust)


def _checked_bundle(path: Path, trust: tuple[bytes, ...] | None) -> Bundle:
    if trust is not None:
        from spoter_runtime.bundle.signature import read_trusted  # as above

        return read_trusted(path, trust)[0]
    bundle = read_bundle(path)
    if _UNCHECKED not in _said:  # once per process
        _said.add(_UNCHECKED)
        if os.path.lexists(path / SIGNATURE):
            warn(f"{path}: is signed, and {_UNCHECKED}. Fix: Recognizer.load(path, trust=['SIGNER.pub'])")
        elif logging := sys.modules.get("logging"):  # who reads a log has imported it
            logging.getLogger(__name__).info("%s: is not signed, so %s", path, _UNCHECKED)
    return bundle


def _tuned(bundle: Bundle, precision: str) -> Tuned | None:
    try:
        return read_tuned(bundle, precision)
    except BackendError as error:
        if str(error) not in _said:  # warn once per process
            _said.add(str(error))
            warn(str(error))
        return None


def _many(
    bundle: Bundle, precision: str, runner: Runner, threads: int | None, config: ExecutionConfig | None
) -> Many | None:
    """Return the runner for many clips; None if the runner for single clips is as fast."""
    if runner.name not in ON_CPU or threads is not None or (config is None and usable_cores() == 1):
        return None
    config = config or default_batch_config(runner.name)
    open_ = open_later(bundle, precision, config)
    return Many(runner, open=open_, workers=config.workers, most_clips=config.most_clips)
