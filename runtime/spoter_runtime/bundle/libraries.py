"""The names of the engine libraries, in modules, backends and messages.

Separate from `spoter_runtime.bundle.engine_spec`: every start needs these names, few need an engine.
"""

from __future__ import annotations

from typing import Final, Literal

Library = Literal["tensorrt", "tensorrt_lean", "tensorrt_rtx"]  # also the name of the Python module
LIBRARIES: Final[tuple[Library, ...]] = ("tensorrt", "tensorrt_rtx")  # they build; the lean one only runs
BACKEND_OF: Final[dict[Library, str]] = {
    "tensorrt": "trt",
    "tensorrt_lean": "trt-lean",
    "tensorrt_rtx": "trt-rtx",
}

# Begins the name of a face of the device, another language or a server, as a backend.
FACE: Final = "face-"
EXTRAS: Final[dict[Library, str]] = {"tensorrt": "trt", "tensorrt_lean": "lean", "tensorrt_rtx": "rtx"}


def builder_of(library: Library) -> Library:
    """Return the library that builds the plans which this library runs."""
    return "tensorrt" if library == "tensorrt_lean" else library
