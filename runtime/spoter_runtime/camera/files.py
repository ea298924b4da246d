"""The landmarker's folder: its ONNX files, their hashes, and where it lies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from spoter_runtime.errors import BundleError
from spoter_runtime.files import cache_folder

MANIFEST: Final = "landmarker.json"
GOLDENS: Final = "goldens.npz"
SCHEMA_VERSION: Final = 1
GRAPHS: Final = ("pose_detection", "pose", "recrop", "hand")


@dataclass(frozen=True, slots=True, kw_only=True)
class LandmarkerFiles:
    """A landmarker folder whose manifest has been read; its files are hashed when they are used.

    Attributes:
        folder: where they lie.
        sha256: names this landmarker: a hash of the hashes of its graphs. It travels with what it found.
        hashes: file name → sha256, of each file but the manifest.
        source: where the networks are from, for people.
    """

    folder: Path
    sha256: str
    hashes: dict[str, str]
    source: str


def landmarker_folder() -> Path:
    """Return where `spoter-kit landmarker fetch` puts the landmarker, in the user's cache."""
    return cache_folder() / "landmarker"


def read_landmarker(folder: Path | str | None = None) -> LandmarkerFiles:
    """Return what a landmarker folder says of itself.

    Args:
        folder: None means `landmarker_folder()`.

    Raises:
        BundleError: there is none, or its manifest is damaged or of a newer schema.
    """
    folder = landmarker_folder() if folder is None else Path(folder)
    manifest = folder / MANIFEST
    try:
        value = json.loads(manifest.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{folder}: no landmarker there", fix="spoter-kit landmarker fetch") from None
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{manifest}: cannot be read: {error}", fix="spoter-kit landmarker fetch"
        ) from error
    return _checked(folder, manifest, value)


def _checked(folder: Path, manifest: Path, value: Any) -> LandmarkerFiles:
    try:
        version = value["schema_version"]
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{manifest}: schema {version}, this version reads {SCHEMA_VERSION}",
                fix="spoter-kit landmarker fetch --force",
            )
        hashes = {str(name): str(digest) for name, digest in value["files"].items()}
        missing = {f"{name}.onnx" for name in GRAPHS} - hashes.keys()
        if missing:
            raise BundleError(f"{manifest}: does not list {', '.join(sorted(missing))}")
        return LandmarkerFiles(
            folder=folder, sha256=str(value["sha256"]), hashes=hashes, source=str(value["source"])
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{manifest}: is damaged: {error!r}", fix="spoter-kit landmarker fetch") from error
