"""Triton's Python backend for a bundle: clips of any length, from any requests, in one batch.

`export --triton` copies this file and `spoter_runtime` into a model repository. Triton's Python needs NumPy
and ONNX Runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from spoter_runtime.backends import open_runner
from spoter_runtime.batching import infer_many
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.errors import SpoterError
from spoter_runtime.landmarks import Float32Array, check_clip


class TritonPythonModel:
    """One instance; Triton runs as many as the configuration says."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle that lies beside this file."""
        bundle = read_bundle(Path(args["model_repository"]) / args["model_version"] / "model.spoter")
        self._runner = open_runner(bundle, threads=1).runner

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; a bad clip fails its own alone."""
        read = [self._clips(request) for request in requests]
        clips = [clip for found in read if not isinstance(found, SpoterError) for clip in found]
        answers = iter(infer_many(self._runner, clips) if clips else [])
        return [
            triton.InferenceResponse(error=triton.TritonError(str(found)))
            if isinstance(found, SpoterError)
            else triton.InferenceResponse(
                [triton.Tensor("logits", np.stack([next(answers).logits_C for _ in found]))]
            )
            for found in read
        ]

    def _clips(self, request: Any) -> list[Float32Array] | SpoterError:
        """Return the clips of a request, or why they cannot be used."""
        poses_NTD = triton.get_input_tensor_by_name(request, "poses").as_numpy()
        lengths_N = triton.get_input_tensor_by_name(request, "lengths").as_numpy().reshape(-1)
        try:
            return [
                check_clip(poses_TD[: max(int(length), 0)], max_frames=self._runner.contract.max_frames)
                for poses_TD, length in zip(poses_NTD, lengths_N, strict=True)
            ]
        except SpoterError as error:
            return error
