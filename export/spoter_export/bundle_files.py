"""The files that say what a bundle holds: parity.json, the model card, the manifest. No torch, no onnx."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from spoter_export.model_card import card_from_facts
from spoter_export.parity import Proof
from spoter_runtime.bundle import (
    GOLDENS,
    MANIFEST,
    MODEL_CARD,
    PARITY,
    Artefact,
    Bundle,
    manifest_from_bundle,
)
from spoter_runtime.contract import GraphContract
from spoter_runtime.errors import BundleError
from spoter_runtime.files import sha256_of, write_json, write_text

PARITY_SCHEMA: Final = 2


def describe_bundle(
    folder: Path,
    *,
    name: str,
    contract: GraphContract,
    artefacts: Sequence[Artefact],
    proofs: Sequence[Proof],
    provenance: dict[str, Any],
) -> None:
    """Write parity.json, MODEL_CARD.md and last bundle.json into a folder that has all other files."""
    write_json(folder / PARITY, proofs_json(proofs))
    write_text(folder / MODEL_CARD, card_from_facts(name, contract, artefacts, proofs, provenance))
    bundle = Bundle(
        folder=folder,
        name=name,
        contract=contract,
        artefacts=tuple(artefacts),
        files={file: sha256_of(folder / file) for file in (GOLDENS, PARITY, MODEL_CARD)},
        provenance=provenance,
    )
    write_json(folder / MANIFEST, manifest_from_bundle(bundle))


def proofs_json(proofs: Sequence[Proof]) -> dict[str, Any]:
    """Return what parity.json holds."""
    return {"schema_version": PARITY_SCHEMA, "proofs": [proof.as_json() for proof in proofs]}


def read_proofs(bundle: Bundle) -> tuple[Proof, ...]:
    """Read a bundle's parity.json.

    Raises:
        BundleError: the file is damaged, of another schema, or not a list of proofs.
    """
    where = bundle.folder / PARITY
    try:
        content = json.loads(bundle.read(PARITY))
        if content["schema_version"] != PARITY_SCHEMA:
            raise BundleError(
                f"{where}: schema version {content['schema_version']}, this spoter-kit reads "
                f"{PARITY_SCHEMA}. Fix: export the bundle again"
            )
        return tuple(Proof.from_json(proof) for proof in content["proofs"])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{where}: is not what spoter-kit writes: {error!r}") from error
