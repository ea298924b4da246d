"""Export: a proven BUNDLE from a RUN, tuned for this machine, and engines for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from spoter_export.bundle.camera import add_landmarker
from spoter_export.bundle.engines import AddedEngine, add_engines, check_engine_precisions
from spoter_export.bundle.files import check_bundle_folder
from spoter_export.parity.policy import policy_of
from spoter_export.probes import ClipSet, spread_by_length
from spoter_export.trt.profiles import parse_profile
from spoter_export.trt.to_tensorrt import parse_compute_capabilities
from spoter_runtime._types import OnProgress
from spoter_runtime.bundle.libraries import EXTRAS, Library
from spoter_runtime.bundle.manifest import MANIFEST, read_bundle
from spoter_runtime.camera.files import read_landmarker, trained_on, warn_of_other_landmarker
from spoter_runtime.contract import GraphContract, Profile
from spoter_runtime.errors import ConfigError, DataError, SpoterError
from spoter_runtime.tuning.search import tune
from spoter_runtime.tuning.store import Tuned
from spoter_toolkit.calibration.calibrate import CalibrationClips, calibrate, calibration_clips
from spoter_toolkit.calibration.fit import TARGET
from spoter_toolkit.data.dataset import Dataset, read_dataset
from spoter_toolkit.input_files import check_place, error_from_os
from spoter_toolkit.remote import Remote, build_on, parse_remote
from spoter_toolkit.runs.learned import learned_among
from spoter_toolkit.runs.run import Run, installed_versions, read_run
from spoter_toolkit.serving.triton import Repository, check_repository_folder, write_repository
from spoter_toolkit.web.engine import find_engine
from spoter_toolkit.web.site import SiteReport, check_site_folder, write_site
from spoter_toolkit.workspace import BUNDLES

if TYPE_CHECKING:
    from spoter_export.bundle.writer import Exported
    from spoter_export.parity.proof import Proof

# Enough to meet every label and length of a test split; `spoter-kit parity` runs all of a dataset.
EXPORT_CLIPS: Final = 256
TUNE_SECONDS: Final = 4.0  # per precision; `spoter-kit tune` takes longer and is more reliable
_PACKAGES: Final = ("spoter-kit", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """The engines to build."""

    libraries: tuple[Library, ...] = ()  # TensorRT, TensorRT for RTX, or both
    # of the GPUs for TensorRT-RTX; None takes its defaults
    compute_capabilities: tuple[str, ...] | None = None
    profiles: tuple[Profile, ...] | None = None  # shapes; None takes them from the data
    on: Remote | None = None  # the machine to build on; None builds here
    # `python -m spoter_export`'s options that say the same, without the library
    options: tuple[str, ...] = ()
    version_compatible: bool = False  # TensorRT's: also for newer versions and the lean runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """The results of an export."""

    folder: Path  # the BUNDLE
    run: Run | None = None  # the bundle's run; None if engines were added to a bundle
    data: Dataset | None = None  # the data of the proof, if any
    exported: Exported | None = None  # the bundle with its proofs; None if engines were added to a bundle
    # precision → the fastest settings on this machine
    tuned: Mapping[str, Tuned] = field(default_factory=dict)
    not_tuned: Mapping[str, SpoterError] = field(default_factory=dict)  # precision → why there are none
    landmarker: str = ""  # sha256 of the landmarker that was put into a bundle that was there
    trt8: tuple[Proof, ...] = ()  # the proofs of the files for TensorRT 8.6
    engines: tuple[AddedEngine, ...] = ()  # the engines that were built
    not_calibrated: DataError | None = None  # why the bundle cannot say "no sign"
    site: SiteReport | None = None  # the static site, if one was asked for
    triton: Repository | None = None  # the model repository, if one was asked for
    # library → why its engines could not be built; everything else is complete
    failed: Mapping[Library, SpoterError] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        found: dict[str, Any] = {"bundle": str(self.folder)}
        if self.exported:
            found["onnx"] = [proof.as_json() for proof in self.exported.proofs]
            rule = self.exported.bundle.abstention
            found["abstention"] = rule.as_json() if rule else None
        if self.tuned or self.not_tuned:
            found["tuned"] = {
                precision: {key: value for key, value in tuned.as_json().items() if key != "measured"}
                for precision, tuned in self.tuned.items()
            }
        if self.site:
            found["web"] = self.site.as_json()
        if self.triton:
            found["triton"] = self.triton.as_json()
        if self.landmarker:
            found["landmarker"] = self.landmarker
        if self.trt8:
            found["trt8"] = [proof.as_json() for proof in self.trt8]
        found["engines"] = [
            engine.artefact.as_json()
            | {
                "plan": asdict(engine.plan),
                "proof": engine.proof.as_json() if engine.proof else None,
                "not_executed": engine.not_executed,
            }
            for engine in self.engines
        ]
        return found


def engine_settings(
    libraries: Sequence[Library],
    precisions: Sequence[str],
    compute_capability: str | None = None,
    profiles: Sequence[str] = (),
    *,
    version_compatible: bool = False,
    on: str | None = None,
) -> EngineSettings | None:
    """Return the settings for building engines; None if `libraries` is empty.

    Args:
        libraries: engine libraries to build for.
        precisions: precisions of the ONNX files and of the engines.
        compute_capability: GPUs for TensorRT-RTX: ``"8.6,8.9"``.
        profiles: shapes: ``"1x1,1x60,1x299"``.
        version_compatible: build TensorRT's engines for its newer versions and its lean runtime too.
        on: the machine to build on, ``"user@jetson"``; None builds here.

    Raises:
        ConfigError: an unknown precision, or one that is not for engines; a wrong profile; --profile without
            --trt or --rtx; --compute-capability without --rtx.
    """
    if compute_capability is not None and "tensorrt_rtx" not in libraries:
        raise ConfigError("--compute-capability: TensorRT builds for the GPU at hand", fix="add --rtx")
    if profiles and not libraries:
        raise ConfigError("--profile: only engines have profiles", fix="add --trt or --rtx")
    if version_compatible and "tensorrt" not in libraries:
        raise ConfigError("--version-compatible: only TensorRT builds such engines", fix="add --trt")
    if on is not None and not libraries:
        raise ConfigError("--on: only engines are built on another machine", fix="add --trt")
    for name in precisions:
        policy_of(name)
    if not libraries:
        return None
    check_engine_precisions(precisions)
    return EngineSettings(
        libraries=tuple(libraries),
        compute_capabilities=parse_compute_capabilities(compute_capability) if compute_capability else None,
        profiles=tuple(map(parse_profile, profiles)) or None,
        version_compatible=version_compatible,
        on=parse_remote(on) if on is not None else None,
        options=(
            *(("--precision", ",".join(precisions)) if tuple(precisions) != ("fp32",) else ()),
            *(part for text in profiles for part in ("--profile", text)),
        ),
    )


def export(
    source: Path,
    out: Path | None = None,
    *,
    precisions: Sequence[str] = ("fp32",),
    engines: EngineSettings | None = None,
    data: Path | None = None,
    max_batch: int = 32,
    keep_goldens: bool = True,
    tune_seconds: float = TUNE_SECONDS,
    camera: bool = False,
    trt8: bool = False,
    web: Path | None = None,
    web_engine: str | None = None,
    webgpu: bool = False,
    triton: Path | None = None,
    negatives: Path | None = None,
    background: Sequence[str] = (),
    false_answers: float = TARGET,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> ExportReport:
    """Export a RUN to a proven bundle, tune it, and build engines; to a BUNDLE, only add what is asked.

    Args:
        source: RUN or BUNDLE.
        out: the bundle, ``NAME.spoter``; None takes ``bundles/RUN.spoter``.
        precisions: precisions of the ONNX files and of the engines.
        engines: engines to build; None builds none.
        data: a DATASET to prove the bundle on; None means the run's training data.
        max_batch: the largest batch that the bundle claims and the proof runs.
        keep_goldens: whether some clips of the data may travel in the bundle.
        tune_seconds: measuring time per precision; 0 does not tune.
        camera: put the landmarker of the user's cache into the bundle, also into one that is there.
        trt8: add the ONNX files that TensorRT 8.6 builds from.
        web: write a static site to this folder, whose page runs the first of the precisions.
        web_engine: see `find_engine`.
        webgpu: give the site the engine's files for WebGPU too.
        triton: write a model repository for Triton to this folder, unless an engine failed.
        negatives: see `calibration_clips`.
        background: see `calibration_clips`.
        false_answers: the share of negatives that may get a sign, see `fit_abstention`.
        force: replace an existing bundle, or existing engines.
        on_progress: called with (done, total, what).

    Raises:
        SpoterError: run, data or output folder cannot be used, or the exported graph fails its proof. A
            failed build of an engine is in the report instead.
    """
    if web:
        browser_engine = find_engine(web_engine, webgpu=webgpu)
    if (source / MANIFEST).is_file():
        check_folders(source, web, triton, force=force)
        report = ExportReport(folder=source, landmarker=add_landmarker(source, force) if camera else "")
    else:
        run = read_run(source)
        folder = bundle_folder(run, out)
        check_bundle_folder(folder, force=force)
        check_place(folder)
        check_folders(folder, web, triton, force=force)
        training_data = None
        with nullcontext() if data is None else suppress(DataError):  # what it was trained on has changed
            training_data = run.training_data()
        dataset = read_dataset(data) if data else training_data
        run.weights_path()  # before torch is imported
        landmarker = read_landmarker() if camera else None
        if landmarker:
            warn_of_other_landmarker(trained_on({"data": run.data}), landmarker.sha256, where=source)
        contract = run.contract(max_batch)
        clips, not_calibrated = clips_to_calibrate(run, dataset, contract, negatives, background)
        from spoter_export.bundle.writer import export_bundle
        from spoter_export.torch_runner import TorchRunner
        from spoter_toolkit.data.streams.golden import stream_files

        model = run.load_model()
        abstention = None
        if clips:
            runner = TorchRunner(model, contract)
            abstention = calibrate(
                runner, clips, background=background, target=false_answers, on_progress=on_progress
            )
        exported = export_bundle(
            model,
            contract,
            folder,
            provenance=provenance_of(run, training_data),
            clips=proof_clips(dataset),
            keep_goldens=keep_goldens,
            precisions=precisions,
            landmarker=landmarker,
            abstention=abstention,
            stream_files=stream_files,
            force=force,
            on_progress=on_progress,
        )
        report = ExportReport(
            folder=folder, run=run, data=dataset, exported=exported, not_calibrated=not_calibrated
        )
        if tune_seconds:
            report = with_tuning(report, precisions, tune_seconds, on_progress)
    if trt8:
        from spoter_export.bundle.trt8 import add_trt8_files

        report = replace(
            report, trt8=add_trt8_files(report.folder, precisions=precisions, on_progress=on_progress)
        )
    if engines:
        report = with_engines(report, precisions, engines, force, on_progress)
    bundle = read_bundle(report.folder)
    if web:
        site = write_site(bundle, web, browser_engine, precision=precisions[0], webgpu=webgpu, force=force)
        report = replace(report, site=site)
    if triton and not report.failed:
        report = replace(report, triton=write_repository(bundle, triton, force=force))
    return report


def bundle_folder(run: Run, out: Path | None) -> Path:
    """Return the folder of the bundle that an export of a run writes."""
    return out or BUNDLES / f"{run.name}.spoter"


def check_folders(bundle: Path, web: Path | None, triton: Path | None, *, force: bool) -> None:
    """Check before an export where its site and its model repository go.

    Raises:
        ConfigError: a model of Triton cannot have the bundle's name.
        DataError: something else is there, or nothing can be written there.
    """
    if web:
        check_site_folder(web, force=force)
        check_place(web, option="--web")
    if triton:
        check_repository_folder(triton, bundle, force=force)
        check_place(triton, option="--triton")


def clips_to_calibrate(
    run: Run,
    dataset: Dataset | None,
    contract: GraphContract,
    negatives: Path | None,
    background: Sequence[str],
) -> tuple[CalibrationClips | None, DataError | None]:
    """Return the clips to calibrate on, or why there are none.

    Raises:
        DataError: there are none, although negatives or a background label were named.
    """
    try:
        if dataset:
            learned_among(dataset, "val", run)
        found = calibration_clips(dataset, contract, negatives=negatives, background=background)
    except DataError as error:
        if negatives or background:
            raise
        return None, error
    return found, None


def with_tuning(
    report: ExportReport, precisions: Sequence[str], seconds: float, on_progress: OnProgress | None
) -> ExportReport:
    """Tune the precisions for CPUs; a failure goes into the report, because the bundle is complete."""
    assert report.exported is not None
    found: dict[str, Tuned] = {}
    failed: dict[str, SpoterError] = {}
    for precision in precisions:
        if precision == "fp16":
            continue  # the CPU computes fp16 in fp32, so it is never the fastest
        try:
            found[precision] = tune(
                report.exported.bundle, precision=precision, seconds=seconds, on_progress=on_progress
            )
        except SpoterError as error:
            failed[precision] = error
        except OSError as error:
            failed[precision] = error_from_os(error)
    return replace(report, tuned=found, not_tuned=failed)


def with_engines(
    report: ExportReport,
    precisions: Sequence[str],
    settings: EngineSettings,
    force: bool,
    on_progress: OnProgress | None,
) -> ExportReport:
    """Build the engines of each library; a failure goes into the report."""
    engines: list[AddedEngine] = []
    failed: dict[Library, SpoterError] = {}
    for library in settings.libraries:
        try:
            if settings.on:
                engines += build_on(
                    settings.on,
                    report.folder,
                    remote_options(library, settings, force),
                    profiles=settings.profiles,
                    on_progress=on_progress,
                )
                continue
            engines += add_engines(
                report.folder,
                library=library,
                precisions=precisions,
                compute_capabilities=settings.compute_capabilities if library == "tensorrt_rtx" else None,
                profiles=settings.profiles,
                version_compatible=settings.version_compatible and library == "tensorrt",
                force=force,
                on_progress=on_progress,
            )
        except SpoterError as error:
            failed[library] = error
    return replace(report, engines=tuple(engines), failed=failed)


def remote_options(library: Library, settings: EngineSettings, force: bool) -> tuple[str, ...]:
    """Return the options of ``python -m spoter_export`` for one library."""
    rtx = library == "tensorrt_rtx"
    capabilities = ",".join(settings.compute_capabilities or ()) if rtx else ""
    return (
        f"--{EXTRAS[library]}",
        *settings.options,
        *(("--compute-capability", capabilities) if capabilities else ()),
        *(("--version-compatible",) if settings.version_compatible and not rtx else ()),
        *(("--force",) if force else ()),
    )


def proof_clips(
    dataset: Dataset | None, *, limit: int | None = EXPORT_CLIPS, all_splits: bool = False
) -> ClipSet | None:
    """Return clips to prove a model on, preferably ones that it was not trained on.

    Args:
        dataset: the data set, whose test split is preferred to the val split; None returns None.
        limit: largest number of clips, evenly spread by length; None for all.
        all_splits: use the clips of every split.
    """
    if dataset is None:
        return None
    held_out = [] if all_splits else [name for name in ("test", "val") if dataset.clips_in(name)]
    split = held_out[0] if held_out else "all"
    rows = list(dataset.clips if split == "all" else dataset.clips_in(split))
    if limit is not None:
        rows = [rows[i] for i in spread_by_length([dataset.poses_of(clip) for clip in rows], limit)]
    return ClipSet(
        source=f"{dataset.origin.kind}, {split} clips",
        clips=[dataset.poses_of(clip) for clip in rows],
        names=[clip.id for clip in rows],
        labels=[clip.label for clip in rows],
        signers=[clip.signer for clip in rows],
    )


def provenance_of(run: Run, training_data: Dataset | None) -> dict[str, Any]:
    """Return a bundle's provenance: facts of its run and its training data.

    Args:
        run: a run with weights.
        training_data: `Run.training_data`; None leaves out the histogram of lengths.
    """
    data = dict(run.data) if run.data else None
    if data:
        del data["folder"]  # meaningless on another machine
        data["frame_counts"] = None
        if training_data:
            clips = training_data.clips_in("train") or training_data.clips
            counts = Counter(clip.frames for clip in clips)
            data["frame_counts"] = {str(frames): counts[frames] for frames in sorted(counts)}
    after = run.stopped_after() or " before its end"
    return {
        "run": {"name": run.name, "weights_sha256": run.weights_sha256(), "config": run.config.as_json()},
        "origin": run.info["origin"] + ("" if run.is_finished else f", and stopped{after}"),
        "data": data,
        "metrics": run.info["metrics"],
        "commit": run.info["commit"],
        "versions": installed_versions(_PACKAGES),
    }
