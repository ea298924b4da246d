"""TensorRT and TensorRT-RTX engines of the landmarker's graphs, beside them in its folder.

They are extras: the landmarker keeps its name, and a reader that does not know them runs the ONNX files.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Sequence
from typing import Final

import onnx
from onnx import TensorProto, helper

from spoter_export.trt.build_progress import BuildProgress
from spoter_export.trt.file_checks import check_header, check_readable
from spoter_export.trt.to_tensorrt import RTX_COMPUTE_CAPABILITIES, EngineBuild
from spoter_runtime.bundle.engine_spec import EngineSpec
from spoter_runtime.bundle.libraries import Library
from spoter_runtime.camera.files import (
    GRAPHS,
    MANIFEST,
    LandmarkerEngine,
    LandmarkerFiles,
)
from spoter_runtime.checked_file import COPY_AGAIN
from spoter_runtime.errors import ConfigError, ExportError
from spoter_runtime.files import replacing, write_json
from spoter_runtime.gpu.device import find_gpu
from spoter_runtime.gpu.packages import import_engine_library
from spoter_runtime.trt.versions import abilities

# Frames that an engine takes, (height, width): the smallest, the one it is tuned for, the largest.
FRAMES: Final = ((64, 64), (480, 640), (2160, 3840))
_HANDS: Final = (1, 1, 2)


def write_engines(
    files: LandmarkerFiles,
    library: Library,
    *,
    compute_capabilities: Sequence[str] | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> tuple[LandmarkerEngine, ...]:
    """Build an engine of each graph, and list them in the landmarker's manifest.

    Those of the same library that are listed already are replaced; the landmarker's name stays.

    Args:
        files: the landmarker, not of a bundle.
        library: TensorRT builds for the GPU of this machine, TensorRT-RTX on any machine.
        compute_capabilities: for TensorRT-RTX only; None means `RTX_COMPUTE_CAPABILITIES`.
        on_step: is called with what begins.

    Raises:
        ConfigError: compute capabilities for TensorRT.
        MissingExtraError: the library is not installed.
        BackendError: the library or, for TensorRT, a GPU cannot be used here.
        BundleError: a graph was changed.
        ExportError: the landmarker is a bundle's, or a build failed.
    """
    if files.fix == COPY_AGAIN:
        raise ExportError(
            f"{files.folder}: the landmarker of a bundle is not changed",
            fix="build in the user's cache, then spoter-kit export --camera",
        )
    if library == "tensorrt" and compute_capabilities is not None:
        raise ConfigError("TensorRT builds for the GPU of this machine", fix="leave out --compute-capability")
    engines = []
    for name in GRAPHS:
        on_step(f"building {name} with {library}")
        model = files.read(f"{name}.onnx")
        plan, spec = build_engine(name, model, library, compute_capabilities)
        engine = LandmarkerEngine(
            graph=name,
            path=f"{name}.{library}.engine",
            sha256=hashlib.sha256(plan).hexdigest(),
            size_bytes=len(plan),
            spec=spec,
        )
        with replacing(files.folder / engine.path) as draft:
            draft.write_bytes(plan)
        engines.append(engine)
    kept = [engine for engine in files.engines if engine.spec.library != library]
    manifest = json.loads((files.folder / MANIFEST).read_text(encoding="utf-8"))
    listed = [engine.as_json() for engine in (*kept, *engines)]
    write_json(files.folder / MANIFEST, manifest | {"engines": listed})
    return tuple(engines)


def build_engine(
    name: str, model: bytes, library: Library, compute_capabilities: Sequence[str] | None = None
) -> tuple[bytes, EngineSpec]:
    """Build the engine of one graph, as `engine_from_onnx` does for a model; return its plan too."""
    trt = import_engine_library(library)
    able = abilities(library, trt.__version__)
    rtx = library == "tensorrt_rtx"
    targets = tuple(dict.fromkeys(compute_capabilities or RTX_COMPUTE_CAPABILITIES)) if rtx else ()
    capabilities = targets or (find_gpu().compute_capability,)
    changed = gpu_form(onnx.load_from_string(model))
    content = changed.SerializeToString(deterministic=True)
    check_readable(content, able, f"{library} {trt.__version__}")
    build = EngineBuild(trt, rtx, able)
    build.parse(content)
    build.set_flags()
    build.add_profile(_shapes(changed))
    build.set_compute_capabilities(targets)
    begun = time.perf_counter()
    plan = build.run(BuildProgress(None))
    seconds = time.perf_counter() - begun
    if rtx:
        check_header(plan, trt.__version__, targets)
    return plan, EngineSpec(
        library=library,
        version=trt.__version__,
        compute_capabilities=capabilities,
        system=platform.system(),
        machine=platform.machine(),
        profiles=(),
        buckets=(),
        onnx_sha256=hashlib.sha256(model).hexdigest(),
        built={"seconds": round(seconds, 2), "frames": [list(size) for size in FRAMES]},
    )


def _shapes(model: onnx.ModelProto) -> dict[str, list[tuple[int, ...]]]:
    """Return each input's smallest, usual and largest shape."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for value in model.graph.input:
        fixed: list[int] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value.name == "frame":
            shapes[value.name] = [(*size, 3) for size in FRAMES]
        else:
            shapes[value.name] = [tuple(n or hands for n in fixed) for hands in _HANDS]
    return shapes


def gpu_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph as TensorRT reads it, with the same answers to the bit.

    TensorRT reshapes no uint8, so the frame becomes float32 at once; on the CPU that would cost more than the
    crop. Its ArgMax takes no vector, so there it becomes a row. The file itself stays as it is: it names
    the landmarker.
    """
    form = onnx.ModelProto()
    form.CopyFrom(model)
    nodes = [helper.make_node("Cast", ["frame"], ["frame_float"], name="frame_cast", to=TensorProto.FLOAT)]
    for node in form.graph.node:
        node.input[:] = ["frame_float" if name == "frame" else name for name in node.input]
        if node.op_type != "ArgMax":
            nodes.append(node)
            continue
        row, axes = f"{node.output[0]}_row", f"{node.output[0]}_axes"
        first = helper.make_tensor(axes, TensorProto.INT64, [1], [0])
        nodes += [
            helper.make_node("Constant", [], [axes], name=axes, value=first),
            helper.make_node("Unsqueeze", [node.input[0], axes], [row], name=row),
            helper.make_node("ArgMax", [row], node.output, name=node.name, axis=1, keepdims=0),
        ]
    del form.graph.node[:]
    form.graph.node.extend(nodes)
    return form
