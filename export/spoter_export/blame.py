"""Split a difference along the chain from the module to what was run, and name the first link that breaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spoter_export.judge import Policy
from spoter_export.to_onnx import example_of
from spoter_export.torch_runner import TorchRunner
from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import ExportError, SpoterError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.runner import Runner, pad_clips


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One form of the model.

    Attributes:
        name: as the report shall say it.
        open: opens it; what it raises of ours is the step's error.
        policy: how far it may be from the step before it, and how far padding may move it.
    """

    name: str
    open: Callable[[], Runner]
    policy: Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What was found between one step and the last before it that answered.

    Attributes:
        before: name of that step; None for the first.
        max_logit_diff: from it, each clip alone; None for the first, and where there is an error.
        max_padding_diff: between each clip alone and all of them padded in one batch.
        error: why the step could not answer.
        holds: whether both are within the step's policy.
        clip: place of the clip that shows most of it; the first where there is an error.
    """

    step: str
    before: str | None
    max_logit_diff: float | None
    max_padding_diff: float | None
    error: str | None
    holds: bool
    clip: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """Return what is wrong with it in one sentence; empty where it holds."""
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
    """Run every step on the same clips and compare it with the one before.

    Args:
        steps: from the module to what was run.
        clips: (frames, 54, 2), of several lengths, as many as fit into one batch.
    """
    links = []
    before: tuple[str, Float32Array] | None = None
    for step in steps:
        try:
            with step.open() as runner:
                alone_NC = np.concatenate([runner.infer(*pad_clips([clip])) for clip in clips])
                padded_NC = runner.infer(*pad_clips(list(clips), fill=np.nan))
        except SpoterError as error:
            links.append(_link(step, before, error=str(error)))
            continue
        padding_N = np.abs(padded_NC - alone_NC).max(1)
        difference_N = None if before is None else np.abs(alone_NC - before[1]).max(1)
        links.append(_link(step, before, difference_N=difference_N, padding_N=padding_N))
        before = step.name, alone_NC
    return tuple(links)


def _link(
    step: Step,
    before: tuple[str, Float32Array] | None,
    *,
    difference_N: Float32Array | None = None,
    padding_N: Float32Array | None = None,
    error: str | None = None,
) -> Link:
    difference = None if difference_N is None else float(difference_N.max())
    padding = None if padding_N is None else float(padding_N.max())
    close = difference is None or difference <= step.policy.max_logit_diff
    still = padding is not None and padding <= step.policy.max_invariance_diff
    telling_N = padding_N if close or difference_N is None else difference_N
    return Link(
        step=step.name,
        before=before[0] if before else None,
        max_logit_diff=difference,
        max_padding_diff=padding,
        error=error,
        holds=close and still,
        clip=0 if telling_N is None else int(telling_N.argmax()),
    )


def first_broken(links: Sequence[Link]) -> Link | None:
    """Return the first link that does not hold; None where all do."""
    return next((link for link in links if not link.holds), None)


class ProgramRunner(TorchRunner):
    """The graph that `torch.export` makes of a module: what an ONNX file is written from."""

    def __init__(self, module: nn.Module, contract: GraphContract) -> None:
        """Trace the module.

        Raises:
            ExportError: torch cannot trace it.
        """
        super().__init__(module, contract, name="torch, exported program")
        poses, lengths, dynamic_shapes = example_of(contract)
        try:
            program = torch.export.export(self.module, (poses, lengths), dynamic_shapes=dynamic_shapes)
        except Exception as error:  # torch's own errors have no common base
            first_line = str(error).partition("\n")[0]
            raise ExportError(f"torch.export: {type(error).__name__}: {first_line}") from error
        self._program = program.module()

    def _forward(self, poses: Tensor, lengths: Tensor) -> Tensor:
        logits: Tensor = self._program(poses, lengths)
        return logits
