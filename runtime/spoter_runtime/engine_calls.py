"""Protect engine calls at interpreter exit and after a fork.

At exit, Python kills each thread that returns from the engine's C++ code, and the C++ code aborts the process
("terminate called without an active exception"). So exit waits for running calls and lets no thread but the
main one begin another.

A forked process lacks the threads that a session computes with: running or destroying the session would wait
for them forever. So an inherited session is refused and never destroyed.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any
from weakref import WeakSet

from spoter_runtime.errors import BackendError


class _EngineCalls:
    """Context manager around each engine call: interpreter exit waits until running calls are done.

    Calls of the main thread are not counted: exit happens on that thread, outside of any call.

    Attributes:
        ended: True once Python is exiting; threads other than the main one can begin no call then.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self.ended = False

    def __enter__(self) -> None:
        if _is_main_thread():
            return
        with self._changed:
            if self.ended:
                raise BackendError(
                    "Python is ending, so this thread can use no engine any more",
                    fix="stop the thread and join() it before the program ends",
                )
            self._running += 1

    def __exit__(self, *raised: object) -> None:
        if _is_main_thread():
            return
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def end(self) -> None:
        """Refuse new calls of other threads, and wait for the running ones."""
        with self._changed:
            self.ended = True
            self._changed.wait_for(lambda: self._running == 0)


def _is_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


ENGINE_CALLS = _EngineCalls()

# Held while a session is opened on the CPU, and during a fork: a lock of ONNX Runtime that is held during the
# fork would stay locked in the child for ever.
OPENING = threading.RLock()

_sessions: WeakSet[Any] = WeakSet()
_inherited: list[Any] = []  # sessions of the process that this one was forked from


def keep_from_forks(session: Any) -> None:
    """Register a session, so that a forked process never destroys it: that would wait for missing threads."""
    _sessions.add(session)


def check_process(opened_in: int, name: str) -> None:
    """Raise unless this process opened the session.

    Args:
        opened_in: id of the process that opened it.
        name: the backend's name.

    Raises:
        BackendError: a parent process opened it before a fork.
    """
    if opened_in != os.getpid():
        raise BackendError(
            f"{name}: opened before this process was forked, and its threads did not come along",
            fix="open it in the process that uses it, as a recogniser from Recognizer.load does by itself",
        )


def _after_fork() -> None:
    vars(ENGINE_CALLS).update(vars(_EngineCalls()))  # the counted calls run in the parent's threads
    _inherited.extend(_sessions)
    _sessions.clear()
    OPENING.release()


def _at_exit() -> None:
    ENGINE_CALLS.end()
    if _inherited:
        import ctypes  # not at the top: only a forked process that ends by itself needs it

        for session in _inherited:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))  # or the end of Python destroys it


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(before=OPENING.acquire, after_in_parent=OPENING.release, after_in_child=_after_fork)
