"""The whole error tree.

SpoterError                 everything this project raises on purpose; message = what, where, fix
├── InputError              a clip or an array the contract does not allow (also a ValueError)
├── BundleError             a bundle that is missing, damaged, foreign or too new
├── BackendError            an engine that cannot load or run here
│   └── NotFiniteError      an engine that ran, and gave logits that are no numbers
├── MissingExtraError       an optional package is not installed (also an ImportError)
├── DataError               a dataset, or a file to import, that cannot be used
├── CheckpointError         a RUN or a notebook checkpoint that cannot be used
├── ConfigError             a recipe or an option with a wrong key or value (also a ValueError)
│   └── UsageError          a command line that says so itself: exit 2, where all others exit 1
└── ExportError             an exported graph that does not do what its contract says
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType


class SpoterError(Exception):
    """Base of every error raised on purpose; ``str(error)`` is written for the user: message, then fix.

    Attributes:
        message: what is wrong and where, without the fix.
        fix: what to do about it, best a command to paste; empty where nothing is known.
    """

    def __init__(self, message: object = "", *, fix: str = "") -> None:
        super().__init__(message)
        self.message = str(message)
        self.fix = fix

    def __str__(self) -> str:
        if not self.fix:
            return self.message
        joint = "" if self.message.endswith("\n") else " " if self.message.endswith((".", "?")) else ". "
        return f"{self.message}{joint}Fix: {self.fix}"


class InputError(SpoterError, ValueError):
    """A clip or an array that the graph contract does not allow."""


class BundleError(SpoterError):
    """A bundle that is missing, damaged, foreign or of a newer schema."""


class BackendError(SpoterError):
    """An inference engine that cannot be loaded or cannot run on this machine."""


class NotFiniteError(BackendError):
    """An engine ran, and its logits hold a NaN or an infinity."""


class MissingExtraError(SpoterError, ImportError):
    """An optional package that this call needs is not installed."""


class DataError(SpoterError):
    """A dataset, or a foreign file to be imported, that cannot be used."""


class CheckpointError(SpoterError):
    """A run folder or a checkpoint file that cannot be used."""


class ConfigError(SpoterError, ValueError):
    """A recipe or an option with an unknown key or a value out of range."""


class UsageError(ConfigError):
    """A command line with an option that does not fit, or with a value that no input makes right."""


class ExportError(SpoterError):
    """An exported graph that does not do what its contract says."""


def nearest_known(name: str, known: Sequence[str], *, cutoff: float = 0.7) -> str:
    """Return how an error about an unknown name goes on: the nearest known one, or all of them.

    Args:
        name: what was written.
        known: what could have been.
        cutoff: how near it has to be, 0..1; see `difflib.get_close_matches`.
    """
    import difflib  # not at the top: every start of the device imports this file

    near = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


@contextmanager
def from_options() -> Iterator[None]:
    """Within it options are read, and no files: a wrong value is one of the command line.

    Raises:
        UsageError: for a ConfigError.
    """
    try:
        yield
    except ConfigError as error:
        raise UsageError(error.message, fix=error.fix) from error


def warn(text: str) -> None:
    """Warn the caller of this package: the warning names the caller's line, not one of ours."""
    import sys
    import warnings

    level, frame = 1, sys._getframe()
    while (
        frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == __name__.partition(".")[0]
    ):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def exit_code_of(error: SpoterError) -> int:
    """Return what a command exits with after `error`: 2 where the command line is wrong, else 1."""
    return 2 if isinstance(error, UsageError) else 1


def require(module: str, *, extra: str) -> ModuleType:
    """Import and return an optional module, or say which extra installs it.

    Args:
        module: dotted name, for example ``"onnxruntime"``.
        extra: the extra of this distribution that brings it, for example ``"cpu"``.

    Raises:
        MissingExtraError: that very module is absent. A module that is present but fails to import
            (a broken CUDA library, say) raises its own error: that one tells more.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] and error.name != module:
            raise
        raise MissingExtraError(
            f"this needs the Python module {module!r}, which is not installed",
            fix=f"pip install 'spoter-kit[{extra}]'",
        ) from error


def is_installed(module: str) -> bool:
    """Tell whether a top-level module could be imported, without importing it."""
    return importlib.util.find_spec(module) is not None
