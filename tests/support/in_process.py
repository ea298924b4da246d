"""`spoter_kit` without a process: it answers as `subprocess.run` would, and starts no interpreter."""

from __future__ import annotations

import contextlib
import contextvars
import io
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TextIO

import matplotlib.font_manager  # noqa: F401  (or the first picture writes its list of fonts there)
import pytest

from spoter_runtime import recognizer
from spoter_toolkit.__main__ import main

Done = subprocess.CompletedProcess[str]


def spoter_kit(folder: Path, *arguments: object) -> Done:
    """Run `spoter-kit` in a folder, inside this process, and put back all that it changes.

    What is no error of ours is raised here. Exit codes, streams, what is imported, and signals are tested in
    processes as well: in test_house.py, test_verify.py and test_bench.py.
    """
    words, out, err = [*map(str, arguments)], io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        _look_like_a_new_process(patch, folder, words)
        code = contextvars.copy_context().run(_exit_code)
    return Done(words, code, out.getvalue(), err.getvalue())


def _look_like_a_new_process(patch: pytest.MonkeyPatch, folder: Path, words: list[str]) -> None:
    patch.chdir(folder)
    patch.setattr(sys, "argv", ["spoter-kit", *words])
    patch.setattr(sys.modules["__main__"], "__package__", None)  # or usage would say: python -m pytest
    patch.setenv("COLUMNS", "120")
    patch.setenv("XDG_CACHE_HOME", str(Path(folder) / "cache"))  # what is tuned here is nobody else's
    patch.setattr(recognizer, "_said", set())
    patch.setattr(logging.getLogger(), "handlers", [])  # pytest's; without any, warnings go to stderr
    patch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main sets its own
    warnings.showwarning = _show_warning  # pytest's collects them
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)  # as Python does


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    (file or sys.stderr).write(warnings.formatwarning(message, category, filename, lineno, line))


def _exit_code() -> int:
    """Run the command's entry point and return the exit code that its process would have."""
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0
