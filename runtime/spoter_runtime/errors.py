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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class SpoterError(Exception):
    """Base of every error raised on purpose; ``str(error)`` is written for the user: message, then fix.

    Attributes:
        message: the fault and its place, without the fix.
        fix: the remedy, best a command to paste; empty if none is known.
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
    """A model cannot be exported or converted, or the exported file fails its checks."""


def nearest(name: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the known names that are most like a wrong one, the likest first; none where none is like it.

    Args:
        name: the unknown name.
        known: the valid names.
        count: names at most.
        cutoff: least similarity, 0..1; see `difflib.get_close_matches`.
    """
    import difflib  # not at the top: every start of the device imports this file

    return difflib.get_close_matches(name, list(known), n=count, cutoff=cutoff)


def nearest_known(name: str, known: Sequence[str], *, cutoff: float = 0.7) -> str:
    """Return the hint of an error about an unknown name: the nearest known name, or all of them."""
    near = nearest(name, known, cutoff=cutoff)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


@contextmanager
def from_options() -> Iterator[None]:
    """Context manager for parsing options: re-raises ConfigError as UsageError (exit code 2)."""
    try:
        yield
    except ConfigError as error:
        raise UsageError(error.message, fix=error.fix) from error


def warn(text: str) -> None:
    """Issue a warning that names the line of code that called this package."""
    import sys
    import warnings

    level, frame = 1, sys._getframe()
    while (
        frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == __name__.partition(".")[0]
    ):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def let_streams_write_any_letter() -> None:
    """Let stdout and stderr write what their encoding lacks as an escape: Bengali on a Latin terminal."""
    import sys

    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def exit_code_of(error: SpoterError) -> int:
    """Return the exit code after `error`: 2 for a wrong command line, else 1."""
    return 2 if isinstance(error, UsageError) else 1


def require(module: str, *, extra: str) -> ModuleType:
    """Import and return an optional module.

    Args:
        module: dotted name, for example ``"onnxruntime"``.
        extra: the extra of spoter-kit that installs it, for example ``"cpu"``.

    Raises:
        MissingExtraError: the module is not installed; the fix installs the extra. A module that is installed
            but fails to import (a broken CUDA library, say) raises its own error, which tells more.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] and error.name != module:
            raise
        raise MissingExtraError(
            f"this needs the Python module {module!r}, which is not installed",
            fix=pip_fix(extra),
        ) from error


def pip_fix(extra: str = "", *, option: str = "") -> str:
    """Return the command that installs this project again, with an extra: from where it was installed.

    Args:
        extra: of spoter-kit; empty for none.
        option: of ``pip install``, for example ``"--upgrade"``.
    """
    import shlex  # not at the top: every start of the device imports this file

    wanted = f"[{extra}]" if extra else ""
    words = ["pip install", *([option] if option else [])]
    came_from = _installed_from()
    place, url = _local(came_from), came_from.get("url", "")
    if place and place.exists():  # a checkout, or a wheel
        words += ["-e"] if came_from.get("dir_info", {}).get("editable") else []
        requirement = f"{place}{wanted}"
    elif vcs := came_from.get("vcs_info", {}).get("vcs"):
        requirement = f"spoter-kit{wanted} @ {vcs}+{url}"
    else:
        requirement = f"spoter-kit{wanted}"
    return " ".join([*words, shlex.quote(requirement)])


def upgrade_fix() -> str:
    """Return the command that brings a newer version of this project."""
    import shlex

    came_from = _installed_from()
    if (place := _local(came_from)) and (place / ".git").exists():
        pull = f"git -C {shlex.quote(str(place))} pull"
        return pull if came_from.get("dir_info", {}).get("editable") else f"{pull} && {pip_fix()}"
    return pip_fix(option="--upgrade")


def _installed_from() -> dict[str, Any]:
    """Return pip's record of where this project came from; empty for an index, and outside a package."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return dict(json.loads(distribution("spoter-kit").read_text("direct_url.json") or "{}"))
    except (PackageNotFoundError, ValueError):
        return {}


def _local(came_from: dict[str, Any]) -> Path | None:
    from pathlib import Path
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    address = urlsplit(came_from.get("url", ""))
    return Path(url2pathname(address.path)) if address.scheme == "file" else None


def is_installed(module: str) -> bool:
    """Return True if a top-level module is installed; does not import it."""
    return importlib.util.find_spec(module) is not None
