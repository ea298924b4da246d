"""Which backends a bundle could run on, by the files that it has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from spoter_runtime.bundle.manifest import read_bundle
from spoter_toolkit.backends import BACKENDS, backends_of


def test_a_precision_is_offered_where_its_file_is(bundle_folder: Path) -> None:
    bundle = read_bundle(bundle_folder)
    assert backends_of(bundle) == [*BACKENDS]
    fp16, int8 = (replace(bundle.onnx(), precision=precision) for precision in ("fp16", "int8"))
    more = replace(bundle, artefacts=(*bundle.artefacts, fp16, int8, replace(int8, kind="ort")))
    added = backends_of(more)[len(BACKENDS) :]
    assert {"trt:fp16", "ort-cpu:fp16", "ort-cpu:int8", "ort-cpu-fused:int8"} <= set(added)
    assert "ort-cpu-fused:fp16" not in added
    assert len(set(added)) == len(added)
