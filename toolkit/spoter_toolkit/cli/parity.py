"""`spoter-kit parity`: the proof again, over all of your data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from spoter_toolkit.cli.completion import complete_backend, complete_dataset, complete_face, complete_run
from spoter_toolkit.cli.console import (
    ANSWER_IS_NO,
    BundleArgument,
    ForceOption,
    JsonOption,
    aligned,
    emit_json,
    emit_table,
    few_names,
    insist,
    is_verbose,
    next_step,
    progress_lines,
    say,
    say_busy,
    tell,
)
from spoter_toolkit.cli.proof_view import proof_in_words
from spoter_toolkit.report.words import plural

if TYPE_CHECKING:
    from spoter_export.diagnose.chain import Link
    from spoter_export.parity.proof import Proof
    from spoter_toolkit.parity.report import ParityReport

BISECTIONS: Final = Path("bisect")


def parity(
    bundle: BundleArgument = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare this backend, as in trt:fp16; may be given again; default: all that run here.",
            metavar="<str>",
            autocompletion=complete_backend,
        ),
    ] = None,
    face: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare this face of the device, as in c or c:int8; may be given again.",
            metavar="<str>",
            autocompletion=complete_face,
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep the proofs of the faces in the BUNDLE and in its MODEL_CARD.md."),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Compare on clips of this DATASET; default: the one the RUN was trained on.",
            autocompletion=complete_dataset,
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Compare with this RUN, which the BUNDLE was made from; default: runs/NAME.",
            autocompletion=complete_run,
        ),
    ] = None,
    all_splits: Annotated[
        bool, typer.Option("--all", help="Compare on every clip of the data; default: its test split.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Set the random seed of the generated clips; default: 0.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="Judge by the thresholds in this TOML file, which has a table for each precision."),
    ] = None,
    judge: Annotated[
        Path | None,
        typer.Option(help="Run nothing; judge the facts in this file, which -o wrote, or in this BUNDLE."),
    ] = None,
    videos: Annotated[
        Path | None,
        typer.Option(help="Folder of videos: compare the landmarker with MediaPipe instead, and the labels."),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Compare the events of a stream on every backend, and its segments with predict.",
        ),
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(
            help="Replay this landmark log of live --record, with --stream; default: the BUNDLE's goldens."
        ),
    ] = None,
    bisect: Annotated[
        bool,
        typer.Option(
            "--bisect",
            help="Where it fails, find the first tensor that differs, and write bisect/BUNDLE-BACKEND.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write facts and verdicts to this JSON file.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write facts and verdicts as one HTML page to this file.")
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Compare backends with torch over the shape grid and on clips. Exit 3 if one differs."""
    from spoter_runtime.bundle.libraries import FACE
    from spoter_runtime.bundle.manifest import read_bundle
    from spoter_runtime.errors import ConfigError, from_options, require
    from spoter_runtime.files import write_json, write_text
    from spoter_toolkit.input_files import check_target
    from spoter_toolkit.parity.prove import check_candidates, prove_bundle, read_policies
    from spoter_toolkit.parity.report import read_report
    from spoter_toolkit.workspace import newest_bundle

    candidates = [*(backend or ()), *(FACE + name for name in face or ())]
    if videos:
        _compare_videos(bundle or newest_bundle(), videos, out=out, force=force, json=json)
        return
    if stream or log:
        _prove_streams(bundle or newest_bundle(), log, candidates, out=out, force=force, json=json)
        return
    for option, target in (("-o", out), ("--html", html)):
        if target:
            check_target(target, force=force, option=option)
    if html:
        require("jinja2", extra="toolkit")  # found out before the running, not after it
    with from_options():
        check_candidates(candidates)
        if keep and not face:
            raise ConfigError("--keep is for the proofs of faces", fix="name one with --face")
        if judge:
            _check_nothing_is_to_run(
                {"--backend": backend, "--face": face, "--data": data, "--run": run, "--all": all_splits}
                | {"--seed": seed is not None, "--bisect": bisect}
            )
    policies = read_policies(policy)
    if judge:
        source = judge
        report = read_report(judge, read_bundle(bundle) if bundle else None).judged_by(policies)
    else:
        source = bundle or newest_bundle()
        say_busy()
        with progress_lines() as on_progress:
            report = prove_bundle(
                source,
                run=run,
                data=data,
                all_splits=all_splits,
                backends=candidates or None,
                policies=policies,
                seed=seed or 0,
                bisect_into=BISECTIONS if bisect else None,
                force=force,
                on_progress=on_progress,
            )
    if html:
        from spoter_toolkit.parity.page import html_from_report

        write_text(html, html_from_report(report, judged=judge is not None))
    if out:
        write_json(out, report.as_json())
    if json:
        emit_json({"bundle": str(source)} | report.as_json())
    else:
        _show(report)
    if html:
        say(f"page: {html}")
    if not report.passed:
        raise typer.Exit(ANSWER_IS_NO)
    if keep:
        from spoter_export.bundle.engines import keep_proofs

        keep_proofs(source, [proof for proof in report.proofs if proof.face])
    if not (json or judge):
        next_step("spoter-kit bench {}", source)


def _compare_videos(bundle: Path, folder: Path, *, out: Path | None, force: bool, json: bool) -> None:
    """Compare the landmarker with MediaPipe on videos, and the labels that the bundle gives."""
    from spoter_runtime.camera.mediapipe import MediaPipeLandmarker
    from spoter_runtime.files import write_json
    from spoter_runtime.recognizer import Recognizer
    from spoter_toolkit.data.extract.videos import videos_in
    from spoter_toolkit.input_files import check_target
    from spoter_toolkit.parity.videos import SURE, compare_on_videos

    if out:
        check_target(out, force=force)
    files = videos_in(folder) if folder.is_dir() else [folder]
    recognizer = Recognizer.load(bundle)
    with progress_lines() as on_progress:
        found = compare_on_videos(
            files, MediaPipeLandmarker(), recognizer.landmarker(), recognizer, on_progress=on_progress
        )
    values = {"bundle": str(bundle), "landmarkers": [facts.as_json() for facts in found]}
    if out:
        write_json(out, values)
    if json:
        emit_json(values)
        return
    emit_table(
        f"{bundle}: the landmarker against MediaPipe on {plural(len(files), 'video')}, in shoulder widths",
        ("videos", "frames", "hands", "found by both", "body", "labels", f"margin above {SURE}"),
        [
            (
                facts.change,
                facts.frames,
                f"{facts.hands.distance or 0:.4f}",
                f"{facts.hands.both} of {facts.hands.either}",
                f"{facts.parts[0].distance or 0:.4f}",
                f"{facts.agree} of {facts.windows}",
                f"{facts.sure_agree} of {facts.sure}",
            )
            for facts in found
        ],
    )
    for flip in [flip for flip in found[0].flips if flip.margin > SURE][:3]:
        print(
            f"flip: {flip.video} from frame {flip.frame}: {flip.reference} → {flip.candidate}, margin "
            f"{flip.margin:.2f}; a hand that one of them misses in {flip.hands} frames"
        )


def _prove_streams(
    bundle: Path, log: Path | None, backends: list[str], *, out: Path | None, force: bool, json: bool
) -> None:
    """Compare the events of a stream on every backend, and print a line for each."""
    from spoter_runtime.errors import from_options
    from spoter_runtime.files import write_json
    from spoter_toolkit.input_files import check_target
    from spoter_toolkit.parity.prove import check_candidates
    from spoter_toolkit.parity.streams import prove_streams

    with from_options():
        check_candidates(backends)
    if out:
        check_target(out, force=force)
    with progress_lines() as on_progress:
        found = prove_streams(bundle, log=log, backends=backends or None, on_progress=on_progress)
    if out:
        write_json(out, found.as_json())
    if json:
        emit_json(found.as_json())
    else:
        failed = [proof for proof in found.proofs if proof.failures]
        tell(*([] if failed else [f"{bundle}: streaming equals predict on every backend"]))
        for proof in failed:
            insist(f"STREAMING DIFFERS: {proof.backend}, {proof.stream}", f"  {proof.failures[0]}")
        good = [proof for proof in found.proofs if not proof.failures]
        rows = [
            (p.backend, p.stream, plural(p.signs, "sign"), f"largest difference {p.max_score_diff:.1e}")
            for p in good
        ]
        tell(*(f"  {line}" for line in (aligned(rows) if rows else ())))
        if found.not_run:
            tell(f"not executed: {few_names(list(found.not_run), 6)}")
    if not found.passed:
        raise typer.Exit(ANSWER_IS_NO)


def _check_nothing_is_to_run(options: Mapping[str, object]) -> None:
    """Refuse options that say what to run.

    Raises:
        ConfigError: one of them was given.
    """
    from spoter_runtime.errors import ConfigError

    if given := [option for option, value in options.items() if value]:
        named, verb = " and ".join(given), "is" if len(given) == 1 else "are"
        raise ConfigError(f"{named} {verb} for a run, --judge runs nothing", fix=f"leave {named} out")


def _show(report: ParityReport) -> None:
    if is_verbose():
        for proof in report.proofs:
            _show_table(report.name, proof)
    _show_verdict(report)
    _show_calibration(report)
    for backend, chain in report.chains.items():
        _show_chain(backend, chain)
        if backend in report.divergences:
            insist(report.divergences[backend])
    if report.not_run and is_verbose():
        emit_table("not executed", ("backend", "why"), list(report.not_run.items()))
    elif report.not_run:
        tell(f"not executed: {few_names(list(report.not_run), 6)} (-v: why)")
    if not report.of_people:
        say("no data: only generated clips are compared", fix="name a DATASET with --data")
    _say_few(report.proofs)


def _show_table(bundle: str, proof: Proof) -> None:
    from spoter_export.parity.report import ROBUSTNESS_COLUMNS, fact_rows, robustness_rows

    emit_table(
        f"{bundle}/{proof.artefact}: {proof.facts.candidate} against {proof.facts.reference}",
        ("what was run", "largest logit difference", ""),
        fact_rows(proof),
    )
    if robustness := robustness_rows(proof.facts):
        emit_table(
            f"{proof.artefact} on changed clips",
            ROBUSTNESS_COLUMNS,
            [row.cells for row in robustness],
        )


def _show_verdict(report: ParityReport) -> None:
    """Print whether the model is the same, then a line for each backend, with all failures of a bad one."""
    failed = [proof for proof in report.proofs if not proof.verdict.passed]
    same = f"{report.name}: parity holds, {plural(len(report.proofs), 'proof')}"
    tell(*([] if failed else [same]))
    for proof in failed:
        insist(f"PARITY FAILS: {report.name}/{proof.artefact} on {proof.backend}")
        insist(*(f"  {failure}" for failure in proof.verdict.failures))
    good = [proof for proof in report.proofs if proof.verdict.passed]
    tell(*(f"  {line}" for line in aligned([(p.backend, p.artefact, proof_in_words(p)) for p in good])))


def _show_calibration(report: ParityReport) -> None:
    """Print whether every backend says "no sign" where torch does; with ``-v`` a row for each."""
    from spoter_toolkit.parity.calibration import in_words
    from spoter_toolkit.parity.page import calibration_table

    for check in report.calibration:
        insist(*(f"CALIBRATION FAILS on {check.backend}: {failure}" for failure in check.failures))
    if report.calibration and is_verbose():
        table = calibration_table(report.calibration)
        emit_table(table.title, table.columns, table.rows)
    elif report.calibration and not any(check.failures for check in report.calibration):
        tell(in_words(report.calibration))


def _say_few(proofs: Sequence[Proof]) -> None:
    """Say once where the clips of people are too few to say much about labels."""
    from spoter_export.parity.report import few_clips

    for remark in dict.fromkeys(few for proof in proofs if (few := few_clips(proof.facts))):
        say(remark.message, fix=remark.fix)


def _show_chain(backend: str, chain: Sequence[Link]) -> None:
    from spoter_export.diagnose.chain import first_broken
    from spoter_toolkit.parity.page import chain_table

    table = chain_table(backend, chain)
    if is_verbose():
        emit_table(table.title, table.columns, table.rows)
    broken = first_broken(chain)
    insist(
        f"it breaks at {broken}"
        if broken
        else "no step breaks on generated clips and on those furthest off: look at what is named above"
    )
