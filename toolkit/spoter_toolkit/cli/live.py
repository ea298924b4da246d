"""`spoter-kit live`: signs from a camera, a video or a landmark log, as they are signed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spoter_toolkit.cli.completion import complete_bundle
from spoter_toolkit.cli.console import BackendOption, PrecisionOption, ended_in_order, say

if TYPE_CHECKING:
    from spoter_runtime.errors import SpoterError
    from spoter_runtime.live.settings import Gate, StreamSettings
    from spoter_runtime.recognizer import Recognizer
    from spoter_toolkit.live.film import Film
    from spoter_toolkit.live.page import LivePage
    from spoter_toolkit.live.session import Recorder, Sink, Watches


def live(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Take the frames of this camera number, video file, address (rtsp://…) or landmark log.",
        ),
    ] = "0",
    bundle: Annotated[
        Path | None,
        typer.Option(help="Take this BUNDLE; default: the newest.", autocompletion=complete_bundle),
    ] = None,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    gate: Annotated[
        str | None,
        typer.Option(
            help="Find signs between rests of the hands (rest), or without rests (window); default: rest, or "
            "the log's."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Change a setting, as in rest_ms=200; may be given again."
        ),
    ] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Swap left and right: the camera shows a mirror image.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="End so many seconds after the first frame.")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Write video, landmarks and events to this new folder, to replay it or report a bug."
        ),
    ] = None,
    no_video: Annotated[bool, typer.Option("--no-video", help="Keep no picture with --record.")] = False,
    say_: Annotated[
        str | None,
        typer.Option("--say", metavar="COMMAND", help="Run this for each sign; {} becomes the word."),
    ] = None,
    page: Annotated[
        bool,
        typer.Option(
            "--page", help="Show picture, skeleton, timeline and words on a page of this machine alone."
        ),
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Serve the page here; 0 takes a free port.")
    ] = 8018,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Fetch the landmarker without asking.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print each event as one JSON object a line.")] = False,
) -> None:
    """Recognise signs as they are signed; Ctrl-C ends it. Silence stays silent."""
    from spoter_runtime.errors import UsageError, from_options
    from spoter_runtime.live.stream import SignStream
    from spoter_runtime.recognizer import Recognizer
    from spoter_toolkit.backends import split_choice
    from spoter_toolkit.cli.live_view import view_of
    from spoter_toolkit.live.film import FILM_NAME, Film
    from spoter_toolkit.live.session import Recorder, Speaker, run_session
    from spoter_toolkit.live.sources import arrivals, is_log, paced
    from spoter_toolkit.workspace import newest_bundle

    with from_options():
        name, chosen = split_choice(backend, precision)
        gate_name, stream_settings = _settings(source, gate, settings or [])
    if record and record.exists():
        raise UsageError(f"--record {record}: is there already", fix="name a new folder")
    bundle = bundle or newest_bundle()
    frames = arrivals(source, mirror=mirror)
    _have_landmarker(source, bundle, yes=yes)
    recognizer = Recognizer.load(bundle, name, precision=chosen)
    _warn_of_landmarker(source, recognizer)
    stream = SignStream(recognizer, gate_name, settings=stream_settings)
    speaker = Speaker(say_, recognizer.labels) if say_ else None
    sinks: list[Sink] = [speaker] if speaker else []
    watchers: list[Watches] = []
    shown = _page(recognizer, port) if page else None
    if shown:
        sinks.append(shown)
        watchers.append(shown)
        frames = paced(source, frames)
    recorder = Recorder(record, stream, gate_name) if record else None
    film = Film(record / FILM_NAME) if record and not (no_video or is_log(source)) else None
    sinks += [recorder] if recorder else []
    watchers += filter(None, (recorder, film))
    lasts_ms = 1000 * seconds if seconds is not None else float("inf")
    with ended_in_order(lambda: None):
        try:
            with view_of(recognizer.labels, json=json) as show:
                left_out = run_session(stream, frames, [show, *sinks], watchers=watchers, lasts_ms=lasts_ms)
        finally:
            if shown:
                shown.close()
            for line in speaker.in_words() if speaker else ():
                say(line)
            failed = _end_recording(recorder, film, record)
    for error in (*failed, *left_out):
        raise error


def _end_recording(recorder: Recorder | None, film: Film | None, folder: Path | None) -> list[SpoterError]:
    """Close the files, say where they are, and return what is wrong with them."""
    from spoter_runtime.errors import SpoterError

    files = [one for one in (film, recorder) if one]
    for one in files:
        with suppress(SpoterError):  # it is kept
            one.close()
    failed = [one.error for one in files if one.error]
    if files:
        shows = " (its video shows the person; --no-video leaves it out)" if film else ""
        say(f"recorded{' in part' if failed else ''}: {folder}{shows}")
    return failed


def _page(recognizer: Recognizer, port: int) -> LivePage:
    from spoter_toolkit.live.page import LivePage

    page = LivePage(recognizer.labels, port=port)
    say(f"page: {page.url}")
    return page


def _settings(source: str, gate: str | None, changes: list[str]) -> tuple[Gate, StreamSettings]:
    """Return gate and settings: a log's own, changed by the options.

    Raises:
        ConfigError: no such gate or setting, or a value out of range.
        DataError: the log cannot be read.
    """
    from spoter_runtime.errors import ConfigError
    from spoter_runtime.live.log import read_header
    from spoter_runtime.live.settings import StreamSettings
    from spoter_toolkit.live.sources import is_log

    found: Gate = "rest"
    values = {}
    if is_log(source):
        found, stored = read_header(source)
        values = stored.as_json()
    if gate is not None:
        if gate not in ("rest", "window"):
            raise ConfigError(f"--gate {gate}: expected rest or window")
        found = gate  # type: ignore[assignment]  # checked above
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise ConfigError(f"--set {change}: expected NAME=VALUE, for example rest_ms=200")
        try:
            values[name] = value if name == "rest_by" else float(value)
        except ValueError as error:
            raise ConfigError(f"--set {change}: {name} is a number") from error
    return found, StreamSettings.from_json(values, where="--set")


def _have_landmarker(source: str, bundle: Path, *, yes: bool) -> None:
    from spoter_toolkit.cli.landmarker import have_landmarker
    from spoter_toolkit.live.sources import is_log
    from spoter_toolkit.prediction import bundle_finds_landmarks

    if not is_log(source) and not bundle_finds_landmarks(bundle):
        have_landmarker(yes=yes)


def _warn_of_landmarker(source: str, recognizer: Recognizer) -> None:
    from spoter_toolkit.live.sources import is_log

    if not is_log(source):
        recognizer.warn_of_landmarker(recognizer.landmarker().sha256)
