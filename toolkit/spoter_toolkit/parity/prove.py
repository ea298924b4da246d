"""Prove a bundle on every backend that runs here, and say why the others do not."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spoter_export.bundle.files import proofs_from_json
from spoter_export.parity.compare import Remembering, WeightFact
from spoter_export.parity.judge import POLICIES, Policy, Proof, policies_from_table, prove
from spoter_export.parity.perturbations import robustness_rows
from spoter_export.probes import GOLDENS, ClipSet, grid_points
from spoter_runtime._types import OnProgress
from spoter_runtime.bundle.manifest import PARITY, Artefact, Bundle, read_bundle
from spoter_runtime.errors import BackendError, BundleError, ConfigError, DataError, SpoterError
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.runner import Runner
from spoter_toolkit.backends import (
    CPU_BACKENDS,
    TORCH_BACKENDS,
    backends_of,
    open_backend,
    split_backend,
)
from spoter_toolkit.input_files import PARITY_FACTS, json_of, text_of
from spoter_toolkit.reference import open_reference

if TYPE_CHECKING:
    from spoter_export.diagnose.chain import Link

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_policies(path: Path | None) -> dict[str, Policy]:
    """Read thresholds by precision from a TOML file; None gives those of this project.

    Raises:
        DataError: no such file, or it cannot be read.
        ConfigError: not TOML, an unknown precision or key, or a value that is no threshold.
    """
    if path is None:
        return dict(POLICIES)
    text = text_of(path, expected="TOML with thresholds", fix="write a table, such as [fp32]")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path}: is no TOML ({error}), expected thresholds", fix="write a table, such as [fp32]"
        ) from error
    return policies_from_table(table, where=str(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredParity:
    """What a parity run has written, its facts judged again.

    Attributes:
        name: of the bundle; None where the file does not say.
        proofs: the facts, and what the policies say of them.
        not_run: backend → why it was not executed.
        links: backend → its chain from torch, for those that failed then.
        bisected: backend → what bisecting found then, as `Divergence.as_json` or in words.
    """

    name: str | None
    proofs: list[Proof]
    not_run: dict[str, str]
    links: dict[str, tuple[Link, ...]]
    bisected: dict[str, Any]


def judge_again(path: Path, policies: Mapping[str, Policy], bundle: Bundle | None = None) -> StoredParity:
    """Judge stored facts by other thresholds; nothing is run.

    Args:
        path: what ``parity -o`` wrote, a bundle's parity.json, or a BUNDLE, for its own.
        policies: thresholds by precision.
        bundle: that the facts are said to be of; None takes them as they are, or the bundle at `path`.

    Raises:
        BundleError: `path` is a folder and no bundle.
        DataError: no such file, one of another kind or schema, or facts of another bundle.
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
            _check_stored(proof, bundle, where=str(path))
            robustness_rows(proof.facts)  # what is shown of it later has to be there as well
        return StoredParity(
            name=bundle.name if bundle else content.get("name"),
            proofs=[proof.judged_by(policies[proof.precision]) for proof in proofs],
            not_run=dict(content.get("not_run", {})),
            links={backend: _stored_links(rows) for backend, rows in content.get("blame", {}).items()},
            bisected=dict(content.get("bisect", {})),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{path}: is not what spoter-kit writes: {type(error).__name__}: {error}",
            fix="run parity again with -o",
        ) from error


def _stored_links(rows: Sequence[dict[str, Any]]) -> tuple[Link, ...]:
    from spoter_export.diagnose.chain import Link  # not at the top: it imports torch

    return tuple(Link(**row) for row in rows)


def _check_stored(proof: Proof, bundle: Bundle | None, *, where: str) -> None:
    """Check that facts are complete, and of this bundle.

    Raises:
        DataError: they are not.
    """
    artefacts = {artefact.path: artefact for artefact in bundle.artefacts} if bundle else {}
    artefact = artefacts.get(proof.artefact)
    if bundle and (artefact is None or artefact.sha256 != proof.sha256):
        raise DataError(
            f"{where}: facts of another bundle: {proof.artefact} is {proof.sha256[:12]}… there, "
            f"{artefact.sha256[:12] if artefact else 'not listed'}… in {bundle.folder}"
        )
    if artefact is not None and artefact.precision != proof.precision:
        raise DataError(
            f"{where}: {proof.artefact} in {proof.precision}, the bundle says {artefact.precision}"
        )
    facts = proof.facts
    parts = {
        "shape of the grid": facts.grid,
        "clip": facts.clips,
        "change that must not matter": facts.invariance,
    }
    for what, found in parts.items():
        if not found:
            raise DataError(f"{where}: {proof.artefact}: no {what} was run", fix="run parity again with -o")
    for group in facts.clips:
        if not group.clips and group.error is None:
            raise DataError(
                f"{where}: {proof.artefact}: no clip of {group.where} is there",
                fix="run parity again with -o",
            )
        for clip in group.clips:
            numbers = (clip.max_logit_diff, clip.reference_margin, clip.candidate_margin)
            if not all(isinstance(number, float | int) for number in numbers):
                raise DataError(f"{where}: {proof.artefact}: {clip.name}: expected numbers, got {numbers}")
    if bundle and len(facts.grid) < (claimed := len(grid_points(bundle.contract))):
        raise DataError(
            f"{where}: {proof.artefact}: {len(facts.grid)} shapes of the grid, the bundle claims {claimed}",
            fix="run parity again with -o",
        )


def check_candidates(names: Sequence[str]) -> None:
    """Check that backends are known, and are none that the others are compared with.

    Raises:
        ConfigError: one is not.
    """
    for name in names:
        split_backend(name)
    if "torch" in names:
        raise ConfigError("--backend torch: is what the others are compared with", fix="name another backend")


def prove_backends(
    bundle: Bundle,
    run: Path,
    clips: ClipSet | None = None,
    *,
    backends: Sequence[str] | None = None,
    policies: Mapping[str, Policy] = POLICIES,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> tuple[list[Proof], dict[str, str]]:
    """Compare backends with torch on the CPU.

    Args:
        bundle: from `read_bundle`.
        run: the RUN that the bundle was made from.
        clips: of people, to compare on besides the generated ones and the bundle's goldens.
        backends: names as `open_backend` takes them; each of these has to run. None takes every backend of
            the device in every precision that the bundle has.
        policies: thresholds by precision.
        seed: of the generated clips.
        on_progress: called with (done, total, what).

    Returns:
        A proof for each backend that runs here, and for each of the others the reason.

    Raises:
        ConfigError: an unknown backend, or torch, the reference.
        BackendError: none was named, and none can be opened here.
        SpoterError: a backend that was named cannot be opened here.
    """
    names = (
        [name for name in backends_of(bundle) if name not in TORCH_BACKENDS]
        if backends is None
        else list(backends)
    )
    check_candidates(names)
    reference = Remembering(open_reference(bundle, run))
    sets = [*([clips] if clips else []), _goldens(bundle)]
    proofs = []
    not_run = {}
    for name in names:
        try:
            opened = open_backend(name, bundle, run=run)
        except SpoterError as error:
            if backends is not None:
                raise
            not_run[name] = str(error)
            continue
        artefact = opened.artefact or bundle.onnx()
        with _as_proven(name, opened.runner, artefact, bundle) as runner:
            proofs.append(
                prove(
                    reference,
                    runner,
                    artefact,
                    sets,
                    policy=policies[artefact.precision],
                    seed=seed,
                    on_gpu=split_backend(name)[0] not in CPU_BACKENDS,
                    weights=_weights(bundle, artefact),
                    on_progress=on_progress,
                )
            )
    if not proofs:
        reasons = "\n".join(f"  {name}: {why}" for name, why in not_run.items())
        raise BackendError(f"{bundle.folder}: no backend runs here, so nothing was compared:\n{reasons}")
    return proofs, not_run


def _as_proven(name: str, runner: Runner, artefact: Artefact, bundle: Bundle) -> Runner:
    """Return what stands for a backend: the CPU provider keeps most of fp16's tensors in fp32.

    It would hide what a GPU meets, so every tensor is rounded, as in the proof that the bundle brings.
    """
    if split_backend(name) != ("ort-cpu", "fp16"):
        return runner
    import onnx

    from spoter_export.precision.fp16 import ROUNDED, rounded_from_fp16

    runner.close()
    rounded = rounded_from_fp16(onnx.load_from_string(bundle.read(artefact.path)))
    return OrtRunner(rounded.SerializeToString(), name=ROUNDED)


def _weights(bundle: Bundle, artefact: Artefact) -> tuple[WeightFact, ...]:
    """Return how the weights of an int8 file stand to those of the fp32 file of its kind."""
    if artefact.precision != "int8":
        return ()
    import onnx

    from spoter_export.precision.int8 import weight_facts

    files = artefact, bundle.by_precision(artefact.kind)["fp32"]
    return weight_facts(*(onnx.load_from_string(bundle.read(file.path)) for file in files))


def _goldens(bundle: Bundle) -> ClipSet:
    return ClipSet(source=GOLDENS, clips=bundle.goldens().clips())
