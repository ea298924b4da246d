"""Open an ONNX Runtime session on a GPU, or say why it cannot be opened."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import re
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal

from spoter_runtime.contract import LENGTHS, POSES, Profile
from spoter_runtime.errors import BackendError, is_installed, pip_fix, warn
from spoter_runtime.gpu.device import no_driver_error
from spoter_runtime.landmarks import NUM_FEATURES
from spoter_runtime.model_file.graph import OnnxGraph
from spoter_runtime.ort.installed import PROVIDER_NAMES, check_provider, installed_distributions

_log = logging.getLogger(__name__)

GpuProvider = Literal["cuda", "tensorrt", "tensorrt-rtx"]

# A plug-in for CUDA 13; NVIDIA wants it beside `onnxruntime`, and `onnxruntime-gpu` uninstalled:
# https://nvidia.github.io/TensorRT-RTX-EP-ABI/installation.html
_RTX_PACKAGE: Final = "onnxruntime-ep-nv-tensorrt-rtx"

# Types of the nodes that ONNX Runtime's optimisers add to compute shapes; nodes for values have other types.
_SHAPE_OPS: Final = frozenset({"Cast", "Concat", "Gather", "Shape", "Size", "Slice", "Squeeze", "Unsqueeze"})

_registering = threading.Lock()


def gpu_session(
    ort: Any,
    content: bytes,
    graph: OnnxGraph,
    options: Any,
    provider: GpuProvider,
    *,
    where: str,
    profile: Profile | None = None,
    cache: Path | None = None,
    graphs: bool = False,
    whole: bool = True,
) -> Any:
    """Return an ``onnxruntime.InferenceSession`` whose float arithmetic all runs on the provider.

    Args:
        ort: the module `onnxruntime`.
        content: the bytes of an ONNX file.
        graph: the same file, from `read_onnx`.
        options: ``SessionOptions``; this function adds entries.
        provider: the execution provider.
        where: the file's name in errors.
        profile: shapes of poses and lengths that TensorRT builds for; None if the file has fixed shapes.
        cache: folder for the engines that TensorRT builds; None keeps none.
        graphs: record CUDA graphs if ONNX Runtime can (see `records_graphs`); run such a session through
            `spoter_runtime.ort.cuda_graphs`.
        whole: raise where float nodes are left to another provider; else warn.

    Raises:
        BackendError: the provider is not installed, does not load, finds no GPU, or leaves float nodes to
            another provider.
    """
    name = PROVIDER_NAMES[provider]
    check_installed(ort, provider)
    check_driver(provider)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    settings = provider_options(provider, profile, cache, graphs=graphs)
    try:
        if provider == "tensorrt-rtx":
            devices = _rtx_devices(ort)
            name = devices[0].ep_name
            options.add_provider_for_devices(devices[:1], settings)
            session = ort.InferenceSession(content, options, enable_fallback=0)
        else:
            _load_libraries(ort, provider)
            behind = ["CUDAExecutionProvider"] if provider == "tensorrt" else []

            def load(settings: dict[str, str]) -> Any:
                providers = [(name, settings), *behind]
                return ort.InferenceSession(content, options, providers=providers, enable_fallback=0)

            try:
                session = load(settings)
            except Exception as error:
                if "graph capture" not in str(error):
                    raise
                _log.warning("%s: runs without CUDA graphs: %s", where, str(error).strip())
                session = load(provider_options(provider, profile, cache))
    except BackendError:
        raise
    except Exception as error:
        cuda = re.search(r"CUDA failure \d+: [^;]*\w", str(error))  # the rest is a long C++ trace
        reason = _loader_error(ort, provider) or BackendError(cuda[0] if cuda else str(error).strip())
        raise BackendError(
            f"{where}: ONNX Runtime {ort.__version__} cannot load it on {name}: {reason.message}",
            fix=reason.fix,
        ) from error
    if name not in session.get_providers():  # ONNX Runtime wrote to stderr and fell back to the CPU
        lost = _loader_error(ort, provider) or BackendError(
            "its libraries load, but it takes no GPU", fix="see `nvidia-smi`"
        )
        raise BackendError(f"{name}: does not start: {lost.message}", fix=lost.fix)
    try:
        _check_assignment(session.get_provider_graph_assignment_info(), graph, name, provider, where)
    except BackendError as error:
        if whole:
            raise
        warn(f"{error.message}: slower, with the same answers")
    return session


def check_installed(ort: Any, provider: GpuProvider) -> None:
    """Check that this ONNX Runtime has the provider, without loading it.

    Raises:
        BackendError: it lacks the provider, or is too old to report where nodes run.
    """
    name = PROVIDER_NAMES[provider]
    if provider == "tensorrt-rtx" and not is_installed(_RTX_PACKAGE.replace("-", "_")):
        raise BackendError(f"{name}: its plug-in is not installed", fix=f"{_rtx_fix()}")
    check_provider(provider)
    if not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
        package = "onnxruntime" if provider == "tensorrt-rtx" else "onnxruntime-gpu"
        raise BackendError(
            f"{name}: ONNX Runtime {ort.__version__} cannot tell which nodes run on the GPU; 1.24 and "
            f"newer can",
            fix=f"pip install -U {package}",
        )


def check_driver(provider: GpuProvider) -> None:
    """Check that NVIDIA's driver is installed.

    Call it before ONNX Runtime loads, which without a driver writes to stderr and falls back to the CPU.

    Raises:
        BackendError: the system's loader does not find the driver.
    """
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        found = no_driver_error(str(error))
        raise BackendError(f"{PROVIDER_NAMES[provider]}: {found.message}", fix=found.fix) from error


def records_graphs(session: Any) -> bool:
    """Return True if a session was loaded with CUDA graphs."""
    options: dict[str, str] = session.get_provider_options().get(PROVIDER_NAMES["cuda"], {})
    return options.get("enable_cuda_graph") == "1"


def provider_options(
    provider: GpuProvider,
    profile: Profile | None = None,
    cache: Path | None = None,
    *,
    graphs: bool = False,
) -> dict[str, str]:
    """Return ONNX Runtime's options for a GPU provider, and make the folder of its cache.

    For CUDA: TF32 off, so that fp32 is exact. For TensorRT and TensorRT-RTX: the profile's shapes, and the
    cache if its folder can be made. TensorRT's provider leaves TF32 on and has no option to turn it off
    (microsoft/onnxruntime#26029); ``NVIDIA_TF32_OVERRIDE=0`` in the environment does. TensorRT-RTX's plug-in
    has no such option either; its use of TF32 is undocumented.
    """
    if provider == "cuda":
        # TF32, the default, rounds fp32 to a mantissa of 10 bits.
        return {"use_tf32": "0"} | ({"enable_cuda_graph": "1"} if graphs else {})
    prefix = "trt" if provider == "tensorrt" else "nv"
    options: dict[str, str] = {}
    if profile is not None:
        for i, kind in enumerate(("min", "opt", "max")):
            batch, frames = profile.batch[i], profile.frames[i]
            shapes = f"{POSES}:{batch}x{frames}x{NUM_FEATURES},{LENGTHS}:{batch}"
            options[f"{prefix}_profile_{kind}_shapes"] = shapes
    if cache is not None and _made(cache):
        if provider == "tensorrt":
            options |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(cache)}
        else:
            options |= {"nv_runtime_cache_path": str(cache)}
    return options


def _made(cache: Path) -> bool:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("%s: cannot be made, engines are built anew in every process: %s", cache, error)
        return False
    return True


def cpu_fallback_nodes(assignment: Iterable[Any], graph: OnnxGraph, name: str) -> list[str]:
    """Return the float nodes that run outside a provider: ``"MatMul 'name' (CPUExecutionProvider)"``.

    Shape arithmetic belongs on the CPU, which needs its results to launch kernels. Nodes of the file are
    recognised by name, nodes that an optimiser added by operator type.

    Args:
        assignment: from ``InferenceSession.get_provider_graph_assignment_info``.
        graph: the same file, from `read_onnx`.
        name: ONNX Runtime's name of the provider.
    """
    return [
        f"{node.op_type} {node.name!r} ({part.ep_name})"
        for part in assignment
        if part.ep_name != name
        for node in part.get_nodes()
        if node.name in graph.float_names
        or (node.name not in graph.names and (node.domain or node.op_type not in _SHAPE_OPS))
    ]


def _check_assignment(
    assignment: list[Any], graph: OnnxGraph, name: str, provider: GpuProvider, where: str
) -> None:
    fallback = cpu_fallback_nodes(assignment, graph, name)
    if not fallback:
        return
    package = _RTX_PACKAGE if provider == "tensorrt-rtx" else "onnxruntime-gpu"
    more = f" and {len(fallback) - 5} more" if len(fallback) > 5 else ""
    raise BackendError(
        f"{where}: {name} left {len(fallback)} of {len(graph.names)} nodes to others: "
        f"{', '.join(fallback[:5])}{more}",
        fix=f"pip install -U {package}",
    )


def _rtx_fix() -> str:
    uninstall = (
        "pip uninstall -y onnxruntime-gpu && " if "onnxruntime-gpu" in installed_distributions() else ""
    )
    return f"{uninstall}{pip_fix('ort-rtx')}; for CUDA 12 {uninstall}{pip_fix('cpu')} {_RTX_PACKAGE}-cu12"


def _rtx_devices(ort: Any) -> list[Any]:
    """Return the GPUs that the plug-in supports; registers the plug-in once per process."""
    plugin = importlib.import_module(_RTX_PACKAGE.replace("-", "_"))
    name = plugin.get_ep_name()

    def devices() -> list[Any]:
        return [device for device in ort.get_ep_devices() if device.ep_name == name]

    with _registering:
        found = devices()
        if not found:
            ort.register_execution_provider_library(name, plugin.get_library_path())
            found = devices()
    if not found:
        raise BackendError(
            f"{name}: the plug-in takes no GPU of this machine; it takes compute capability 8.6, 8.9, and "
            "12.0 or newer",
            fix="use ort-cuda",
        )
    return found


def _load_libraries(ort: Any, provider: GpuProvider) -> None:
    """Load CUDA and TensorRT from their Python packages, which the system's loader does not search."""
    with contextlib.redirect_stdout(sys.stderr):  # it prints missing libraries; stdout is for results
        ort.preload_dlls()
    if provider == "tensorrt" and is_installed("tensorrt"):
        with contextlib.suppress(ImportError, OSError, RuntimeError):  # the system may have another
            importlib.import_module("tensorrt")


def _loader_error(ort: Any, provider: GpuProvider) -> BackendError | None:
    """Return the system loader's error about the provider's library; None if the library loads.

    ONNX Runtime only writes that error to stderr. Call this only after ONNX Runtime has failed: the library
    cannot be loaded before its host.
    """
    if provider == "tensorrt-rtx":
        return None
    windows = sys.platform == "win32"
    file = f"{'' if windows else 'lib'}onnxruntime_providers_{provider}.{'dll' if windows else 'so'}"
    try:
        ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / file))
    except OSError as error:
        version = re.search(r"nvinfer(?:\.so\.|_)(\d+)", str(error))
        wanted = f"tensorrt=={version[1]}.*" if version else "onnxruntime-gpu[cuda,cudnn]"
        return BackendError(str(error), fix=f"pip install '{wanted}'")
    return None
