"""What `tune` has found for a bundle on this machine, kept in a small file that `Recognizer.load` reads.

The file lies in the cache folder, not in the bundle: a bundle travels, what is fastest does not.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from spoter_runtime.bundle import Bundle
from spoter_runtime.errors import BackendError, SpoterError
from spoter_runtime.files import cache_folder, write_json
from spoter_runtime.machine import cpu_model, usable_cores
from spoter_runtime.ort import SessionSettings, installed_distributions

SCHEMA: Final = 1
Situation = Literal["one", "many"]
SITUATIONS: Final[tuple[Situation, ...]] = ("one", "many")

MOST_CLIPS: Final = 8  # in a call, for many clips, where nothing was measured; more gain little


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to run a bundle.

    Attributes:
        backend: of `spoter_runtime.backends.BACKENDS`.
        session: how ONNX Runtime runs the file.
        prepared: sha256 of the file as ONNX Runtime has optimised it here, kept beside this; empty for none.
        workers: calls at the same time, for many clips.
        most_clips: in a call, for many clips.
    """

    backend: str
    session: SessionSettings
    prepared: str = ""
    workers: int = 1
    most_clips: int = 1

    def __str__(self) -> str:
        """Return it in words."""
        words = [self.backend, str(self.session)]
        if self.most_clips > 1 or self.workers > 1:
            words.append(f"{self.workers} at a time, up to {self.most_clips} clips a call")
        return ", ".join(words)


def way_for_many(backend: str, most_clips: int = MOST_CLIPS) -> Way:
    """Return a way for many clips: a call a core, each on one thread; as it is, what is taken untuned."""
    return Way(
        backend=backend,
        session=SessionSettings(threads=1),
        workers=usable_cores(),
        most_clips=most_clips,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The fastest way for each situation that was found, in one precision.

    Attributes:
        ways: situation → way.
        because: situation → what was measured, in words.
    """

    ways: dict[str, Way]
    because: dict[str, str]


def this_machine() -> dict[str, Any]:
    """Return what the speed of a session depends on."""
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "onnxruntime": dict(sorted(installed_distributions().items())),
    }


def prepared_path(sha256: str) -> Path:
    """Return where a file lies that ONNX Runtime has optimised for this machine."""
    return cache_folder() / "tuned" / f"{sha256[:32]}.onnx"


def read_prepared(sha256: str) -> bytes | None:
    """Return the bytes of such a file; None where they are gone, or are others."""
    try:
        content = prepared_path(sha256).read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def tuned_path(bundle: Bundle, precision: str) -> Path:
    """Return where a bundle's file lies; it is named after the bundle's ONNX files."""
    digest = bundle.onnx(precision).sha256[:16]
    return cache_folder() / "tuned" / f"{bundle.name}-{precision}-{digest}.json"


def write_tuned(bundle: Bundle, precision: str, tuned: Tuned, *, measured: list[dict[str, Any]]) -> Path:
    """Write what was found, atomically; return the path.

    Raises:
        OSError: the disk is full, or the cache folder is read-only.
    """
    path = tuned_path(bundle, precision)
    content = {
        "schema_version": SCHEMA,
        "machine": this_machine(),
        "files": _files(bundle, precision),
        "ways": {situation: asdict(way) for situation, way in tuned.ways.items()},
        "because": tuned.because,
        "measured": measured,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    return path


def read_tuned(bundle: Bundle, precision: str) -> Tuned | None:
    """Return what was found for a bundle on this machine; None where nothing was.

    Raises:
        BackendError: the file cannot be used: damaged, of another machine, another version of ONNX Runtime or
            another bundle; the message says what to do.
    """
    path = tuned_path(bundle, precision)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unusable(path, bundle, f"cannot be read: {error}") from error
    try:
        found = {key: content[key] for key in ("schema_version", "machine", "files")}
        expected = {"schema_version": SCHEMA, "machine": this_machine(), "files": _files(bundle, precision)}
        for key, value in expected.items():
            if found[key] != value:
                raise _unusable(path, bundle, _difference(key, found[key], value))
        ways = {situation: _way(way) for situation, way in content["ways"].items()}
        return Tuned(ways=ways, because=dict(content["because"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unusable(path, bundle, f"is not what tune writes: {error!r}") from error


def _way(value: dict[str, Any]) -> Way:
    session = dict(value["session"])
    session["without"] = tuple(session["without"])
    return Way(**(value | {"session": SessionSettings(**session)}))


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
        f"{path}: {reason}; it is left aside. Fix: python -m spoter_runtime tune {bundle.folder}"
    )
