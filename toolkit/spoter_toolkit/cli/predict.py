"""`spoter-kit predict`: labels for clips."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from spoter_toolkit.cli.console import JsonOption, emit_json, emit_table, next_step, say


def predict(
    clips: Annotated[
        list[Path],
        typer.Argument(help=".npy files, (frames, 54, 2) floats, or a DATASET; a BUNDLE may stand before."),
    ],
    bundle: Annotated[Path | None, typer.Option(help="Default: one before the clips, or the newest.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="As in ort-cpu:int8; default: the best that works here.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Of the file to run; default: fp32.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many labels a clip.")] = 3,
    long: Annotated[
        str, typer.Option(help="A clip longer than the model takes: error, or resample it.")
    ] = "error",
    json: JsonOption = False,
) -> None:
    """Recognise the sign in each clip."""
    from spoter_runtime.errors import ConfigError, from_options
    from spoter_runtime.recognizer import Recognizer
    from spoter_toolkit.backends import split_choice
    from spoter_toolkit.workspace import newest_bundle

    with from_options():
        if long not in ("error", "resample"):
            raise ConfigError(f"--long {long}: expected error or resample")
        name, chosen = split_choice(backend, precision)
        if bundle is None:
            bundle, clips = _bundle_before(clips)
    named = _read(clips)  # before the bundle: a file that is no clip is the user's first mistake
    path = bundle or newest_bundle()
    recognizer = Recognizer.load(
        path,
        name,
        precision=chosen,
        long=long,  # type: ignore[arg-type]  # checked above
    )
    for other, why in recognizer.passed_over.items():
        say(f"passed over: {other}: {why}")
    predictions = recognizer.predict_many([clip for _, clip in named], names=[name for name, _ in named])
    if json:
        emit_json(
            {
                "bundle": str(path),
                "backend": recognizer.runner.name,
                "predictions": [
                    {"clip": name, "top": p.top(top), "latency_ms": p.latency_ms}
                    for (name, _), p in zip(named, predictions, strict=True)
                ],
            }
        )
        return
    emit_table(
        f"{path} on {recognizer.runner.name}",
        ("clip", "sign", "score", "then"),
        [
            (
                name,
                " ".join(filter(None, (p.label, p.sign.gloss, p.sign.bengali))),
                f"{p.score:.3f}",
                ", ".join(f"{label} {score:.3f}" for label, score in p.top(top)[1:]),
            )
            for (name, _), p in zip(named, predictions, strict=True)
        ],
    )
    next_step("spoter-kit verify {}", path)


def _bundle_before(paths: list[Path]) -> tuple[Path | None, list[Path]]:
    """Return the BUNDLE that stands before the clips, if one does, and the clips.

    Raises:
        ConfigError: no clips stand after it.
    """
    from spoter_runtime.bundle.manifest import MANIFEST
    from spoter_runtime.errors import ConfigError

    first, *others = paths
    if not os.path.lexists(first / MANIFEST):
        return None, paths
    if not others:
        fix = f"spoter-kit predict {shlex.quote(str(first))} clip.npy"
        raise ConfigError(f"{first}: is a BUNDLE, expected clips after it", fix=fix)
    return first, others


def _read(sources: list[Path]) -> list[tuple[str, Any]]:
    """Return the name and the landmarks of each clip; a DATASET has many."""
    from spoter_runtime.clip_files import load_clip
    from spoter_toolkit.data.dataset import read_dataset

    named: list[tuple[str, Any]] = []
    for source in sources:
        if source.is_dir():
            dataset = read_dataset(source)
            named += [(clip.id, dataset.poses_of(clip)) for clip in dataset.clips]
        else:
            named.append((str(source), load_clip(source)))
    return named
