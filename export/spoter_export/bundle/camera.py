"""Put the landmarker into a bundle that is there already. Needs no torch and no onnx."""

from __future__ import annotations

import os
from pathlib import Path

from spoter_export.bundle.engines import replace_bundle
from spoter_export.bundle.files import bundle_lock
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.camera.files import (
    landmarker_in,
    read_landmarker,
    trained_on,
    warn_of_other_landmarker,
)
from spoter_runtime.errors import ExportError


def add_landmarker(folder: Path, force: bool = False) -> str:
    """Put the landmarker of the user's cache into a bundle, and return its sha256.

    Args:
        folder: the bundle.
        force: replace the landmarker that the bundle has.

    Raises:
        BundleError: no bundle or no landmarker, or a damaged one.
        ExportError: the bundle has a landmarker.
        OSError: the disk is full or read-only; the bundle is as it was.
    """
    files = read_landmarker()
    folder = Path(os.path.realpath(folder))  # replace the folder, not a link to it
    read_bundle(folder)  # before the lock: report a wrong name at once
    with bundle_lock(folder):
        bundle = read_bundle(folder)
        bundle.check_files()  # otherwise the new manifest would seal damaged files
        if landmarker_in(bundle) and not force:
            raise ExportError(f"{folder}: has a landmarker", fix="--force replaces it")
        warn_of_other_landmarker(trained_on(bundle.provenance), files.sha256, where=folder)
        replace_bundle(bundle, [], [], {}, landmarker=files)
    return files.sha256
