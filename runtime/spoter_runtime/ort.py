"""OrtRunner: an ONNX file on ONNX Runtime."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any, Final

from spoter_runtime.contract import LENGTHS, LOGITS, METADATA_KEY, POSES, GraphContract
from spoter_runtime.errors import BackendError, BundleError, require
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.runner import Int32Array, Runner

# Every distribution that installs the module `onnxruntime`; two of them overwrite each other's files.
_DISTRIBUTIONS: Final = (
    "onnxruntime",
    "onnxruntime-directml",
    "onnxruntime-gpu",
    "onnxruntime-migraphx",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
)

_MAX_THREADS = 256  # beyond any machine it runs on; a typo would make ONNX Runtime start them all


def installed_distributions() -> dict[str, str]:
    """Return name → version of every installed distribution that provides ONNX Runtime."""
    # Asked by name, not listed: reading the metadata of everything installed costs a cold start 25 ms.
    return {
        name: distribution.version
        for name in _DISTRIBUTIONS
        for distribution in importlib.metadata.distributions(name=name)
    }


def import_onnxruntime() -> Any:
    """Import ONNX Runtime; refuse when there is none, or more than one.

    Raises:
        MissingExtraError: none is installed.
        BackendError: two distributions own the same files, and which one runs is chance.
    """
    found = installed_distributions()
    if len(found) > 1:
        names = ", ".join(f"{name} {version}" for name, version in sorted(found.items()))
        raise BackendError(
            f"{len(found)} distributions of ONNX Runtime are installed and overwrite each other's files: "
            f"{names}. Fix: pip uninstall -y {' '.join(sorted(found))} && pip install 'spoter-kit[cpu]'"
        )
    return require("onnxruntime", extra="cpu")


class OrtRunner(Runner):
    """Run an ONNX file that carries its contract in its own metadata.

    Thread-safe: ONNX Runtime sessions may be called from several threads at once.
    """

    def __init__(self, model: Path | str | bytes, *, threads: int | None = None) -> None:
        """Load the model.

        Args:
            model: a path, or the bytes of the file.
            threads: threads inside one operator; None leaves it to ONNX Runtime (one per core).

        Raises:
            MissingExtraError: ONNX Runtime is not installed.
            BackendError: two of them are, or ONNX Runtime cannot load the file.
            BundleError: the file is not there, or carries no contract of ours.
        """
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors only: they come back as exceptions
        if threads is not None and not 1 <= threads <= _MAX_THREADS:
            raise BackendError(f"threads={threads}: expected 1..{_MAX_THREADS}")
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        source = model if isinstance(model, bytes) else str(model)
        where = "the ONNX model" if isinstance(model, bytes) else str(model)
        if not isinstance(model, bytes) and not Path(model).is_file():
            raise BundleError(f"{where}: no such file")
        try:
            # enable_fallback=0: or a file that cannot be loaded is tried again, with a remark on stdout.
            self._session = ort.InferenceSession(
                source, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
            metadata = self._session.get_modelmeta().custom_metadata_map
        except Exception as error:
            raise BackendError(f"{where}: ONNX Runtime {ort.__version__} cannot load it: {error}") from error
        if METADATA_KEY not in metadata:
            raise BundleError(
                f"{where}: no {METADATA_KEY!r} in its metadata, so it was not exported by spoter-kit"
            )
        try:
            contract = json.loads(metadata[METADATA_KEY])
        except ValueError as error:
            raise BundleError(f"{where}: the contract in its metadata is damaged: {error}") from error
        self.name = "ort-cpu"
        self.contract = GraphContract.from_json(contract, where=where)

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        try:
            logits: Float32Array = self._session.run([LOGITS], {POSES: poses_NTD, LENGTHS: lengths_N})[0]
        except Exception as error:
            raise BackendError(f"{self.name}: failed on poses {poses_NTD.shape}: {error}") from error
        return logits
