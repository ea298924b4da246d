"""Where the C library, its headers and its CMake package lie: ``python -m spoter_runtime_c --prefix``."""

from __future__ import annotations

from pathlib import Path

_PREFIX = Path(__file__).resolve().parent


def prefix() -> Path:
    """Return the folder for ``CMAKE_PREFIX_PATH``."""
    return _PREFIX


def include() -> Path:
    """Return the folder of ``spoter/spoter.h``."""
    return _PREFIX / "include"


def library() -> Path:
    """Return the shared library."""
    return _PREFIX / "lib" / "libspoter.so"
