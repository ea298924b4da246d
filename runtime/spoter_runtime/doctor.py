"""Diagnose this machine: installed packages, backends that run a test graph, fixes for what is missing."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from spoter_runtime._version import __version__
from spoter_runtime.bundle.libraries import BACKEND_OF, Library
from spoter_runtime.errors import BackendError, MissingExtraError, SpoterError, pip_fix
from spoter_runtime.ort.execution import FUSED
from spoter_runtime.ort.installed import Provider, gpu_build_fix, import_onnxruntime, installed_distributions

# Extra → its distributions. The cpu extra is left out: its backend's finding says more.
_EXTRAS: Final[dict[str, tuple[str, ...]]] = {
    "gpu": ("onnxruntime-gpu",),
    "trt": ("tensorrt", "cuda-bindings", "filelock"),
    "lean": ("tensorrt-lean-cu12",),
    "rtx": ("tensorrt-rtx",),
    "export": ("torch", "onnx", "onnxscript"),
    "toolkit": ("typer", "rich", "accelerate", "safetensors", "matplotlib"),
}

# A graph of one Mul node, x·x (opset 20), serialised: small enough to carry, real enough to run.
_SQUARE_ONNX: Final = bytes.fromhex(
    "08083a3d0a160a01780a01781201791a0673717561726522034d756c1201675a0f0a0178120a0a08"
    "080112040a020801620f0a0179120a0a08080112040a02080142040a001014"
)

# The same of one Attention (opset 24) of x (1, 2, 4) with the first of its two tokens, as of a padded clip.
_ATTENTION_ONNX: Final = bytes.fromhex(
    "080a3a93010a490a01780a01780a01780a000a000a000a016e1201792209417474656e74696f6e2a"
    "130a0c6b765f6e756d5f68656164731801a001022a120a0b715f6e756d5f68656164731801a00102"
    "1201672a110801100742016e4a0801000000000000005a170a017812120a100801120c0a0208010a"
    "0208020a02080462170a017912120a100801120c0a0208010a0208020a02080442040a001018"
)

_Kind = Literal["machine", "package", "backend"]
_Status = Literal["ok", "missing", "broken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        status: ``"missing"``: a package, a driver or a GPU is absent; ``"broken"``: all are there, but fail.
        fix: a command to paste, or advice; empty if nothing is wrong.
        builds: whether a TensorRT backend builds engines here (TensorRT-RTX needs no GPU for it); None for
            everything else. `status` is about running engines.
    """

    kind: _Kind
    name: str
    status: _Status
    detail: str
    fix: str = ""
    builds: bool | None = None


def diagnose() -> list[Finding]:
    """Return the findings: Python, GPU, packages by extra, and every backend, which runs a small graph."""
    return [
        _machine(),
        *_jetpack(),
        _gpu(),
        *_packages(),
        *_mixed_packages(),
        _onnx_runtime("cpu"),
        _onnx_runtime("cpu", fused=True),
        _onnx_runtime("cuda"),
        _onnx_runtime("tensorrt"),
        _onnx_runtime("tensorrt-rtx"),
        *(_engine_library(library, name) for library, name in BACKEND_OF.items()),
    ]


def summary(findings: Sequence[Finding]) -> list[str]:
    """Return the findings in a few lines: the backends that run here, and those that could, with the fix.

    A fix that several backends need stands there once.
    """
    backends = [finding for finding in findings if finding.kind == "backend"]
    runs = ", ".join(finding.name for finding in backends if finding.status == "ok") or "no backend"
    lines = [f"runs here: {runs}"]
    fixes: dict[str, list[str]] = {}
    for finding in backends:
        if finding.status == "missing":
            fixes.setdefault(finding.fix, []).append(finding.name)
    gpu = next((finding for finding in findings if finding.name == "gpu"), None)
    if fixes:
        needs = " with an NVIDIA GPU" if gpu and gpu.status != "ok" else ""
        lines.append(f"could run{needs}:")
        lines += [f"  {', '.join(names)} ({fix})" for fix, names in fixes.items()]
    if builds := [finding.name for finding in backends if finding.builds and finding.status != "ok"]:
        lines.append(f"builds engines here, and runs none: {', '.join(builds)}")
    lines += [f"BROKEN: {f.name}: {f.detail}. Fix: {f.fix}" for f in findings if f.status == "broken"]
    return lines


def _machine() -> Finding:
    return Finding(
        kind="machine",
        name="machine",
        status="ok",
        detail=(
            f"{platform.machine()} {platform.system()} {platform.release()}, "
            f"Python {platform.python_version()}, numpy {np.__version__}, spoter-kit {__version__}"
        ),
    )


def _jetpack(release: Path = Path("/etc/nv_tegra_release")) -> list[Finding]:
    """Return a line about a Jetson's JetPack; none on another machine."""
    from spoter_runtime.trt.versions import jetpack_of

    try:
        found = jetpack_of(release.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []
    if found is None:
        return []
    detail = (
        f"JetPack {found.name} or a later one of its series: Python {found.python}, CUDA {found.cuda}, "
        f"TensorRT {found.tensorrt}; {found.advice}"
    )
    return [Finding(kind="machine", name="jetpack", status="ok", detail=detail)]


def _gpu() -> Finding:
    # Not at the top, here and below: `import spoter_runtime` imports this file, and a CPU needs none of it.
    from spoter_runtime.gpu.device import find_gpu

    try:
        gpu = find_gpu()
    except SpoterError as error:
        return _failure("machine", "gpu", "missing", error)
    except Exception as error:  # noqa: BLE001  (as below: doctor shows what is broken)
        return _failure("machine", "gpu", "broken", error)
    return Finding(
        kind="machine",
        name="gpu",
        status="ok",
        detail=(
            f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_bytes / 2**30:.1f} GiB, "
            f"driver for CUDA {gpu.driver_cuda}"
        ),
    )


def _packages() -> list[Finding]:
    import importlib.metadata

    findings = []
    for extra, names in _EXTRAS.items():
        for name in names:
            try:
                version = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                # Beside another build it would overwrite its files.
                fix = gpu_build_fix() if extra == "gpu" else pip_fix(extra)
                detail = f"not installed; the {extra} extra needs it, the runtime does not"
                findings.append(Finding(kind="package", name=name, status="missing", detail=detail, fix=fix))
            else:
                findings.append(Finding(kind="package", name=name, status="ok", detail=version))
    return findings


def _mixed_packages() -> list[Finding]:
    from spoter_runtime.gpu.packages import mixed_cuda_packages

    try:
        problems = mixed_cuda_packages()
    except Exception as error:  # noqa: BLE001  (metadata that nobody foresaw must not hide the rest)
        return [_failure("package", "cuda", "broken", error)]
    return [_failure("package", "cuda", "broken", problem) for problem in problems]


def _onnx_runtime(provider: Provider, *, fused: bool = False) -> Finding:
    name = FUSED if fused else f"ort-{provider}"
    installed = ", ".join(f"{name} {version}" for name, version in installed_distributions().items())
    status: _Status = "broken" if installed else "missing"
    try:
        ort = import_onnxruntime(provider)
        if provider == "cpu":
            content = _ATTENTION_ONNX if fused else _SQUARE_ONNX
            session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
        else:
            from spoter_runtime.model_file.graph import read_onnx
            from spoter_runtime.ort.gpu_session import check_driver, check_installed, gpu_session

            status = "missing"
            check_installed(ort, provider)
            check_driver(provider)
            status = "broken"
            options = ort.SessionOptions()
            options.log_severity_level = 3
            graph = read_onnx(_SQUARE_ONNX)
            session = gpu_session(ort, _SQUARE_ONNX, graph, options, provider, where="a graph of one node")
        x = np.array([[[1] * 4, [2] * 4]] if fused else [1], np.float32)
        (y,) = session.run(None, {"x": x})
        if (y != 1).any():
            if fused:
                raise BackendError(
                    f"{installed}: attends to padding", fix="pip install --upgrade onnxruntime"
                )
            raise BackendError(f"{installed}: 1·1 is {y[0]}")
    except SpoterError as error:
        return _failure("backend", name, status, error)
    except Exception as error:  # noqa: BLE001  (a broken install can fail in any way; doctor must show it)
        if fused:  # the graph of one Mul tells whether it works at all
            reason = BackendError(
                f"{installed}: runs no Attention of opset 24", fix="pip install --upgrade onnxruntime"
            )
            return _failure("backend", name, "missing", reason)
        return Finding(
            kind="backend",
            name=name,
            status="broken",
            detail=f"{installed}: {type(error).__name__}: {error}",
            fix=f"pip install --force-reinstall --no-deps {' '.join(installed_distributions())}",
        )
    return Finding(kind="backend", name=name, status="ok", detail=f"{installed}; a graph was run on it")


def _engine_library(library: Library, name: str) -> Finding:
    from spoter_runtime.gpu.device import find_gpu
    from spoter_runtime.gpu.packages import import_engine_library
    from spoter_runtime.trt.versions import abilities

    try:
        module = import_engine_library(library)
        abilities(library, getattr(module, "__version__", "0"))
    except MissingExtraError as error:
        return _failure("backend", name, "missing", error, builds=False)
    except Exception as error:  # noqa: BLE001  (see above)
        return _failure("backend", name, "broken", error, builds=False)
    what = f"{library} {getattr(module, '__version__', 'of no version')}"
    try:
        gpu = find_gpu()
    except Exception as error:  # noqa: BLE001  (see above)
        builds = library == "tensorrt_rtx" and _builds(module)  # the other one needs a GPU to build, too
        does = "builds engines, runs none" if builds else "neither builds engines nor runs them"
        finding = _failure("backend", name, "missing", error, builds=builds)
        return replace(finding, detail=f"{what}; {does}: {finding.detail}")
    builds = _builds(module)
    does = "builds engines" if builds else "builds no engines"
    detail = f"{what}; {does}; loads, for {gpu.name}; none was run"
    return Finding(kind="backend", name=name, status="ok", detail=detail, builds=builds)


def _builds(module: Any) -> bool:
    try:
        return module.Builder(module.Logger(module.Logger.ERROR)) is not None
    except Exception:  # noqa: BLE001  (a half of the library, or no CUDA: whatever it is, nothing is built)
        return False


def _failure(
    kind: _Kind,
    name: str,
    status: _Status,
    error: Exception,
    *,
    builds: bool | None = None,
) -> Finding:
    """Return an error as a finding."""
    if isinstance(error, SpoterError):
        detail, fix = error.message, error.fix
    else:
        detail, fix = f"{type(error).__name__}: {error}", ""
    return Finding(kind=kind, name=name, status=status, detail=detail.rstrip("."), fix=fix, builds=builds)
