"""`spoter-kit parity`: the proof again, over all of your data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spoter_toolkit.cli.console import (
    ANSWER_IS_NO,
    ForceOption,
    JsonOption,
    emit_json,
    emit_table,
    next_step,
    progress_bar,
    say,
)

if TYPE_CHECKING:
    from spoter_export.blame import Link
    from spoter_export.judge import Proof


def parity(
    bundle: Annotated[Path | None, typer.Argument(help="BUNDLE; default: the newest.")] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Once for each; trt:fp16 for another precision; default: all that run here."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="DATASET; default: the one the run was trained on.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="RUN that the bundle was made from; default: runs/NAME.")
    ] = None,
    all_splits: Annotated[
        bool, typer.Option("--all", help="Every clip of the data; default: its test split.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the generated clips.")] = 0,
    policy: Annotated[
        Path | None, typer.Option(help="TOML file of thresholds, a table for each precision.")
    ] = None,
    judge: Annotated[
        Path | None, typer.Option(help="Judge the facts of this file, that -o wrote, and run nothing.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write facts and verdicts to this JSON file.")
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Compare backends with torch over the shape grid and on clips. Exit 3 if one differs."""
    from spoter_runtime.bundle import read_bundle
    from spoter_toolkit.data.dataset import check_target, read_dataset
    from spoter_toolkit.exporting import proof_clips, training_data
    from spoter_toolkit.locate import newest_bundle
    from spoter_toolkit.proving import blame_failed, judge_again, prove_backends, read_policies
    from spoter_toolkit.reference import find_run

    if out:
        check_target(out, force=force)
    policies = read_policies(policy)
    if judge:
        proofs = judge_again(judge, policies, read_bundle(bundle) if bundle else None)
        _finish(judge, proofs, {}, {}, out=out, json=json)
        return
    opened = read_bundle(bundle or newest_bundle())
    source = find_run(opened, run)
    dataset = read_dataset(data) if data else training_data(source)
    if dataset is None:
        say("no data: only generated clips are compared. Fix: name real ones with --data")
    with progress_bar() as on_progress:
        proofs, not_run = prove_backends(
            opened,
            source.folder,
            proof_clips(dataset, limit=None, all_splits=all_splits),
            backends=backend,
            policies=policies,
            seed=seed,
            on_progress=on_progress,
        )
        links = blame_failed(opened, source.folder, proofs)
    _finish(opened.folder, proofs, not_run, links, out=out, json=json)
    if not json:
        next_step("spoter-kit bench {}", opened.folder)


def _finish(
    source: Path,
    proofs: Sequence[Proof],
    not_run: dict[str, str],
    links: dict[str, tuple[Link, ...]],
    *,
    out: Path | None,
    json: bool,
) -> None:
    """Write and show what was found; leave with 3 where something does not hold."""
    from spoter_export.bundle_files import proofs_json
    from spoter_runtime.files import write_json

    passed = all(proof.verdict.passed for proof in proofs)
    blame = {name: [link.as_json() for link in chain] for name, chain in links.items()}
    result = proofs_json(proofs) | {"passed": passed, "not_run": not_run, "blame": blame}
    if out:
        write_json(out, result)
    if json:
        emit_json({"bundle": str(source)} | result)
    else:
        for proof in proofs:
            _show(source.stem, proof)
        for name, chain in links.items():
            _show_blame(name, chain)
        if not_run:
            emit_table("not executed", ("backend", "why"), list(not_run.items()))
    if not passed:
        raise typer.Exit(ANSWER_IS_NO)


def _show(bundle: str, proof: Proof) -> None:
    from spoter_export.robustness import ROBUSTNESS_COLUMNS, robustness_cells, robustness_rows

    emit_table(
        f"{bundle}/{proof.artefact}: {proof.facts.candidate} against {proof.facts.reference}",
        ("what was run", "largest logit difference", ""),
        fact_rows(proof),
    )
    if robustness := robustness_rows(proof.facts):
        emit_table(
            f"{proof.artefact} on changed clips",
            ROBUSTNESS_COLUMNS,
            [robustness_cells(row) for row in robustness],
        )
    print("parity holds" if proof.verdict.passed else "PARITY FAILS:")
    for failure in proof.verdict.failures:
        print(f"  {failure}")


def _show_blame(backend: str, links: Sequence[Link]) -> None:
    from spoter_export.blame import first_broken

    emit_table(
        f"from torch to {backend}, on generated clips",
        ("step", "differs from the step before", "padding moves it", "holds"),
        [
            (
                link.step,
                "" if link.max_logit_diff is None else f"{link.max_logit_diff:.1e}",
                link.error or f"{link.max_padding_diff:.1e}",
                "yes" if link.holds else "NO",
            )
            for link in links
        ],
    )
    broken = first_broken(links)
    print(
        f"it breaks at {broken}"
        if broken
        else "no step breaks on generated clips: look at the clips named above"
    )


def fact_rows(proof: Proof) -> list[tuple[str, str, str]]:
    """Return the facts as table rows: what, the largest difference, labels."""
    from spoter_export.judge import agreement_in_words

    facts = proof.facts
    ran = [point.max_logit_diff for point in facts.grid if point.max_logit_diff is not None]
    rows = [
        (
            "grid: batch × frames, full and ragged lengths",
            f"{max(ran):.1e}" if ran else "none ran",
            f"{len(ran)} of {len(facts.grid)} points",
        )
    ]
    rows += [
        (
            f"clips, {clips.source}",
            f"{clips.max_logit_diff:.1e}",
            agreement_in_words(clips, proof.precision),
        )
        for clips in facts.clips
        if clips.change is None
    ]
    rows += [
        (
            f"{fact.change}, {fact.runner}",
            "no answer" if fact.max_logit_diff is None else f"{fact.max_logit_diff:.1e}",
            f"{fact.clips} clips",
        )
        for fact in facts.invariance
    ]
    return rows
