"""Find landmarks in one process a core; each keeps what it has found as soon as a clip is done."""

from __future__ import annotations

import ctypes
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final

from spoter_runtime.camera.clips import FindsLandmarks
from spoter_runtime.errors import DataError, SpoterError
from spoter_toolkit.data.extract.landmarks import Finder
from spoter_toolkit.data.extract.store import Store
from spoter_toolkit.data.extract.videos import VideoPart
from spoter_toolkit.worker_process import follow_parent

Failed = list[tuple[VideoPart, SpoterError]]

_POLL_S: Final = 0.3


class _Stopped(Exception):
    """The main process wants no more frames."""


def on_cores(
    works: Sequence[Sequence[VideoPart]],
    finder: Finder,
    store: Store,
    *,
    workers: int,
    on_frames: Callable[[int], None],
) -> Iterator[tuple[int, Failed]]:
    """Yield, for each work that is done, how many clips it had and which of them failed.

    Args:
        works: parts of one video each.
        finder: the landmarker.
        store: takes what is found.
        workers: processes; 1 uses this one.
        on_frames: is called now and then with the number of frames so far.

    Raises:
        DataError: a process was killed; what was found before is kept.
        OSError: the disk is full; as before.
    """
    if workers == 1:
        frames = _Frames()
        landmarker = finder.load()
        for parts in works:
            yield len(parts), _find(parts, finder, landmarker, store, frames.count(on_frames))
        return
    context = multiprocessing.get_context("spawn")  # ONNX Runtime's threads do not survive a fork
    shared: Any = context.Array(ctypes.c_int64, 2)  # frames so far; whether to stop
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(finder, store, shared)
    )
    try:
        futures: dict[Future[Failed], int] = {pool.submit(_work, parts): len(parts) for parts in works}
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, _POLL_S, FIRST_COMPLETED)
            on_frames(shared[0])
            for future in done:
                yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process that finds landmarks ended (killed by hand, or by the system when memory ran out); "
            "what was found is kept",
            fix="run the same command again: it goes on; --workers 1 takes the least memory",
        ) from error
    finally:
        shared[1] = 1
        pool.shutdown(wait=True, cancel_futures=True)


class _Frames:
    """Counts frames in this process."""

    def __init__(self) -> None:
        self.done = 0

    def count(self, on_frames: Callable[[int], None]) -> Callable[[], None]:
        def count() -> None:
            self.done += 1
            on_frames(self.done)

        return count


_state: dict[str, Any] = {}  # of a worker process


def _begin(finder: Finder, store: Store, shared: Any) -> None:
    """Initialise a worker process: it ends with its parent, and its first task loads the landmarker."""
    follow_parent()
    _state.update(finder=finder, store=store, shared=shared, landmarker=None)


def _work(parts: Sequence[VideoPart]) -> Failed:
    shared, finder = _state["shared"], _state["finder"]
    if _state["landmarker"] is None:  # not in `_begin`: an error there breaks the pool without its reason
        _state["landmarker"] = finder.load()

    def on_frame() -> None:
        with shared.get_lock():
            shared[0] += 1
            if shared[1]:
                raise _Stopped

    try:
        return _find(parts, finder, _state["landmarker"], _state["store"], on_frame)
    except _Stopped:
        return []


def _find(
    parts: Sequence[VideoPart],
    finder: Finder,
    landmarker: FindsLandmarks,
    store: Store,
    on_frame: Callable[[], None],
) -> Failed:
    failed: Failed = []
    for part, found in finder.find(parts, landmarker, on_frame):
        if isinstance(found, SpoterError):
            failed.append((part, found))
        else:
            store.keep(part, found)
    return failed
