"""OrtRunner: an ONNX file on ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spoter_runtime.contract import LENGTHS, LOGITS, POSES, GraphContract
from spoter_runtime.engine_calls import ENGINE_CALLS, check_process, keep_from_forks
from spoter_runtime.errors import BackendError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.model_file.check import check_onnx_file, describe_onnx_file
from spoter_runtime.ort.installed import PROVIDERS, Provider, import_onnxruntime
from spoter_runtime.ort.session import (
    SessionSettings,
    check_tensors,
    contract_from_metadata,
    cpu_session,
    read_model,
)
from spoter_runtime.runner import Int32Array, Runner

if TYPE_CHECKING:
    from spoter_runtime.ort.cuda_graphs import GraphedSession
    from spoter_runtime.ort.gpu_session import GpuProvider


_TUNED_FRAMES = 60  # TensorRT tunes for two seconds of video: one clip of an isolated sign


class OrtRunner(Runner):
    """Run an ONNX file that carries its contract in its own metadata.

    Thread-safe: ONNX Runtime sessions may be called from several threads at once; with CUDA graphs, a lock
    lets one batch through at a time.
    """

    def __init__(
        self,
        model: Path | str | bytes,
        *,
        threads: int | None = None,
        settings: SessionSettings | None = None,
        provider: Provider = "cpu",
        cache: Path | None = None,
        graphs: int = 64,
        name: str | None = None,
        where: str = "the ONNX model",
    ) -> None:
        """Load the model.

        Args:
            model: a path, or the bytes of the file.
            threads: threads inside one operator, on the CPU; None means ONNX Runtime's default, one per core.
            settings: the session's settings, instead of `threads`.
            provider: execution provider. ``"tensorrt"`` and ``"tensorrt-rtx"`` build an engine here, which
                takes seconds to minutes. The first rounds fp32 matrix products to TF32 and has no option
                against it: ``NVIDIA_TF32_OVERRIDE=0`` in the environment turns it off.
            cache: folder for the engines of those two; None keeps none. Use one folder for each model: its
                files are named after the graph, not after the weights.
            graphs: largest number of CUDA graphs that ``"cuda"`` keeps for batches of several clips; see
                `GraphedSession`. 0 launches each kernel separately, without padding.
            name: name of the backend; None derives it from the provider.
            where: what errors call the bytes.

        Raises:
            MissingExtraError: ONNX Runtime is not installed.
            BackendError: two builds of it are installed, it cannot load the file or is too old for it, the
                provider does not run here, or it leaves float arithmetic to another one; or the file's inputs
                and outputs are not those of its contract.
            BundleError: no such file, or one without a contract of ours.
        """
        if provider not in PROVIDERS:
            raise BackendError(f"provider {provider!r}: expected one of {', '.join(PROVIDERS)}")
        where = where if isinstance(model, bytes) else str(model)
        settings = settings or SessionSettings(threads=threads)
        self.name = name or f"ort-{provider}"
        self._graphed: GraphedSession | None = None
        with ENGINE_CALLS:
            ort = import_onnxruntime(provider)
            content = model if isinstance(model, bytes) else read_model(model)
            options = settings.options(ort)
            if provider == "cpu":
                check_onnx_file(content, where)
                self._session, metadata = cpu_session(
                    ort, content, options, settings.disabled_optimizers, where
                )
                self.contract = contract_from_metadata(ort, metadata, where)
            else:
                self._session, self.contract, self._graphed = _on_gpu(
                    ort, content, options, provider, cache, where, graphs
                )
            check_tensors(self._session, self.contract, where)
        self._opened_in = os.getpid()
        keep_from_forks(self._session)

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        check_process(self._opened_in, self.name)
        try:
            if self._graphed is not None:
                return self._graphed.run(poses_NTD, lengths_N)
            logits: Float32Array = self._session.run([LOGITS], {POSES: poses_NTD, LENGTHS: lengths_N})[0]
        except Exception as error:
            raise BackendError(f"{self.name}: failed on poses {poses_NTD.shape}: {error}") from error
        return logits


def _on_gpu(
    ort: Any,
    content: bytes,
    options: Any,
    provider: GpuProvider,
    cache: Path | None,
    where: str,
    graphs: int,
) -> tuple[Any, GraphContract, GraphedSession | None]:
    """Return the session, its contract, and a `GraphedSession` if it can record CUDA graphs."""
    # Not at the top: a device without a GPU does not load what it cannot use.
    from spoter_runtime.contract import Profile
    from spoter_runtime.ort.cuda_graphs import GraphedSession
    from spoter_runtime.ort.gpu_session import gpu_session, records_graphs

    graph = describe_onnx_file(content, where)
    contract = contract_from_metadata(ort, graph.metadata, where)
    frames = contract.max_frames
    profile = Profile(batch=(1, 1, contract.max_batch), frames=(1, min(_TUNED_FRAMES, frames), frames))
    session = gpu_session(
        ort, content, graph, options, provider, where=where, profile=profile, cache=cache, graphs=graphs > 0
    )
    graphed = GraphedSession(ort, session, contract, most=graphs) if records_graphs(session) else None
    return session, contract, graphed
