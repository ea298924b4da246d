"""Worker: one peer's engine in its own environment, asked line by line.

    python peer.py ENGINE_FILE PEER FOLDER THREADS

ENGINE_FILE is one of engines/. FOLDER is a model's and holds the files that all peers share; the peer's own
files lie in FOLDER/PEER. One JSON object a line on stdin, one on stdout for each; an engine that prints gets
stderr. The first line out says whether it is loaded. Needs numpy and the engine, nothing of this project.

Requests: ``prepare``; ``load``; ``answer`` (each clip of clips.npz alone, logits to a file); ``time`` (one
shape of work, samples in ns); ``time_many`` (clips of many lengths at once).
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Infer = Callable[[Array], Array]

LONGEST_REASON = 300  # of an error's text


class Worker:
    """Answers requests about one peer."""

    def __init__(self, engine: Any, peer: str, folder: Path, threads: int) -> None:
        self._engine = engine
        self._peer = peer
        self._folder = folder
        self._threads = threads
        self._infer: Infer | None = None
        self._many: Callable[[list[Array]], Any] | None = None

    def reply_to(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request; an error as its text."""
        try:
            answer: dict[str, Any] = getattr(self, f"_do_{request.pop('do')}")(**request)
            return answer
        except Exception as error:  # noqa: BLE001  (a peer that fails is a row of the result)
            traceback.print_exc()
            return {"error": reason(error)}

    def _do_prepare(self) -> dict[str, Any]:
        made = self._folder / self._peer
        made.mkdir(exist_ok=True)
        self._engine.prepare(self._peer, self._folder, made)
        return {"prepared": True}

    def _do_load(self) -> dict[str, Any]:
        self._infer = self._engine.load(self._peer, self._folder, self._folder / self._peer, self._threads)
        return {"versions": versions(self._engine.REQUIREMENTS)}

    def _do_answer(self, to: str) -> dict[str, Any]:
        infer = self._loaded()
        with np.load(self._folder / "clips.npz") as clips:
            poses_FD, ends = clips["raw" if reads_raw(self._engine) else "given"], clips["ends"]
        alone = [clip[None] for clip in np.split(poses_FD, ends[:-1])]
        np.save(to, np.concatenate([infer(clip) for clip in alone]))
        return {"clips": len(alone)}

    def _do_time(self, *, frames: int, calls: int, warm_up: int) -> dict[str, Any]:
        infer = self._loaded()
        poses_1TD = np.random.default_rng(frames).random((1, frames, 108), np.float32)
        return {"samples_ns": samples_ns(lambda: infer(poses_1TD), calls, warm_up)}

    def _do_time_many(self, *, lengths: list[int], calls: int, warm_up: int) -> dict[str, Any]:
        if self._many is None:
            self._many = self._engine.many(self._peer, self._folder, self._folder / self._peer, self._threads)
        many, random = self._many, np.random.default_rng(0)
        clips = [random.random((frames, 108), np.float32) for frames in lengths]
        return {"samples_ns": samples_ns(lambda: many(clips), calls, warm_up)}

    def _do_first(self, *, frames: int) -> dict[str, Any]:
        """Load, and answer one clip, as a cold process does."""
        self._infer = self._engine.load(self._peer, self._folder, self._folder / self._peer, self._threads)
        # No random generator: importing it takes 13 ms and 6 MB, which recognising does not need.
        self._infer(np.linspace(0.1, 0.9, frames * 108, dtype=np.float32).reshape(1, frames, 108))
        return {"peak_rss_bytes": peak_rss_bytes()}

    def _loaded(self) -> Infer:
        if self._infer is None:
            raise RuntimeError("not loaded")
        return self._infer


def samples_ns(call: Callable[[], Any], calls: int, warm_up: int) -> list[int]:
    """Return the wall time of each call after the first `warm_up`."""
    for _ in range(warm_up):
        call()
    taken = []
    for _ in range(calls):
        begin = time.perf_counter_ns()
        call()
        taken.append(time.perf_counter_ns() - begin)
    return taken


def reads_raw(engine: Any) -> bool:
    """Tell whether an engine file's peers take landmarks as they were recorded."""
    return bool(getattr(engine, "READS_RAW", False))


def reason(error: BaseException) -> str:
    """Return an error as one short line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} …"


def versions(requirements: tuple[str, ...]) -> dict[str, str]:
    """Return name → version of an engine file's requirements."""
    import importlib.metadata  # not at the top: a cold start would wait for it

    names = [requirement.partition("=")[0].partition("[")[0] for requirement in requirements]
    return {name: importlib.metadata.version(name) for name in names}


def peak_rss_bytes() -> int:
    """Return this process's peak memory, without that of the program that it was forked from."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def engine_from(path: Path) -> Any:
    """Import an engine file; it imports its engine when it is asked to load."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def serve(worker: Worker, requests: TextIO, replies: TextIO) -> None:
    """Answer line after line until there is none."""
    for line in requests:
        print(json.dumps(worker.reply_to(json.loads(line))), file=replies, flush=True)


def main() -> None:
    """Serve on stdin and stdout; an engine's own prints go to stderr instead."""
    file, peer, folder, threads = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(Worker(engine_from(Path(file)), peer, Path(folder), int(threads)), sys.stdin, replies)


if __name__ == "__main__":
    main()
