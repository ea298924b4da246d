"""The CPU threads of a training: PyTorch's, or one where that is faster, because others take the cores.

Measured on two cores: 12.4 s a step on two threads and 0.32 s on one at a load of 17; 37 and 44 ms idle.
The number of threads changes the last bits of a sum. So only a training whose steps depend on the clock
anyway may choose it, and run.json states the choice, for a resumed training to take the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from spoter_toolkit.runs.run import Run
from spoter_toolkit.training.epochs import Loop
from spoter_toolkit.training.forecast import seconds_a_step

_SURELY: Final = 0.7  # of the time: what a busy machine measures varies


@contextmanager
def threads_kept() -> Iterator[None]:
    """Give PyTorch its number of threads back at the end."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_threads(loop: Loop) -> tuple[float, int | None]:
    """Time steps on one thread and on PyTorch's number of threads; leave the faster one set.

    Returns:
        seconds: a step takes.
        threads: 1 if that was chosen; None leaves PyTorch's: it is faster, the user has set it, or a GPU or
            several processes train.
    """
    threads = torch.get_num_threads()
    alone = loop.accelerator.device.type == "cpu" and loop.accelerator.num_processes == 1
    if threads == 1 or not alone or "OMP_NUM_THREADS" in os.environ:
        return seconds_a_step(loop), None
    torch.set_num_threads(1)
    on_one = seconds_a_step(loop)
    torch.set_num_threads(threads)
    on_all = seconds_a_step(loop)
    if on_one > _SURELY * on_all:
        return on_all, None
    torch.set_num_threads(1)
    return on_one, 1


def take_threads(run: Run) -> None:
    """Set the number of threads that a run was begun with, where it states one."""
    stated = (run.data or {}).get("threads")
    if isinstance(stated, int) and stated > 0:
        torch.set_num_threads(stated)
