"""Calls into an engine at the two moments that engines do not survive: the end of Python, and a fork.

At its end, Python stops every other thread when that thread comes back from the engine's C++ code, and the
C++ code answers with an abort ("terminate called without an active exception"). So a call that is running
then is waited for, and another thread cannot begin one any more.

A forked process has none of the threads that a session computes with: running the session, or destroying
it, waits for them forever. So such a session is refused, and never destroyed.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any
from weakref import WeakSet

from spoter_runtime.errors import BackendError


class _EngineCalls:
    """``with ENGINE_CALLS:`` around each call into an engine; the end of Python waits for it.

    Calls of the main thread are not counted: it is the one that ends Python, so it is in no call then.

    Attributes:
        ended: whether Python is ending, and other threads than the main one can begin no call.
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
        """Let no other thread begin a call, and wait for those that run."""
        with self._changed:
            self.ended = True
            self._changed.wait_for(lambda: self._running == 0)


def _is_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


ENGINE_CALLS = _EngineCalls()

# Held while a session is opened on the CPU, and while this process is forked: ONNX Runtime has locks of its
# own, and one that is held meanwhile is never let go of in the forked process.
OPENING = threading.RLock()

_sessions: WeakSet[Any] = WeakSet()
_inherited: list[Any] = []  # sessions of the process that this one was forked from


def keep_from_forks(session: Any) -> None:
    """Let no forked process destroy this session, which would wait for threads that are not there."""
    _sessions.add(session)


def check_process(opened_in: int, name: str) -> None:
    """Refuse a session that another process has opened.

    Args:
        opened_in: the process's id.
        name: the backend's.

    Raises:
        BackendError: this process was forked from it.
    """
    if opened_in != os.getpid():
        raise BackendError(
            f"{name}: opened before this process was forked, and its threads did not come along",
            fix="open it in the process that uses it, as a recogniser from Recognizer.load does by itself",
        )


def _after_fork() -> None:
    vars(ENGINE_CALLS).update(vars(_EngineCalls()))  # the calls are those of threads that are not here
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
