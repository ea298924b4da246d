"""`spoter-kit export`: a proven BUNDLE from a RUN, and engines for it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spoter_toolkit.cli.completion import complete_dataset, complete_source
from spoter_toolkit.cli.console import (
    ForceOption,
    JsonOption,
    aligned,
    emit_json,
    emit_table,
    ended_in_order,
    is_verbose,
    next_step,
    progress_lines,
    say,
    say_busy,
    tell,
)
from spoter_toolkit.cli.proof_view import no_sign_in_words, proof_in_words

if TYPE_CHECKING:
    from spoter_export.bundle.engines import AddedEngine
    from spoter_runtime.bundle.libraries import Library
    from spoter_runtime.errors import SpoterError
    from spoter_toolkit.export import ExportReport
    from spoter_toolkit.web.site import SiteReport


def export(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            help="Export this RUN, or add to this BUNDLE; default: the last RUN.",
            autocompletion=complete_source,
        ),
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX files; a RUN always gets them.")] = False,
    trt: Annotated[
        bool, typer.Option("--trt", help="Build a TensorRT engine for this machine's GPU.")
    ] = False,
    rtx: Annotated[
        bool, typer.Option("--rtx", help="Build a TensorRT-RTX engine; no GPU is needed.")
    ] = False,
    trt8: Annotated[
        bool, typer.Option("--trt8", help="Add ONNX files for TensorRT 8.6, which JetPack 6.0 has.")
    ] = False,
    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="Build --trt for newer versions and the lean runtime too."),
    ] = False,
    on: Annotated[
        str | None,
        typer.Option(
            "--on", help="Build over ssh on this machine: user@host, or user@host:PYTHON.", metavar="<str>"
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Write these precisions, with commas: fp32, fp16, and int8 for CPUs.")
    ] = "fp32",
    compute_capability: Annotated[
        str | None, typer.Option(help="Build --rtx for these GPUs: 8.6,8.9; default: 8.0,8.6,8.9,12.0.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Build engines for these shapes, clips x frames: least,tuned,most; default: the data's.",
            metavar="<str>",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Compare on clips of this DATASET; default: the one it was trained on.",
            autocompletion=complete_dataset,
        ),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(min=1, max=1024, help="Claim and run batches up to this size.")
    ] = 32,
    no_real_goldens: Annotated[
        bool, typer.Option("--no-real-goldens", help="Keep no clip of the data in the bundle.")
    ] = False,
    no_tune: Annotated[
        bool, typer.Option("--no-tune", help="Do not measure how it runs fastest on this CPU.")
    ] = False,
    camera: Annotated[
        bool, typer.Option("--camera", help="Put the landmarker in: the bundle takes videos by itself.")
    ] = False,
    web: Annotated[
        Path | None, typer.Option(help="Write a static site to this folder: the bundle in a web page.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Take --web's engine from this folder of onnxruntime-web; npm downloads it.",
            metavar="<str>",
        ),
    ] = None,
    webgpu: Annotated[
        bool, typer.Option("--webgpu", help="Let --web's page use a GPU where it is faster.")
    ] = False,
    triton: Annotated[
        Path | None, typer.Option(help="Write a model repository for Triton to this folder too.")
    ] = None,
    negatives: Annotated[
        Path | None,
        typer.Option(
            help="Learn on clips of this DATASET, in which nobody signs, when to say no sign.",
            autocompletion=complete_dataset,
        ),
    ] = None,
    background: Annotated[
        str, typer.Option(help="Name labels of the model that stand for no sign, with commas: none.")
    ] = "",
    false_answers: Annotated[
        float, typer.Option(min=0, max=1, help="Let so many clips without a sign get a sign, as a share.")
    ] = 0.05,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Write the BUNDLE to this folder; default: bundles/RUN.spoter."),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Export a RUN to ONNX with dynamic batch and frames, run it over its whole grid, write a BUNDLE.

    With --trt or --rtx, build engines from it and run them where there is a GPU. With --web, write a page
    that runs it in a browser. For a BUNDLE, only that.
    """
    from spoter_runtime.bundle.manifest import MANIFEST
    from spoter_runtime.errors import UsageError, from_options
    from spoter_toolkit.export import TUNE_SECONDS, engine_settings
    from spoter_toolkit.export import export as export_source
    from spoter_toolkit.workspace import last_run

    precisions = [name.strip() for name in precision.split(",")]
    asked: dict[Library, bool] = {"tensorrt": trt, "tensorrt_rtx": rtx}
    libraries = [library for library, wanted in asked.items() if wanted]
    with from_options():
        engines = engine_settings(
            libraries,
            precisions,
            compute_capability,
            profile or (),
            version_compatible=version_compatible,
            on=on,
        )
    if out and out.suffix != ".spoter":
        raise UsageError(f"{out}: a bundle's name ends in .spoter", fix=f"-o {out}.spoter")
    path = source or last_run()
    if (path / MANIFEST).is_file() and not (engines or trt8 or web or camera or triton):
        raise UsageError(
            f"{path}: is a BUNDLE already", fix="--trt or --rtx adds engines to it, --camera the landmarker"
        )
    if (engine or webgpu) and not web:
        raise UsageError(f"--{'engine' if engine else 'webgpu'}: is for a site", fix="--web FOLDER")
    if (path / MANIFEST).is_file() and (negatives or background):
        raise UsageError(
            f"{path}: is a BUNDLE, only a RUN is calibrated", fix="export the RUN again with --force"
        )
    if not (path / MANIFEST).is_file():
        say_busy()
    with ended_in_order(saying_what_is_written(path, out)), progress_lines() as on_progress:
        report = export_source(
            path,
            out,
            precisions=precisions,
            engines=engines,
            data=data,
            max_batch=max_batch,
            keep_goldens=not no_real_goldens,
            tune_seconds=0 if no_tune else TUNE_SECONDS,
            camera=camera,
            trt8=trt8,
            web=web,
            web_engine=engine,
            webgpu=webgpu,
            triton=triton,
            negatives=negatives,
            false_answers=false_answers,
            background=[name.strip() for name in background.split(",") if name.strip()],
            force=force,
            on_progress=on_progress,
        )
    if json:
        emit_json(report.as_json())
    else:
        show(report)
    say_more(report, kept_goldens=not no_real_goldens)
    if report.failed:
        typed = ["--precision", precision] if precision != "fp32" else []
        typed += ["--version-compatible"] if version_compatible else []
        typed += ["--on", on] if on else []
        typed += ["--compute-capability", compute_capability] if compute_capability else []
        typed += [part for text in profile or () for part in ("--profile", text)]
        raise incomplete(report, typed)
    if not json and web:
        next_step("python -m http.server --directory {} --bind 127.0.0.1", web)
    elif not json and not triton:
        next_step("spoter-kit verify {}", report.folder)


def saying_what_is_written(source: Path, out: Path | None) -> Callable[[], None]:
    """Return what says whether the bundle is complete, if the export of a RUN or BUNDLE is stopped."""
    from spoter_runtime.bundle.manifest import MANIFEST
    from spoter_toolkit.export import bundle_folder
    from spoter_toolkit.runs.run import read_run

    is_bundle = (source / MANIFEST).is_file()
    manifest = (source if is_bundle else bundle_folder(read_run(source), out)) / MANIFEST

    def written() -> int:
        return manifest.stat().st_mtime_ns if manifest.is_file() else 0

    before = written()

    def say_it() -> None:
        if written() not in (0, before):
            say(f"interrupted; {manifest.parent} is complete")
            next_step("spoter-kit verify {}", manifest.parent)
        else:
            say("interrupted; nothing was written")

    return say_it


def say_more(report: ExportReport, *, kept_goldens: bool) -> None:
    """Print on stderr how complete run, data and tuning were, and how Triton loads a repository."""
    if report.run and (unfinished := report.run.unfinished()):
        say(f"{unfinished.message}; its weights so far are exported", fix=unfinished.fix)
    if report.exported and report.data is None:
        say("no data: only generated clips were compared", fix="name a DATASET with --data")
    elif report.data and kept_goldens and not report.data.origin.synthetic:
        say("some clips of the data travel in the bundle as goldens; --no-real-goldens keeps them here")
    if report.triton:
        folder = report.triton.folder
        say(f"{folder}: {', '.join(report.triton.models)}; written, not loaded: no Triton ran here")
        say(f"tritonserver --model-repository {shlex.quote(str(folder))} loads it")
    if report.not_calibrated:
        say(f"it never says no sign: {report.not_calibrated.message}", fix=report.not_calibrated.fix)
    elif (
        report.exported
        and report.data
        and (rule := report.exported.bundle.abstention)
        and not any(kind["recorded"] for kind in rule.evidence["kinds"])
    ):
        say(
            "hands that move without a sign may get a word: no such clip was there",
            fix=f"spoter-kit data background {shlex.quote(str(report.data.folder))}, then train again",
        )
    for error in report.not_tuned.values():
        say(
            f"not tuned for this machine: {error.message}",
            fix=error.fix or f"spoter-kit tune {report.folder}",
        )
    if is_verbose():
        for precision, tuned in report.tuned.items():
            for situation, config in tuned.configs.items():
                say(f"fastest here, {precision}, {situation}: {config}: {tuned.reasons[situation]}")
    elif report.tuned:
        say("tuned for this CPU (-v: how)")


def incomplete(report: ExportReport, typed: Sequence[str]) -> SpoterError:
    """Return one error that says what failed, what is there all the same, and how to go on later.

    The command is only given where the machine lacks something: a wrong option fails again.
    """
    from spoter_runtime.bundle.libraries import EXTRAS
    from spoter_runtime.errors import BackendError, MissingExtraError

    options = {library: f"--{extra}" for library, extra in EXTRAS.items()}
    reasons = "\n".join(f"{options[library]}: {error}" for library, error in report.failed.items())
    later = [
        options[library]
        for library, error in report.failed.items()
        if isinstance(error, BackendError | MissingExtraError)
    ]
    again = shlex.join(["spoter-kit", "export", str(report.folder), *later, *typed]) if later else ""
    then = f". Then: {again}" if again else ""
    return BackendError(f"{reasons}\n{report.folder} is complete otherwise{then}")


def show(report: ExportReport) -> None:
    """Print the verdict, then a line for each file; with ``-v`` each file's proof and the engines' shapes."""
    if report.landmarker:
        tell(f"{report.folder}: the landmarker is in it; it takes videos by itself")
    if is_verbose():
        show_proofs(report)
        if report.engines:
            show_engines(report.engines)
        if report.site:
            show_site(report.site)
        return
    if report.exported or report.engines or report.trt8:  # else an error says why nothing was added
        added = "engines built and added" if report.engines else "files for TensorRT 8.6 added"
        tell(f"{report.folder}: {'same answers as PyTorch' if report.exported else added}")
    rows = []
    if report.exported:
        files = zip(report.exported.bundle.artefacts, report.exported.proofs, strict=True)
        rows = [
            (file.path, file.precision, f"{file.size_bytes / 1e6:.2f} MB", proof_in_words(proof))
            for file, proof in files
        ]
    for proof in report.trt8:
        size = f"{(report.folder / proof.artefact).stat().st_size / 1e6:.2f} MB"
        rows.append((proof.artefact, proof.precision, size, proof_in_words(proof)))
    for engine in report.engines:
        _, gpus, size, _, executed = engine_row(engine)
        ran = "built, not run here" if executed == "no" else f"ran on {executed}"
        rows.append((engine.artefact.path, engine.artefact.precision, size, f"for {gpus}; {ran}"))
    tell(*(f"  {line}" for line in aligned(rows)))
    if report.exported and (rule := report.exported.bundle.abstention):
        tell(no_sign_in_words(rule.evidence))
    tell_not_run(report.engines)
    if report.site:
        show_site(report.site)


def show_site(site: SiteReport) -> None:
    """Print what a visit of the site loads."""
    camera = site.camera_bytes
    more = "no landmarker, so no camera" if camera is None else f"the camera {camera / 1e6:.1f} MB more"
    more += f", WebGPU {site.webgpu_bytes / 1e6:.1f} MB" if site.webgpu_bytes else ""
    tell(f"{site.folder}: a first visit loads {site.first_bytes / 1e6:.1f} MB, {more}")
    if camera is None:
        say("the site takes recorded landmarks only", fix="spoter-kit landmarker fetch, then --web again")


def show_proofs(report: ExportReport) -> None:
    """Print each file with all rows of its proof."""
    from spoter_export.parity.report import fact_rows

    if report.exported:
        files = zip(report.exported.bundle.artefacts, report.exported.proofs, strict=True)
        for file, proof in files:
            emit_table(
                f"{report.folder}/{file.path}  {file.size_bytes / 1e6:.2f} MB  sha256 {file.sha256[:16]}…",
                (f"{proof.facts.candidate} against {proof.facts.reference}", "largest logit difference", ""),
                fact_rows(proof),
            )


def show_engines(engines: Sequence[AddedEngine]) -> None:
    """Print the shapes that engines were built for, and the engines."""
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
        [engine_row(engine) for engine in engines],
    )
    tell_not_run(engines)


def tell_not_run(engines: Sequence[AddedEngine]) -> None:
    """Say why engines were built only, and that a device finds out: nothing went wrong here."""
    for reason in dict.fromkeys(engine.not_executed for engine in engines if engine.not_executed):
        tell(f"not run here: {reason}; before its first use, a device with such a GPU replays the goldens")


def engine_row(engine: AddedEngine) -> tuple[str, ...]:
    """Return an engine as cells: what it is, for which GPUs, its size, and whether it was executed."""
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
