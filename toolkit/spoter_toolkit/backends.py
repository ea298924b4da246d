"""Open a bundle on any backend by name: the runtime's own, and torch, as the reference and as a peer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spoter_runtime.backends import BACKENDS as DEVICE_BACKENDS
from spoter_runtime.backends import open_runner
from spoter_runtime.bundle.manifest import Artefact, Bundle
from spoter_runtime.errors import ConfigError, nearest_known
from spoter_runtime.ort.execution import FUSED
from spoter_runtime.runner import Runner

# On the CPU, eager; on a GPU eager, through torch.compile, and as CUDA graphs.
TORCH_BACKENDS: Final = ("torch", "torch-cuda", "torch-cuda-compile", "torch-cuda-graph")
CPU_BACKENDS: Final = ("torch", FUSED, "ort-cpu")
BACKENDS: Final = (*TORCH_BACKENDS, *DEVICE_BACKENDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedBackend:
    """A runner, and the bundle's file that it runs; None for torch, which runs the RUN's weights."""

    runner: Runner
    artefact: Artefact | None


def split_backend(name: str) -> tuple[str, str]:
    """Return backend and precision of ``"trt:fp16"``; without a colon it is fp32.

    Raises:
        ConfigError: unknown backend, or torch in another precision than fp32.
    """
    backend, _, precision = name.partition(":")
    if backend not in BACKENDS:
        raise ConfigError(f"unknown backend {backend!r}; {nearest_known(backend, BACKENDS)}")
    if backend in TORCH_BACKENDS and precision not in ("", "fp32"):
        raise ConfigError(f"backend {name!r}: torch runs the RUN's own fp32 weights", fix=f"{backend}")
    return backend, precision or "fp32"


def split_choice(backend: str | None, precision: str | None) -> tuple[str | None, str]:
    """Return backend and precision of ``--backend ort-cpu:int8``, or of ``--precision int8`` beside it.

    Args:
        backend: as `split_backend` takes it; None leaves the choice to the runtime.
        precision: None takes that of the backend's name.

    Raises:
        ConfigError: as `split_backend`, or the two name different precisions.
    """
    if backend is None:
        return None, precision or "fp32"
    name, named = split_backend(backend)
    if ":" in backend and precision not in (None, named):
        raise ConfigError(f"--backend {backend} --precision {precision}: which of the two?", fix="name one")
    return name, precision or named


def backends_of(bundle: Bundle) -> list[str]:
    """Return every backend that a bundle could run on, in each precision that it has a file of."""
    has = {kind: [a.precision for a in bundle.artefacts if a.kind == kind] for kind in ("onnx", "ort")}
    others = [
        f"{name}:{precision}"
        for precision in dict.fromkeys(has["onnx"])
        for name in DEVICE_BACKENDS
        if precision != "fp32" and (name != FUSED or precision in has["ort"])
    ]
    return [*BACKENDS, *others]


def open_backend(
    name: str, bundle: Bundle, *, run: Path | None = None, threads: int | None = None
) -> OpenedBackend:
    """Open `bundle` on one backend; imports torch only for those of `TORCH_BACKENDS`.

    Args:
        name: one of `BACKENDS`, ``:fp16`` behind it for another precision than fp32.
        bundle: from `read_bundle`.
        run: the RUN that the bundle was made from, for torch; None looks where the bundle says.
        threads: threads inside one operator; None leaves it to the engine.

    Raises:
        ConfigError: unknown name.
        BackendError: it cannot be opened here.
        BundleError: the bundle has no artefact of that precision.
        CheckpointError: torch was asked for and the run is gone, or is not the one of this bundle.
    """
    backend, precision = split_backend(name)
    if backend in TORCH_BACKENDS:
        from spoter_toolkit.reference import open_reference

        return OpenedBackend(runner=open_reference(bundle, run, backend, threads=threads), artefact=None)
    opened = open_runner(bundle, backend, precision=precision, threads=threads)
    return OpenedBackend(runner=opened.runner, artefact=opened.artefact)
