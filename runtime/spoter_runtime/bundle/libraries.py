"""The names of the two engine libraries, in modules, backends and messages.

Separate from `spoter_runtime.bundle.engine_spec`: every start needs these names, few need an engine.
"""

from __future__ import annotations

from typing import Final, Literal

Library = Literal["tensorrt", "tensorrt_rtx"]  # also the name of the Python module
LIBRARIES: Final[tuple[Library, ...]] = ("tensorrt", "tensorrt_rtx")
BACKEND_OF: Final[dict[Library, str]] = {"tensorrt": "trt", "tensorrt_rtx": "trt-rtx"}
EXTRAS: Final[dict[Library, str]] = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}
