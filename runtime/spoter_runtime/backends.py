"""Which engine runs a bundle on this machine, and why the others do not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from spoter_runtime.bundle.libraries import BACKEND_OF, Library
from spoter_runtime.bundle.manifest import Artefact, Bundle
from spoter_runtime.errors import (
    BackendError,
    BundleError,
    MissingExtraError,
    SpoterError,
    nearest_known,
)
from spoter_runtime.files import cache_folder
from spoter_runtime.ort.execution import FUSED, ON_CPU, ExecutionConfig, keep_prepared, read_prepared
from spoter_runtime.ort.installed import Provider, check_provider, check_version, import_onnxruntime
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.ort.session import SessionSettings
from spoter_runtime.runner import Runner


class Opened(NamedTuple):
    """The runner that `open_runner` chose, and the reasons.

    Attributes:
        artefact: the file that it runs.
        why: backend → why it was taken or skipped, for each that was tried.
    """

    runner: Runner
    artefact: Artefact
    why: dict[str, str]

    def passed_over(self, bundle: Bundle) -> dict[str, str]:
        """Return backend → why it was skipped, for the backends that the bundle has a special file for."""
        specs = [artefact.engine for artefact in bundle.artefacts if artefact.engine]
        having = dict.fromkeys(BACKEND_OF[spec.library] for spec in specs)
        if any(spec.version_compatible for spec in specs):
            having[BACKEND_OF["tensorrt_lean"]] = None
        if self.artefact.precision in bundle.by_precision("ort"):
            having[FUSED] = None
        return {name: self.why[name] for name in having if name in self.why and name != self.runner.name}


class _Wish(NamedTuple):
    """The arguments of `open_runner` that apply to any backend."""

    precision: str
    session: SessionSettings
    allow_host_code: bool


_Open = Callable[[Bundle, _Wish], tuple[Runner, Artefact]]


def _onnx_runtime(provider: Provider) -> _Open:
    def open_(bundle: Bundle, wish: _Wish) -> tuple[Runner, Artefact]:
        artefact = bundle.onnx(wish.precision)
        check_provider(provider)  # before reading a file that nothing here can run
        # A folder for each file: the providers name cache entries after the graph, and two models of one
        # architecture have the same graph.
        cache = cache_folder() / f"ort-{provider}" / artefact.sha256[:16]

        model, where = bundle.read(artefact.path), str(bundle.folder / artefact.path)
        return OrtRunner(model, settings=wish.session, provider=provider, cache=cache, where=where), artefact

    return open_


def onnx_file_of(bundle: Bundle, backend: str, precision: str) -> Artefact:
    """Return the ONNX file that a backend runs, or that its engine was built from.

    Raises:
        BundleError: the bundle has no file of that precision.
        BackendError: it has none made for ONNX Runtime.
    """
    if backend != FUSED:
        return bundle.onnx(precision)
    artefact = bundle.by_precision("ort").get(precision)
    if artefact is None:
        raise BackendError(
            f"{bundle.folder}: has no {precision} file made for ONNX Runtime",
            fix="ort-cpu" if precision == "fp16" else "ort-cpu, or export the RUN again",
        )
    return artefact


def session_for(kind: str, session: SessionSettings) -> SessionSettings:
    """Return the settings for a file of a kind (`Artefact.kind`); ``"ort"`` files are optimised already."""
    return replace(session, optimise=False) if kind == "ort" else session


def _fused(bundle: Bundle, wish: _Wish) -> tuple[Runner, Artefact]:
    artefact = onnx_file_of(bundle, FUSED, wish.precision)
    # The metadata states it too, but an ONNX Runtime without the operator cannot load the file to read that.
    needed, version = artefact.requires.get("onnxruntime", ""), import_onnxruntime().__version__
    where = str(bundle.folder / artefact.path)
    check_version(needed, version, where)
    settings = session_for(artefact.kind, wish.session)
    return OrtRunner(bundle.read(artefact.path), settings=settings, name=FUSED, where=where), artefact


def _engine(library: Library) -> _Open:
    def open_(bundle: Bundle, wish: _Wish) -> tuple[Runner, Artefact]:
        bundle.engines(library, wish.precision)
        # Not at the top, and not before: a device without a GPU does not load what it cannot use.
        from spoter_runtime.trt.preflight import choose_engine
        from spoter_runtime.trt.runner import TrtRunner

        host_code = wish.allow_host_code
        artefact = choose_engine(bundle, library, wish.precision, allow_host_code=host_code)
        assert artefact.engine is not None  # choose_engine returns nothing else
        cache = cache_folder() / f"{artefact.sha256[:16]}.jit" if library == "tensorrt_rtx" else None
        plan = bundle.read(artefact.path)
        runner = TrtRunner(
            plan,
            artefact.engine,
            bundle.contract,
            library=library,
            runtime_cache=cache,
            allow_host_code=host_code,
        )
        return runner, artefact

    return open_


# Best first: without a name, the first that loads on this machine is taken.
BACKENDS: Final[dict[str, _Open]] = {
    **{name: _engine(library) for library, name in BACKEND_OF.items()},
    "ort-tensorrt": _onnx_runtime("tensorrt"),
    "ort-tensorrt-rtx": _onnx_runtime("tensorrt-rtx"),
    "ort-cuda": _onnx_runtime("cuda"),
    FUSED: _fused,
    "ort-cpu": _onnx_runtime("cpu"),
}

# Loading these builds an engine, for seconds or minutes: only for callers who name them.
_ONLY_BY_NAME: Final = ("ort-tensorrt", "ort-tensorrt-rtx")


def open_runner(
    bundle: Bundle,
    backend: str | None = None,
    *,
    precision: str = "fp32",
    threads: int | None = None,
    allow_host_code: bool = False,
    config: ExecutionConfig | None = None,
    rejected: Mapping[str, str] | None = None,
) -> Opened:
    """Open the best backend for a bundle on this machine.

    An engine that no GPU has executed yet must pass the golden test here first, unless `backend` names it.

    Args:
        bundle: from `read_bundle`.
        backend: one of `BACKENDS`; None tries those that load quickly, best first.
        precision: of the artefact to run.
        threads: threads inside one operator, on a CPU; None leaves it to the engine.
        allow_host_code: take TensorRT engines that bring code which runs on the CPU of this process; only
            for a bundle whose author you trust.
        config: the tuned configuration for the CPU, from `read_tuned`; used when its backend is chosen, which
            comes before the other CPU backend.
        rejected: backend → why it failed the golden test when `tune` ran here; such a backend is used only if
            `backend` names it.

    Raises:
        BackendError: an unknown backend, or none that works; the reason for each is in the message.
        BundleError: no artefact of that precision.
        SpoterError: the backend that was asked for cannot be opened.
    """
    if backend is not None and backend not in BACKENDS:
        raise BackendError(f"unknown backend {backend!r}; {nearest_known(backend, list(BACKENDS))}")
    session = SessionSettings(threads=threads)
    wish = _Wish(precision=precision, session=session, allow_host_code=allow_host_code)
    if backend is not None:
        runner, artefact = _open(backend, bundle, wish, config)
        return Opened(runner=runner, artefact=artefact, why={backend: "asked for"})
    bundle.onnx(precision)  # raises if the bundle lacks the precision: no backend's fault
    why: dict[str, str] = {}
    kind: type[SpoterError] = BackendError
    # The sort is stable: it only puts the tuned CPU backend before the other one.
    for name in sorted(
        BACKENDS, key=lambda name: config is not None and name in ON_CPU and name != config.backend
    ):
        if rejected and name in rejected:
            why[name] = f"not tried: when it was tuned here, {rejected[name]}"
            continue
        if name in _ONLY_BY_NAME:
            why[name] = "not tried: it builds an engine while it loads; name it to use it"
            continue
        try:
            runner, artefact, remark = _open_proven(name, bundle, wish, config)
        except BundleError:
            raise  # a damaged bundle is no backend's fault
        except SpoterError as error:
            # Keep only the text: the traceback would keep the engine's memory, which the next backend needs.
            why[name] = str(error)
            kind = MissingExtraError if isinstance(error, MissingExtraError) else BackendError
        else:
            if config is not None and config.backend == name:
                remark += f"; tuned: {config}"
            taken = {name: f"the best that loads on this machine{remark}"}
            return Opened(runner=runner, artefact=artefact, why=why | taken)
    reasons = "\n".join(f"  {name}: {reason}" for name, reason in why.items())
    raise kind(f"{bundle.folder}: no backend works here:\n{reasons}")


def _open(name: str, bundle: Bundle, wish: _Wish, config: ExecutionConfig | None) -> tuple[Runner, Artefact]:
    if config is None or config.backend != name:
        return BACKENDS[name](bundle, wish)
    prepared = read_prepared(config.prepared) if config.prepared else None
    if prepared is not None:
        with contextlib.suppress(BackendError, BundleError):  # then the bundle's own file is optimised
            artefact = onnx_file_of(bundle, name, wish.precision)
            settings = replace(config.session, optimise=False)
            return OrtRunner(prepared, settings=settings, name=name), artefact
    return BACKENDS[name](bundle, wish._replace(session=config.session))


def open_later(bundle: Bundle, precision: str, config: ExecutionConfig) -> Callable[[], Runner]:
    """Return a function that opens a configuration on the CPU from today's files, even if they are replaced.

    Raises:
        BackendError, BundleError: the bundle has no such file, or it cannot be read.
    """
    artefact = onnx_file_of(bundle, config.backend, precision)
    where = str(bundle.folder / artefact.path)
    prepared = keep_prepared(config.prepared) if config.prepared else None
    files = [] if prepared is None else [(prepared, replace(config.session, optimise=False))]
    files.append((bundle.keep(artefact.path), session_for(artefact.kind, config.session)))

    def open_() -> Runner:
        for file, settings in files[:-1]:
            with contextlib.suppress(BackendError, BundleError, OSError):  # then from the bundle's own file
                return OrtRunner(file.read(), settings=settings, name=config.backend)
        file, settings = files[-1]
        return OrtRunner(file.read(), settings=settings, name=config.backend, where=where)

    return open_


def _open_proven(
    name: str, bundle: Bundle, wish: _Wish, config: ExecutionConfig | None
) -> tuple[Runner, Artefact, str]:
    """Return a runner, its file and the remark of `_proven_here`; close the runner if that raises."""
    runner, artefact = _open(name, bundle, wish, config)
    try:
        return runner, artefact, _proven_here(runner, artefact, bundle)
    except BaseException:
        runner.close()
        raise


def _proven_here(runner: Runner, artefact: Artefact, bundle: Bundle) -> str:
    """Run the golden test on an engine that no GPU has executed yet; return a remark, empty for others.

    Raises:
        BackendError: its answers are not those of the model.
    """
    if artefact.engine is None or artefact.engine.executed is not None:
        return ""
    from spoter_runtime.bundle.goldens import replay_goldens  # not at the top: only such an engine needs it

    replay = replay_goldens(runner, bundle.goldens(), artefact)
    if not replay.passed:
        raise BackendError(f"{artefact.path}: its answers are not the model's: {replay}")
    return f"; first execution, replayed: {replay}"
