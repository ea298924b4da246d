"""Say what is installed, which backends really run here, and how to get what is missing."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from spoter_runtime._version import __version__
from spoter_runtime.errors import SpoterError
from spoter_runtime.ort import import_onnxruntime, installed_distributions

# Extra → the distributions it brings and the module names that need them.
_EXTRAS: Final[dict[str, tuple[str, ...]]] = {
    "export": ("torch", "onnx", "onnxscript"),
    "toolkit": ("typer", "rich", "accelerate", "safetensors", "matplotlib"),
}

# A graph of one Identity node (opset 20), serialised: small enough to carry, real enough to run.
_IDENTITY_ONNX: Final = bytes.fromhex(
    "080a3a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a02"
    "0801620f0a0179120a0a08080112040a02080142040a001014"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the diagnosis. `fix` is a command to paste, empty where nothing is wrong."""

    kind: Literal["machine", "package", "backend"]
    name: str
    status: Literal["ok", "missing", "broken"]
    detail: str
    fix: str = ""


def diagnose() -> list[Finding]:
    """Look at this machine: Python, packages by extra, and every backend by running a graph on it."""
    return [_machine(), *_packages(), _ort_cpu()]


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


def _packages() -> list[Finding]:
    findings = []
    for extra, names in _EXTRAS.items():
        for name in names:
            try:
                version = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                findings.append(
                    Finding(
                        kind="package",
                        name=name,
                        status="missing",
                        detail=f"not installed; the {extra} extra needs it, the runtime does not",
                        fix=f"pip install 'spoter-kit[{extra}]'",
                    )
                )
            else:
                findings.append(Finding(kind="package", name=name, status="ok", detail=version))
    return findings


def _ort_cpu() -> Finding:
    installed = ", ".join(f"{name} {version}" for name, version in installed_distributions().items())
    try:
        ort = import_onnxruntime()
        session = ort.InferenceSession(_IDENTITY_ONNX, providers=["CPUExecutionProvider"])
        session.run(None, {"x": np.ones(1, np.float32)})
    except SpoterError as error:
        message, _, fix = str(error).partition(" Fix: ")
        status: Literal["broken", "missing"] = "broken" if installed else "missing"
        return Finding(kind="backend", name="ort-cpu", status=status, detail=message, fix=fix)
    except Exception as error:  # noqa: BLE001  (a broken install can fail in any way; doctor must show it)
        return Finding(
            kind="backend",
            name="ort-cpu",
            status="broken",
            detail=f"{installed}: {type(error).__name__}: {error}",
            fix="pip install --force-reinstall 'spoter-kit[cpu]'",
        )
    return Finding(kind="backend", name="ort-cpu", status="ok", detail=f"{installed}; a graph was run on it")
