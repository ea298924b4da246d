"""The result of a parity run: proofs, backends that did not run, and where a failed backend breaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spoter_export.bundle.files import proofs_from_json, proofs_json
from spoter_export.parity.policy import Policy
from spoter_export.parity.proof import Proof
from spoter_export.parity.report import robustness_rows
from spoter_export.probes import GENERATED, GOLDENS, ClipSet, grid_points
from spoter_runtime.bundle.manifest import PARITY, Bundle, read_bundle
from spoter_runtime.errors import BundleError, DataError
from spoter_runtime.strict import expect
from spoter_toolkit.input_files import PARITY_FACTS, json_of
from spoter_toolkit.parity.calibration import CalibrationCheck
from spoter_toolkit.report.words import without_places

if TYPE_CHECKING:
    from spoter_export.diagnose.chain import Link  # imports torch

_AGAIN = "run parity again with -o"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """Facts and verdicts of every backend that was compared with torch."""

    name: str  # the bundle's, or that of the file whose facts were judged
    bundle: Bundle | None  # None where it is not at hand
    proofs: tuple[Proof, ...]  # one for each file and backend that ran
    not_run: Mapping[str, str] = field(default_factory=dict)  # backend → why it was not executed
    # backend → its chain from torch, for each that failed
    chains: Mapping[str, tuple[Link, ...]] = field(default_factory=dict)
    # backend → `Divergence.as_json`, or a sentence where no tensor was found
    bisected: Mapping[str, Any] = field(default_factory=dict)
    clips: ClipSet | None = None  # of the data, as recorded; None where facts were read from a file
    calibration: tuple[CalibrationCheck, ...] = ()  # of each backend, where the bundle holds a calibration

    @property
    def passed(self) -> bool:
        """True where every proof holds, and every calibration."""
        return all(proof.verdict.passed for proof in self.proofs) and not any(
            check.failures for check in self.calibration
        )

    @property
    def of_people(self) -> bool:
        """True where clips of a data set were compared, besides the generated ones and the goldens."""
        return any(
            group.source not in (GENERATED, GOLDENS) for proof in self.proofs for group in proof.facts.clips
        )

    @property
    def divergences(self) -> dict[str, str]:
        """Backend → the sentence that says where it diverges, for each that was bisected."""
        return {
            name: found if isinstance(found, str) else found["says"] for name, found in self.bisected.items()
        }

    def judged_by(self, policies: Mapping[str, Policy]) -> ParityReport:
        """Return the same facts under other thresholds, by precision; nothing is run."""
        return replace(
            self, proofs=tuple(proof.judged_by(policies[proof.precision]) for proof in self.proofs)
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values, for `read_report`."""
        return proofs_json(self.proofs) | {
            "name": self.name,
            "passed": self.passed,
            "not_run": {name: without_places(why) for name, why in self.not_run.items()},
            "blame": {backend: [link.as_json() for link in chain] for backend, chain in self.chains.items()},
            "bisect": dict(self.bisected),
            "calibration": [check.as_json() for check in self.calibration],
        }


def read_report(path: Path, bundle: Bundle | None = None) -> ParityReport:
    """Return a stored report.

    Args:
        path: of a file that ``parity -o`` wrote, of a bundle's parity.json, or of a BUNDLE, for its own.
        bundle: the facts have to be of this one; None takes them as they are, or the bundle at `path`.

    Raises:
        BundleError: `path` is a folder and no bundle.
        DataError: no such file, one of another kind or schema, incomplete facts, or facts of another bundle.
    """
    if path.is_dir():
        own = read_bundle(path)
        bundle, path = bundle or own, path / PARITY
    content = json_of(path, PARITY_FACTS)
    try:
        proofs = proofs_from_json(content, where=str(path))
    except BundleError as error:
        raise DataError(error.message, fix=error.fix) from error
    try:
        for proof in proofs:
            check_complete(proof, bundle, where=str(path))
            robustness_rows(proof.facts)  # the pages show them later
        checks = expect(content.get("calibration", []), list[Any], "calibration")
        return ParityReport(
            name=bundle.name if bundle else expect(content.get("name", ""), str, "name") or path.stem,
            bundle=bundle,
            proofs=proofs,
            not_run=expect(content.get("not_run", {}), dict[str, str], "not_run"),
            chains={name: _chain(rows) for name, rows in _table(content, "blame").items()},
            bisected={name: _bisected(found) for name, found in _table(content, "bisect").items()},
            calibration=tuple(CalibrationCheck.from_json(one) for one in checks),
        )
    except ValueError as error:
        raise DataError(f"{path}: is not what spoter-kit writes: {error}", fix=_AGAIN) from error


def _table(content: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = expect(content.get(name, {}), dict[str, Any], name)
    return found


def _bisected(found: Any) -> Any:
    """Return a divergence, or the reason why there is none."""
    expect(found["says"] if isinstance(found, dict) and "says" in found else found, str, "bisect")
    return found


def _chain(rows: Any) -> tuple[Link, ...]:
    from spoter_export.diagnose.chain import Link  # not at the top: it imports torch

    chain: tuple[Link, ...] = expect(rows, tuple[Link, ...], "blame")
    return chain


def check_complete(proof: Proof, bundle: Bundle | None, *, where: str) -> None:
    """Check that a proof's facts are complete, and of a bundle where one is given.

    Raises:
        DataError: they are not.
    """
    if bundle:
        _check_of(proof, bundle, where=where)
    facts = proof.facts
    parts = {
        "shape of the grid": facts.grid,
        "clip": facts.clips,
        "change that must not matter": facts.invariance,
    }
    for part, found in parts.items():
        if not found:
            raise DataError(f"{where}: {proof.artefact}: no {part} was run", fix=_AGAIN)
    for group in facts.clips:
        if not group.clips and group.error is None:
            raise DataError(f"{where}: {proof.artefact}: no clip of {group.where} is there", fix=_AGAIN)
    if bundle and len(facts.grid) < (claimed := len(grid_points(bundle.contract))):
        raise DataError(
            f"{where}: {proof.artefact}: {len(facts.grid)} shapes of the grid, the bundle claims {claimed}",
            fix=_AGAIN,
        )


def _check_of(proof: Proof, bundle: Bundle, *, where: str) -> None:
    artefact = next((file for file in bundle.artefacts if file.path == proof.artefact), None)
    if artefact is None or artefact.sha256 != proof.sha256:
        raise DataError(
            f"{where}: facts of another bundle: {proof.artefact} is {proof.sha256[:12]}… there, "
            f"{artefact.sha256[:12] if artefact else 'not listed'}… in {bundle.folder}"
        )
    if artefact.precision != proof.precision:
        raise DataError(
            f"{where}: {proof.artefact} in {proof.precision}, the bundle says {artefact.precision}"
        )
