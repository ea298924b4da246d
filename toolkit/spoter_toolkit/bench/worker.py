"""The process that is measured: one backend, one thread count, asked over JSON lines.

    python -m spoter_toolkit.bench.worker BACKEND THREADS BUNDLE [RUN]

It first writes what opening the bundle took, or ``{"error": …}``; then one answer per request line:
``{"batch", "frames", "warmup_calls", "warmup_ns", "min_calls", "min_ns"}`` is answered with
``{"samples_ns": [...], "peak_rss_bytes": n}``. It ends with its input.

At the top of this file only the standard library is imported: what else a backend needs is part of what
is measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from spoter_runtime.landmarks import Float32Array
    from spoter_runtime.runner import Runner

# Backend → the module whose import is timed apart from loading the model, and the extra that brings it.
ENGINES: Final = {
    "torch": ("torch", "export"),
    "torch-cuda": ("torch", "export"),
    "torch-cuda-compile": ("torch", "export"),
    "torch-cuda-graph": ("torch", "export"),
    "trt": ("tensorrt", "trt"),
    "trt-rtx": ("tensorrt_rtx", "rtx"),
    "ort-tensorrt": ("onnxruntime", "gpu"),
    "ort-tensorrt-rtx": ("onnxruntime", "cpu"),
    "ort-cuda": ("onnxruntime", "gpu"),
    "ort-cpu": ("onnxruntime", "cpu"),
}


def main(backend: str, threads: str, bundle: str, run: str | None = None) -> None:
    """Open the bundle and answer requests until standard input ends."""
    # Only the protocol may reach the pipe: what a library prints goes to stderr.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with replies:
        peak_at_start_bytes = peak_rss_bytes()
        begin_ns = time.perf_counter_ns()
        from spoter_runtime.errors import SpoterError, require

        try:
            from spoter_toolkit.backends import split_backend

            module, extra = ENGINES[split_backend(backend)[0]]
            require(module, extra=extra)
            imported_ns = time.perf_counter_ns()
            peak_imported_bytes = peak_rss_bytes()
            runner, model_bytes = _open(backend, int(threads), Path(bundle), Path(run) if run else None)
            opened = {
                "model_bytes": model_bytes,
                "import_ns": imported_ns - begin_ns,
                "load_ns": time.perf_counter_ns() - imported_ns,
                "peak_at_start_bytes": peak_at_start_bytes,
                "peak_imported_bytes": peak_imported_bytes,
                "peak_loaded_bytes": peak_rss_bytes(),
            }
            _reply(replies, opened)
            for line in sys.stdin:
                _reply(replies, measure(runner, **json.loads(line)))
        except SpoterError as error:
            _reply(replies, {"error": str(error)})


def _open(backend: str, threads: int, folder: Path, run: Path | None) -> tuple[Runner, int]:
    """Return the runner, and the size of the file that it loaded."""
    from spoter_runtime.bundle import read_bundle
    from spoter_toolkit.backends import open_backend

    bundle = read_bundle(folder)
    opened = open_backend(backend, bundle, run=run, threads=threads)
    if opened.artefact is not None:
        return opened.runner, opened.artefact.size_bytes
    from spoter_toolkit.locate import RUN_WEIGHTS
    from spoter_toolkit.reference import find_run

    return opened.runner, (find_run(bundle, run).folder / RUN_WEIGHTS).stat().st_size


def measure(
    runner: Runner,
    *,
    batch: int,
    frames: int,
    warmup_calls: int,
    warmup_ns: int,
    min_calls: int,
    min_ns: int,
) -> dict[str, Any]:
    """Warm up, then time single calls of `Runner.infer` on full clips.

    Returns:
        ``samples_ns``: wall time of every measured call; ``peak_rss_bytes``: of this process until now.
    """
    poses_NTD = generated_clips(batch, frames)
    _repeat(runner, poses_NTD, warmup_calls, warmup_ns)
    samples_ns = _repeat(runner, poses_NTD, min_calls, min_ns)
    return {"samples_ns": samples_ns, "peak_rss_bytes": peak_rss_bytes()}


def _repeat(runner: Runner, poses_NTD: Float32Array, min_calls: int, min_ns: int) -> list[int]:
    """Call until both the calls and the time are reached; return the nanoseconds of each call."""
    samples_ns: list[int] = []
    end_ns = time.perf_counter_ns() + min_ns
    while len(samples_ns) < min_calls or time.perf_counter_ns() < end_ns:
        begin_ns = time.perf_counter_ns()
        runner.infer(poses_NTD)
        samples_ns.append(time.perf_counter_ns() - begin_ns)
    return samples_ns


def generated_clips(batch: int, frames: int) -> Float32Array:
    """Return (batch, frames, 108) float32 coordinates spread over 0..1, the same every time.

    Multiples of the golden ratio, modulo 1: no random generator has to be imported.
    """
    import numpy as np

    from spoter_runtime.landmarks import NUM_FEATURES

    values = np.arange(1, batch * frames * NUM_FEATURES + 1) * 0.6180339887498949 % 1.0
    return values.astype(np.float32).reshape(batch, frames, NUM_FEATURES)


def peak_rss_bytes() -> int | None:
    """Return the most memory this process has held so far; None where the system does not say.

    On Linux from /proc: getrusage there begins with the size of the process that started this one,
    which would give every worker the memory of the program that runs the bench.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    kibibytes_or_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes_or_bytes if sys.platform == "darwin" else kibibytes_or_bytes * 1024


def _reply(replies: IO[str], value: dict[str, Any]) -> None:
    replies.write(json.dumps(value) + "\n")
    replies.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
