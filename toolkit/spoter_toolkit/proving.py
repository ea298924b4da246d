"""Prove a bundle on every backend that runs here, and say why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spoter_export.bundle_writer import ProofClips
from spoter_export.parity import Proof, prove
from spoter_runtime.bundle import Bundle
from spoter_runtime.errors import ConfigError, SpoterError
from spoter_runtime.progress import OnProgress
from spoter_toolkit.backends import (
    CPU_BACKENDS,
    TORCH_BACKENDS,
    backends_of,
    open_backend,
    split_backend,
)
from spoter_toolkit.reference import open_reference


def prove_backends(
    bundle: Bundle,
    run: Path,
    clips: ProofClips,
    *,
    backends: Sequence[str] | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> tuple[list[Proof], dict[str, str]]:
    """Compare backends with torch on the CPU.

    Args:
        bundle: from `read_bundle`.
        run: the RUN that the bundle was made from.
        clips: to compare on, besides the generated ones.
        backends: names as `open_backend` takes them; each of these has to run. None takes every backend of
            the device in every precision that the bundle has.
        seed: of the generated clips.
        on_progress: called with (done, total, what).

    Returns:
        A proof for each backend that runs here, and for each of the others the reason.

    Raises:
        ConfigError: torch, the reference, was named.
        SpoterError: a backend that was named cannot be opened here.
    """
    names = (
        [name for name in backends_of(bundle) if name not in TORCH_BACKENDS]
        if backends is None
        else list(backends)
    )
    if "torch" in names:
        raise ConfigError("--backend torch: is what the others are compared with. Fix: name another backend")
    reference = open_reference(bundle, run)
    proofs = []
    not_run = {}
    for name in names:
        try:
            opened = open_backend(name, bundle, run=run)
        except SpoterError as error:
            if backends is not None:
                raise
            not_run[name] = str(error)
            continue
        with opened.runner as runner:
            artefact = opened.artefact or bundle.onnx()
            proofs.append(
                prove(
                    reference,
                    runner,
                    artefact,
                    clips.clips,
                    source=clips.source,
                    seed=seed,
                    on_gpu=split_backend(name)[0] not in CPU_BACKENDS,
                    on_progress=on_progress,
                )
            )
    return proofs, not_run
