"""The process that is measured: one backend, one thread count, asked over JSON lines.

    python -m spoter_toolkit.bench.worker.__main__ BACKEND THREADS BUNDLE [OPTIONS]

OPTIONS is a JSON object: ``run``, the RUN that torch loads; ``cores``, to stay on them; ``slow_down``, a
share of each call's own time that is waited after it, to see whether it is found. BACKEND is one of
`spoter_toolkit.backends`, or ``floor``: the model's matrix products alone.

It first writes what opening the bundle took, or ``{"error": …}``; then one answer per request line, whose
``do`` names a function of `spoter_toolkit.bench.worker.tasks` and whose other fields are its arguments. It
ends with its input.

At the top of this file only the standard library is imported: what else a backend needs is part of what
is measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any, Final

from spoter_toolkit.bench.worker.tasks import WORK, Infers, Slowed, peak_rss_bytes

FLOOR: Final = "floor"

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
    "ort-cpu-fused": ("onnxruntime", "cpu"),
}


def main(backend: str, threads: str, bundle: str, options: str = "{}") -> None:
    """Open the bundle and answer requests until standard input ends."""
    # Only the protocol may reach the pipe: what a library prints goes to stderr.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with replies:
        chosen = json.loads(options)
        cores = chosen.get("cores")
        if cores:  # before any library makes a thread: they inherit it
            os.sched_setaffinity(0, cores)
        peak_at_start_bytes = peak_rss_bytes()
        begin_ns = time.perf_counter_ns()
        from spoter_runtime.errors import SpoterError

        try:
            _import(*_engine(backend))
            imported_ns = time.perf_counter_ns()
            peak_imported_bytes = peak_rss_bytes()
            engine, model_bytes = _open(backend, int(threads), Path(bundle), chosen.get("run"))
            opened = {
                "model_bytes": model_bytes,
                "import_ns": imported_ns - begin_ns,
                "load_ns": time.perf_counter_ns() - imported_ns,
                "peak_at_start_bytes": peak_at_start_bytes,
                "peak_imported_bytes": peak_imported_bytes,
                "peak_loaded_bytes": peak_rss_bytes(),
                "cores": _cores(),
            }
            if slow_down := chosen.get("slow_down"):
                engine = Slowed(engine, slow_down)
            _reply(replies, opened)
            for line in sys.stdin:
                request = json.loads(line)
                answer = WORK[request.pop("do")](engine, **request)
                _reply(replies, answer | {"peak_rss_bytes": peak_rss_bytes()})
        except SpoterError as error:
            _reply(replies, {"error": str(error)})


def _engine(backend: str) -> tuple[str, str]:
    if backend == FLOOR:
        return ENGINES["ort-cpu"]
    from spoter_toolkit.backends import split_backend

    return ENGINES[split_backend(backend)[0]]


def _import(module: str, extra: str) -> None:
    if module == "onnxruntime":
        from spoter_runtime.ort.installed import import_onnxruntime

        import_onnxruntime("cuda" if extra == "gpu" else "cpu")  # with its telemetry off
    else:
        from spoter_runtime.errors import require

        require(module, extra=extra)


def _open(backend: str, threads: int, folder: Path, run: str | None) -> tuple[Infers, int]:
    """Return the engine, and the size of the file that it loaded."""
    from spoter_runtime.bundle.manifest import read_bundle

    bundle = read_bundle(folder)
    if backend == FLOOR:
        from spoter_toolkit.bench.worker.roofline import Floor

        return Floor(bundle.read(bundle.onnx().path), threads), bundle.onnx().size_bytes
    from spoter_toolkit.backends import open_backend

    run_folder = Path(run) if run else None
    opened = open_backend(backend, bundle, run=run_folder, threads=threads)
    if opened.artefact is not None:
        return opened.runner, opened.artefact.size_bytes
    from spoter_toolkit.runs.run import find_run
    from spoter_toolkit.workspace import RUN_WEIGHTS

    return opened.runner, (find_run(bundle, run_folder).folder / RUN_WEIGHTS).stat().st_size


def _cores() -> list[int] | None:
    """Return the cores that this process may run on; None where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _reply(replies: IO[str], value: dict[str, Any]) -> None:
    replies.write(json.dumps(value) + "\n")
    replies.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
