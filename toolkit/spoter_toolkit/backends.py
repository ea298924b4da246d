"""Open a RUN or a BUNDLE on a backend by name: one of the runtime's, or torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spoter_runtime.backends import BACKENDS as DEVICE_BACKENDS
from spoter_runtime.backends import open_runner
from spoter_runtime.bundle.libraries import FACE
from spoter_runtime.bundle.manifest import MANIFEST, Artefact, Bundle, read_bundle
from spoter_runtime.errors import ConfigError, DataError, nearest, nearest_known
from spoter_runtime.ort.execution import FUSED
from spoter_runtime.runner import Runner
from spoter_toolkit.data.dataset import Dataset, read_dataset
from spoter_toolkit.data.names import retyped
from spoter_toolkit.faces.face import check_face, open_face
from spoter_toolkit.runs.run import Run, find_run, read_run

# Torch on the CPU, eager; on a GPU eager, through torch.compile, and as CUDA graphs.
TORCH_BACKENDS: Final = ("torch", "torch-cuda", "torch-cuda-compile", "torch-cuda-graph")
CPU_BACKENDS: Final = ("torch", FUSED, "ort-cpu")
BACKENDS: Final = (*TORCH_BACKENDS, *DEVICE_BACKENDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedBackend:
    """A runner and the bundle's file that it runs; None for torch, which runs the RUN's weights."""

    runner: Runner
    artefact: Artefact | None


def split_backend(name: str) -> tuple[str, str]:
    """Split a name such as ``"trt:fp16"`` into backend and precision, fp32 by default.

    Raises:
        ConfigError: unknown backend, or torch in another precision than fp32.
    """
    backend, _, precision = name.partition(":")
    if backend.startswith(FACE):
        check_face(backend)
    elif backend not in BACKENDS:
        near = nearest(backend, BACKENDS, cutoff=0.7)
        fix = retyped(name, name.replace(backend, near[0], 1)) if near else ""
        raise ConfigError(f"unknown backend {backend!r}; {nearest_known(backend, BACKENDS)}", fix=fix)
    if backend in TORCH_BACKENDS and precision not in ("", "fp32"):
        raise ConfigError(f"backend {name!r}: torch runs the RUN's own fp32 weights", fix=f"{backend}")
    return backend, precision or "fp32"


def runs_on_gpu(name: str) -> bool:
    """Return whether a GPU computes a backend's answers; a face runs on the CPU here."""
    backend, _ = split_backend(name)
    return backend not in CPU_BACKENDS and not backend.startswith(FACE)


def split_choice(backend: str | None, precision: str | None) -> tuple[str | None, str]:
    """Return the backend and precision of ``--backend ort-cpu:int8`` or of ``--precision int8``.

    Args:
        backend: as in `split_backend`; None lets the runtime choose.
        precision: None means the one in `backend`.

    Raises:
        ConfigError: as `split_backend`, or the two precisions differ.
    """
    if backend is None:
        return None, precision or "fp32"
    name, named = split_backend(backend)
    if ":" in backend and precision not in (None, named):
        raise ConfigError(f"--backend {backend} --precision {precision}: which of the two?", fix="name one")
    return name, precision or named


def backends_of(bundle: Bundle) -> list[str]:
    """Return each backend that a bundle has a file for, with each precision: ``"ort-cpu:fp16"``."""
    has = {kind: [a.precision for a in bundle.artefacts if a.kind == kind] for kind in ("onnx", "ort")}
    others = [
        f"{name}:{precision}"
        for precision in dict.fromkeys(has["onnx"])
        for name in DEVICE_BACKENDS
        if precision != "fp32" and (name != FUSED or precision in has["ort"])
    ]
    return [*BACKENDS, *others]


def open_backend(
    name: str,
    bundle: Bundle,
    *,
    run: Path | None = None,
    threads: int | None = None,
    allow_host_code: bool = False,
) -> OpenedBackend:
    """Open a bundle on one backend; imports torch only for `TORCH_BACKENDS`.

    Args:
        name: one of `BACKENDS`, or ``face-NAME``, with ``:fp16`` for another precision than fp32.
        bundle: from `read_bundle`.
        run: the RUN that the bundle was made from, for torch; None looks where the bundle says.
        threads: threads inside one operator; None means the engine's default.
        allow_host_code: see `spoter_runtime.backends.open_runner`.

    Raises:
        ConfigError: unknown name.
        BackendError: the backend cannot be opened here.
        BundleError: the bundle has no artefact of that precision.
        CheckpointError: the run for torch is missing, or not the one of this bundle.
    """
    backend, precision = split_backend(name)
    if backend in TORCH_BACKENDS:
        from spoter_toolkit.reference import open_reference

        return OpenedBackend(runner=open_reference(bundle, run, backend, threads=threads), artefact=None)
    if backend.startswith(FACE):
        face = open_face(backend, bundle, precision)
        return OpenedBackend(runner=face, artefact=face.artefact)
    opened = open_runner(
        bundle, backend, precision=precision, threads=threads, allow_host_code=allow_host_code
    )
    return OpenedBackend(runner=opened.runner, artefact=opened.artefact)


def find_source(
    path: Path, *, backend: str | None = None, run: Path | None = None, data: Path | None = None
) -> tuple[Run | Bundle, Dataset]:
    """Read a RUN or a BUNDLE and its data set, without importing an engine.

    Args:
        path: a RUN or a BUNDLE folder.
        backend: see `open_source`.
        run: for a BUNDLE, the RUN it was made from; None looks in ``runs/``.
        data: a DATASET; None means the run's training data.

    Raises:
        ConfigError: a RUN does not run on the backend.
        CheckpointError: the RUN has no weights yet.
        DataError: `data` is None and the training data is missing.
        SpoterError: the source itself cannot be read.
    """
    source = read_bundle(path) if (path / MANIFEST).is_file() else read_run(path)
    if isinstance(source, Run):
        if backend not in (None, "torch"):
            raise ConfigError(
                f"{path}: a RUN runs on torch; {backend} needs a BUNDLE", fix="spoter-kit export"
            )
        source.weights_path()
    if data:
        return source, read_dataset(data)
    dataset = (source if isinstance(source, Run) else find_run(source, run)).training_data()
    if dataset is None:
        raise DataError(f"{path}: the data it was trained on is not there", fix="name a dataset with --data")
    return source, dataset


def open_source(
    source: Run | Bundle, backend: str | None = None, *, run: Path | None = None
) -> tuple[Runner, Mapping[str, str]]:
    """Open a RUN or a BUNDLE; return its runner, and backend → why it was skipped, if none is named.

    Args:
        source: from `find_source`.
        backend: one of `BACKENDS`; None means torch for a RUN, and the best that works here for a BUNDLE.
        run: see `find_source`.

    Raises:
        SpoterError: the source cannot be opened here.
    """
    if isinstance(source, Run):
        model = source.load_model()
        from spoter_export.torch_runner import TorchRunner  # not at the top: torch

        return TorchRunner(model, source.contract()), {}
    if backend:
        return open_backend(backend, source, run=run).runner, {}
    best = open_runner(source)
    return best.runner, best.passed_over(source)
