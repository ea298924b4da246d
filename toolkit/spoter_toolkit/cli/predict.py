"""`spoter-kit predict`: labels for clips."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spoter_toolkit.cli.completion import complete_bundle
from spoter_toolkit.cli.console import (
    BackendOption,
    JsonOption,
    PrecisionOption,
    aligned,
    emit_json,
    few_names,
    say,
    say_passed_over,
    tell,
)

if TYPE_CHECKING:
    from spoter_runtime.recognizer import Prediction
    from spoter_toolkit.prediction import BadClip, FilePredictions


def predict(
    clips: Annotated[
        list[Path],
        typer.Argument(
            metavar="CLIP",
            help="Recognise these videos, .npy files (frames, 54, 2), folders or DATASETs; a BUNDLE may "
            "stand first.",
        ),
    ],
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Take this BUNDLE; default: one before the clips, or the newest.",
            autocompletion=complete_bundle,
        ),
    ] = None,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    top: Annotated[int, typer.Option(min=1, help="Print so many labels a clip.")] = 3,
    long: Annotated[
        str, typer.Option(help="Refuse a clip that is longer than the model takes (error), or resample it.")
    ] = "error",
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Swap left and right: the videos show a mirror image.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Fetch the landmarker without asking.")] = False,
    json: JsonOption = False,
) -> None:
    """Recognise the sign in each clip: one sign a video, or a .npy file of landmarks.

    A clip that cannot be used is named, the others get their answers, and the exit code is 1.
    """
    from spoter_runtime.errors import ConfigError, from_options
    from spoter_toolkit.backends import split_choice
    from spoter_toolkit.cli.landmarker import have_landmarker
    from spoter_toolkit.prediction import (
        bundle_before,
        bundle_finds_landmarks,
        error_of_bad_clips,
        predict_files,
        read_clips,
    )

    sources: Sequence[Path] = clips
    with from_options():
        if long not in ("error", "resample"):
            raise ConfigError(f"--long {long}: expected error or resample")
        name, chosen = split_choice(backend, precision)
        if bundle is None:
            bundle, sources = bundle_before(clips)
    read = read_clips(sources)  # before the bundle: a file that is no clip is the user's first mistake
    if not read.clips:
        if json:
            emit_json({"bundle": None, "backend": None, "predictions": [], "bad": _bad_json(read.bad)})
        raise error_of_bad_clips([error for _, error in read.bad], len(read.bad))
    if read.has_videos and not bundle_finds_landmarks(bundle):
        have_landmarker(yes=yes)
    found = predict_files(
        read,
        bundle,
        backend=name,
        precision=chosen,
        long=long,  # type: ignore[arg-type]  # checked above
        mirror=mirror,
    )
    if json:
        emit_json(_as_json(found, top))
    elif found.names:
        _show(found, top)
        say_bundle(found, was_named=bundle is not None)
    say_passed_over(found.passed_over)
    if found.bad:
        raise error_of_bad_clips([error for _, error in found.bad], len(found.bad) + len(found.names))


def _as_json(found: FilePredictions, top: int) -> dict[str, Any]:
    """Return the answers, and the clips that have none, as plain JSON values."""
    return {
        "bundle": str(found.bundle),
        "backend": found.backend,
        "predictions": [
            {"clip": name, "top": p.top(top), "latency_ms": p.latency_ms}
            | {"probability": p.probability, "is_sign": p.is_sign, "reason": p.reason}
            | video_json(p)
            for name, p in zip(found.names, found.predictions, strict=True)
        ],
        "bad": _bad_json(found.bad),
    }


def _bad_json(bad: Sequence[BadClip]) -> list[dict[str, str]]:
    return [{"clip": name, "error": error.message, "fix": error.fix} for name, error in bad]


def _show(found: FilePredictions, top: int) -> None:
    """Print a line for each clip, and what was seen in the videos."""
    rows = [
        (
            name,
            *answer_cells(p),
            ", ".join(f"{label} {score:.3f}" for label, score in p.top(top)[int(p.is_sign is not False) :]),
        )
        for name, p in zip(found.names, found.predictions, strict=True)
    ]
    tell(*aligned(rows))  # a line for each clip, however many: they are what was asked for
    if videos := [p for p in found.predictions if p.video]:
        tell(time_of_parts(videos))
    named = zip(found.names, found.predictions, strict=True)
    if crowded := [name for name, p in named if p.video and p.video.persons > 1]:
        say(f"more than one person is in {few_names(crowded)}: the larger was followed")


def say_bundle(found: FilePredictions, *, was_named: bool) -> None:
    """Print on stderr which bundle answered, what it cannot say, and whether the newest run has another."""
    from spoter_toolkit.workspace import BUNDLES, run_after

    never = bool(found.predictions) and all(prediction.is_sign is None for prediction in found.predictions)
    who = f"answered by {found.bundle} on {found.backend}"
    who += ', which never says "no sign"' if never else ""
    newer = None if was_named else run_after(found.bundle)
    if newer is None:
        say(who)
        return
    exported = (BUNDLES / f"{newer.name}.spoter").exists()
    command = ["spoter-kit", "export", str(newer), *(["--force"] if exported else [])]
    lacks = "was trained after its bundle was exported" if exported else "has no bundle"
    say(f"{who}; the newest run, {newer}, {lacks}", fix=shlex.join(command))


def answer_cells(prediction: Prediction) -> tuple[str, str]:
    """Return the label and its score, or "no sign" with the reason."""
    if prediction.is_sign is False:
        return f"no sign ({prediction.reason})", ""
    sign = prediction.sign
    words = " ".join(filter(None, (sign.name, sign.gloss, sign.bengali)))
    return words, f"{prediction.score:.3f}"


def video_json(prediction: Prediction) -> dict[str, Any]:
    """Return what is known of a clip that came from a video, as plain JSON values; nothing for others."""
    if (video := prediction.video) is None:
        return {}
    return {
        "video": {
            "frames": len(video.poses_TLD),
            "fps": video.fps,
            "persons": video.persons,
            "landmarker": video.landmarker,
            "decode_ms": video.decode_ms,
            "landmarks_ms": video.landmarks_ms,
        }
    }


def time_of_parts(predictions: Sequence[Prediction]) -> str:
    """Return one line that says how long each part took, from the videos to their labels."""
    videos = [p.video for p in predictions if p.video]
    frames = sum(len(video.poses_TLD) for video in videos)
    landmarks = sum(video.landmarks_ms for video in videos)
    return (
        f"{frames} frames: decode {sum(video.decode_ms for video in videos) / 1000:.2f} s, landmarks "
        f"{landmarks / 1000:.2f} s ({landmarks / frames:.1f} ms a frame), model "
        f"{sum(p.latency_ms for p in predictions):.1f} ms"
    )
