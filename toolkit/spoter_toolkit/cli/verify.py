"""`spoter-kit verify`: replay a bundle's proof on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spoter_toolkit.cli.completion import complete_backend
from spoter_toolkit.cli.console import (
    ANSWER_IS_NO,
    BundleArgument,
    ForceOption,
    JsonOption,
    PrecisionOption,
    emit_json,
    insist,
    next_step,
    say,
    say_passed_over,
    tell,
)


def verify(
    bundle: BundleArgument = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="Run this backend, as in ort-cpu:int8; may be repeated; default: the best that works here.",
            autocompletion=complete_backend,
            metavar="<str>",
        ),
    ] = None,
    precision: PrecisionOption = None,
    trust: Annotated[
        list[Path] | None,
        typer.Option(
            help="Refuse what none of these public keys or authorities (PEM) signed; may be repeated.",
            metavar="KEY",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write one page to read, send or print, such as verify.html.")
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Hash every file of a bundle and replay its goldens on this machine. Exit 3 if they differ."""
    from spoter_runtime.bundle.manifest import read_bundle
    from spoter_runtime.errors import from_options, require
    from spoter_runtime.files import write_text
    from spoter_runtime.verify import verify_bundle
    from spoter_toolkit.backends import split_choice
    from spoter_toolkit.input_files import check_target
    from spoter_toolkit.prediction import example_of_clip
    from spoter_toolkit.workspace import newest_bundle

    if html:
        check_target(html, force=force, option="--html")
        require("jinja2", extra="toolkit")
    with from_options():
        asked: list[str | None] = [*backend] if backend else [None]
        choices = [split_choice(one, precision) for one in asked]
    path = bundle or newest_bundle()
    reports = [verify_bundle(path, name, precision=chosen, trust=trust) for name, chosen in choices]
    passed = all(report.passed for report in reports)
    if json:
        found = [report.as_json() for report in reports]
        emit_json(found[0] if len(found) == 1 else {"passed": passed, "reports": found})
    for report in () if json else reports:
        (tell if report.passed else insist)(*report.lines())
    if html:
        from spoter_toolkit.parity.verify_page import html_from_verified

        write_text(html, html_from_verified(reports))
        say(f"page: {html}")
    for report in reports:
        say_passed_over(report.passed_over)
    if not passed:
        raise typer.Exit(ANSWER_IS_NO)
    if not json:
        next_step("spoter-kit predict --bundle {} {}", path, example_of_clip(read_bundle(path)))
