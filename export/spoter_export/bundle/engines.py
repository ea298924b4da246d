"""add_engines: plan engines from a bundle's data, build them, and prove them if there is a GPU.

Needs no torch and no onnx: it also runs on the device, because TensorRT builds for the GPU that it runs on.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from spoter_export.bundle.files import bundle_lock, describe_bundle, read_proofs
from spoter_export.parity.proof import Proof, prove
from spoter_export.trt.profiles import ProfilePlan, check_profiles, plan_profiles
from spoter_export.trt.to_tensorrt import RTX_COMPUTE_CAPABILITIES, BuiltEngine, engine_from_onnx
from spoter_runtime._types import OnProgress
from spoter_runtime.bundle.goldens import replay_goldens
from spoter_runtime.bundle.libraries import Library
from spoter_runtime.bundle.manifest import Artefact, Bundle, read_bundle
from spoter_runtime.bundle.signature import IGNORED, is_signed
from spoter_runtime.camera.files import BUNDLED, LandmarkerFiles, copy_landmarker
from spoter_runtime.contract import Profile
from spoter_runtime.errors import (
    BackendError,
    BundleError,
    ConfigError,
    ExportError,
    MissingExtraError,
    SpoterError,
    warn,
)
from spoter_runtime.files import cache_folder, link_or_copy, replacing
from spoter_runtime.gpu.device import find_gpu
from spoter_runtime.gpu.packages import import_engine_library
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.runner import Runner
from spoter_runtime.trt.runner import TrtRunner
from spoter_runtime.trt.versions import abilities

ENGINES: Final = "engines"  # folder in a bundle
ENGINE_PRECISIONS: Final = ("fp32", "fp16")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedEngine:
    """An engine that was added to a bundle.

    Attributes:
        plan: the engine's shapes and their expected padding.
        proof: the comparison with ONNX Runtime over the grid; None if the engine was only built.
        not_executed: why the engine was only built; empty if it was executed.
    """

    artefact: Artefact
    plan: ProfilePlan
    proof: Proof | None
    not_executed: str


def add_engines(
    folder: Path | str,
    *,
    library: Library,
    precisions: Sequence[str] = ("fp32",),
    compute_capabilities: Sequence[str] | None = None,
    profiles: Sequence[Profile] | None = None,
    version_compatible: bool = False,
    execute: bool = True,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> tuple[AddedEngine, ...]:
    """Build an engine in each precision and add them to a bundle, all or none.

    On a machine with a GPU, each engine must pass the golden test and the comparison with ONNX Runtime over
    the whole grid. One process at a time changes a bundle; others wait.

    Args:
        folder: the bundle.
        library: ``"tensorrt"`` builds for the GPU of this machine, ``"tensorrt_rtx"`` for those named below.
        precisions: precisions of the ONNX files to build from.
        compute_capabilities: ``"8.6"``, …, for TensorRT-RTX; None for its default.
        profiles: instead of profiles planned from the lengths of the training data.
        version_compatible: for TensorRT; build for its newer versions and its lean runtime too.
        execute: run the engines if there is a GPU; otherwise they count as built only.
        force: rebuild engines that the bundle has already.
        on_progress: called with (done, total, what).

    Raises:
        BackendError: the library, the driver or the GPU is missing; the message says which.
        BundleError: no bundle, a damaged one, or one without such an ONNX file.
        ConfigError: profiles that do not cover the contract; a compute capability that the library lacks; a
            precision that is not for engines.
        ExportError: the library cannot build the engine, the bundle has it already, or its answers are wrong.
        MissingExtraError: the library is not installed.
    """
    check_engine_precisions(precisions)
    precisions = list(dict.fromkeys(precisions))
    folder = Path(os.path.realpath(folder))  # replace the folder, not a link to it; "." has no name
    read_bundle(folder)  # before the lock: report a wrong name at once
    with bundle_lock(folder, on_progress):
        bundle = read_bundle(folder)
        bundle.check_files()  # otherwise the new manifest would seal damaged files
        plan = plan_from_bundle(bundle, profiles)
        if not force:  # before the build: TensorRT's may take minutes
            check_absent(bundle, library, precisions, compute_capabilities, version_compatible)
        # Before the build too: detect two ONNX Runtimes in one environment now, not after minutes.
        reference = reference_of(bundle) if execute else None
        added, content = [], {}
        for precision in precisions:
            source = source_of(bundle, library, precision)
            built = engine_from_onnx(
                bundle.read(source.path),
                library=library,
                contract=bundle.contract,
                plan=plan,
                compute_capabilities=compute_capabilities,
                version_compatible=version_compatible,
                timing_cache=cache_folder() / "tensorrt-timing.cache" if library == "tensorrt" else None,
                on_progress=on_progress,
            )
            artefact = artefact_of(built, source)
            why_not = "" if execute else "not asked for"
            engine = AddedEngine(artefact=artefact, plan=plan, proof=None, not_executed=why_not)
            added.append(executed(engine, built, bundle, reference, on_progress) if execute else engine)
            content[artefact.path] = built.plan
        proofs = [engine.proof for engine in added if engine.proof]
        replace_bundle(bundle, [engine.artefact for engine in added], proofs, content)
    return tuple(added)


def source_of(bundle: Bundle, library: Library, precision: str) -> Artefact:
    """Return the ONNX file that the installed version of a library builds from.

    Raises:
        BackendError: the version is not supported.
        BundleError: the bundle has no such file.
    """
    version = import_engine_library(library).__version__
    kind = abilities(library, version).onnx_kind
    if kind == "onnx":
        return bundle.onnx(precision)
    found = bundle.by_precision(kind).get(precision)
    if found is None:
        precisions = "" if precision == "fp32" else f" --precision {precision}"
        raise BundleError(
            f"{bundle.folder}: has no {precision} ONNX file for {library} {version}, which reads opset 17",
            fix=f"where PyTorch is: spoter-kit export {bundle.folder.name} --trt8{precisions}",
        )
    return found


def check_engine_precisions(precisions: Sequence[str]) -> None:
    """Check that engines can be built in each of the precisions.

    Raises:
        ConfigError: a precision is int8, which is for CPUs: TensorRT has no dynamic quantisation.
    """
    if "int8" in precisions:
        fits = ",".join(name for name in dict.fromkeys(precisions) if name in ENGINE_PRECISIONS) or "fp32"
        raise ConfigError(
            "precision int8 is for CPUs, no engine is built from it",
            fix="--precision "
            f"{fits} for engines; spoter-kit export RUN --precision int8, without --trt and --rtx, makes the "
            "ONNX file",
        )


def plan_from_bundle(bundle: Bundle, profiles: Sequence[Profile] | None = None) -> ProfilePlan:
    """Plan an engine's shapes from the lengths of a bundle's training data.

    Args:
        bundle: from `read_bundle`.
        profiles: profiles to use instead of planned ones.

    Raises:
        BundleError: as `Bundle.frame_counts`.
        ConfigError: the profiles do not cover the contract.
    """
    counts = bundle.frame_counts()
    lengths = [frames for frames, clips in counts.items() for _ in range(clips)]
    plan = plan_profiles(lengths, bundle.contract)
    if profiles is None:
        return plan
    check_profiles(profiles, bundle.contract)
    return replace(plan, profiles=tuple(profiles))


def check_absent(
    bundle: Bundle,
    library: Library,
    precisions: Sequence[str],
    compute_capabilities: Sequence[str] | None,
    version_compatible: bool = False,
) -> None:
    """Raise an ExportError if the bundle already has an engine that this machine would build."""
    version = import_engine_library(library).__version__
    if library == "tensorrt":
        compute_capabilities = (find_gpu().compute_capability,)
    for precision in precisions:
        capabilities = compute_capabilities or RTX_COMPUTE_CAPABILITIES
        path = path_of(precision, library, version, platform.system(), platform.machine(), capabilities)
        path = version_compatible_path(path) if version_compatible else path
        if path in bundle.hashes():
            raise ExportError(f"{bundle.folder}: has {path} already", fix="--force builds it anew")


def path_of(
    precision: str, library: Library, version: str, system: str, machine: str, capabilities: Sequence[str]
) -> str:
    """Return an engine's path in a bundle; it names the requirements, so those of several devices differ."""
    numbers = "-".join(capability.replace(".", "") for capability in capabilities)
    where = f"{system}-{machine}".lower()
    return f"{ENGINES}/{precision}.{library}-{version}.{where}.sm{numbers}.engine"


def version_compatible_path(path: str) -> str:
    """Return the path of the version-compatible engine beside the engine with this path."""
    return path.removesuffix(".engine") + ".vc.engine"


def artefact_of(built: BuiltEngine, source: Artefact) -> Artefact:
    """Return the manifest entry of an engine that was built from a file of the bundle."""
    spec, precision = built.spec, source.precision
    capabilities = spec.compute_capabilities
    path = path_of(precision, spec.library, spec.version, spec.system, spec.machine, capabilities)
    return Artefact(
        path=version_compatible_path(path) if spec.version_compatible else path,
        kind="engine",
        precision=precision,
        sha256=hashlib.sha256(built.plan).hexdigest(),
        size_bytes=len(built.plan),
        max_logit_diff=source.max_logit_diff,
        requires={
            spec.library: spec.version,
            "GPU of compute capability": ", ".join(capabilities),
            "system": f"{spec.system} {spec.machine}",
        },
        engine=spec,
    )


def reference_of(bundle: Bundle) -> Runner | None:
    """Open the fp32 ONNX file as the reference for engines; None if ONNX Runtime is not installed."""
    try:
        return OrtRunner(bundle.read(bundle.onnx().path))
    except MissingExtraError:
        return None


def executed(
    engine: AddedEngine,
    built: BuiltEngine,
    bundle: Bundle,
    reference: Runner | None,
    on_progress: OnProgress | None,
) -> AddedEngine:
    """Prove an engine on this machine's GPU; return it with the proof, or the reason why it did not run.

    Raises:
        ExportError: it cannot be loaded on the GPU that it is for, or its answers are wrong.
    """
    artefact, spec = engine.artefact, built.spec
    try:
        gpu = find_gpu()
    except SpoterError as error:
        return replace(engine, not_executed=error.message)
    try:
        # The code inside is TensorRT's own: it was built a moment ago.
        runner = TrtRunner(built.plan, spec, bundle.contract, allow_host_code=spec.host_code)
    except BackendError as error:
        if gpu.compute_capability in spec.compute_capabilities:
            raise ExportError(
                f"{artefact.path} was built for this {gpu.name}, but cannot be loaded, and was not added: "
                f"{error}"
            ) from error
        said = f"not for this {gpu.name} of compute capability {gpu.compute_capability}: {error}"
        return replace(engine, not_executed=said)
    with runner:
        replay = replay_goldens(runner, bundle.goldens(), artefact)
        wrong, proof = "" if replay.passed else str(replay), None
        if reference and not wrong:
            proof = prove(reference, runner, artefact, on_gpu=True, on_progress=on_progress)
            wrong = "\n".join(proof.verdict.failures[:10])
    if wrong:
        raise ExportError(
            f"{artefact.path} was built, but its answers are not the model's; it was not added:\n{wrong}"
        )
    facts = {
        "gpu": gpu.name,
        "month": datetime.now(timezone.utc).strftime("%Y-%m"),
        "clips": replay.clips,
        "labels_agree": replay.labels_agree,
        "max_logit_diff": replay.max_logit_diff,
    }
    return replace(engine, artefact=replace(artefact, engine=replace(spec, executed=facts)), proof=proof)


def replace_bundle(
    bundle: Bundle,
    added: Sequence[Artefact],
    proven: Sequence[Proof],
    content: dict[str, bytes],
    *,
    landmarker: LandmarkerFiles | None = None,
) -> None:
    """Add files to a bundle folder on disk; a concurrent reader sees the old bundle or the new one.

    Args:
        bundle: the bundle to change.
        added: the files' manifest entries.
        proven: their proofs, of those that were run.
        content: path in the bundle → bytes of the file.
        landmarker: to put in, instead of one that is there; None leaves it.
    """
    new = {artefact.path for artefact in added}
    anew = {(proof.artefact, proof.facts.candidate) for proof in proven}
    proofs = [
        proof
        for proof in read_proofs(bundle)
        if proof.artefact not in new and (proof.artefact, proof.facts.candidate) not in anew
    ]
    artefacts = [artefact for artefact in bundle.artefacts if artefact.path not in new]
    signed = is_signed(bundle.folder)
    with replacing(bundle.folder) as temporary:
        unsigned = shutil.ignore_patterns(*IGNORED)  # a signature is about the files before
        shutil.copytree(bundle.folder, temporary, copy_function=link_or_copy, ignore=unsigned)
        for path, plan in content.items():
            target = temporary / path
            target.parent.mkdir(exist_ok=True)
            target.unlink(missing_ok=True)  # it may be a hard link to the old bundle's file
            target.write_bytes(plan)
        if landmarker:
            shutil.rmtree(temporary / BUNDLED, ignore_errors=True)
            copy_landmarker(landmarker, temporary / BUNDLED)
        describe_bundle(
            temporary,
            name=bundle.name,
            contract=bundle.contract,
            artefacts=[*artefacts, *added],
            proofs=[*proofs, *proven],
            provenance=bundle.provenance,
            abstention=bundle.abstention,
        )
    if signed:
        warn(
            f"{bundle.folder}: is no longer signed, because its files are others now. "
            f"Fix: spoter-kit sign {bundle.folder} --key KEY"
        )


def keep_proofs(folder: Path | str, proofs: Sequence[Proof]) -> None:
    """Write proofs of a bundle's files into its parity.json and its model card, instead of older ones.

    Raises:
        BundleError: no bundle, or a damaged one.
        ExportError: a proof is of a file that the bundle no longer has.
    """
    folder = Path(os.path.realpath(folder))
    with bundle_lock(folder):
        bundle = read_bundle(folder)
        bundle.check_files()
        hashes = bundle.hashes()
        if wrong := next((proof for proof in proofs if hashes.get(proof.artefact) != proof.sha256), None):
            raise ExportError(
                f"{folder}: {wrong.artefact} was replaced since it was proven", fix="prove it again"
            )
        replace_bundle(bundle, [], proofs, {})
