"""OrtRunner: an ONNX file on ONNX Runtime."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from spoter_runtime.contract import LENGTHS, LOGITS, METADATA_KEY, POSES, GraphContract
from spoter_runtime.engine import Profile
from spoter_runtime.errors import BackendError, BundleError, require
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.runner import Int32Array, Runner

if TYPE_CHECKING:
    from spoter_runtime.ort_gpu import GpuProvider

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

_TUNED_FRAMES = 60  # two seconds of video: one clip of an isolated sign, which is what TensorRT tunes for


def installed_distributions() -> dict[str, str]:
    """Return name → version of every installed distribution that provides ONNX Runtime."""
    # Asked by name, not listed: reading the metadata of everything installed costs a cold start 25 ms.
    return {
        name: distribution.version
        for name in _DISTRIBUTIONS
        for distribution in importlib.metadata.distributions(name=name)
    }


Provider = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"]
PROVIDERS: Final[tuple[Provider, ...]] = ("cpu", "cuda", "tensorrt", "tensorrt-rtx")


def import_onnxruntime(provider: Provider = "cpu") -> Any:
    """Import ONNX Runtime; refuse when there is none, or more than one.

    Args:
        provider: what it is wanted for; the fix in an error installs a build that has it.

    Raises:
        MissingExtraError: none is installed.
        BackendError: two distributions own the same files, and which one runs is chance; or its files
            are gone.
    """
    extra = "gpu" if provider in ("cuda", "tensorrt") else "cpu"
    found = installed_distributions()
    if len(found) > 1:
        names = ", ".join(f"{name} {version}" for name, version in sorted(found.items()))
        raise BackendError(
            f"{len(found)} distributions of ONNX Runtime are installed and overwrite each other's files: "
            f"{names}. Fix: pip uninstall -y {' '.join(sorted(found))} && pip install 'spoter-kit[{extra}]'"
        )
    ort = require("onnxruntime", extra=extra)
    if not hasattr(ort, "InferenceSession"):  # Python takes what is left of its folder for a package
        name = next(iter(found), "onnxruntime")
        raise BackendError(
            f"{name} is installed, but its files are gone, as after another build of it was uninstalled. "
            f"Fix: pip install --force-reinstall --no-deps {name}"
        )
    return ort


def gpu_build_fix() -> str:
    """Return the command that puts the build with CUDA in the place of what is installed."""
    others = " ".join(name for name in sorted(installed_distributions()) if name != "onnxruntime-gpu")
    if others:
        return f"pip uninstall -y {others} && pip install 'spoter-kit[gpu]'"
    return "pip install --force-reinstall --no-deps onnxruntime-gpu"  # it is there, and has lost files


class OrtRunner(Runner):
    """Run an ONNX file that carries its contract in its own metadata.

    Thread-safe: ONNX Runtime sessions may be called from several threads at once.
    """

    def __init__(
        self,
        model: Path | str | bytes,
        *,
        threads: int | None = None,
        provider: Provider = "cpu",
        cache: Path | None = None,
        optimise: bool = True,
    ) -> None:
        """Load the model.

        Args:
            model: a path, or the bytes of the file.
            threads: threads inside one operator, on the CPU; None leaves it to ONNX Runtime (one per core).
            provider: what computes. ``"tensorrt"`` and ``"tensorrt-rtx"`` build an engine here, which takes
                seconds to minutes. The first rounds fp32 matrix products to TF32 and has no option against
                it: ``NVIDIA_TF32_OVERRIDE=0`` in the environment turns it off.
            cache: folder where those two keep what they built; None keeps nothing. One for each model: what
                is kept is named after the graph and not after its weights.
            optimise: let ONNX Runtime rewrite the graph; without, each operator is run as the file says.

        Raises:
            MissingExtraError: ONNX Runtime is not installed.
            BackendError: two of them are, ONNX Runtime cannot load the file, the provider does not run here,
                or it leaves float arithmetic to others.
            BundleError: the file is not there, or carries no contract of ours.
        """
        if provider not in PROVIDERS:
            raise BackendError(f"provider {provider!r}: expected one of {', '.join(PROVIDERS)}")
        ort = import_onnxruntime(provider)
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors only: they come back as exceptions
        if not optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if threads is not None and not 1 <= threads <= _MAX_THREADS:
            raise BackendError(f"threads={threads}: expected 1..{_MAX_THREADS}")
        if threads is not None:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        where = "the ONNX model" if isinstance(model, bytes) else str(model)
        if not isinstance(model, bytes) and not Path(model).is_file():
            raise BundleError(f"{where}: no such file")
        self.name = f"ort-{provider}"
        if provider == "cpu":
            self._session, metadata = _on_cpu(ort, model, options, where)
            self.contract = _contract(metadata, where)
        else:
            content = model if isinstance(model, bytes) else Path(model).read_bytes()
            self._session, self.contract = _on_gpu(ort, content, options, provider, cache, where)

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        try:
            logits: Float32Array = self._session.run([LOGITS], {POSES: poses_NTD, LENGTHS: lengths_N})[0]
        except Exception as error:
            raise BackendError(f"{self.name}: failed on poses {poses_NTD.shape}: {error}") from error
        return logits


def _on_cpu(ort: Any, model: Path | str | bytes, options: Any, where: str) -> tuple[Any, dict[str, str]]:
    """Return the session and the file's metadata."""
    source = model if isinstance(model, bytes) else str(model)
    try:
        # enable_fallback=0: or a file that cannot be loaded is tried again, with a remark on stdout.
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        return session, session.get_modelmeta().custom_metadata_map
    except Exception as error:
        raise BackendError(f"{where}: ONNX Runtime {ort.__version__} cannot load it: {error}") from error


def _on_gpu(
    ort: Any, content: bytes, options: Any, provider: GpuProvider, cache: Path | None, where: str
) -> tuple[Any, GraphContract]:
    """Return the session and the contract; TensorRT must know the shapes before it loads the file."""
    # Not at the top: a device without a GPU does not load what it cannot use.
    from spoter_runtime.onnx_graph import read_onnx
    from spoter_runtime.ort_gpu import gpu_session

    try:
        graph = read_onnx(content)
    except ValueError as error:
        raise BackendError(f"{where}: is not an ONNX file: {error}") from error
    contract = _contract(graph.metadata, where)
    frames = contract.max_frames
    profile = Profile(batch=(1, 1, contract.max_batch), frames=(1, min(_TUNED_FRAMES, frames), frames))
    session = gpu_session(ort, content, graph, options, provider, where=where, profile=profile, cache=cache)
    return session, contract


def _contract(metadata: dict[str, str], where: str) -> GraphContract:
    if METADATA_KEY not in metadata:
        raise BundleError(
            f"{where}: no {METADATA_KEY!r} in its metadata, so it was not exported by spoter-kit"
        )
    try:
        contract = json.loads(metadata[METADATA_KEY])
    except ValueError as error:
        raise BundleError(f"{where}: the contract in its metadata is damaged: {error}") from error
    return GraphContract.from_json(contract, where=where)
