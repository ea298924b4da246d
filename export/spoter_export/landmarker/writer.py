"""Write the landmarker's folder: four graphs, their proof, goldens, licence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from spoter_export.landmarker import graphs, proof
from spoter_export.landmarker.originals import FILES, LICENSE, SOURCE, read_originals
from spoter_runtime._version import __version__
from spoter_runtime.camera.files import (
    GOLDENS,
    GRAPHS,
    MANIFEST,
    SCHEMA_VERSION,
    LandmarkerFiles,
    landmarker_folder,
)
from spoter_runtime.camera.goldens import golden_inputs, outputs_of
from spoter_runtime.camera.landmarker import load_graphs
from spoter_runtime.errors import ExportError
from spoter_runtime.files import is_replaceable, replacing, sha256_of, write_json

_NOTICE: Final = f"""\
The networks in these files are MediaPipe's, Copyright The MediaPipe Authors, under the Apache License 2.0
(see LICENSE):
{{networks}}
Source: the Python package {SOURCE}. Changed: converted from TensorFlow Lite to ONNX in fp32, outputs that are
not used left out, and the crop of the picture and the reading of the outputs put around each network.
"""


def write_landmarker(
    source: Path | None = None,
    folder: Path | None = None,
    *,
    force: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Path:
    """Obtain MediaPipe's networks, convert and prove each, and write the landmarker's folder.

    Args:
        source: a wheel of mediapipe 0.10.21, or a folder with its files; None downloads the wheel with pip.
        folder: where to; None means the user's cache.
        force: replace a landmarker that is there.
        on_step: is called with what begins.

    Returns:
        The folder. It is complete or as it was before.

    Raises:
        DataError: the networks cannot be had.
        BundleError: a network has another hash than it should.
        ExportError: a landmarker is there already, or a converted network differs from its original.
        MissingExtraError: ONNX Runtime or the package `tflite` is not installed.
    """
    folder = landmarker_folder() if folder is None else folder
    if folder.exists() and not (force and is_replaceable(folder, MANIFEST)):
        raise ExportError(f"{folder}: is there already", fix="spoter-kit landmarker fetch --force")
    on_step(f"reading {source}" if source else f"downloading {SOURCE}")
    originals = read_originals(source)
    with replacing(folder) as draft:
        draft.mkdir()
        networks = {}
        for name in GRAPHS:
            on_step(f"converting and proving {name}")
            networks[name] = _write_graph(name, originals[name], draft)
        (draft / "LICENSE").write_bytes(originals[LICENSE])
        listed = "\n".join(f"  {name}.onnx: {path}" for name, (path, _) in FILES.items())
        (draft / "NOTICE").write_text(_NOTICE.format(networks=listed), encoding="utf-8")
        _write_goldens(draft)
        write_json(draft / MANIFEST, _manifest(draft, networks))
    return folder


def _write_graph(name: str, content: bytes, folder: Path) -> dict[str, Any]:
    network = graphs.network(name, content)
    difference = proof.check_network(name, content, network)
    graph = graphs.graph(name, network)
    onnx.checker.check_model(graph, full_check=True)
    (folder / f"{name}.onnx").write_bytes(graph.SerializeToString(deterministic=True))
    path, digest = FILES[name]
    return {"original": path, "original_sha256": digest, "max_difference": float(f"{difference:.2g}")}


def _write_goldens(folder: Path) -> None:
    """Run the written graphs; what they give here, they have to give on every device."""
    hashes = {path.name: sha256_of(path) for path in folder.glob("*.onnx")}
    run = load_graphs(LandmarkerFiles(folder=folder, sha256="", hashes=hashes, source=SOURCE), threads=1)
    np.savez_compressed(folder / GOLDENS, allow_pickle=False, **outputs_of(run, golden_inputs()))


def _manifest(folder: Path, networks: dict[str, Any]) -> dict[str, Any]:
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    whole = hashlib.sha256("".join(files[f"{name}.onnx"] for name in GRAPHS).encode()).hexdigest()
    return {
        "schema_version": SCHEMA_VERSION,
        "sha256": whole,
        "source": SOURCE,
        "spoter_kit": __version__,
        "onnx": onnx.__version__,
        "networks": networks,
        "files": files,
    }
