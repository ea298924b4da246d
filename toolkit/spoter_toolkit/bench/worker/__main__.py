"""The process that is measured: one backend, one thread count, requests and answers as JSON lines.

    python -m spoter_toolkit.bench.worker BACKEND THREADS BUNDLE [OPTIONS]

OPTIONS is a JSON object: ``run``, the RUN that torch loads; ``cores``, to stay on them; ``slow_down``, a
share of each call's own time that is waited after it, to test that the bench finds it; ``allow_host_code``,
for engines that bring code. BACKEND is one of `spoter_toolkit.backends`, or the GEMM roofline: see
`spoter_toolkit.bench.worker.protocol`.

The first line out says how long opening the bundle took, or is ``{"error": …}``; then comes one answer per
request, whose ``do`` names a function of `spoter_toolkit.bench.worker.tasks` and whose other fields are its
arguments. The worker ends when its input ends, and at once, also in the middle of a request, when the process
that started it ends.

At the top of this file only the standard library is imported: everything else that a backend needs is part of
the measured start.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from spoter_toolkit.bench.worker.protocol import ENGINES, ROOFLINE
from spoter_toolkit.bench.worker.tasks import TASKS, Infers, Slowed, peak_rss_bytes

_LOOK_S: Final = 0.1  # after the end of the input: how often it is looked whether the parent has ended


def main(backend: str, threads: str, bundle: str, options: str = "{}") -> None:
    """Open the bundle and answer requests until standard input ends."""
    # Only the protocol may reach the pipe: what a library prints goes to stderr.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with replies:
        chosen = json.loads(options)
        if cores := chosen.get("cores"):  # before any library makes a thread: they inherit it
            os.sched_setaffinity(0, cores)
        requests = lines_of_input()
        peak_at_start_bytes = peak_rss_bytes()
        begin_ns = time.perf_counter_ns()
        from spoter_runtime.errors import SpoterError

        try:
            import_engine(backend)
            imported_ns = time.perf_counter_ns()
            peak_imported_bytes = peak_rss_bytes()
            engine, model_bytes = open_engine(
                backend,
                int(threads),
                Path(bundle),
                chosen.get("run"),
                allow_host_code=chosen.get("allow_host_code", False),
            )
            opened = {
                "model_bytes": model_bytes,
                "import_ns": imported_ns - begin_ns,
                "load_ns": time.perf_counter_ns() - imported_ns,
                "peak_at_start_bytes": peak_at_start_bytes,
                "peak_imported_bytes": peak_imported_bytes,
                "peak_loaded_bytes": peak_rss_bytes(),
                "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            }
            if slow_down := chosen.get("slow_down"):
                engine = Slowed(engine, slow_down)
            print(json.dumps(opened), file=replies, flush=True)
            for line in requests:
                request = json.loads(line)
                answer = TASKS[request.pop("do")](engine, **request)
                answer["peak_rss_bytes"] = peak_rss_bytes()
                print(json.dumps(answer), file=replies, flush=True)
        except SpoterError as error:
            print(json.dumps({"error": str(error)}), file=replies, flush=True)


def lines_of_input() -> Iterator[str]:
    """Return the lines of standard input as they come, and end this process when its parent ends.

    The end of a parent ends the input. A thread waits for it, which takes no time from what is measured: a
    request may last for minutes.
    """
    lines: SimpleQueue[str] = SimpleQueue()
    parent = os.getppid()

    def read() -> None:
        with open(0, encoding="utf-8", closefd=False) as given:
            for line in given:
                lines.put(line)
        lines.put("")
        while os.getppid() == parent:  # it may still wait for answers
            time.sleep(_LOOK_S)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return iter(lines.get, "")


def import_engine(backend: str) -> None:
    """Import the engine's module; ONNX Runtime with its telemetry off."""
    if backend != ROOFLINE:
        from spoter_toolkit.backends import split_backend

        backend, _ = split_backend(backend)
    module, extra = ENGINES[backend]
    if module == "onnxruntime":
        from spoter_runtime.ort.installed import import_onnxruntime

        import_onnxruntime("cuda" if extra == "gpu" else "cpu")
    else:
        from spoter_runtime.errors import require

        require(module, extra=extra)


def open_engine(
    backend: str, threads: int, folder: Path, run: str | None, *, allow_host_code: bool = False
) -> tuple[Infers, int]:
    """Return the engine, and the size of the file that it loaded in bytes."""
    from spoter_runtime.bundle.manifest import read_bundle

    bundle = read_bundle(folder)
    if backend == ROOFLINE:
        from spoter_toolkit.bench.worker.roofline import Roofline

        return Roofline(bundle.read(bundle.onnx().path), threads), bundle.onnx().size_bytes
    from spoter_toolkit.backends import open_backend

    run_folder = Path(run) if run else None
    opened = open_backend(backend, bundle, run=run_folder, threads=threads, allow_host_code=allow_host_code)
    if opened.artefact is not None:
        return opened.runner, opened.artefact.size_bytes
    from spoter_toolkit.runs.run import find_run
    from spoter_toolkit.workspace import RUN_WEIGHTS

    return opened.runner, (find_run(bundle, run_folder).folder / RUN_WEIGHTS).stat().st_size


if __name__ == "__main__":
    main(*sys.argv[1:])
