"""Compare consecutive steps of a chain of runners; find the first pair that differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spoter_export.parity.compare import infer_batches
from spoter_export.parity.policy import Policy
from spoter_export.torch_runner import TorchRunner
from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import SpoterError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.runner import Runner, pad_clips


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the chain: a form of the model.

    Attributes:
        name: the step's name in reports.
        open: opens its runner; a `SpoterError` becomes the step's error.
        policy: the allowed difference from the step before, and the allowed effect of padding.
    """

    name: str
    open: Callable[[], Runner]
    policy: Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The comparison of a step with the last working step before it.

    Attributes:
        before: name of the step before; None for the first step.
        max_logit_diff: largest difference from the step before, clips run one by one; None for the first
            step, and with an error.
        max_padding_diff: largest difference between clips run one by one and all padded in one batch.
        error: why the step failed; None if it ran.
        holds: whether both differences are within the step's policy.
        clip: index of the clip with the largest difference; 0 with an error.
    """

    step: str
    before: str | None
    max_logit_diff: float | None = None
    max_padding_diff: float | None = None
    error: str | None = None
    holds: bool
    clip: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the fault of the step in one sentence; empty if it holds."""
        if self.holds:
            return ""
        if self.error is not None:
            return f"{self.step} gives no answer: {self.error}"
        parts = []
        if self.max_logit_diff is not None:
            parts.append(f"differs from {self.before} by {self.max_logit_diff:.1e}")
        parts.append(f"padding moves it by {self.max_padding_diff:.1e}")
        return f"{self.step}: {', '.join(parts)}"


def links_of(steps: Sequence[Step], clips: Sequence[Float32Array]) -> tuple[Link, ...]:
    """Run every step on the same clips and compare it with the step before.

    Args:
        steps: the steps from the module to the backend.
        clips: (frames, 54, 2), of several lengths; at most one batch.
    """
    links: list[Link] = []
    before: tuple[str, Float32Array] | None = None
    for step in steps:
        name = before[0] if before else None
        try:
            with step.open() as runner:
                alone_NC = infer_batches(runner, clips)
                padded_NC = runner.infer(*pad_clips(list(clips), fill=np.nan))
        except SpoterError as error:
            links.append(Link(step=step.name, before=name, error=str(error), holds=False))
            continue
        moved_N = np.abs(padded_NC - alone_NC).max(1)
        differing_N = None if before is None else np.abs(alone_NC - before[1]).max(1)
        difference = None if differing_N is None else float(differing_N.max())
        close = difference is None or difference <= step.policy.max_logit_diff
        telling_N = moved_N if close or differing_N is None else differing_N
        links.append(
            Link(
                step=step.name,
                before=name,
                max_logit_diff=difference,
                max_padding_diff=float(moved_N.max()),
                holds=close and float(moved_N.max()) <= step.policy.max_invariance_diff,
                clip=int(telling_N.argmax()),
            )
        )
        before = step.name, alone_NC
    return tuple(links)


def first_broken(links: Sequence[Link]) -> Link | None:
    """Return the first link that does not hold; None if all hold."""
    return next((link for link in links if not link.holds), None)


def first_module_moved_by_padding(module: nn.Module, clip: Float32Array, frames: int) -> str | None:
    """Return the path of the first submodule whose output on the real frames depends on the padding.

    Args:
        module: ``forward(poses, lengths) -> logits``.
        clip: (T, 54, 2), T less than `frames`.
        frames: length to which the clip is padded, with NaN.

    Returns:
        The path, ``""`` for the module itself; None if no submodule depends on the padding.
    """
    poses_NTD, lengths_N = (torch.from_numpy(array) for array in pad_clips([clip]))
    padding = torch.full((1, frames - len(clip), poses_NTD.shape[2]), torch.nan)
    alone = outputs_of(module, poses_NTD, lengths_N)
    padded = outputs_of(module, torch.cat((poses_NTD, padding), dim=1), lengths_N)
    for (path, expected), (_, got) in zip(alone, padded, strict=True):
        real = got[tuple(slice(size) for size in expected.shape)]
        if not torch.allclose(real, expected, rtol=1e-4, atol=1e-5, equal_nan=True):
            return path
    return None


def outputs_of(module: nn.Module, poses: Tensor, lengths: Tensor) -> list[tuple[str, Tensor]]:
    """Run the module; return path and output of each submodule in execution order, inner ones first."""
    found: list[tuple[str, Tensor]] = []

    def keep(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found.append((path, output))

        return hook

    hooks = [part.register_forward_hook(keep(path)) for path, part in module.named_modules()]
    try:
        with torch.inference_mode():
            module(poses, lengths)
    finally:
        for hook in hooks:
            hook.remove()
    return found


class ProgramRunner(TorchRunner):
    """Runs the program of `torch.export` from which an ONNX file is written."""

    def __init__(self, program: torch.export.ExportedProgram, contract: GraphContract) -> None:
        """Wrap the program, which was traced in eval mode on the CPU."""
        self.module = program.module()
        self.contract = contract
        self.name = "torch, exported program"
        self.dtype = torch.float32
        self.device = torch.device("cpu")

    def _forward(self, poses: Tensor, lengths: Tensor) -> Tensor:
        logits: Tensor = self.module(poses, lengths)
        return logits
