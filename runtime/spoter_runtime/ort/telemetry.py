"""Keep ONNX Runtime's telemetry off."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

from spoter_runtime.errors import warn

# ONNX Runtime 1.29 and later report to Microsoft over the network unless this is 1 when they are imported;
# `disable_telemetry_events()` after the import does not stop it (seen with 1.32).
_SWITCH: Final = "ORT_DISABLE_TELEMETRY"
FIRST_WITH_TELEMETRY: Final = "1.29"
_switched = False  # whether this process has called `switch_telemetry_off`


def switch_telemetry_off() -> bool:
    """Set ``ORT_DISABLE_TELEMETRY=1`` unless the variable is set; call it before importing ONNX Runtime.

    Returns:
        True if ONNX Runtime was imported earlier and may be reporting; always False after the first call.
    """
    global _switched
    first, _switched = not _switched, True
    set_already = bool(os.environ.get(_SWITCH))
    if not set_already:
        os.environ[_SWITCH] = "1"
    if not first or "onnxruntime" not in sys.modules:
        return False
    wanted_off = os.environ[_SWITCH].lower() in ("1", "true")
    return not set_already or (wanted_off and _has_telemetry_open())


def warn_of_telemetry(version: str) -> None:
    """Warn that ONNX Runtime of this version was imported before its telemetry was switched off."""
    warn(
        f"onnxruntime {version} was imported before spoter_runtime imports it, and {_SWITCH} was not set "
        f"then: it may report to Microsoft from this process. Fix: set {_SWITCH}=1 in the environment of "
        "the process, or in os.environ before the first import of onnxruntime"
    )


def _has_telemetry_open() -> bool:
    """Return True if this process has ONNX Runtime's report file open (Linux only; else False)."""
    for descriptor in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):
            if ".onnxruntime" in descriptor.readlink().parts:
                return True
    return False
