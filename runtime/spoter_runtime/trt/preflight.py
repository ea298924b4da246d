"""Preflight: choose the engine of a bundle that fits this machine, and say why the others do not fit.

An engine needs the library version, the GPU and the system that it was built for, and belongs to one ONNX
file. The libraries check most of that too, but late, and without a fix.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from spoter_runtime.bundle.engine_spec import RTX_MAGIC, EngineSpec, rtx_header
from spoter_runtime.bundle.libraries import BACKEND_OF, EXTRAS, Library
from spoter_runtime.bundle.manifest import Artefact, Bundle
from spoter_runtime.contract import uncovered
from spoter_runtime.errors import BackendError, BundleError, MissingExtraError, SpoterError, pip_fix
from spoter_runtime.gpu.device import Gpu, find_gpu
from spoter_runtime.gpu.packages import import_engine_library
from spoter_runtime.trt.log import EngineLog, engine_runtime
from spoter_runtime.trt.versions import abilities, parse_version

_log = logging.getLogger(__name__)

_COPY: Final = "copy the whole bundle again"

# The meaning of TensorRT-RTX's EngineInvalidityDiagnostics.
INVALIDITY: Final = {
    "VERSION_MISMATCH": "built by another version",
    "UNSUPPORTED_CC": "not for this GPU's compute capability",
    "OLD_CUDA_DRIVER": "the CUDA driver is too old",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "too little GPU memory",
    "MALFORMED_ENGINE": "not an engine of this version, or damaged",
    "CUDA_ERROR": "the CUDA driver or runtime is not installed properly",
}
# Fixes for those that building another engine does not solve.
_CURES: Final = {
    "OLD_CUDA_DRIVER": "update NVIDIA's driver",
    "INSUFFICIENT_GPU_MEMORY": "close other programs that use the GPU",
    "CUDA_ERROR": "see what `nvidia-smi` says",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The facts of a machine that an engine must fit.

    Attributes:
        system: operating system, as in `platform.system`.
        machine: processor, as in `platform.machine`.
        libraries: engine library → version, for each that loads.
        missing: engine library → error, for each that does not load.
        gpu: CUDA's first GPU; None without one.
        no_gpu: the error of looking for a GPU, if there is none.
    """

    system: str
    machine: str
    libraries: dict[Library, str]
    missing: dict[Library, SpoterError]
    gpu: Gpu | None
    no_gpu: SpoterError | None = None


def this_machine(libraries: Sequence[Library] = tuple(BACKEND_OF)) -> Machine:
    """Return the facts of this machine.

    Args:
        libraries: engine libraries to import; each takes a tenth of a second.
    """
    versions: dict[Library, str] = {}
    missing: dict[Library, SpoterError] = {}
    for library in libraries:
        try:
            versions[library] = import_engine_library(library).__version__
        except (MissingExtraError, BackendError) as error:
            missing[library] = error
    gpu, no_gpu = None, None
    try:
        gpu = find_gpu()
    except (MissingExtraError, BackendError) as error:
        no_gpu = error
    return Machine(
        system=platform.system(),
        machine=platform.machine(),
        libraries=versions,
        missing=missing,
        gpu=gpu,
        no_gpu=no_gpu,
    )


def choose_engine(
    bundle: Bundle,
    library: Library,
    precision: str,
    machine: Machine | None = None,
    *,
    allow_host_code: bool = False,
) -> Artefact:
    """Return the bundle's first engine that fits.

    Args:
        bundle: from `read_bundle`.
        library: the engine library that is to run it.
        precision: precision of the engine: ``"fp32"``, …
        machine: the machine to fit; None examines this one, only if the bundle has such an engine.
        allow_host_code: allow engines that bring code which runs on the CPU of this process.

    Raises:
        BackendError: no engine, or none that fits; the message gives each reason.
    """
    engines = bundle.engines(library, precision)
    machine = machine or this_machine((library,))
    reasons: dict[str, BackendError] = {}
    for artefact in engines:
        reason = reason_against(artefact, bundle, machine, library, allow_host_code=allow_host_code)
        if reason is None:
            return artefact
        reasons[artefact.path] = _with_fix(reason, bundle.export_fix(library, precision, "--force"))
    if len(reasons) == 1:
        ((path, only),) = reasons.items()
        raise BackendError(f"{bundle.folder / path}: {only.message}", fix=only.fix)
    lines = "".join(f"\n  {path}: {reason}" for path, reason in reasons.items())
    raise BackendError(f"{bundle.folder}: no {precision} engine for {library} fits this machine:{lines}")


def _with_fix(error: SpoterError, fix: str) -> BackendError:
    return BackendError(error.message.rstrip("."), fix=error.fix or fix)


def reason_against(
    artefact: Artefact,
    bundle: Bundle,
    machine: Machine,
    library: Library | None = None,
    *,
    allow_host_code: bool = False,
) -> BackendError | None:
    """Return the first reason why an engine cannot run on a machine; None if it can.

    Checks the manifest, then the file's header, then the library. The error has a fix if rebuilding the
    engine on this machine is not the cure.

    Args:
        artefact: an artefact with an engine.
        bundle: the artefact's bundle.
        machine: the machine to run on.
        library: the library to run it; None means the one that built it.
        allow_host_code: see `choose_engine`.
    """
    spec = artefact.engine
    if spec is None:
        return BackendError("not an engine")
    library = library or spec.library
    found = next(_reasons_in_manifest(artefact, spec, bundle, machine, library, allow_host_code), None)
    if found is not None:
        return found
    try:
        size = (bundle.folder / artefact.path).stat().st_size
        if size != artefact.size_bytes:
            raise BundleError(f"the file has {size} bytes, not {artefact.size_bytes}")
        plan = bundle.read(artefact.path)
    except OSError as error:
        return BackendError(str(error), fix=_COPY)
    except BundleError as error:
        return _with_fix(error, _COPY)
    return reason_in_plan(plan, spec, artefact.path)


def _reasons_in_manifest(
    artefact: Artefact,
    spec: EngineSpec,
    bundle: Bundle,
    machine: Machine,
    library: Library,
    allow_host_code: bool,
) -> Iterator[BackendError]:
    """Yield the reasons found in the manifest, the most fundamental first."""
    yield from reasons_of_machine(
        spec,
        machine,
        library,
        lambda wanted, option: bundle.export_fix(wanted, artefact.precision, option),
    )
    if library not in machine.libraries:
        return
    if spec.host_code and not allow_host_code:
        yield BackendError(
            "brings code that would run on the CPU of this process: refused",
            fix="only if you trust its author, "
            f"Recognizer.load({str(bundle.folder)!r}, allow_host_code=True)",
        )
    if hole := uncovered(spec.profiles, bundle.contract):
        profiles = " or ".join(map(str, spec.profiles))
        yield BackendError(f"none of its profiles ({profiles}) takes {hole}, the contract does")
    kinds = ("onnx", "trt8")
    onnx = [a.sha256 for a in bundle.artefacts if a.kind in kinds and a.precision == artefact.precision]
    if spec.onnx_sha256 not in onnx:
        here = ", ".join(f"{sha256[:12]}…" for sha256 in onnx) or "none"
        yield BackendError(
            f"an engine of another model: built from ONNX {spec.onnx_sha256[:12]}…, the {artefact.precision} "
            f"ONNX here is {here}"
        )


def reasons_of_machine(
    spec: EngineSpec, machine: Machine, library: Library, rebuild: Callable[[Library, str], str]
) -> Iterator[BackendError]:
    """Yield the reasons why a machine runs no such engine, the most fundamental first.

    Args:
        spec: the engine's description.
        machine: the machine to run on.
        library: the library to run it.
        rebuild: returns the command that builds an engine for a library, with an option.
    """
    if library not in machine.libraries:
        missing = machine.missing.get(library) or BackendError(f"{library} is not installed")
        yield _with_fix(missing, pip_fix(EXTRAS[library]))
        return
    if library != spec.library and not spec.version_compatible:
        yield BackendError(
            f"not version-compatible: {library} runs no other plan", fix=rebuild(library, "--force")
        )
    if reason := _version_reason(spec, library, machine.libraries[library]):
        yield reason
    if machine.gpu is None:
        yield _with_fix(machine.no_gpu or BackendError("no GPU"), "see what `nvidia-smi` says")
    elif machine.gpu.compute_capability not in spec.compute_capabilities:
        yield _gpu_reason(spec, machine.gpu, rebuild)
    if spec.system != machine.system:
        yield BackendError(f"built for {spec.system}, this is {machine.system}")
    if spec.machine != machine.machine:
        yield BackendError(f"built for {spec.machine} processors, this is {machine.machine}")


def reason_in_plan(plan: bytes, spec: EngineSpec, path: str) -> BackendError | None:
    """Return the first reason against an engine's file itself; None if there is none, or nobody can tell."""
    if spec.library == "tensorrt_rtx":
        return next(_reasons_in_rtx_header(plan, spec), None) or _rtx_verdict(plan, path)
    return None  # TensorRT can check an engine only by loading it


def _version_reason(spec: EngineSpec, library: Library, installed: str) -> BackendError | None:
    # Both libraries compare all four numbers of the version; Jetson's packages have only three.
    built, here = parse_version(spec.version), parse_version(installed)
    shared = min(len(built), len(here))
    if shared >= 3 and built[:shared] == here[:shared]:
        return None
    what = f"built by {spec.library} {spec.version}, installed is {installed}"
    if library != spec.library:
        what = what.replace("installed is", f"installed is {library}")
    if not spec.version_compatible:
        return BackendError(f"{what}: an engine runs on the very version that built it")
    try:
        newest = abilities(spec.library, spec.version).newest_runtime
    except BackendError as error:
        return error
    if here < built:
        return BackendError(f"{what}: a version-compatible engine runs on newer versions only")
    if here[0] > newest:
        return BackendError(f"{what}: version-compatible engines of it run up to version {newest}")
    return None


def _gpu_reason(spec: EngineSpec, gpu: Gpu, rebuild: Callable[[Library, str], str]) -> BackendError:
    built_for = ", ".join(spec.compute_capabilities)
    reason = f"built for GPUs of compute capability {built_for}; {gpu.name} has {gpu.compute_capability}"
    if spec.library == "tensorrt":  # it builds for the GPU of this machine
        return BackendError(reason)
    wanted = f"--compute-capability {gpu.compute_capability}"
    return BackendError(reason, fix=rebuild(spec.library, wanted))


def _reasons_in_rtx_header(plan: bytes, spec: EngineSpec) -> Iterator[BackendError]:
    """Yield the reasons found in the header of a TensorRT-RTX plan."""
    if not plan.startswith(RTX_MAGIC):
        yield BackendError(f"begins with {plan[: len(RTX_MAGIC)]!r}, not as an engine of TensorRT-RTX does")
        return
    header = rtx_header(plan)
    if header is None:  # an unknown layout: ask the library
        return
    if header.version != spec.version:
        yield BackendError(f"its header says version {header.version}, the manifest {spec.version}")
    if header.compute_capabilities != spec.compute_capabilities:
        in_header, in_manifest = map(", ".join, (header.compute_capabilities, spec.compute_capabilities))
        yield BackendError(f"its header says compute capability {in_header}, the manifest {in_manifest}")
    if header.size_bytes != len(plan):
        yield BackendError(f"its header says {header.size_bytes} bytes, the file has {len(plan)}")


def _rtx_verdict(plan: bytes, path: str) -> BackendError | None:
    """Return TensorRT-RTX's own reason against a plan; None if it has none. TensorRT has no such check."""
    library: Any = import_engine_library("tensorrt_rtx")
    log = EngineLog(library)
    try:
        runtime = engine_runtime(library, log)
    except BackendError as error:
        return error
    validity, diagnostics = runtime.get_engine_validity(plan[: runtime.engine_header_size])
    bits = library.EngineInvalidityDiagnostics.__members__
    found = [name for name, bit in bits.items() if int(bit) & int(diagnostics)]
    said = "; ".join(INVALIDITY.get(name, name) for name in found) or log.take().rstrip(".")
    if validity == library.EngineValidity.INVALID:
        # It gives no reason, not even CUDA_ERROR, if it cannot query the GPU (1.7.1).
        cures = _CURES | {"OLD_CUDA_RUNTIME": pip_fix("rtx", option="-U")}
        fix = next((cures[name] for name in found or ["CUDA_ERROR"] if name in cures), "")
        return BackendError(f"{library.__name__} {library.__version__} refuses it: {said}", fix=fix)
    if validity == library.EngineValidity.SUBOPTIMAL:
        _log.warning("%s: runs, but slower than one that is exported on this machine: %s", path, said)
    return None
