"""Write the files that describe a bundle: parity.json, the model card, the manifest. Needs no torch."""

from __future__ import annotations

import getpass
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from spoter_export.bundle.model_card import card_from_facts
from spoter_export.parity.proof import Proof
from spoter_runtime._types import OnProgress
from spoter_runtime.bundle.manifest import (
    GOLDENS,
    MANIFEST,
    MODEL_CARD,
    PARITY,
    STREAM,
    STREAM_ANSWERS,
    Artefact,
    Bundle,
    manifest_from_bundle,
)
from spoter_runtime.camera.files import BUNDLED
from spoter_runtime.contract import GraphContract
from spoter_runtime.decision import Abstention
from spoter_runtime.errors import BundleError, ExportError, require
from spoter_runtime.files import check_replaceable, recover, sha256_of, write_json, write_text
from spoter_runtime.strict import expect, json_from_text, shown

PARITY_SCHEMA: Final = 4


@contextmanager
def bundle_lock(folder: Path, on_progress: OnProgress | None = None) -> Iterator[None]:
    """Lock a bundle, so that one process at a time changes it; first clean up after killed processes."""
    filelock = require("filelock", extra="export")
    lock = lock_of(folder)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if on_progress:
            on_progress(0, 0, f"waiting for another process that changes {folder.name}")
        lock.acquire()
    try:
        recover(Path(os.path.realpath(folder)))
        yield
    finally:
        lock.release()


def lock_of(folder: Path) -> Any:
    """Return the `filelock.FileLock` of a folder; the system releases it when the process ends."""
    filelock = require("filelock", extra="export")
    # In the cache folder: one lock for all names of the folder, and no file of ours among the user's.
    name = hashlib.sha256(os.path.realpath(folder).encode()).hexdigest()[:16]
    locks = Path(tempfile.gettempdir()) / f"spoter-kit-{getpass.getuser()}"
    locks.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(locks / f"{name}.lock")


def check_bundle_folder(folder: Path, *, force: bool) -> None:
    """Raise an ExportError if the folder exists; `force` allows to replace a bundle, and nothing else."""
    check_replaceable(folder, MANIFEST, force=force, foreign="is no bundle", error=ExportError)


def describe_bundle(
    folder: Path,
    *,
    name: str,
    contract: GraphContract,
    artefacts: Sequence[Artefact],
    proofs: Sequence[Proof],
    provenance: dict[str, Any],
    abstention: Abstention | None = None,
) -> None:
    """Write parity.json, MODEL_CARD.md and bundle.json into a folder that has all other files."""
    write_json(folder / PARITY, proofs_json(proofs))
    try:
        card = card_from_facts(name, contract, artefacts, proofs, provenance, abstention)
    except (
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
    ) as error:  # of a bundle that somebody else sealed
        raise BundleError(f"{folder}: its provenance is not what spoter-kit writes: {error!r}") from error
    write_text(folder / MODEL_CARD, card)
    bundle = Bundle(
        folder=folder,
        name=name,
        contract=contract,
        artefacts=tuple(artefacts),
        files={file: sha256_of(folder / file) for file in (GOLDENS, PARITY, MODEL_CARD, *_optional(folder))},
        provenance=provenance,
        abstention=abstention,
    )
    write_json(folder / MANIFEST, manifest_from_bundle(bundle))


def _optional(folder: Path) -> list[str]:
    """Return the files of the golden stream and of the landmarker in a bundle, where it has them."""
    stream = [name for name in (STREAM, STREAM_ANSWERS) if (folder / name).is_file()]
    return stream + sorted(file.relative_to(folder).as_posix() for file in (folder / BUNDLED).glob("*"))


def proofs_json(proofs: Sequence[Proof]) -> dict[str, Any]:
    """Return the content of parity.json."""
    return {"schema_version": PARITY_SCHEMA, "proofs": [proof.as_json() for proof in proofs]}


def read_proofs(bundle: Bundle) -> tuple[Proof, ...]:
    """Read a bundle's parity.json.

    Raises:
        BundleError: the file is damaged, of another schema, or not a list of proofs.
    """
    where = str(bundle.folder / PARITY)
    try:
        content = json_from_text(bundle.read(PARITY))
    except ValueError as error:
        raise BundleError(f"{where}: is no JSON: {error}") from error
    return proofs_from_json(content, where=where)


def proofs_from_json(content: Any, *, where: str) -> tuple[Proof, ...]:
    """Read what `proofs_json` returned.

    Raises:
        BundleError: another schema, or not a list of proofs; `where` names the source.
    """
    try:
        version = expect(content, dict[str, Any], "").get("schema_version")
        if version != PARITY_SCHEMA:
            raise BundleError(
                f"{where}: schema version {shown(version)}, this spoter-kit reads {PARITY_SCHEMA}",
                fix="export the bundle again",
            )
        if not (proofs := expect(content.get("proofs"), list[Any], "proofs")):
            raise BundleError(f"{where}: there is no proof in it", fix="run parity again with -o")
        return tuple(Proof.from_json(proof) for proof in proofs)
    except ValueError as error:
        raise BundleError(f"{where}: is not what spoter-kit writes: {error}") from error
