"""Checks of the files around a build: the ONNX file before it, the plan's header after it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from spoter_runtime.bundle.engine_spec import rtx_header
from spoter_runtime.errors import ExportError
from spoter_runtime.model_file.graph import read_onnx
from spoter_runtime.trt.versions import Abilities

_log = logging.getLogger(__name__)

_ONNX_INT64: Final = 7  # TensorProto.INT64


def check_readable(model: bytes, able: Abilities, title: str) -> None:
    """Check that a parser with an upper limit reads the file; it would narrow int64 inputs in silence.

    Raises:
        ExportError: the opset is newer than the parser, or an input is int64.
    """
    if not able.newest_opset:
        return
    try:
        graph = read_onnx(model)
    except ValueError as error:
        raise ExportError(f"{title} cannot read the ONNX file: {error}") from error
    fix = "spoter-kit export BUNDLE --trt8 writes a file for it"
    if graph.opset > able.newest_opset:
        raise ExportError(
            f"{title} reads ONNX files up to opset {able.newest_opset}, this one has opset {graph.opset}",
            fix=fix,
        )
    if wide := [name for name, dtype in graph.input_types.items() if dtype == _ONNX_INT64]:
        raise ExportError(f"{title}: the input {wide[0]} is int64, expected int32 or float32", fix=fix)


def check_header(plan: bytes, version: str, targets: Iterable[str]) -> None:
    """Check the version, the GPUs and the size in the header of a TensorRT-RTX plan.

    Raises:
        ExportError: one of them differs from the expected one.
    """
    header = rtx_header(plan)
    if header is None:
        # Not an error: the layout is undocumented, and a newer version may change it.
        _log.warning("the header of this TensorRT-RTX %s engine is not known here: not compared", version)
        return
    asked = (len(plan), version, sorted(targets))
    got = (header.size_bytes, header.version, sorted(header.compute_capabilities))
    if got != asked:
        raise ExportError(
            f"the engine's header is not as asked: expected (size, version, GPUs) {asked}, got {got}"
        )
