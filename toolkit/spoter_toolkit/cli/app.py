"""The Typer app: collects the verbs. Importing it must stay cheap: no torch, no numpy-heavy module."""

from __future__ import annotations

from typing import Annotated

import typer

from spoter_runtime._version import __version__
from spoter_toolkit.cli import (
    bench,
    crossval,
    data,
    demo,
    doctor,
    eval,
    export,
    import_checkpoint,
    landmarker,
    live,
    parity,
    predict,
    serve,
    sign,
    train,
    tune,
    verify,
)
from spoter_toolkit.cli.commands import QuietOption, VerboseOption, Verbs, add, choose_loudness

_HELP = """
Train a sign-language recogniser, ship it to the edge, and carry the proof that it is still the same model.

DATASET: a folder of labelled clips, from `data import`. RUN: a folder with a trained model, from `train`.
BUNDLE: a folder NAME.spoter with the exported model and its proof, from `export`.
"""
_EXIT_CODES = (
    "Exit codes: 0 done; 1 an error, with one message; 2 a wrong command line; 3 it ran, and the answer is "
    "no; 130 stopped by Ctrl-C."
)


app = typer.Typer(
    name="spoter-kit",
    cls=Verbs,
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
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    choose_loudness(verbose=verbose, quiet=quiet)


# In the order of the work.
app.add_typer(data.app, name="data", cls=Verbs, rich_help_panel="Data")
app.add_typer(landmarker.app, name="landmarker", cls=Verbs, rich_help_panel="Data")
add(
    app,
    train.train,
    "train",
    "spoter-kit train datasets/mine -o runs/mine",
    "spoter-kit train datasets/mine --set epochs=5 --seed 1",
    "spoter-kit train --resume",
    panel="Train",
    cls=train.TrainCommand,
)
add(
    app,
    crossval.crossval,
    "crossval",
    "spoter-kit crossval datasets/mine",
    "spoter-kit crossval datasets/mine --folds 5 -o crossval/five",
    panel="Train",
)
add(
    app,
    import_checkpoint.import_checkpoint,
    "import-checkpoint",
    "spoter-kit import-checkpoint bdsl_spoter.pth --labels bdslw60",
    panel="Train",
)
add(
    app,
    eval.eval_,
    "eval",
    "spoter-kit eval runs/mine",
    "spoter-kit eval model.spoter --data datasets/mine -o confusion.png",
    "spoter-kit eval model.spoter --stream --data datasets/mine -o streams.html",
    panel="Train",
)
add(
    app,
    export.export,
    "export",
    "spoter-kit export runs/mine --precision fp32,int8",
    "spoter-kit export model.spoter --rtx",
    "spoter-kit export model.spoter --web site --engine npm",
    panel="Ship",
)
add(
    app,
    parity.parity,
    "parity",
    "spoter-kit parity model.spoter --backend ort-cpu -o facts.json",
    "spoter-kit parity --judge facts.json",
    panel="Ship",
)
add(
    app,
    sign.sign,
    "sign",
    "spoter-kit sign model.spoter --key mine.key --new-key",
    "spoter-kit sign model.spoter --key mine.key --expires 2030-12-31",
    panel="Ship",
)
add(
    app,
    bench.bench,
    "bench",
    "spoter-kit bench model.spoter --quick",
    "spoter-kit bench model.spoter --against bench/last --fail-if 'p50 > 1.05'",
    panel="Measure",
)
add(app, tune.tune, "tune", "spoter-kit tune model.spoter --seconds 60", panel="Measure")
add(
    app,
    predict.predict,
    "predict",
    "spoter-kit predict clip.npy --bundle model.spoter",
    "spoter-kit predict model.spoter hello.mp4",
    panel="Device",
)
add(
    app,
    live.live,
    "live",
    "spoter-kit live --bundle model.spoter",
    "spoter-kit live talk.mp4 --json --gate window",
    "spoter-kit live 0 --say 'espeak {}' --record session",
    panel="Device",
)
add(
    app,
    serve.serve,
    "serve",
    "spoter-kit serve model.spoter --port 8000",
    "spoter-kit serve letters:1=old.spoter letters:2=new.spoter --budget-ms 50",
    panel="Device",
)
add(
    app,
    verify.verify,
    "verify",
    "spoter-kit verify model.spoter",
    "spoter-kit verify model.spoter --trust maker.key.pub",
    panel="Device",
)
add(app, doctor.doctor, "doctor", "spoter-kit doctor -v", panel="Device")
add(app, demo.demo, "demo", "spoter-kit demo -o demo", panel="All of it, on generated clips")
