"""The description that a bundle keeps of one TensorRT or TensorRT-RTX engine."""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from typing import Any, Final

from spoter_runtime.bundle.libraries import LIBRARIES, Library
from spoter_runtime.contract import MOST_FRAMES, Profile
from spoter_runtime.strict import made_from

# The header of a TensorRT-RTX plan as version 1.7 writes it: magic, the layout's version, size of the file,
# version of the library, one bit a compute capability. Undocumented; a test builds engines and reads it back.
RTX_MAGIC: Final = b"vtrt"
RTX_HEADER_BYTES: Final = 64
_RTX_HEADER: Final = struct.Struct("<4s4xI4xQ4B4xI")
_RTX_BITS: Final = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """The source, the library and the target machine of an engine.

    Attributes:
        library: the library that built the plan, and runs it.
        version: the library's full ``__version__``, ``"10.3.0"``.
        compute_capabilities: ``"8.6"``, …: the GPUs it was built for.
        system: operating system, as in `platform.system`; an engine runs on no other.
        machine: processor, as in `platform.machine`.
        profiles: in the engine's order.
        buckets: rising frame counts that the runner pads to: each shape needs a CUDA graph of its own.
        onnx_sha256: hash of the bundle's ONNX file that it was built from.
        host_code: whether loading it runs code from the plan on the CPU (a plan with a lean runtime inside).
        built: facts of the build: seconds, layer types and the types of their outputs, month.
        executed: facts of a run on a GPU: machine, month, largest logit difference, labels that agree; None
            if it was only built.
        version_compatible: whether newer versions and the lean runtime run it too.
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
    version_compatible: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; `version_compatible` only if true, which older readers do not know."""
        unused = () if self.version_compatible else ("version_compatible",)
        return {key: value for key, value in asdict(self).items() if key not in unused}

    @classmethod
    def from_json(cls, value: Any) -> EngineSpec:
        """Read what `as_json` wrote.

        Raises:
            ValueError: a field is missing, unknown or of another form.
        """
        spec = made_from(cls, value, "engine")
        spec.check("engine")
        return spec

    def check(self, where: str) -> None:
        """Check the values of the fields, whose types are right.

        Raises:
            ValueError: a library that builds nothing, or a profile or buckets that do not rise within limits.
        """
        if self.library not in LIBRARIES:
            raise ValueError(f"{where}.library: {self.library}, expected one of {', '.join(LIBRARIES)}")
        for i, profile in enumerate(self.profiles):
            for name, (low, opt, high) in (("batch", profile.batch), ("frames", profile.frames)):
                if not 1 <= low <= opt <= high <= MOST_FRAMES:
                    numbers = f"{low}, {opt}, {high}"
                    raise ValueError(f"{where}.profiles[{i}].{name}: {numbers}, expected rising numbers")
        if list(self.buckets) != sorted(set(self.buckets)) or not all(
            0 < n <= MOST_FRAMES for n in self.buckets
        ):
            raise ValueError(f"{where}.buckets: {self.buckets}, expected rising frame counts")


@dataclass(frozen=True, slots=True, kw_only=True)
class RtxHeader:
    """The header of a TensorRT-RTX plan."""

    size_bytes: int
    version: str
    compute_capabilities: tuple[str, ...]


def rtx_header(plan: bytes) -> RtxHeader | None:
    """Parse the header of a TensorRT-RTX plan; None for another magic, layout or an unknown GPU bit."""
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
