"""Store the result of `tune` for a bundle on this machine, in a small file that `Recognizer.load` reads.

The file is in the cache folder, not in the bundle: a bundle travels to other machines, the result must not.
"""

from __future__ import annotations

import contextlib
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
from spoter_runtime.strict import expect, read_json

SCHEMA: Final = 1
_MOST_BYTES: Final = 1 << 24  # of the file; it holds the samples of every configuration
Situation = Literal["one", "many"]
SITUATIONS: Final[tuple[Situation, ...]] = ("one", "many")


@dataclass(slots=True, kw_only=True)
class Tuned:
    """The fastest configuration for one clip and for many, in one precision.

    Attributes:
        configs: situation → configuration.
        reasons: situation → the measured times, in words.
        rejected: backend → why it failed the golden test here.
        measured: every configuration with its samples or the reason of its refusal; empty if read from the
            file.
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
    """Return the facts of this machine that the speed of a session depends on."""
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "features": cpu_features(),
        "cores": usable_cores(),
        "onnxruntime": dict(sorted(installed_distributions().items())),
    }


def tuned_path(bundle: Bundle, precision: str) -> Path:
    """Return the path of a bundle's file; its name has a part of the ONNX file's hash."""
    digest = bundle.onnx(precision).sha256[:16]
    return cache_folder() / "tuned" / f"{bundle.name}-{precision}-{digest}.json"


def write_tuned(bundle: Bundle, precision: str, tuned: Tuned) -> Path:
    """Write the result of `tune` atomically; return the path.

    Deletes optimised files that no result needs: of the previous tuning, and of one that was killed.

    Raises:
        BackendError: the disk is full, or the cache folder is read-only.
    """
    path = tuned_path(bundle, precision)
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
    _sweep(path.parent)
    return path


def _sweep(folder: Path) -> None:
    """Delete the optimised files that no result names.

    A concurrent `tune` that has not written its result yet may lose one: its bundle then loads without it.
    """
    needed = {prepared_path(sha256) for result in folder.glob("*.json") for sha256 in _prepared_of(result)}
    for left in set(folder.glob("*.onnx")) - needed:
        with contextlib.suppress(OSError):  # it costs space, and nothing else
            left.unlink()


def cannot_keep(error: OSError) -> BackendError:
    """Return the error for a cache folder that cannot be written to."""
    return BackendError(
        f"{cache_folder()}: cannot be written to ({error.strerror}), and tune keeps its result there",
        fix="XDG_CACHE_HOME=FOLDER in the environment, of tuning and of recognising",
    )


def _prepared_of(path: Path) -> set[str]:
    """Return the hashes of the optimised files of an earlier tuning; empty without a valid file."""
    try:
        configs = read_json(path, most_bytes=_MOST_BYTES)["ways"]
        found = {config["prepared"] for config in configs.values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    return {sha256 for sha256 in found if _is_sha256(sha256)}


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def read_tuned(bundle: Bundle, precision: str) -> Tuned | None:
    """Return the result of `tune` for a bundle on this machine; None if it was not tuned.

    Raises:
        BackendError: the file is damaged, or of another machine, version of ONNX Runtime or bundle.
    """
    path = tuned_path(bundle, precision)
    try:
        content = read_json(path, most_bytes=_MOST_BYTES)
        # Only if there is a file: examining the machine takes milliseconds of a start.
        expected = {"schema_version": SCHEMA, "machine": this_machine(), "files": _files(bundle, precision)}
        foreign = [_difference(key, content[key], of) for key, of in expected.items() if content[key] != of]
        if not foreign:
            configs = {situation: _config(config) for situation, config in content["ways"].items()}
            if not configs.keys() <= set(SITUATIONS):
                raise ValueError(f"situations {', '.join(configs)}")
            reasons, rejected = (expect(content[name], dict[str, str], name) for name in ("because", "wrong"))
            return Tuned(configs=configs, reasons=reasons, rejected=rejected)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unusable(path, bundle, f"cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, BackendError) as error:
        raise _unusable(path, bundle, f"is not what tune writes: {error!r}") from error
    raise _unusable(path, bundle, foreign[0])


def _config(value: dict[str, Any]) -> ExecutionConfig:
    """Return a configuration from `ExecutionConfig.as_json`, checked against this machine.

    Raises:
        KeyError, TypeError, ValueError, BackendError: malformed, or not for this machine.
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
