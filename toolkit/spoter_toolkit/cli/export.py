"""`spoter-kit export`: a proven BUNDLE from a RUN, and engines for it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spoter_toolkit.cli.console import (
    ForceOption,
    JsonOption,
    emit_json,
    emit_table,
    next_step,
    progress_bar,
    say,
)

_TUNING_S = 4.0  # seconds a precision; `spoter-kit tune` takes longer and is surer

if TYPE_CHECKING:
    from spoter_export.bundle.engines import AddedEngine
    from spoter_export.bundle.writer import Exported
    from spoter_runtime.bundle.engine_spec import Profile
    from spoter_runtime.bundle.libraries import Library
    from spoter_runtime.bundle.manifest import Bundle
    from spoter_runtime.errors import SpoterError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The engines that were asked for."""

    libraries: list[Library]
    precisions: list[str]
    capabilities: tuple[str, ...] | None
    profiles: list[Profile] | None
    force: bool


def export(
    source: Annotated[
        Path | None, typer.Argument(help="RUN, or a BUNDLE to add engines to; default: the last run.")
    ] = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="ONNX, for ONNX Runtime; always made from a RUN.")
    ] = False,
    trt: Annotated[bool, typer.Option("--trt", help="A TensorRT engine for this machine's GPU.")] = False,
    rtx: Annotated[bool, typer.Option("--rtx", help="A TensorRT-RTX engine; built with no GPU too.")] = False,
    precision: Annotated[str, typer.Option(help="With commas: fp32, fp16, and int8 for CPUs.")] = "fp32",
    compute_capability: Annotated[
        str | None, typer.Option(help="GPUs for --rtx, with commas: 8.6,8.9; default: 8.0,8.6,8.9,12.0.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="Shapes of engines, clips x frames: least,tuned,most; default: from the data."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="DATASET to prove it on; default: the one it was trained on.")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Largest batch to claim and to run.")] = 32,
    no_real_goldens: Annotated[
        bool, typer.Option("--no-real-goldens", help="Keep no clip of the data in the bundle.")
    ] = False,
    no_tune: Annotated[
        bool, typer.Option("--no-tune", help="Do not measure how it runs fastest on this CPU.")
    ] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Default: bundles/RUN.spoter.")] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Export a RUN to ONNX with dynamic batch and frames, run it over its whole grid, write a BUNDLE.

    With --trt or --rtx, build engines from it and run them where there is a GPU. For a BUNDLE, only that.
    """
    from spoter_runtime.bundle.manifest import MANIFEST
    from spoter_runtime.errors import ConfigError, UsageError, from_options
    from spoter_toolkit.locate import last_run

    with from_options():
        wanted = _engines_wanted(trt, rtx, precision, compute_capability, profile, force)
        if out and out.suffix != ".spoter":
            raise ConfigError(f"{out}: a bundle's name ends in .spoter", fix=f"-o {out}.spoter")
    path = source or last_run()
    result: dict[str, Any] = {}
    if (path / MANIFEST).is_file():
        if not wanted.libraries:
            raise UsageError(f"{path}: is a BUNDLE already", fix="--trt or --rtx adds engines to it")
        folder = path
    else:
        folder, exported = _export_onnx(
            path, data, wanted.precisions, max_batch, not no_real_goldens, out, force
        )
        result = {"onnx": [proof.as_json() for proof in exported.proofs]}
        if not json:
            _show_onnx(exported)
        if not no_tune:
            result["tuned"] = _tune(exported.bundle, wanted.precisions)
    engines, errors = _add_engines(folder, wanted)
    if json:
        emit_json({"bundle": str(folder)} | result | {"engines": [_as_json(engine) for engine in engines]})
    elif engines:
        _show_engines(engines)
    if errors:
        raise _incomplete(folder, errors, [*_typed(precision, compute_capability, profile)])
    if not json:
        next_step("spoter-kit parity {}", folder)


def _engines_wanted(
    trt: bool,
    rtx: bool,
    precision: str,
    compute_capability: str | None,
    profile: list[str] | None,
    force: bool,
) -> _Wanted:
    """Check what was asked for, before anything is built.

    Raises:
        ConfigError: an unknown precision, or one that is not for engines; a wrong profile; an option
            without the engine that it is for.
    """
    from spoter_export.bundle.engines import check_engine_precisions
    from spoter_export.parity.judge import policy_of
    from spoter_export.trt.profiles import parse_profile
    from spoter_export.trt.to_tensorrt import parse_compute_capabilities
    from spoter_runtime.errors import ConfigError

    libraries: list[Library] = []
    if trt:
        libraries.append("tensorrt")
    if rtx:
        libraries.append("tensorrt_rtx")
    if compute_capability is not None and not rtx:
        raise ConfigError("--compute-capability: TensorRT builds for the GPU at hand", fix="add --rtx")
    if profile and not libraries:
        raise ConfigError("--profile: only engines have profiles", fix="add --trt or --rtx")
    precisions = [name.strip() for name in precision.split(",")]
    for name in precisions:
        policy_of(name)
    if libraries:
        check_engine_precisions(precisions)
    return _Wanted(
        libraries=libraries,
        precisions=precisions,
        capabilities=(None if compute_capability is None else parse_compute_capabilities(compute_capability)),
        profiles=[parse_profile(text) for text in profile] if profile else None,
        force=force,
    )


def _export_onnx(
    path: Path,
    data: Path | None,
    precisions: list[str],
    max_batch: int,
    keep_goldens: bool,
    out: Path | None,
    force: bool,
) -> tuple[Path, Exported]:
    from spoter_toolkit.data.dataset import read_dataset
    from spoter_toolkit.export import bundle_from_run, training_data
    from spoter_toolkit.input_files import check_place
    from spoter_toolkit.locate import BUNDLES
    from spoter_toolkit.runs.run import read_run

    run = read_run(path)
    folder = out or BUNDLES / f"{run.name}.spoter"
    check_place(folder)
    if not run.is_finished:
        say(f"{run.folder} was stopped before its end: its best weights so far are exported")
    dataset = read_dataset(data) if data else training_data(run)
    if dataset is None:
        say("no data: the proof and the goldens hold generated clips only. Fix: name real ones with --data")
    elif keep_goldens and not dataset.origin.synthetic:
        say("some clips of the data travel in the bundle as goldens; --no-real-goldens keeps them here")
    with progress_bar() as on_progress:
        return folder, bundle_from_run(
            run,
            folder,
            dataset=dataset,
            precisions=precisions,
            max_batch=max_batch,
            keep_goldens=keep_goldens,
            force=force,
            on_progress=on_progress,
        )


def _tune(bundle: Bundle, precisions: list[str]) -> dict[str, Any]:
    """Tune what the CPU runs; where that fails the bundle is complete all the same."""
    from spoter_runtime.errors import SpoterError
    from spoter_runtime.tuning.search import tune

    found: dict[str, Any] = {}
    for precision in precisions:
        if precision == "fp16":
            continue  # the CPU computes it in fp32: nobody takes it there for speed
        try:
            with progress_bar() as on_progress:
                tuned = tune(bundle, precision=precision, seconds=_TUNING_S, on_progress=on_progress)
        except (SpoterError, OSError) as error:
            say(f"not tuned for this machine: {error}. Fix: spoter-kit tune {bundle.folder}")
            continue
        found[precision] = {key: value for key, value in asdict(tuned).items() if key != "measured"}
        for situation, way in tuned.ways.items():
            say(f"fastest here, {precision}, {situation}: {way}: {tuned.because[situation]}")
    return found


def _add_engines(
    folder: Path, wanted: _Wanted
) -> tuple[list[AddedEngine], list[tuple[Library, SpoterError]]]:
    """Add the engines of each library; one that cannot be built leaves everything else as it is."""
    from spoter_export.bundle.engines import add_engines
    from spoter_runtime.errors import SpoterError

    engines: list[AddedEngine] = []
    errors: list[tuple[Library, SpoterError]] = []
    for library in wanted.libraries:
        try:
            with progress_bar() as on_progress:
                engines += add_engines(
                    folder,
                    library=library,
                    precisions=wanted.precisions,
                    compute_capabilities=wanted.capabilities if library == "tensorrt_rtx" else None,
                    profiles=wanted.profiles,
                    force=wanted.force,
                    on_progress=on_progress,
                )
        except SpoterError as error:
            errors.append((library, error))
    return engines, errors


def _typed(precision: str, compute_capability: str | None, profile: list[str] | None) -> Iterator[str]:
    """Return the options about engines as they were typed, for a command that goes on with them."""
    if precision != "fp32":
        yield from ("--precision", precision)
    if compute_capability:
        yield from ("--compute-capability", compute_capability)
    for text in profile or ():
        yield from ("--profile", text)


def _incomplete(folder: Path, errors: list[tuple[Library, SpoterError]], typed: Sequence[str]) -> SpoterError:
    """Return one error that says what failed, what is there all the same, and how to go on later.

    The command is only given where the machine is what is missing: a wrong option fails again.
    """
    from spoter_runtime.bundle.libraries import EXTRAS
    from spoter_runtime.errors import BackendError, MissingExtraError

    options = {library: f"--{extra}" for library, extra in EXTRAS.items()}
    reasons = "\n".join(f"{options[library]}: {error}" for library, error in errors)
    later = [library for library, error in errors if isinstance(error, BackendError | MissingExtraError)]
    then = ""
    if later:
        again = ["spoter-kit", "export", str(folder), *(options[library] for library in later), *typed]
        then = f". Then: {shlex.join(again)}"
    return BackendError(f"{reasons}\n{folder} is complete otherwise{then}")


def _show_onnx(exported: Exported) -> None:
    from spoter_export.parity.report import fact_rows

    folder = exported.bundle.folder
    for artefact, proof in zip(exported.bundle.artefacts, exported.proofs, strict=True):
        emit_table(
            f"{folder}/{artefact.path}  {artefact.size_bytes / 1e6:.2f} MB  sha256 {artefact.sha256[:16]}…",
            (f"{proof.facts.candidate} against {proof.facts.reference}", "largest logit difference", ""),
            fact_rows(proof),
        )


def _show_engines(engines: list[AddedEngine]) -> None:
    plan = engines[0].plan
    shares = plan.padding
    emit_table(
        f"shapes, {plan.source}",
        ("profile: batch × frames, tuned for (…)", "padding expected", "share of the frames"),
        [
            *((str(profile), "", "") for profile in plan.profiles),
            (
                f"CUDA graphs at {', '.join(map(str, plan.buckets))} frames",
                "one clip at a time",
                f"{shares.single:.1%}",
            ),
            ("", f"batches of {shares.batch}, sorted by length", f"{shares.sorted_batches:.1%}"),
            ("", f"batches of {shares.batch}, as they come", f"{shares.unsorted_batches:.1%}"),
            ("", "every clip padded to the longest", f"{shares.longest:.1%}"),
        ],
    )
    emit_table(
        "engines",
        ("engine", "for", "size", "built in", "executed"),
        [_engine_row(engine) for engine in engines],
    )
    for reason in dict.fromkeys(engine.not_executed for engine in engines if engine.not_executed):
        print(f"not executed: {reason}")


def _engine_row(engine: AddedEngine) -> tuple[str, ...]:
    spec = engine.artefact.engine
    assert spec is not None  # it is one
    facts = spec.executed
    return (
        f"{engine.artefact.precision} {spec.library} {spec.version}",
        f"{', '.join(spec.compute_capabilities)}; {spec.system} {spec.machine}",
        f"{engine.artefact.size_bytes / 1e6:.2f} MB",
        f"{spec.built['seconds']:.1f} s",
        "no"
        if facts is None
        else f"{facts['gpu']}: {facts['labels_agree']} of {facts['clips']} goldens agree, within "
        f"{facts['max_logit_diff']:.1e}",
    )


def _as_json(engine: AddedEngine) -> dict[str, Any]:
    return engine.artefact.as_json() | {
        "plan": asdict(engine.plan),
        "proof": engine.proof.as_json() if engine.proof else None,
        "not_executed": engine.not_executed,
    }
