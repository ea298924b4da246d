"""The Typer app: collects the verbs. Importing it must stay cheap: no torch, no numpy-heavy module."""

from __future__ import annotations

from typing import Annotated

import typer

from spoter_runtime._version import __version__
from spoter_toolkit.cli import (
    bench,
    data,
    demo,
    doctor,
    eval,
    export,
    import_checkpoint,
    parity,
    predict,
    train,
    tune,
    verify,
)

app = typer.Typer(
    name="spoter-kit",
    help="Train a sign-language recogniser, ship it to the edge, and carry the proof that it is still the "
    "same model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # our errors are one message; anything else is a bug and shows itself
    rich_markup_mode="markdown",
)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    pass


# In the order of the way through: data, model, bundle, device.
app.add_typer(data.app, name="data")
app.command()(train.train)
app.command()(import_checkpoint.import_checkpoint)
app.command("eval")(eval.eval_)
app.command()(export.export)
app.command()(parity.parity)
app.command()(bench.bench)
app.command()(tune.tune)
app.command()(predict.predict)
app.command()(verify.verify)
app.command()(doctor.doctor)
app.command()(demo.demo)
