"""Localize a failure: find the broken link between torch and a backend, and the first tensor that differs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from torch import nn

from spoter_export.diagnose.bisect import Divergence, first_divergence, values_of_graph, values_of_program
from spoter_export.diagnose.chain import (
    Link,
    ProgramRunner,
    Step,
    first_broken,
    first_module_moved_by_padding,
    links_of,
)
from spoter_export.parity.policy import policy_of
from spoter_export.parity.proof import Proof
from spoter_export.passes.pipeline import lowered, passes_for
from spoter_export.precision.fp16 import rounded_from_fp16
from spoter_export.probes import ClipSet, generated_clips
from spoter_export.to_onnx import Traced, trace_module
from spoter_export.torch_runner import TorchRunner
from spoter_runtime.backends import onnx_file_of, session_for
from spoter_runtime.bundle.manifest import Artefact, Bundle
from spoter_runtime.errors import ConfigError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.ort.session import SessionSettings
from spoter_runtime.runner import pad_clips
from spoter_toolkit.backends import CPU_BACKENDS, TORCH_BACKENDS, open_backend, split_backend

_WORST: Final = 8  # clips with the largest differences in the proof, to run the chain on too

_EAGER: Final = "torch, eager"
_PROGRAM: Final = "torch, exported program"
_PLAIN: Final = "ONNX exported now, not optimised"
_OPTIMISED: Final = "ONNX exported now"
_LOWERED: Final = "ONNX exported now, lowered"


def localize_failed(
    bundle: Bundle, module: nn.Module, proofs: Sequence[Proof], people: ClipSet | None = None
) -> list[Localization]:
    """Localize the failure of each failed proof, except of torch's own backends.

    Args:
        bundle: from `read_bundle`.
        module: the PyTorch model of the bundle.
        proofs: proofs of the bundle's backends.
        people: the clips of people that the proofs ran on.
    """
    traced = functools.cache(lambda: trace_module(module, bundle.contract))
    return [
        localize(bundle, module, proof.backend, worst_clips(proof, people) if people else (), traced=traced)
        for proof in proofs
        if not proof.verdict.passed and proof.facts.candidate not in TORCH_BACKENDS
    ]


def worst_clips(proof: Proof, people: ClipSet) -> list[Float32Array]:
    """Return the clips of people with the largest differences in a proof."""
    clips = {people.name_of(i): clip for i, clip in enumerate(people.clips)}
    facts = [
        clip
        for group in proof.facts.clips
        if group.source == people.source and group.change is None
        for clip in group.clips
    ]
    facts.sort(key=lambda clip: -clip.max_logit_diff)
    return [clips[clip.name] for clip in facts[:_WORST]]


def localize(
    bundle: Bundle,
    module: nn.Module,
    backend: str,
    clips: Sequence[Float32Array] = (),
    *,
    traced: Callable[[], Traced] | None = None,
) -> Localization:
    """Return the chain of the model's forms from torch to a backend, each compared with the one before.

    Args:
        bundle: from `read_bundle`.
        module: the PyTorch model of the bundle.
        backend: name as in `open_backend`.
        clips: clips to run besides generated ones.
        traced: returns `trace_module(module)`, which takes seconds and can be shared; None calls it here.
    """
    return Localization(
        bundle=bundle,
        module=module,
        backend=backend,
        clips=[*clips, *generated_clips(bundle.contract, seed=0).clips][: bundle.contract.max_batch],
        traced=traced or functools.cache(lambda: trace_module(module, bundle.contract)),
    )


@dataclass(frozen=True, kw_only=True)  # no slots: links are kept
class Localization:
    """The chain from torch to one backend; each form of the model is made lazily."""

    bundle: Bundle
    module: nn.Module
    backend: str  # name as in `open_backend`
    clips: Sequence[Float32Array]
    traced: Callable[[], Traced]

    @functools.cached_property
    def links(self) -> tuple[Link, ...]:
        """The comparison of each step with the one before, on the clips."""
        return links_of(self.steps(), self.clips)

    @property
    def broken(self) -> Link | None:
        """The first link that does not hold."""
        return first_broken(self.links)

    def steps(self) -> list[Step]:
        """Return the steps from the module to the backend."""
        bundle, contract = self.bundle, self.bundle.contract
        name, precision = split_backend(self.backend)
        fp32, last = policy_of("fp32"), policy_of(precision)
        steps = [
            Step(name=_EAGER, open=lambda: TorchRunner(self.module, contract), policy=fp32),
            Step(name=_PROGRAM, open=lambda: ProgramRunner(self.traced().program, contract), policy=fp32),
            Step(name=_PLAIN, open=lambda: opened(self.traced().model, optimise=False), policy=fp32),
            Step(name=_OPTIMISED, open=lambda: opened(self.traced().model), policy=fp32),
            Step(name=_LOWERED, open=lambda: opened(self.lowered("onnx", "fp32")), policy=fp32),
            Step(name=bundle.onnx().path, open=lambda: self.runner_of(bundle.onnx()), policy=fp32),
        ]
        file, policy = self.file, policy_of(self.file.precision)
        if file.precision == "fp16":
            # As in its proof: the CPU provider would keep most tensors in fp32 and hide the fault.
            steps.append(
                Step(
                    name=f"{file.path}, every tensor rounded",
                    open=lambda: opened(rounded_from_fp16(self.graph_of(file))),
                    policy=policy,
                )
            )
        elif file != bundle.onnx():
            steps.append(Step(name=file.path, open=lambda: self.runner_of(file), policy=policy))
        if name not in CPU_BACKENDS:
            steps.append(
                Step(name=self.backend, open=lambda: open_backend(self.backend, bundle).runner, policy=last)
            )
        return steps

    @property
    def file(self) -> Artefact:
        """The bundle's ONNX file that the backend runs, or that its engine was built from."""
        return onnx_file_of(self.bundle, *split_backend(self.backend))

    def lowered(self, kind: str, precision: str) -> onnx.ModelProto:
        """Return the graph lowered as in an export, but unchecked: a broken pass shall show in the chain."""
        return lowered(self.traced().model, passes_for(kind, precision))

    def runner_of(self, file: Artefact) -> OrtRunner:
        """Return a runner of a bundle's file on the CPU provider."""
        settings = session_for(file.kind, SessionSettings())
        return OrtRunner(self.bundle.read(file.path), settings=settings)

    def graph_of(self, file: Artefact) -> onnx.ModelProto:
        """Return the graph of a bundle's file."""
        return onnx.load_from_string(self.bundle.read(file.path))

    def not_two_graphs(self, link: Link) -> ConfigError:
        """Return the error for a broken link that cannot be bisected, because a step is not a graph."""
        if link.step == self.backend:
            what, fix = f"{link.step} tells no tensors", "build it again, or look at the builder's log"
            return ConfigError(f"--bisect: {what}", fix=fix)
        clip, most = self.clips[link.clip], self.bundle.contract.max_frames
        what = f"{link.step}: there are no two graphs to compare"
        if link.step == _EAGER and len(clip) < most:
            path = first_module_moved_by_padding(self.module, clip, most)
            if path is not None:
                what = f"padding moves the PyTorch model itself, first in module {path or 'at the top'}"
        return ConfigError(f"--bisect: {what}", fix="look at the PyTorch model itself")

    def bisect(self) -> Divergence | None:
        """Return the first tensor at which the broken link differs; None if no tensor differs.

        Raises:
            ConfigError: no link is broken, or its two steps are not two graphs.
            ExportError: torch cannot export the model.
        """
        link = self.broken
        if link is None:
            raise ConfigError(f"{self.backend}: no link of the chain is broken, so nothing can be bisected")
        if link.step in (_EAGER, _PROGRAM, self.backend):
            raise self.not_two_graphs(link)
        # The clip in a batch with the longest other one, so that one of them is padded.
        company = max(range(len(self.clips)), key=lambda i: (i != link.clip, len(self.clips[i])))
        batch = pad_clips([self.clips[i] for i in dict.fromkeys((link.clip, company))], fill=np.nan)
        plain = self.traced().model
        if link.step == _PLAIN:
            values = values_of_program(self.traced(), *batch)
            return first_divergence(plain, values, module_of=self.traced().module_of)
        values = values_of_graph(plain, *batch)
        if link.step == _OPTIMISED:
            return first_divergence(plain, values, optimise=True, module_of=self.traced().module_of)
        if link.step == _LOWERED:
            suspect, precision = self.lowered("onnx", "fp32"), "fp32"
        else:
            file = self.bundle.onnx() if link.step == self.bundle.onnx().path else self.file
            suspect, precision = self.graph_of(file), file.precision
            values |= values_of_graph(self.lowered(file.kind, precision), *batch)
        modules = _modules_in(suspect, self.traced().module_of)
        found = first_divergence(suspect, values, precision=precision, module_of=modules)
        return found or first_divergence(
            suspect, values, precision=precision, optimise=True, module_of=modules
        )


def opened(model: onnx.ModelProto, *, optimise: bool = True) -> OrtRunner:
    """Return a runner of a graph on the CPU provider."""
    return OrtRunner(model.SerializeToString(), settings=SessionSettings(optimise=optimise))


def _modules_in(graph: onnx.ModelProto, module_of: Mapping[str, str]) -> dict[str, str]:
    """Return tensor → module; a tensor that lowering made has the name of an original one as its prefix."""
    found = {}
    for name in (name for node in graph.graph.node for name in node.output):
        known = name
        while known and known not in module_of:
            known = known.rpartition("_")[0]
        if known:
            found[name] = module_of[known]
    return found
