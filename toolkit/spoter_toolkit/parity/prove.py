"""Prove a bundle: compare every backend that runs here with torch, and localize what fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from spoter_export.parity.compare import Remembering
from spoter_export.parity.facts import WeightFact
from spoter_export.parity.policy import POLICIES, Policy, policies_from_table
from spoter_export.parity.proof import Proof, one_of, prove
from spoter_export.probes import GOLDENS, ClipSet
from spoter_runtime._types import OnProgress
from spoter_runtime.bundle.manifest import Artefact, Bundle, read_bundle
from spoter_runtime.errors import BackendError, ConfigError, DataError, SpoterError
from spoter_runtime.files import is_replaceable
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.runner import Runner
from spoter_toolkit.backends import TORCH_BACKENDS, backends_of, open_backend, runs_on_gpu, split_backend
from spoter_toolkit.calibration.calibrate import calibration_clips
from spoter_toolkit.data.dataset import Dataset, read_dataset
from spoter_toolkit.export import proof_clips
from spoter_toolkit.input_files import text_of, toml_of
from spoter_toolkit.parity.calibration import CalibrationCheck, CalibrationReference
from spoter_toolkit.parity.report import ParityReport
from spoter_toolkit.runs.run import find_run

if TYPE_CHECKING:
    from spoter_toolkit.parity.localize import Localization

DIVERGENCE: Final = "divergence.json"  # marks the folder of a bisection


def read_policies(path: Path | None) -> dict[str, Policy]:
    """Return precision → thresholds from a TOML file; None returns the defaults.

    Raises:
        DataError: no such file, or it cannot be read.
        ConfigError: not TOML, an unknown precision or key, or a value that is not a threshold.
    """
    if path is None:
        return dict(POLICIES)
    fix = "write a table, such as [fp32]"
    text = text_of(path, expected="TOML with thresholds", fix=fix)
    try:
        table = toml_of(text)
    except ValueError as error:
        raise ConfigError(f"{path}: is no TOML ({error}), expected thresholds", fix=fix) from error
    return policies_from_table(table, where=str(path))


def check_candidates(names: Sequence[str]) -> None:
    """Raise a ConfigError for an unknown backend, and for torch, which is the reference."""
    for name in names:
        split_backend(name)
    if "torch" in names:
        raise ConfigError("--backend torch: the others are compared with torch", fix="name another backend")


def prove_bundle(
    path: Path,
    *,
    run: Path | None = None,
    data: Path | None = None,
    all_splits: bool = False,
    backends: Sequence[str] | None = None,
    policies: Mapping[str, Policy] = POLICIES,
    seed: int = 0,
    bisect_into: Path | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> ParityReport:
    """Compare a bundle's backends with torch over the shape grid and on clips.

    Args:
        path: the BUNDLE.
        run: the RUN it was made from; None looks where the bundle says.
        data: a DATASET; None means the run's training data, if it is still there.
        all_splits: compare on every clip of the data, not only on clips that the model was not trained on.
        backends: names as in `open_backend`, each of which must run. None means every backend of the device
            in every precision of the bundle; those that cannot run are skipped.
        policies: precision → thresholds.
        seed: seed of the generated clips.
        bisect_into: folder in which to write ``BUNDLE-BACKEND`` for each failed backend: the first tensor
            that differs, and the smallest graph that shows it. None does not bisect.
        force: replace existing folders of bisections.
        on_progress: called with (done, total, what).

    Raises:
        ConfigError: an unknown backend, torch itself, or a folder of a bisection that exists.
        BackendError: no backend can be opened here.
        SpoterError: a named backend cannot be opened here; or bundle, run or data cannot be used.
    """
    bundle = read_bundle(path)
    names = list(backends or [name for name in backends_of(bundle) if name not in TORCH_BACKENDS])
    check_candidates(names)
    stem = bundle.folder.resolve().stem
    places = {name: bisect_into / f"{stem}-{name.replace(':', '-')}" for name in names} if bisect_into else {}
    for place in places.values():
        if not is_replaceable(place, DIVERGENCE) or ((place / DIVERGENCE).exists() and not force):
            raise ConfigError(f"{place}: is there already", fix="--force replaces it, or move it away")
    source = find_run(bundle, run)
    dataset = read_dataset(data) if data else source.training_data()
    people = proof_clips(dataset, limit=None, all_splits=all_splits)
    module = source.load_model()
    from spoter_export.torch_runner import TorchRunner  # not at the top: torch, and checks come first
    from spoter_toolkit.parity.localize import localize_failed

    reference = TorchRunner(module, bundle.contract)
    proofs, not_run = prove_backends(
        bundle,
        reference,
        people,
        names,
        run=source.folder,
        all_have_to_run=backends is not None,
        policies=policies,
        seed=seed,
        on_progress=on_progress,
    )
    if on_progress and not all(proof.verdict.passed for proof in proofs):
        on_progress(0, 0, "looking for the step that breaks")
    failed = localize_failed(bundle, module, proofs, people)
    ran = [name for name in names if name not in not_run]
    checks = check_calibration(bundle, reference, dataset, ran, run=source.folder, on_progress=on_progress)
    return ParityReport(
        name=bundle.name,
        bundle=bundle,
        proofs=tuple(proofs),
        not_run=not_run,
        chains={found.backend: found.links for found in failed},
        bisected={found.backend: _bisected(found, places[found.backend]) for found in failed if places},
        clips=people,
        calibration=checks,
    )


def check_calibration(
    bundle: Bundle,
    reference: Runner,
    dataset: Dataset | None,
    backends: Sequence[str],
    *,
    run: Path | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[CalibrationCheck, ...]:
    """Return each backend's decisions beside the reference's; empty without a calibration, or its clips.

    Args:
        bundle: from `read_bundle`.
        reference: the PyTorch model that it was made from.
        dataset: whose validation split it was calibrated on.
        backends: names as in `open_backend`, all of which run here.
        run: see `prove_backends`.
        on_progress: called with (done, total, what).
    """
    if (rule := bundle.abstention) is None:
        return ()
    try:
        clips = calibration_clips(dataset, bundle.contract, background=rule.background)
    except DataError:  # data without a validation split of its own
        return ()
    known = CalibrationReference(rule, reference, clips)
    checks = []
    for name in backends:
        opened = open_backend(name, bundle, run=run)
        precision = (opened.artefact or bundle.onnx()).precision
        with _as_proven(name, opened.runner, opened.artefact or bundle.onnx(), bundle) as runner:
            checks.append(known.check(name, precision, runner, on_progress=on_progress))
    return tuple(checks)


def _bisected(found: Localization, place: Path) -> dict[str, Any] | str:
    """Bisect a failed localization, write the divergence under `place`, and return it as JSON.

    Returns a message (str) instead if no tensor differs, or the bisection fails.
    """
    try:
        divergence = found.bisect()
    except SpoterError as error:
        return str(error)
    if divergence is None:
        return "no tensor differs beyond rounding: the difference grows step by step"
    divergence.write(place)
    return divergence.as_json()


def prove_backends(
    bundle: Bundle,
    reference: Runner,
    people: ClipSet | None,
    backends: Sequence[str],
    *,
    run: Path | None = None,
    all_have_to_run: bool = True,
    policies: Mapping[str, Policy] = POLICIES,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> tuple[list[Proof], dict[str, str]]:
    """Compare backends with a reference; return the proofs, and backend → why it did not run.

    Args:
        bundle: from `read_bundle`.
        reference: the PyTorch model that it was made from.
        people: clips of people to compare on, besides generated ones and the bundle's goldens.
        backends: names as in `open_backend`.
        run: the RUN that the bundle was made from, for torch on a GPU; None looks where the bundle says.
        all_have_to_run: raise if a backend cannot be opened, instead of skipping it.
        policies: precision → thresholds.
        seed: seed of the generated clips.
        on_progress: called with (done, total, what).

    Raises:
        BackendError: no backend can be opened here.
        SpoterError: a backend cannot be opened here, and `all_have_to_run`.
    """
    reference = Remembering(reference)
    sets = [*([people] if people else []), ClipSet(source=GOLDENS, clips=bundle.goldens().clips())]
    proofs: list[Proof] = []
    not_run = {} if all_have_to_run else _that_cannot_run(bundle, backends, run)
    running = [name for name in backends if name not in not_run]
    for number, name in enumerate(running):
        opened = open_backend(name, bundle, run=run)
        artefact = opened.artefact or bundle.onnx()
        with _as_proven(name, opened.runner, artefact, bundle) as runner:
            proof = prove(
                reference,
                runner,
                artefact,
                sets,
                policy=policies[artefact.precision],
                seed=seed,
                on_gpu=runs_on_gpu(name),
                weights=_weights(bundle, artefact),
                on_progress=one_of(on_progress, number, len(running)),
            )
        proofs.append(proof)
    if not proofs:
        reasons = "\n".join(f"  {name}: {why}" for name, why in not_run.items())
        raise BackendError(f"{bundle.folder}: no backend runs here, so nothing was compared:\n{reasons}")
    return proofs, not_run


def _that_cannot_run(bundle: Bundle, backends: Sequence[str], run: Path | None) -> dict[str, str]:
    """Return backend → why it cannot be opened here; each other one is opened and closed."""
    reasons = {}
    for name in backends:
        try:
            open_backend(name, bundle, run=run).runner.close()
        except SpoterError as error:
            reasons[name] = str(error)
    return reasons


def _as_proven(name: str, runner: Runner, artefact: Artefact, bundle: Bundle) -> Runner:
    """Return the runner that proves a backend: for fp16 on a CPU, one that rounds every tensor.

    The CPU provider itself keeps most fp16 tensors in fp32, which would hide a GPU's rounding.
    """
    if split_backend(name) != ("ort-cpu", "fp16"):
        return runner
    import onnx

    from spoter_export.parity.proof import ROUNDED
    from spoter_export.precision.fp16 import rounded_from_fp16

    runner.close()
    rounded = rounded_from_fp16(onnx.load_from_string(bundle.read(artefact.path)))
    return OrtRunner(rounded.SerializeToString(), name=ROUNDED)


def _weights(bundle: Bundle, artefact: Artefact) -> tuple[WeightFact, ...]:
    """Return the comparisons of an int8 file's weights with the fp32 file's; empty for other files."""
    if artefact.precision != "int8":
        return ()
    import onnx

    from spoter_export.precision.int8 import weight_facts

    files = artefact, bundle.by_precision(artefact.kind)["fp32"]
    return weight_facts(*(onnx.load_from_string(bundle.read(file.path)) for file in files))
