"""`spoter-kit predict`: labels for clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from spoter_toolkit.cli.console import (
    BackendOption,
    JsonOption,
    PrecisionOption,
    emit_json,
    emit_table,
    say_passed_over,
)


def predict(
    clips: Annotated[
        list[Path],
        typer.Argument(help=".npy files, (frames, 54, 2), folders or DATASETs; a BUNDLE may stand before."),
    ],
    bundle: Annotated[Path | None, typer.Option(help="Default: one before the clips, or the newest.")] = None,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    top: Annotated[int, typer.Option(min=1, help="How many labels a clip.")] = 3,
    long: Annotated[
        str, typer.Option(help="A clip longer than the model takes: error, or resample it.")
    ] = "error",
    json: JsonOption = False,
) -> None:
    """Recognise the sign in each clip."""
    from spoter_runtime.errors import ConfigError, from_options
    from spoter_toolkit.backends import split_choice
    from spoter_toolkit.prediction import bundle_before, predict_files

    sources: Sequence[Path] = clips
    with from_options():
        if long not in ("error", "resample"):
            raise ConfigError(f"--long {long}: expected error or resample")
        name, chosen = split_choice(backend, precision)
        if bundle is None:
            bundle, sources = bundle_before(clips)
    found = predict_files(
        sources,
        bundle,
        backend=name,
        precision=chosen,
        long=long,  # type: ignore[arg-type]  # checked above
    )
    say_passed_over(found.passed_over)
    named = list(zip(found.names, found.predictions, strict=True))
    if json:
        emit_json(
            {
                "bundle": str(found.bundle),
                "backend": found.backend,
                "predictions": [
                    {"clip": name, "top": p.top(top), "latency_ms": p.latency_ms} for name, p in named
                ],
            }
        )
        return
    emit_table(
        f"{found.bundle} on {found.backend}",
        ("clip", "sign", "score", "then"),
        [
            (
                name,
                " ".join(filter(None, (p.label, p.sign.gloss, p.sign.bengali))),
                f"{p.score:.3f}",
                ", ".join(f"{label} {score:.3f}" for label, score in p.top(top)[1:]),
            )
            for name, p in named
        ],
    )
