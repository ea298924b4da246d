"""`spoter-kit landmarker`: obtain the networks that find landmarks in pictures, and check them here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spoter_toolkit.cli.commands import add
from spoter_toolkit.cli.console import (
    ANSWER_IS_NO,
    ForceOption,
    JsonOption,
    aligned,
    emit_json,
    insist,
    is_verbose,
    next_step,
    say,
    tell,
)

app = typer.Typer(help="Fetch and check the networks that find landmarks.", no_args_is_help=True)


def fetch(
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Take this wheel of mediapipe 0.10.21, or a folder of it; default: pip downloads it.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write to this folder; default: the user's cache.")
    ] = None,
    trt: Annotated[
        bool, typer.Option("--trt", help="Build TensorRT engines of them for this machine's GPU.")
    ] = False,
    rtx: Annotated[
        bool, typer.Option("--rtx", help="Build TensorRT-RTX engines of them; no GPU is needed.")
    ] = False,
    compute_capability: Annotated[
        str | None, typer.Option(help="Build --rtx for these GPUs: 8.6,8.9; default: 8.0,8.6,8.9,12.0.")
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Obtain MediaPipe's networks, convert them to ONNX, and prove each against its original.

    Downloads one file of 36 MB with pip and installs nothing of it. Afterwards no network is needed.
    With --trt or --rtx, a landmarker that is there already only gets the engines.
    """
    from spoter_export.landmarker.writer import write_landmarker
    from spoter_runtime.camera.files import MANIFEST, landmarker_folder, read_landmarker
    from spoter_runtime.errors import UsageError

    if compute_capability is not None and not rtx:
        raise UsageError("--compute-capability: TensorRT builds for the GPU at hand", fix="add --rtx")
    folder = landmarker_folder() if out is None else out
    if not force and not source and (folder / MANIFEST).exists():
        say("it is there already; --force fetches it again")
    else:
        folder = write_landmarker(source, out, force=force, on_step=say)
    if trt or rtx:
        _build_engines(folder, trt=trt, rtx=rtx, compute_capability=compute_capability)
    files = read_landmarker(folder)
    if json:
        engines = [engine.as_json() for engine in files.engines]
        about = {"folder": str(folder), "sha256": files.sha256, "source": files.source}
        emit_json(about | ({"engines": engines} if engines else {}))
        return
    tell(f"{folder}: the landmarker of {files.source}, sha256 {files.sha256[:16]}…")
    for library in sorted({engine.spec.library for engine in files.engines}):
        engines_of = [engine for engine in files.engines if engine.spec.library == library]
        size_mb = sum(engine.size_bytes for engine in engines_of) / 1e6
        where = ", ".join(engines_of[0].spec.compute_capabilities)
        tell(f"engines of {library}: {size_mb:.0f} MB, for {where}: built, not executed")
    next_step("spoter-kit landmarker verify")


def _build_engines(folder: Path, *, trt: bool, rtx: bool, compute_capability: str | None) -> None:
    from spoter_export.landmarker.engines import write_engines
    from spoter_export.trt.to_tensorrt import parse_compute_capabilities
    from spoter_runtime.camera.files import read_landmarker

    targets = parse_compute_capabilities(compute_capability) if compute_capability else None
    if trt:
        write_engines(read_landmarker(folder), "tensorrt", on_step=say)
    if rtx:
        write_engines(read_landmarker(folder), "tensorrt_rtx", compute_capabilities=targets, on_step=say)


def have_landmarker(folder: Path | None = None, *, yes: bool) -> None:
    """Fetch the landmarker into the user's cache where it is missing: after asking, or because of --yes.

    Raises:
        BundleError: it is missing, and nobody can be asked or the answer is no.
        DataError: the download failed.
    """
    import sys

    from spoter_runtime.camera.files import MANIFEST, landmarker_folder, read_landmarker

    if folder is not None or (landmarker_folder() / MANIFEST).exists():
        read_landmarker(folder)
        return
    question = "The landmarker is missing. Download MediaPipe's networks (36 MB, Apache-2.0) with pip?"
    if not yes and not (sys.stdin.isatty() and typer.confirm(question, default=True, err=True)):
        read_landmarker()  # says what is missing
    from spoter_export.landmarker.writer import write_landmarker

    write_landmarker(on_step=say)


def verify(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="Check this landmarker; default: the user's cache."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Hash the landmarker's files and replay its goldens on this machine. Exit 3 if they differ."""
    from spoter_runtime.camera.files import read_landmarker
    from spoter_runtime.camera.goldens import TOLERANCE, replay

    files = read_landmarker(folder)
    worst = replay(files)
    passed = max(worst.values()) <= TOLERANCE
    if json:
        emit_json(
            {"folder": str(files.folder), "sha256": files.sha256, "passed": passed, "differences": worst}
        )
    else:
        say_verdict = tell if passed else insist
        verdict = "verified: same landmarks as" if passed else "FAILED: other landmarks than"
        largest = f"largest difference {max(worst.values()):.1e} of {TOLERANCE:.0e} allowed"
        say_verdict(f"{verdict} its goldens: {largest}")
        if is_verbose() or not passed:
            say_verdict(
                *(f"  {line}" for line in aligned([(name, f"{value:.1e}") for name, value in worst.items()]))
            )
    if not passed:
        raise typer.Exit(ANSWER_IS_NO)


add(
    app,
    fetch,
    "fetch",
    "spoter-kit landmarker fetch",
    "spoter-kit landmarker fetch --from wheels",
    "spoter-kit landmarker fetch --rtx",
)
add(app, verify, "verify", "spoter-kit landmarker verify")
