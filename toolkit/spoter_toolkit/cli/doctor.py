"""`spoter-kit doctor`: what is installed, what runs here, what is missing and how to get it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import typer

from spoter_toolkit.cli.console import (
    ANSWER_IS_NO,
    JsonOption,
    emit_json,
    emit_table,
    insist,
    is_verbose,
    next_step,
    tell,
)

# Apart from running: what builds an engine has not executed it.
_BUILDS: Final = {None: "", True: "yes", False: "no"}


def doctor(json: JsonOption = False) -> None:
    """Say which backends run on this machine, and the exact fix for what does not. Exit 3 if none runs."""
    from dataclasses import asdict

    from spoter_runtime.doctor import diagnose, summary

    findings = diagnose()
    runs = any(finding.kind == "backend" and finding.status == "ok" for finding in findings)
    if json:
        emit_json({"findings": [asdict(finding) for finding in findings], "any_backend_runs": runs})
    else:
        if is_verbose():
            emit_table(
                "",
                ("what", "status", "builds engines", "detail"),
                [(f.name, f.status, _BUILDS[f.builds], f.detail) for f in findings],
            )
            # Not in the table: a cell would break a command that somebody copies.
            tell(*(f"{f.name}: Fix: {f.fix}" for f in findings if f.fix))
        (tell if runs else insist)(*summary(findings), whole=True)
    if not runs:
        raise typer.Exit(ANSWER_IS_NO)
    if not json:
        next_step(*_following())


def _following() -> tuple[str, Path | None]:
    """Return the command that follows on what was made in this folder last, and what it takes."""
    from spoter_runtime.bundle.manifest import MANIFEST
    from spoter_toolkit.data.dataset import DATASET_JSON
    from spoter_toolkit.workspace import BUNDLES, DATASETS, LAST, RUN_JSON, RUNS, last_run, newest_with

    if bundle := newest_with(BUNDLES, f"*.spoter/{MANIFEST}"):
        return "spoter-kit verify {}", bundle
    if newest_with(RUNS, f"{LAST}/{RUN_JSON}"):
        return "spoter-kit export --onnx {}", last_run()
    if dataset := newest_with(DATASETS, f"*/{DATASET_JSON}"):
        return "spoter-kit data show {}", dataset
    return "spoter-kit demo", None
