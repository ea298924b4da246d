"""tune: measure execution configurations on this machine, keep the fastest that passes the golden test."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from spoter_runtime._types import OnProgress
from spoter_runtime.backends import Opened, onnx_file_of, open_runner
from spoter_runtime.batching import infer_many
from spoter_runtime.bundle.goldens import Replay, compared, replay_goldens
from spoter_runtime.bundle.manifest import Artefact, Bundle, Goldens
from spoter_runtime.errors import BackendError, ConfigError, SpoterError
from spoter_runtime.files import cache_folder
from spoter_runtime.landmarks import NUM_LANDMARKS, Float32Array
from spoter_runtime.machine import usable_cores
from spoter_runtime.ort.execution import (
    FUSED,
    MOST_CLIPS,
    ON_CPU,
    ExecutionConfig,
    default_batch_config,
    write_prepared,
)
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.ort.session import SessionSettings, write_optimised
from spoter_runtime.runner import Runner, pad_clips
from spoter_runtime.statistics import ROUNDS_NEEDED, ROUNDS_TO_CLAIM, Ratio, ratio_of_rounds, times_as_fast
from spoter_runtime.tuning.store import SITUATIONS, Situation, Tuned, cannot_keep, write_tuned

# ONNX Runtime's default optimisers that slow some processors down.
_DOUBTFUL: Final = ("SkipLayerNormFusion",)
_MANY_CLIPS: Final = 48
_CLIPS_A_CALL: Final = (1, 4, 8, 16)

_ROUNDS: Final = 40  # most rounds; more gain little
_CLEARLY: Final = 1.1  # candidates slower than the best by this factor drop out
_ROUND_NS: Final = 20_000_000  # shortest time of a candidate's turn in a round


@dataclass(slots=True)
class _Candidate:
    """A configuration that passed the golden test, and its nanoseconds per clip in each round."""

    config: ExecutionConfig
    runner: Runner
    clips_ns: list[float] = field(default_factory=list)

    def ratio_to(self, other: _Candidate) -> Ratio:
        """Return this candidate's time ÷ the other's, over the rounds that both have."""
        return ratio_of_rounds([own / its for own, its in zip(self.clips_ns, other.clips_ns, strict=False)])

    def is_clearly_slower_than(self, best: _Candidate) -> bool:
        """Return True if its time is significantly more than `_CLEARLY` times the best's."""
        # Medians first: the bootstrap of 40 rounds takes 11 ms, half a turn.
        if statistics.median(self.clips_ns) <= _CLEARLY * statistics.median(best.clips_ns):
            return False
        low = self.ratio_to(best).low
        return low is not None and low > _CLEARLY


def tune(
    bundle: Bundle,
    *,
    precision: str = "fp32",
    seconds: float = 20.0,
    on_progress: OnProgress | None = None,
) -> Tuned:
    """Find the fastest configurations on this CPU for one clip and for many, and store them.

    The file is in the cache folder; `Recognizer.load` reads it. A configuration that fails the golden test is
    never chosen. An interrupted run writes nothing.

    Args:
        bundle: from `read_bundle`.
        precision: precision of the files to run.
        seconds: total measuring time, without opening sessions.
        on_progress: called with (done, total, what).

    Raises:
        ConfigError: `seconds` is not a positive number.
        BackendError: no configuration passes the golden test, or the cache folder cannot be written to.
        BundleError: the bundle has no file of that precision.
    """
    check_seconds(seconds)
    bundle.onnx(precision)
    _check_place()
    goldens = bundle.goldens()
    tuned = Tuned(configs={}, reasons={})
    for situation in reversed(SITUATIONS):  # many clips first: they find faults that only batches show
        configs = (
            _single_configs(bundle, precision) if situation == "one" else _batch_configs(bundle, precision)
        )
        candidates, refused = _opened(bundle, precision, configs, goldens, tuned.rejected)
        try:
            call = _one_clip(bundle, goldens) if situation == "one" else _many_clips(bundle, goldens)
            _race(candidates, call, seconds / len(SITUATIONS), what=situation, on_progress=on_progress)
            config, reasons = _chosen(candidates)
        finally:
            for candidate in candidates:
                candidate.runner.close()
        # Restore the usual order: one clip, then many.
        tuned.configs = {situation: _prepared(bundle, precision, config, goldens)} | tuned.configs
        tuned.reasons = {situation: reasons} | tuned.reasons
        rows = [_row(situation, candidate, candidates[0]) for candidate in candidates]
        rows += [{"situation": situation, "way": str(config), "refused": why} for config, why in refused]
        tuned.measured = rows + tuned.measured
    write_tuned(bundle, precision, tuned)
    return tuned


def check_seconds(seconds: float) -> None:
    """Raise a ConfigError unless a measuring time is positive and finite."""
    if not 0 < seconds < math.inf:
        raise ConfigError(f"seconds={seconds}: expected a positive number")


def _check_place() -> None:
    """Raise a BackendError if the cache folder cannot be written to."""
    folder = cache_folder() / "tuned"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise cannot_keep(error) from error


def _files(bundle: Bundle, precision: str) -> list[str]:
    """Return the CPU backends that have a file in the bundle, the untuned default first."""
    return [name for name in ON_CPU if name != FUSED or precision in bundle.by_precision("ort")]


def _single_configs(bundle: Bundle, precision: str) -> list[ExecutionConfig]:
    """Return the configurations for one clip, the untuned default first."""
    cores = usable_cores()
    configs = []
    for backend in _files(bundle, precision):
        for threads in dict.fromkeys((None, 1)) if cores > 1 else (None,):
            plain = SessionSettings(threads=threads)
            sessions = [plain, replace(plain, arena=False)]
            if backend != FUSED:  # the fused file is optimised already
                sessions.append(replace(plain, disabled_optimizers=_DOUBTFUL))
            if threads is None and cores > 1:
                sessions.append(replace(plain, spin=False))
            configs += [ExecutionConfig(backend=backend, session=session) for session in sessions]
    return configs


def _batch_configs(bundle: Bundle, precision: str) -> list[ExecutionConfig]:
    """Return the configurations for many clips, the untuned default first."""
    configs = []
    for backend in _files(bundle, precision):
        limit = bundle.contract.max_batch
        for clips in dict.fromkeys(min(clips, limit) for clips in (MOST_CLIPS, *_CLIPS_A_CALL)):
            configs.append(default_batch_config(backend, clips))
        if usable_cores() > 1:
            configs.append(
                ExecutionConfig(backend=backend, session=SessionSettings(), workers=1, most_clips=16)
            )
    return configs


def _opened(
    bundle: Bundle,
    precision: str,
    configs: Sequence[ExecutionConfig],
    goldens: Goldens,
    rejected: dict[str, str],
) -> tuple[list[_Candidate], list[tuple[ExecutionConfig, str]]]:
    """Open each configuration and run the golden test, one clip at a time and in its batches.

    Args:
        bundle: the bundle to tune.
        precision: precision of its files.
        configs: the configurations to open.
        goldens: the bundle's goldens.
        rejected: backend → why it failed the golden test; this function adds to it. A single failure rejects
            all configurations of a backend.

    Returns:
        The candidates that passed, and (configuration, reason) of the others.

    Raises:
        BackendError: no configuration passed.
    """
    candidates: list[_Candidate] = []
    refused: list[tuple[ExecutionConfig, str]] = []
    for config in configs:
        try:
            opened = open_runner(bundle, config.backend, precision=precision, config=config)
        except SpoterError as error:
            refused.append((config, str(error)))
            continue
        candidates.append(_Candidate(config=config, runner=opened.runner))
        if reason := golden_failure(opened, config, goldens):
            rejected.setdefault(config.backend, reason)
    for candidate in [candidate for candidate in candidates if candidate.config.backend in rejected]:
        candidates.remove(candidate)
        candidate.runner.close()
        refused.append((candidate.config, rejected[candidate.config.backend]))
    if not candidates:
        reasons = "\n".join(f"  {config}: {reason}" for config, reason in refused)
        raise BackendError(f"{bundle.folder}: no configuration passes the golden test here:\n{reasons}")
    return candidates, refused


def golden_failure(opened: Opened, config: ExecutionConfig, goldens: Goldens) -> str:
    """Return why a configuration fails the golden test; an empty string if it passes."""
    try:
        replay = replay_goldens(opened.runner, goldens, opened.artefact)
        if replay.passed and config.most_clips > 1:
            replay = _replayed_together(opened.runner, config, goldens, opened.artefact)
    except SpoterError as error:
        return str(error)
    return "" if replay.passed else f"its answers are not the model's: {replay}"


def _replayed_together(
    runner: Runner, config: ExecutionConfig, goldens: Goldens, artefact: Artefact
) -> Replay:
    """Replay the goldens in the configuration's batches and parallel calls."""
    answers = infer_many(runner, goldens.clips(), workers=config.workers, most_clips=config.most_clips)
    return compared(np.stack([answer.logits_C for answer in answers]), goldens, artefact)


def _one_clip(bundle: Bundle, goldens: Goldens) -> Callable[[_Candidate], int]:
    """Return a function that runs one clip of median length and returns the number of clips."""
    frames = statistics.median_low(_lengths(bundle, goldens, 1))
    clip = pad_clips([_clip_of(goldens, frames)])

    def call(candidate: _Candidate) -> int:
        candidate.runner.infer(*clip)
        return 1

    return call


def _many_clips(bundle: Bundle, goldens: Goldens) -> Callable[[_Candidate], int]:
    """Return a function that runs clips of the training data's lengths and returns their number."""
    clips = [_clip_of(goldens, frames) for frames in _lengths(bundle, goldens, _MANY_CLIPS)]

    def call(candidate: _Candidate) -> int:
        config = candidate.config
        infer_many(candidate.runner, clips, workers=config.workers, most_clips=config.most_clips)
        return len(clips)

    return call


def _lengths(bundle: Bundle, goldens: Goldens, count: int) -> list[int]:
    """Return `count` quantiles of the training data's lengths; of the goldens' if those are unknown."""
    known = [frames for frames, clips in bundle.frame_counts().items() for _ in range(clips)]
    lengths = sorted(known or goldens.lengths_N.tolist())
    limit = bundle.contract.max_frames
    return [min(limit, lengths[(2 * i + 1) * len(lengths) // (2 * count)]) for i in range(count)]


def _clip_of(goldens: Goldens, frames: int) -> Float32Array:
    """Return a clip with `frames` frames: the longest golden, repeated as needed."""
    place = int(goldens.lengths_N.argmax())
    golden = goldens.poses_NTD[place, : goldens.lengths_N[place]]
    return golden[np.arange(frames) % len(golden)].reshape(frames, NUM_LANDMARKS, 2)


def _race(
    candidates: list[_Candidate],
    call: Callable[[_Candidate], int],
    seconds: float,
    *,
    what: Situation,
    on_progress: OnProgress | None,
) -> None:
    """Measure the candidates in interleaved rounds; clearly slower ones drop out."""
    end_ns = time.perf_counter_ns() + round(seconds * 1e9)
    running = list(candidates)
    for candidate in running:
        call(candidate)  # warm-up: buffers, caches
    for done in range(_ROUNDS):
        if on_progress:
            on_progress(done, _ROUNDS, f"rounds, tuning for {what}: {len(running)} configurations")
        for candidate in running if done % 2 else reversed(running):
            candidate.clips_ns.append(_ns_a_clip(candidate, call))
        if done + 1 >= ROUNDS_NEEDED:
            best = min(running, key=lambda candidate: statistics.median(candidate.clips_ns))
            running = [c for c in running if c is candidates[0] or not c.is_clearly_slower_than(best)]
        if done + 1 >= ROUNDS_TO_CLAIM and time.perf_counter_ns() > end_ns:
            return


def _ns_a_clip(candidate: _Candidate, call: Callable[[_Candidate], int]) -> float:
    clips = 0
    begin_ns = time.perf_counter_ns()
    while True:
        clips += call(candidate)
        taken_ns = time.perf_counter_ns() - begin_ns
        if taken_ns >= _ROUND_NS:
            return taken_ns / clips


def _chosen(candidates: Sequence[_Candidate]) -> tuple[ExecutionConfig, str]:
    """Return the fastest configuration and the reason; the default unless another is significantly faster."""
    default = candidates[0]
    rounds = max(len(candidate.clips_ns) for candidate in candidates)
    full = [candidate for candidate in candidates if len(candidate.clips_ns) == rounds]
    best = min(full, key=lambda candidate: candidate.ratio_to(default).estimate)
    ratio = default.ratio_to(best)
    if best is default or ratio.claim != "faster":
        own = statistics.median(default.clips_ns) / 1e6
        why = f"{own:.3g} ms a clip; none of {len(candidates)} configurations is surely faster"
        return default.config, why
    ms = statistics.median(best.clips_ns) / 1e6
    return best.config, (
        f"{ms:.3g} ms a clip, {times_as_fast(ratio.estimate)} as without tuning (95 %: at least "
        f"{ratio.low:.2f}); the fastest of {len(candidates)} configurations"
    )


def _prepared(bundle: Bundle, precision: str, config: ExecutionConfig, goldens: Goldens) -> ExecutionConfig:
    """Store the optimised file for faster starts, if it passes the golden test; return the configuration."""
    if config.backend == FUSED:  # the fused file is optimised already
        return config
    artefact = onnx_file_of(bundle, config.backend, precision)
    try:
        with tempfile.TemporaryDirectory() as folder:  # not in the cache, where a kill would leave it
            path = Path(folder) / "optimised.onnx"
            write_optimised(bundle.read(artefact.path), config.session, path)
            content = path.read_bytes()
        with OrtRunner(content, settings=replace(config.session, optimise=False)) as runner:
            if not replay_goldens(runner, goldens, artefact).passed:
                return config
        return replace(config, prepared=write_prepared(content))
    except OSError as error:
        raise cannot_keep(error) from error


def _row(situation: Situation, candidate: _Candidate, default: _Candidate) -> dict[str, Any]:
    return {
        "situation": situation,
        "way": str(candidate.config),
        "settings": candidate.config.as_json(),
        "clips_ns": [round(value) for value in candidate.clips_ns],
        "times_of_default": round(candidate.ratio_to(default).estimate, 4),
    }
