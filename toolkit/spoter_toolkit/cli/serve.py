"""`spoter-kit serve`: bundles for many clients, over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spoter_toolkit.cli.completion import complete_bundle
from spoter_toolkit.cli.console import BackendOption, PrecisionOption, is_quiet, is_verbose, say, tell

if TYPE_CHECKING:
    from spoter_toolkit.serving.models import Models


def serve(
    bundles: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="BUNDLE",
            help="Serve these, each as BUNDLE, NAME=BUNDLE or NAME:VERSION=BUNDLE; default: the newest.",
            autocompletion=complete_bundle,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Listen at this address; 0.0.0.0: any client that reaches this machine.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Listen at this port; 0 takes a free one.")
    ] = 8000,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    budget_ms: Annotated[
        float, typer.Option(help="Refuse clips that would wait longer, with 429 and Retry-After.")
    ] = 100.0,
    queue_clips: Annotated[int, typer.Option(min=1, help="Let so many clips wait.")] = 256,
    max_clips: Annotated[int, typer.Option(min=1, help="Take so many clips a request.")] = 64,
    max_body_mb: Annotated[float, typer.Option(help="Take so many megabytes a request.")] = 8.0,
    max_connections: Annotated[int, typer.Option(min=1, help="Keep so many connections open.")] = 4096,
    request_s: Annotated[float, typer.Option(help="Give a request so many seconds to come.")] = 10.0,
    grace_s: Annotated[
        float, typer.Option(help="After SIGTERM, say not ready and still answer for so many seconds.")
    ] = 5.0,
    drain_s: Annotated[float, typer.Option(help="After that, wait for answers so many seconds.")] = 30.0,
    seconds: Annotated[float | None, typer.Option(min=0, help="End after so many seconds.")] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Let clients reload models and take reloads back.")
    ] = False,
) -> None:
    """Serve bundles over HTTP by the Open Inference Protocol v2, until Ctrl-C or SIGTERM; SIGHUP reloads."""
    from spoter_runtime.errors import from_options, require
    from spoter_toolkit.serving.limits import Limits
    from spoter_toolkit.workspace import newest_bundle

    for module in ("starlette", "uvicorn", "httptools"):
        require(module, extra="serve")
    from spoter_toolkit.serving.app import Application
    from spoter_toolkit.serving.models import sources_from
    from spoter_toolkit.serving.server import Server, listen

    with from_options():
        limits = Limits(
            budget_ms=budget_ms,
            queue_clips=queue_clips,
            clips=max_clips,
            body_mb=max_body_mb,
            connections=max_connections,
            request_s=request_s,
            grace_s=grace_s,
            drain_s=drain_s,
        )
        if not bundles:
            bundles = [str(newest_bundle())]
            say(f"no bundle was named: serving the newest, {bundles[0]}")
        sources = sources_from(bundles)
    models = _models(sources, backend, precision)
    with log_on_stderr(), listen(host, port) as listener:
        app = Application(models, limits, control=control)
        address, taken = listener.getsockname()[:2]
        url = f"http://{f'[{address}]' if ':' in address else address}:{taken}"

        def started() -> None:
            for model in models.all():
                tell(f"{url}/v2/models/{model.name}/versions/{model.version}  {model.runner.name}")
            say("Ctrl-C ends it, once all answers are given")

        Server(app, listener).serve_until_told(started, seconds)


def _models(sources: dict[tuple[str, str], Path], backend: str | None, precision: str | None) -> Models:
    from spoter_runtime.errors import from_options
    from spoter_toolkit.backends import split_choice
    from spoter_toolkit.serving.models import Models

    with from_options():
        name, chosen = split_choice(backend, precision)
    return Models(sources=sources, backend=name, precision=chosen)


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Show reloads and failures; with ``-v`` a line for each request; with ``-q`` failures alone."""
    log = logging.getLogger("spoter_toolkit.serving")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    before = log.level, log.propagate
    log.propagate = False  # or each line is there twice, where a library gave the root logger a handler
    log.setLevel(logging.INFO if is_verbose() else logging.ERROR if is_quiet() else logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]
