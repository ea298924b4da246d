"""What `tune` has found for a bundle on this machine, kept in a small file that `Recognizer.load` reads.

The file lies in the cache folder, not in the bundle: a bundle travels, what is fastest does not.
"""

from __future__ import annotations

import json
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from spoter_runtime.bundle.manifest import Bundle
from spoter_runtime.errors import BackendError, SpoterError
from spoter_runtime.files import cache_folder, write_json
from spoter_runtime.machine import cpu_features, cpu_model, usable_cores
from spoter_runtime.ort.execution import ON_CPU, ExecutionConfig, prepared_path
from spoter_runtime.ort.installed import installed_distributions

SCHEMA: Final = 1
Situation = Literal["one", "many"]
SITUATIONS: Final[tuple[Situation, ...]] = ("one", "many")


@dataclass(slots=True, kw_only=True)
class Tuned:
    """The fastest way for each situation that was found, in one precision.

    Attributes:
        ways: situation → way.
        because: situation → what was measured, in words.
        wrong: backend → what its answers were here, where they are not the bundle's.
        measured: every way with its samples, or why it was refused; empty where it was read.
    """

    configs: dict[str, ExecutionConfig]
    reasons: dict[str, str]
    rejected: dict[str, str] = field(default_factory=dict)
    measured: list[dict[str, Any]] = field(default_factory=list, compare=False)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values, by the names of the file's format."""
        return {
            "ways": {situation: config.as_json() for situation, config in self.configs.items()},
            "because": self.reasons,
            "wrong": self.rejected,
            "measured": self.measured,
        }


def this_machine() -> dict[str, Any]:
    """Return what the speed of a session depends on."""
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "features": cpu_features(),
        "cores": usable_cores(),
        "onnxruntime": dict(sorted(installed_distributions().items())),
    }


def tuned_path(bundle: Bundle, precision: str) -> Path:
    """Return where a bundle's file lies; it is named after the bundle's ONNX files."""
    digest = bundle.onnx(precision).sha256[:16]
    return cache_folder() / "tuned" / f"{bundle.name}-{precision}-{digest}.json"


def write_tuned(bundle: Bundle, precision: str, tuned: Tuned) -> Path:
    """Write what was found, atomically; return the path. What was prepared before and is not now is removed.

    Raises:
        BackendError: the disk is full, or the cache folder is read-only.
    """
    path = tuned_path(bundle, precision)
    before = _prepared_of(path)
    content = {
        "schema_version": SCHEMA,
        "machine": this_machine(),
        "files": _files(bundle, precision),
    } | tuned.as_json()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
    except OSError as error:
        raise cannot_keep(error) from error
    for sha256 in before - {config.prepared for config in tuned.configs.values()}:
        prepared_path(sha256).unlink(missing_ok=True)
    return path


def cannot_keep(error: OSError) -> BackendError:
    """Return the error that what is found cannot be kept here."""
    return BackendError(
        f"{cache_folder()}: cannot be written to ({error.strerror}), and what is found is kept there",
        fix="XDG_CACHE_HOME=FOLDER in the environment, of tuning and of recognising",
    )


def _prepared_of(path: Path) -> set[str]:
    """Return what the file of an earlier tuning has prepared; nothing where there is none of ours."""
    try:
        configs = json.loads(path.read_text(encoding="utf-8"))["ways"]
        found = {config["prepared"] for config in configs.values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()
    return {sha256 for sha256 in found if _is_sha256(sha256)}


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def read_tuned(bundle: Bundle, precision: str) -> Tuned | None:
    """Return what was found for a bundle on this machine; None where nothing was.

    Raises:
        BackendError: the file cannot be used: damaged, of another machine, another version of ONNX Runtime or
            another bundle; the message says what to do.
    """
    path = tuned_path(bundle, precision)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # Not before it is known that there is a file: looking at the machine takes a start milliseconds.
        expected = {"schema_version": SCHEMA, "machine": this_machine(), "files": _files(bundle, precision)}
        foreign = [_difference(key, content[key], of) for key, of in expected.items() if content[key] != of]
        if not foreign:
            configs = {situation: _config(config) for situation, config in content["ways"].items()}
            if not configs.keys() <= set(SITUATIONS):
                raise ValueError(f"situations {', '.join(configs)}")
            rejected = {str(backend): str(answers) for backend, answers in content["wrong"].items()}
            return Tuned(configs=configs, reasons=dict(content["because"]), rejected=rejected)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unusable(path, bundle, f"cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, BackendError) as error:
        raise _unusable(path, bundle, f"is not what tune writes: {error!r}") from error
    raise _unusable(path, bundle, foreign[0])


def _config(value: dict[str, Any]) -> ExecutionConfig:
    """Return a configuration that `ExecutionConfig.as_json` gave, checked against this machine.

    Raises:
        KeyError, TypeError, ValueError, BackendError: it is another.
    """
    config = ExecutionConfig.from_json(value)
    if config.backend not in ON_CPU:
        raise ValueError(f"backend {config.backend!r}")
    if config.prepared != "" and not _is_sha256(config.prepared):
        raise ValueError(f"prepared {config.prepared!r}")
    if (config.session.threads or 1) > usable_cores() or config.workers > usable_cores():
        raise ValueError(f"more threads than the {usable_cores()} cores here")
    return config


def _files(bundle: Bundle, precision: str) -> dict[str, str]:
    kinds = ("onnx", "ort")
    found = (bundle.by_precision(kind).get(precision) for kind in kinds)
    return {artefact.path: artefact.sha256 for artefact in found if artefact is not None}


def _difference(key: str, found: Any, expected: Any) -> str:
    if key != "machine" or not isinstance(found, dict):
        what = {"schema_version": "of another version", "files": "of another bundle"}.get(key, "damaged")
        return f"is {what}"
    changed = [name for name in expected if found.get(name) != expected[name]]
    return "is of another machine: " + "; ".join(
        f"{name} was {found.get(name)}, here it is {expected[name]}" for name in changed
    )


def _unusable(path: Path, bundle: Bundle, reason: str) -> SpoterError:
    return BackendError(
        f"{path}: {reason}; it is left aside", fix=f"python -m spoter_runtime tune {bundle.folder}"
    )
