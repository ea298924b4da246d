"""Recognizer: from a bundle and a clip of landmarks to a label, without torch."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spoter_runtime.backends import open_runner
from spoter_runtime.bundle import read_bundle
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import BackendError, InputError
from spoter_runtime.landmarks import Float32Array, check_clip, resample_clip
from spoter_runtime.ort import OrtRunner
from spoter_runtime.runner import Runner, pad_clips

LongClips = Literal["error", "resample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What was recognised in one clip.

    Attributes:
        sign: the best label with its gloss, Bengali and romanised form.
        score: its softmax probability, 0..1. Models are not calibrated by default: use it to rank.
        logits_C: (classes,) float32.
        labels: one per logit.
        latency_ms: wall time of this clip's inference; of its whole batch in `predict_many`.
    """

    sign: Label
    score: float
    logits_C: Float32Array
    labels: tuple[Label, ...]
    latency_ms: float

    @property
    def label(self) -> str:
        """The best label's name."""
        return self.sign.name

    def top(self, k: int) -> list[tuple[str, float]]:
        """Return the `k` best (label, score), best first; all of them where there are fewer.

        Raises:
            InputError: `k` is less than 1.
        """
        if k < 1:
            raise InputError(f"top {k}: expected at least 1")
        scores = _softmax(self.logits_C)
        order = np.argsort(-self.logits_C, kind="stable")[:k]
        return [(self.labels[i].name, float(scores[i])) for i in order]


class Recognizer:
    """Recognise signs in clips of landmarks; as thread-safe as its runner.

    Attributes:
        runner: the engine in use.
        why: for each backend that was tried, why it was taken or passed over.
    """

    def __init__(
        self, runner: Runner, *, why: dict[str, str] | None = None, long: LongClips = "error"
    ) -> None:
        if long not in ("error", "resample"):
            raise InputError(f"long={long!r}: expected 'error' or 'resample'")
        self.runner = runner
        self.why = why or {}
        self._long = long

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
    ) -> Recognizer:
        """Open a bundle folder, or a lone ``.onnx`` file that spoter-kit exported.

        Args:
            path: the bundle, or the ONNX file.
            backend: one of `spoter_runtime.backends.BACKENDS`; None for the best that works here.
            precision: ``"fp32"``, or another that the bundle has.
            threads: threads inside one operator, on a CPU; None leaves it to the engine.
            long: what to do with a clip longer than the model takes: ``"error"``, or ``"resample"`` it.
            allow_host_code: take TensorRT engines that bring code which runs on the CPU of this process; only
                for a bundle whose author you trust.

        Raises:
            BundleError: missing, damaged, newer, or not a bundle.
            BackendError: no engine can run it here.
            MissingExtraError: the engine is not installed.
        """
        path = Path(path)
        if path.is_file() and path.suffix == ".onnx":
            if backend not in (None, "ort-cpu"):
                raise BackendError(f"{path}: a lone ONNX file runs on ort-cpu, not on {backend}")
            return cls(OrtRunner(path, threads=threads), why={"ort-cpu": "a lone ONNX file"}, long=long)
        opened = open_runner(
            read_bundle(path), backend, precision=precision, threads=threads, allow_host_code=allow_host_code
        )
        return cls(opened.runner, why=opened.why, long=long)

    @property
    def contract(self) -> GraphContract:
        """Shapes, ranges and labels of the model."""
        return self.runner.contract

    @property
    def labels(self) -> tuple[Label, ...]:
        """The labels this model knows, in the order of its logits."""
        return self.contract.labels

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

    def predict_many(self, clips: Iterable[Any], *, names: Iterable[str] | None = None) -> list[Prediction]:
        """Return the sign in each clip, in the order given; clips of similar length share a batch.

        Args:
            clips: each as in `predict`.
            names: how errors name them; None counts from "clip 0".

        Raises:
            InputError: names the first clip that cannot be used; nothing is predicted then.
        """
        named = zip(clips, names, strict=True) if names else ((c, f"clip {i}") for i, c in enumerate(clips))
        checked = [self._checked(clip, name) for clip, name in named]
        order = sorted(range(len(checked)), key=lambda i: len(checked[i]))
        predictions: dict[int, Prediction] = {}
        for start in range(0, len(order), self.contract.max_batch):
            rows = order[start : start + self.contract.max_batch]
            poses, lengths = pad_clips([checked[i] for i in rows])
            begin_ns = time.perf_counter_ns()
            logits = self.runner.infer(poses, lengths)
            latency_ms = (time.perf_counter_ns() - begin_ns) / 1e6
            for row, logits_C in zip(rows, logits, strict=True):
                predictions[row] = self._prediction(logits_C, latency_ms)
        return [predictions[i] for i in range(len(checked))]

    def _checked(self, clip: Any, where: str) -> Float32Array:
        limit = self.contract.max_frames
        if self._long == "error":
            return check_clip(clip, max_frames=limit, where=where)
        frames = len(clip) if hasattr(clip, "__len__") else 0
        checked = check_clip(clip, max_frames=max(frames, limit), where=where)
        return resample_clip(checked, limit) if frames > limit else checked

    def _prediction(self, logits_C: Float32Array, latency_ms: float) -> Prediction:
        best = int(logits_C.argmax())
        return Prediction(
            sign=self.labels[best],
            score=float(_softmax(logits_C)[best]),
            logits_C=logits_C,
            labels=self.labels,
            latency_ms=latency_ms,
        )


def _softmax(logits_C: Float32Array) -> Float32Array:
    exponentials = np.exp(logits_C - logits_C.max())
    return np.asarray(exponentials / exponentials.sum())
