"""The Typer app: collects the verbs. Importing it must stay cheap: no torch, no numpy-heavy module."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.core import TyperGroup

from spoter_runtime._version import __version__
from spoter_toolkit.cli import (
    bench,
    data,
    demo,
    doctor,
    eval,
    export,
    import_checkpoint,
    landmarker,
    parity,
    predict,
    train,
    tune,
    verify,
)

_HELP = """
Train a sign-language recogniser, ship it to the edge, and carry the proof that it is still the same model.

DATASET: a folder of labelled clips, from `data import`. RUN: a folder with a trained model, from `train`.
BUNDLE: a folder NAME.spoter with the exported model and its proof, from `export`.
"""
_EXIT_CODES = (
    "Exit codes: 0 done; 1 an error, with one message; 2 a wrong command line; 3 it ran, and the answer is "
    "no; 130 stopped by Ctrl-C."
)


class _DataFirst(TyperGroup):
    """The verbs in the order of the way through; Typer lists groups of verbs last."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        places = {"data": 0, "landmarker": 2, "demo": 3}
        return sorted(super().list_commands(ctx), key=lambda name: places.get(name, 1))


app = typer.Typer(
    name="spoter-kit",
    cls=_DataFirst,
    help=_HELP,
    epilog=_EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},  # of every verb too
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
app.add_typer(landmarker.app, name="landmarker")
app.command(cls=train.TrainCommand)(train.train)
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
