"""What an engine is: the description that a bundle keeps of one TensorRT or TensorRT-RTX plan."""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from typing import Any, Final

from spoter_runtime.bundle.libraries import LIBRARIES, Library
from spoter_runtime.contract import Profile

# The start of a TensorRT-RTX plan, as version 1.7 writes it: magic, the layout's version, size of the file,
# version of the library, one bit a compute capability. It is not documented; a test builds engines and reads
# it back.
RTX_MAGIC: Final = b"vtrt"
RTX_HEADER_BYTES: Final = 64
_RTX_HEADER: Final = struct.Struct("<4s4xI4xQ4B4xI")
_RTX_BITS: Final = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What an engine was built from, by what, and for what.

    Attributes:
        library: whose plan it is.
        version: of that library, all its numbers as its ``__version__`` gives them: ``"10.3.0"`` has three.
        compute_capabilities: ``"8.6"``, …: the GPUs it was built for.
        system: operating system as `platform.system` says it; engines do not travel between systems.
        machine: processor as `platform.machine` says it.
        profiles: in the engine's order.
        buckets: frame counts, rising, that the runner pads to: a CUDA graph holds for one shape.
        onnx_sha256: of the ONNX file of the same bundle that it was built from.
        host_code: whether loading it runs code that it carries (a plan with a lean runtime inside).
        built: facts of the build: seconds, layer types and the types of their outputs, month.
        executed: facts of a run on a GPU: machine, month, largest logit difference, labels that agree; None
            while it was only built.
    """

    library: Library
    version: str
    compute_capabilities: tuple[str, ...]
    system: str
    machine: str
    profiles: tuple[Profile, ...]
    buckets: tuple[int, ...]
    onnx_sha256: str
    host_code: bool = False
    built: dict[str, Any]
    executed: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> EngineSpec:
        """Read what `as_json` wrote.

        Raises:
            TypeError, KeyError, ValueError: a field is missing, unknown or of another form.
        """
        profiles = tuple(
            Profile(batch=_three(profile["batch"]), frames=_three(profile["frames"]))
            for profile in value["profiles"]
        )
        if value["library"] not in LIBRARIES:
            raise ValueError(f"library {value['library']!r}, expected one of {', '.join(LIBRARIES)}")
        for name in ("version", "system", "machine", "onnx_sha256"):
            if not isinstance(value[name], str):
                raise TypeError(f"{name} {value[name]!r}, expected a text")
        lists = {
            "compute_capabilities": tuple(map(str, value["compute_capabilities"])),
            "buckets": tuple(map(int, value["buckets"])),
        }
        return cls(**(value | lists | {"profiles": profiles}))


def _three(values: Any) -> tuple[int, int, int]:
    low, opt, high = (int(value) for value in values)
    return low, opt, high


@dataclass(frozen=True, slots=True, kw_only=True)
class RtxHeader:
    """What the first bytes of a TensorRT-RTX plan say about it."""

    size_bytes: int
    version: str
    compute_capabilities: tuple[str, ...]


def rtx_header(plan: bytes) -> RtxHeader | None:
    """Read the header of a TensorRT-RTX plan; None where the bytes are not one that is known here."""
    if len(plan) < RTX_HEADER_BYTES or not plan.startswith(RTX_MAGIC):
        return None
    _, layout, size_bytes, *version, bits = _RTX_HEADER.unpack_from(plan)
    if layout != 2 or bits >> len(_RTX_BITS):
        return None
    capabilities = tuple(name for i, name in enumerate(_RTX_BITS) if bits >> i & 1)
    return RtxHeader(
        size_bytes=size_bytes,
        version=".".join(map(str, version)),
        compute_capabilities=capabilities,
    )
