"""Find landmarks over a Ray cluster: tasks of some clips, whose results this machine keeps once."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from spoter_runtime.camera.clips import VideoClip
from spoter_runtime.errors import DataError, SpoterError, require
from spoter_toolkit.data.extract.landmarks import Finder
from spoter_toolkit.data.extract.on_cores import Failed
from spoter_toolkit.data.extract.store import Store
from spoter_toolkit.data.extract.videos import VideoPart

Found = list[tuple[VideoPart, VideoClip | SpoterError]]

_EXTRA: Final = "ray"
_RETRIES: Final = 3  # of a task whose machine or process was lost


def over_ray(
    works: Sequence[Sequence[VideoPart]],
    finder: Finder,
    store: Store,
    *,
    address: str | None,
    on_frames: Callable[[int], None],
) -> Iterator[tuple[int, Failed]]:
    """Yield, for each work that is done, how many clips it had and which of them failed.

    Every machine of the cluster has this package, the videos and the landmarker at the same paths. A task
    whose process or machine is lost is done again, on another.

    Args:
        works: parts of one video each.
        finder: the landmarker.
        store: of this machine; takes what is found.
        address: of the cluster, as in ``"auto"`` or ``"ray://host:10001"``; None starts one on this machine.
        on_frames: is called now and then with the number of frames so far.

    Raises:
        MissingExtraError: Ray is not installed.
        DataError: there is no such cluster, or a task was lost too often; what was found is kept.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = require("ray", extra=_EXTRA)
    try:
        ray.init(address, include_dashboard=None if address else False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DataError(
            f"--ray {address or ''}: no Ray cluster there: {str(error).splitlines()[0]}",
            fix="ray start --head on one machine, or --ray without an address for this machine alone",
        ) from error
    try:
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_find)
        waiting: dict[Any, int] = {task.remote(list(parts), finder): len(parts) for parts in works}
        frames = 0
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            failed: Failed = []
            for part, found in _result(ray, done):
                if isinstance(found, SpoterError):
                    failed.append((part, found))
                else:
                    frames += len(found.poses_TLD)
                    store.keep(part, found)
            on_frames(frames)
            yield waiting.pop(done), failed
    finally:
        with contextlib.suppress(Exception):
            ray.shutdown()


def _result(ray: Any, task: Any) -> Found:
    try:
        found: Found = ray.get(task)
        return found
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SpoterError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise DataError(
            f"Ray gave a task up after {_RETRIES} retries: {str(error).splitlines()[0]}",
            fix="run the same command again: it goes on",
        ) from error


def _find(parts: Sequence[VideoPart], finder: Finder) -> Found:
    """Run on some machine of the cluster; its process keeps the landmarker for the next task."""
    if _loaded.get("finder") != finder:
        _loaded.update(finder=finder, landmarker=finder.load())
    return list(finder.find(parts, _loaded["landmarker"]))


_loaded: dict[str, Any] = {}
