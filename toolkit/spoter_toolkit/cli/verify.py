"""`spoter-kit verify`: replay a bundle's proof on this machine."""

from __future__ import annotations

import typer

from spoter_toolkit.cli.console import (
    ANSWER_IS_NO,
    BackendOption,
    BundleArgument,
    JsonOption,
    PrecisionOption,
    emit_json,
    insist,
    next_step,
    say_passed_over,
    tell,
)


def verify(
    bundle: BundleArgument = None,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    json: JsonOption = False,
) -> None:
    """Hash every file of a bundle and replay its goldens on this machine. Exit 3 if they differ."""
    from spoter_runtime.errors import from_options
    from spoter_runtime.verify import verify_bundle
    from spoter_toolkit.backends import split_choice
    from spoter_toolkit.workspace import newest_bundle

    with from_options():
        name, chosen = split_choice(backend, precision)
    path = bundle or newest_bundle()
    report = verify_bundle(path, name, precision=chosen)
    if json:
        emit_json(report.as_json())
    elif report.passed:
        tell(*report.lines())
    else:
        insist(*report.lines())
    say_passed_over(report.passed_over)
    if not report.passed:
        raise typer.Exit(ANSWER_IS_NO)
    if not json:
        next_step("spoter-kit predict --bundle {} clip.npy", path)
