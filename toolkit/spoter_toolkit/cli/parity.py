"""`spoter-kit parity`: the proof again, over all of your data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

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
    from spoter_export.divergence import Divergence
    from spoter_export.judge import Proof
    from spoter_runtime.bundle import Bundle
    from spoter_toolkit.blaming import Blame

BISECTIONS: Final = Path("bisect")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What one run has found; the bundle is None where stored facts were judged without one."""

    name: str
    bundle: Bundle | None
    proofs: Sequence[Proof]
    not_run: dict[str, str] = field(default_factory=dict)
    blamed: Sequence[Blame] = ()
    divergences: dict[str, Divergence | str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """True where every proof holds."""
        return all(proof.verdict.passed for proof in self.proofs)

    def as_json(self) -> dict[str, Any]:
        """Return what ``-o`` writes."""
        from spoter_export.bundle_files import proofs_json

        bisected = self.divergences.items()
        return proofs_json(self.proofs) | {
            "passed": self.passed,
            "not_run": self.not_run,
            "blame": {blame.backend: [link.as_json() for link in blame.links] for blame in self.blamed},
            "bisect": {name: what if isinstance(what, str) else what.as_json() for name, what in bisected},
        }


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
    from spoter_runtime.bundle import read_bundle
    from spoter_runtime.errors import ConfigError, from_options, require
    from spoter_toolkit.backends import backends_of
    from spoter_toolkit.blaming import blame_failed
    from spoter_toolkit.data.dataset import read_dataset
    from spoter_toolkit.exporting import proof_clips, training_data
    from spoter_toolkit.given_paths import check_target
    from spoter_toolkit.locate import newest_bundle
    from spoter_toolkit.proving import check_candidates, judge_again, prove_backends, read_policies
    from spoter_toolkit.reference import find_run

    for target in (out, html):
        if target:
            check_target(target, force=force)
    if html:
        require("jinja2", extra="toolkit")  # found out before the running, not after it
    with from_options():
        check_candidates(backend or ())
    policies = read_policies(policy)
    if judge:
        for option, value in (("--bisect", bisect), ("--data", data), ("--backend", backend)):
            if value:
                raise ConfigError(f"{option}: is for a run, --judge runs nothing. Fix: leave one of them out")
        judged = read_bundle(bundle) if bundle else None
        found = _Found(name=judge.stem, bundle=judged, proofs=judge_again(judge, policies, judged))
        _finish(judge, found, out=out, html=html, json=json)
        return
    opened = read_bundle(bundle or newest_bundle())
    if bisect:
        _check_bisections(opened, backend or backends_of(opened), force=force)
    source = find_run(opened, run)
    dataset = read_dataset(data) if data else training_data(source)
    if dataset is None:
        say("no data: only generated clips are compared. Fix: name real ones with --data")
    people = proof_clips(dataset, limit=None, all_splits=all_splits)
    with progress_bar() as on_progress:
        proofs, not_run = prove_backends(
            opened,
            source.folder,
            people,
            backends=backend,
            policies=policies,
            seed=seed,
            on_progress=on_progress,
        )
        on_progress(0, 0, "looking for the step that breaks")
        blamed = blame_failed(opened, source.load_model(), proofs, people)
        divergences = _bisected(opened, blamed) if bisect else {}
    found = _Found(
        name=opened.name,
        bundle=opened,
        proofs=proofs,
        not_run=not_run,
        blamed=blamed,
        divergences=divergences,
    )
    _finish(opened.folder, found, out=out, html=html, json=json)
    if not json:
        next_step("spoter-kit bench {}", opened.folder)


def _bisection(bundle: Bundle, backend: str) -> Path:
    return BISECTIONS / f"{bundle.folder.resolve().stem}-{backend.replace(':', '-')}"


def _check_bisections(bundle: Bundle, backends: Sequence[str], *, force: bool) -> None:
    """Refuse before the running what would fail after it.

    Raises:
        ConfigError: there is something already where a bisection would be written.
    """
    from spoter_export.divergence import FACTS
    from spoter_runtime.errors import ConfigError
    from spoter_runtime.files import is_replaceable

    for backend in backends:
        folder = _bisection(bundle, backend)
        if not is_replaceable(folder, FACTS) or ((folder / FACTS).exists() and not force):
            raise ConfigError(f"{folder}: is there already. Fix: --force replaces it, or move it away")


def _bisected(bundle: Bundle, blamed: Sequence[Blame]) -> dict[str, Divergence | str]:
    """Bisect the broken link of each backend and write what was found; a text where nothing can be."""
    from spoter_runtime.errors import SpoterError

    found: dict[str, Divergence | str] = {}
    for blame in blamed:
        try:
            divergence = blame.bisect()
        except SpoterError as error:
            found[blame.backend] = str(error)
            continue
        if divergence is None:
            found[blame.backend] = "no tensor differs beyond rounding: the difference grows step by step"
        else:
            folder = _bisection(bundle, blame.backend)
            divergence.write(folder)
            found[blame.backend] = divergence
            say(f"written: {folder}")
    return found


def _write_page(path: Path, found: _Found) -> None:
    from spoter_runtime.files import write_text
    from spoter_toolkit.bench.environment import without_places
    from spoter_toolkit.proof_page import html_from_proofs

    # The page is made to be sent around: it names no folder of this machine.
    folders = [found.bundle.folder] if found.bundle else []
    page = html_from_proofs(
        found.name,
        found.proofs,
        artefacts=found.bundle.artefacts if found.bundle else (),
        not_run={backend: without_places(why, *folders) for backend, why in found.not_run.items()},
        links={blame.backend: blame.links for blame in found.blamed},
        divergences={backend: str(what) for backend, what in found.divergences.items()},
    )
    write_text(path, page)
    say(f"page: {path}")


def _finish(source: Path, found: _Found, *, out: Path | None, html: Path | None, json: bool) -> None:
    """Write and show what was found; leave with 3 where something does not hold."""
    from spoter_runtime.files import write_json

    if html:
        _write_page(html, found)
    result = found.as_json()
    if out:
        write_json(out, result)
    if json:
        emit_json({"bundle": str(source)} | result)
    else:
        for proof in found.proofs:
            _show(source.stem, proof)
        for blame in found.blamed:
            _show_blame(blame)
            if blame.backend in found.divergences:
                print(found.divergences[blame.backend])
        if found.not_run:
            emit_table("not executed", ("backend", "why"), list(found.not_run.items()))
    if not found.passed:
        raise typer.Exit(ANSWER_IS_NO)


def _show(bundle: str, proof: Proof) -> None:
    from spoter_export.matrix import fact_rows
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


def _show_blame(blame: Blame) -> None:
    from spoter_toolkit.proof_page import blame_table

    table = blame_table(blame.backend, blame.links)
    emit_table(table.title, table.columns, table.rows)
    print(
        f"it breaks at {blame.broken}"
        if blame.broken
        else "no step breaks on generated clips and on those furthest off: look at what is named above"
    )
