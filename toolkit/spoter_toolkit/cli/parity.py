"""`spoter-kit parity`: the proof again, over all of your data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    from spoter_export.diagnose.chain import Link
    from spoter_export.parity.judge import Policy, Proof
    from spoter_runtime.bundle.manifest import Bundle
    from spoter_toolkit.parity.localize import Blame

BISECTIONS: Final = Path("bisect")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What one run has found, or what a stored one had; the bundle is None where it is not at hand.

    Attributes:
        links: backend → its chain from torch.
        bisected: backend → `Divergence.as_json`, or a text where there is none.
    """

    name: str
    bundle: Bundle | None
    proofs: Sequence[Proof]
    not_run: dict[str, str]
    links: Mapping[str, Sequence[Link]]
    bisected: dict[str, Any]

    @property
    def passed(self) -> bool:
        """True where every proof holds."""
        return all(proof.verdict.passed for proof in self.proofs)

    @property
    def divergences(self) -> dict[str, str]:
        """What bisecting found, in words."""
        return {name: what if isinstance(what, str) else what["says"] for name, what in self.bisected.items()}

    def as_json(self) -> dict[str, Any]:
        """Return what ``-o`` writes."""
        from spoter_export.bundle.files import proofs_json

        return proofs_json(self.proofs) | {
            "name": self.name,
            "passed": self.passed,
            "not_run": self.not_run,
            "blame": {backend: [link.as_json() for link in links] for backend, links in self.links.items()},
            "bisect": self.bisected,
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
    seed: Annotated[int | None, typer.Option(min=0, help="Of the generated clips; default: 0.")] = None,
    policy: Annotated[
        Path | None, typer.Option(help="TOML file of thresholds, a table for each precision.")
    ] = None,
    judge: Annotated[
        Path | None,
        typer.Option(help="Run nothing: judge the facts of this file, that -o wrote, or of this BUNDLE."),
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
    from spoter_runtime.bundle.manifest import read_bundle
    from spoter_runtime.errors import from_options, require
    from spoter_toolkit.backends import backends_of
    from spoter_toolkit.data.dataset import read_dataset
    from spoter_toolkit.export import proof_clips, training_data
    from spoter_toolkit.input_files import check_target
    from spoter_toolkit.locate import newest_bundle
    from spoter_toolkit.parity.localize import blame_failed
    from spoter_toolkit.parity.prove import check_candidates, prove_backends, read_policies
    from spoter_toolkit.reference import find_run

    for option, target in (("-o", out), ("--html", html)):
        if target:
            check_target(target, force=force, option=option)
    if html:
        require("jinja2", extra="toolkit")  # found out before the running, not after it
    with from_options():
        check_candidates(backend or ())
        if judge:
            _check_nothing_is_to_run(
                {"--backend": backend, "--data": data, "--run": run, "--all": all_splits}
                | {"--seed": seed is not None, "--bisect": bisect}
            )
    policies = read_policies(policy)
    if judge:
        _finish(judge, _judged(judge, policies, bundle), out=out, html=html, json=json)
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
            seed=seed or 0,
            on_progress=on_progress,
        )
        on_progress(0, 0, "looking for the step that breaks")
        blamed = blame_failed(opened, source.load_model(), proofs, people)
        bisected = _bisected(opened, blamed) if bisect else {}
    found = _Found(
        name=opened.name,
        bundle=opened,
        proofs=proofs,
        not_run=not_run,
        links={blame.backend: blame.links for blame in blamed},
        bisected=bisected,
    )
    _finish(opened.folder, found, out=out, html=html, json=json)
    if not json:
        next_step("spoter-kit bench {}", opened.folder)


def _check_nothing_is_to_run(options: Mapping[str, object]) -> None:
    """Refuse options that say what to run.

    Raises:
        ConfigError: one of them was given.
    """
    from spoter_runtime.errors import ConfigError

    if given := [option for option, value in options.items() if value]:
        named, verb = " and ".join(given), "is" if len(given) == 1 else "are"
        raise ConfigError(f"{named} {verb} for a run, --judge runs nothing", fix=f"leave {named} out")


def _judged(path: Path, policies: Mapping[str, Policy], bundle: Path | None) -> _Found:
    """Judge stored facts; what was found beside them is kept."""
    from spoter_runtime.bundle.manifest import read_bundle
    from spoter_toolkit.parity.prove import judge_again

    opened = read_bundle(bundle or path) if bundle or path.is_dir() else None
    stored = judge_again(path, policies, opened)
    return _Found(
        name=stored.name or path.stem,
        bundle=opened,
        proofs=stored.proofs,
        not_run=stored.not_run,
        links=stored.links,
        bisected=stored.bisected,
    )


def _bisection(bundle: Bundle, backend: str) -> Path:
    return BISECTIONS / f"{bundle.folder.resolve().stem}-{backend.replace(':', '-')}"


def _check_bisections(bundle: Bundle, backends: Sequence[str], *, force: bool) -> None:
    """Refuse before the running what would fail after it.

    Raises:
        ConfigError: there is something already where a bisection would be written.
    """
    from spoter_export.diagnose.bisect import FACTS
    from spoter_runtime.errors import ConfigError
    from spoter_runtime.files import is_replaceable

    for backend in backends:
        folder = _bisection(bundle, backend)
        if not is_replaceable(folder, FACTS) or ((folder / FACTS).exists() and not force):
            raise ConfigError(f"{folder}: is there already", fix="--force replaces it, or move it away")


def _bisected(bundle: Bundle, blamed: Sequence[Blame]) -> dict[str, Any]:
    """Bisect the broken link of each backend and write what was found; a text where nothing can be."""
    from spoter_runtime.errors import SpoterError

    found: dict[str, Any] = {}
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
            found[blame.backend] = divergence.as_json()
            say(f"written: {folder}")
    return found


def _write_page(path: Path, found: _Found) -> None:
    from spoter_runtime.files import write_text
    from spoter_toolkit.bench.host.environment import without_places
    from spoter_toolkit.parity.page import html_from_proofs

    # The page is made to be sent around: it names no folder of this machine.
    folders = [found.bundle.folder] if found.bundle else []
    page = html_from_proofs(
        found.name,
        found.proofs,
        artefacts=found.bundle.artefacts if found.bundle else (),
        not_run={backend: without_places(why, *folders) for backend, why in found.not_run.items()},
        links=found.links,
        divergences=found.divergences,
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
            _show(found.name, proof)
        for backend, links in found.links.items():
            _show_blame(backend, links)
            if backend in found.divergences:
                print(found.divergences[backend])
        if found.not_run:
            emit_table("not executed", ("backend", "why"), list(found.not_run.items()))
    if not found.passed:
        raise typer.Exit(ANSWER_IS_NO)


def _show(bundle: str, proof: Proof) -> None:
    from spoter_export.parity.judge import few_clips_in_words
    from spoter_export.parity.perturbations import ROBUSTNESS_COLUMNS, robustness_cells, robustness_rows
    from spoter_export.parity.report import fact_rows

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
    if few := few_clips_in_words(proof.facts):
        say(f"{proof.artefact}: {few}")


def _show_blame(backend: str, links: Sequence[Link]) -> None:
    from spoter_export.diagnose.chain import first_broken
    from spoter_toolkit.parity.page import blame_table

    table = blame_table(backend, links)
    emit_table(table.title, table.columns, table.rows)
    broken = first_broken(links)
    print(
        f"it breaks at {broken}"
        if broken
        else "no step breaks on generated clips and on those furthest off: look at what is named above"
    )
