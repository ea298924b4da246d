"""The landmarker's graphs on an NVIDIA GPU: with ONNX Runtime's CUDA provider, or as engines of TensorRT."""

from __future__ import annotations

import threading
from typing import Any

from spoter_runtime.bundle.libraries import Library
from spoter_runtime.camera.files import GRAPHS, LandmarkerEngine, LandmarkerFiles
from spoter_runtime.checked_file import COPY_AGAIN
from spoter_runtime.engine_calls import ENGINE_CALLS
from spoter_runtime.errors import BackendError
from spoter_runtime.model_file.check import describe_onnx_file
from spoter_runtime.ort.gpu_session import check_driver, check_installed, gpu_session
from spoter_runtime.ort.installed import import_onnxruntime
from spoter_runtime.ort.session import SessionSettings
from spoter_runtime.trt.graph_engines import GraphEngines
from spoter_runtime.trt.preflight import Machine, reason_in_plan, reasons_of_machine, this_machine


class CudaGraphs:
    """The graphs with ONNX Runtime; a frame goes to the GPU once for all of them. One call at a time."""

    def __init__(self, ort: Any, sessions: dict[str, Any], device: str = "cuda") -> None:
        """Take the sessions, by graph.

        Args:
            ort: the module `onnxruntime`.
            sessions: of one provider.
            device: of that provider, as ONNX Runtime names it.
        """
        self._ort = ort
        self._sessions = sessions
        self._device = device
        self._lock = threading.Lock()
        self._frame: Any = None  # held, so that no new array has its identity
        self._there: Any = None

    def run(self, graph: str, **inputs: Any) -> list[Any]:
        """Return a graph's outputs.

        Raises:
            BackendError: ONNX Runtime failed.
        """
        session, values = self._sessions[graph], self._ort.OrtValue
        try:
            with self._lock, ENGINE_CALLS:
                frame = inputs.pop("frame")
                if frame is not self._frame:
                    self._there = values.ortvalue_from_numpy(frame, self._device)
                    self._frame = frame
                given = {name: values.ortvalue_from_numpy(value) for name, value in inputs.items()}
                names = [output.name for output in session.get_outputs()]
                found = session.run_with_ort_values(names, {"frame": self._there, **given})
                return [value.numpy() for value in found]
        except Exception as error:  # ONNX Runtime's own types are many
            raise BackendError(
                f"{graph}.onnx: ONNX Runtime {self._ort.__version__} failed: {error}"
            ) from error


def load_on_cuda(files: LandmarkerFiles) -> CudaGraphs:
    """Load the graphs with ONNX Runtime on the first GPU.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        BundleError: a file is missing or was changed.
        BackendError: this ONNX Runtime has no CUDA provider, or there is no GPU.
    """
    ort = import_onnxruntime("cuda")
    check_installed(ort, "cuda")
    check_driver("cuda")
    sessions = {}
    for name in GRAPHS:
        content = files.read(f"{name}.onnx")
        options = SessionSettings(threads=1, spin=False).options(ort)
        where = str(files.folder / f"{name}.onnx")
        graph = describe_onnx_file(content, where)
        with ENGINE_CALLS:
            sessions[name] = gpu_session(ort, content, graph, options, "cuda", where=where, whole=False)
    return CudaGraphs(ort, sessions)


def load_engines(files: LandmarkerFiles, library: Library, machine: Machine | None = None) -> GraphEngines:
    """Load the engines of a library, after checking that they fit this machine.

    Args:
        files: the landmarker.
        library: that built them.
        machine: the machine to fit; None examines this one.

    Raises:
        MissingExtraError: cuda-bindings is not installed.
        BundleError: an engine is missing or was changed.
        BackendError: there is no such engine, it does not fit this machine, or it cannot be loaded.
    """
    option = "--trt" if library == "tensorrt" else "--rtx"
    fix = COPY_AGAIN if files.fix == COPY_AGAIN else f"spoter-kit landmarker fetch {option}"
    found = {engine.graph: engine for engine in files.engines if engine.spec.library == library}
    if missing := [name for name in GRAPHS if name not in found]:
        raise BackendError(f"{files.folder}: has no {library} engine of {', '.join(missing)}", fix=fix)
    machine = machine or this_machine((library,))
    plans = {name: _fitting(files, found[name], machine, fix) for name in GRAPHS}
    return GraphEngines(library, plans)


def _fitting(files: LandmarkerFiles, engine: LandmarkerEngine, machine: Machine, fix: str) -> bytes:
    """Return an engine's plan, or raise the first reason against it."""
    spec, path = engine.spec, engine.path

    def rebuild(_: Library, option: str) -> str:
        return f"{fix} {option}"

    reason = next(reasons_of_machine(spec, machine, spec.library, rebuild), None)
    if reason is None and spec.onnx_sha256 != files.hashes[f"{engine.graph}.onnx"]:
        reason = BackendError(f"built from another {engine.graph}.onnx than the one here")
    if reason is None:
        plan = files.read(path)
        reason = reason_in_plan(plan, spec, path)
    if reason is not None:
        raise BackendError(f"{files.folder / path}: {reason.message}", fix=reason.fix or fix)
    return plan
