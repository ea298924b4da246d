"""The application: the routes of the Open Inference Protocol v2, on any ASGI server."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from spoter_runtime._version import __version__
from spoter_runtime.errors import InputError, SpoterError
from spoter_runtime.machine import usable_cores
from spoter_runtime.ort.execution import ON_CPU
from spoter_toolkit.serving.batcher import Batcher
from spoter_toolkit.serving.limits import Limits
from spoter_toolkit.serving.metrics import Metrics
from spoter_toolkit.serving.models import Model, Models
from spoter_toolkit.serving.protocol import Refused, read_request, tensors_of, write_answer

log = logging.getLogger(__name__)

_REQUEST_ID: Final = "x-request-id"
_PLAIN_ID: Final = re.compile(r"[\w.:-]{1,64}", re.ASCII)
# Of an error, what may be a client's values: a landmark must not get into the log.
_VALUES: Final = re.compile(r"[\[{].*[\]}…]|-?\d+\.\d+(?:e[-+]?\d+)?|-?\d+e[-+]?\d+", re.DOTALL)
_EXTENSIONS: Final = ("binary_tensor_data", "model_repository")


class Application:
    """Answers the protocol's requests for some models.

    Attributes:
        draining: set where no more requests shall come: not ready, and each answer ends its connection.
        in_flight: requests for an answer that have begun and not ended.
        asgi: for the server.
    """

    def __init__(self, models: Models, limits: Limits | None = None, *, control: bool = False) -> None:
        """Load the models.

        Args:
            models: that answer.
            limits: bounds of a request and of the queue; None for the defaults.
            control: let clients reload models and take reloads back.

        Raises:
            SpoterError: a model cannot be loaded.
        """
        self.models = models
        self.limits = limits or Limits()
        self.draining = False
        self.in_flight = 0
        self.metrics = Metrics()
        self._control = control
        self._batcher: Batcher | None = None
        models.load()
        self.asgi = Starlette(
            routes=self._routes(), lifespan=self._lifespan, exception_handlers={HTTPException: _no_such_route}
        )

    def _routes(self) -> list[Route]:
        infer: Any = _Infer(self)  # of two arguments or three: Starlette takes a class that is called so
        model, repository = "/v2/models/{name}", "/v2/repository"
        found = []
        for path in (model, model + "/versions/{version}"):
            found += [
                Route(path + "/infer", infer, methods=["POST"]),
                Route(path, self._metadata),
                Route(path + "/ready", self._model_ready),
            ]
        return [
            *found,
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/metrics", self._prometheus),
            Route(repository + "/index", self._index, methods=["POST"]),
            Route(repository + "/models/{name}/load", self._load, methods=["POST"]),
            Route(repository + "/models/{name}/rollback", self._roll_back, methods=["POST"]),
        ]

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Have threads that compute while the server runs."""
        on_cpu = all(model.runner.name in ON_CPU for model in self.models.all())
        # One core is left to the loop. With a thread on each of two cores the same load got half the answers.
        workers = max(1, usable_cores() - 1) if on_cpu else 1
        batcher = Batcher(self.limits, workers=workers, on_batch=self._note_batch)
        self._batcher = batcher
        self.metrics.gauges = {
            "spoter_waiting_clips": lambda: {"": batcher.waiting},
            "spoter_expected_wait_seconds": lambda: {"": batcher.expected_ms() / 1000},
            "spoter_model_info": lambda: {
                f'{{model="{one.name}",version="{one.version}",sha256="{one.sha256}"}}': 1
                for one in self.models.all()
            },
        }
        yield
        await asyncio.to_thread(batcher.close)

    async def infer(
        self, scope: Scope, receive: Receive
    ) -> tuple[int, bytes, dict[str, str], dict[str, object]]:
        """Return status, body and headers of an answer, and what the log says of it."""
        begin = time.perf_counter()
        asked = scope["path_params"]
        headers = {
            name: value.decode("latin-1")
            for name, value in scope["headers"]
            if name
            in (b"content-length", b"content-encoding", b"x-request-id", b"inference-header-content-length")
        }
        told: dict[str, object] = {"id": _plain_id(headers.get(b"x-request-id", ""))}
        told_last: dict[str, object] = {}
        self.in_flight += 1
        try:
            model = self.models.find(asked["name"], asked.get("version", ""))
            told |= {"model": model.name, "version": model.version}
            status, body, more = 200, *await self._answer(model, receive, headers, told)
        except SpoterError as error:
            status, more = _status_of(error)
            body = json.dumps({"error": str(error)}, ensure_ascii=False).encode()
            told_last["error"] = json.dumps(_VALUES.sub("…", error.message), ensure_ascii=False)
            more |= {"content-type": "application/json"}
        finally:
            self.in_flight -= 1
        if status in (408, 413):
            more["connection"] = "close"
        told["id"] = told["id"] or uuid.uuid4().hex
        more |= {_REQUEST_ID: str(told["id"]), "content-length": str(len(body))}
        seconds = time.perf_counter() - begin
        self.metrics.count("spoter_requests_total", code=str(status))
        self.metrics.observe("spoter_request_seconds", seconds)
        return status, body, more, told | {"status": status, "ms": round(1000 * seconds, 1)} | told_last

    async def _answer(
        self, model: Model, receive: Receive, headers: dict[bytes, str], told: dict[str, object]
    ) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of the answer to a request for a model."""
        assert self._batcher is not None  # made before the first request
        self._batcher.check_room()  # before the body is read
        if headers.get(b"content-encoding", "identity") != "identity":
            raise Refused("the body is compressed", status=415, fix="send it as it is")
        body = await self._body(receive, headers.get(b"content-length", ""))
        contract, rule = model.bundle.contract, model.bundle.abstention
        length = headers.get(b"inference-header-content-length")
        request = read_request(body, length, contract, rule, most=self.limits.clips)
        told["id"] = told["id"] or _plain_id(request.id)
        told["clips"], told["frames"] = len(request.clips), sum(map(len, request.clips))
        logits_NC = await self._batcher.answer(model.runner, request.clips)
        names = {"model_name": model.name, "model_version": model.version}
        if request.id:
            names["id"] = request.id
        return write_answer(names, request, logits_NC, contract, rule)

    async def _body(self, receive: Receive, length: str) -> bytes:
        """Return the request's body.

        Raises:
            Refused: too long, or it never came as a whole.
        """
        most = 1e6 * self.limits.body_mb
        too_long = Refused(
            f"a body of more than {self.limits.body_mb:g} MB",
            status=413,
            fix="send fewer clips, or in binary, or serve with a larger --max-body-mb",
        )
        if length.isdigit() and (len(length) > 18 or int(length) > most):
            raise too_long
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused("the body never came as a whole", status=408)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise too_long
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _note_batch(self, clips: int, frames: int, padded: int, wait_s: float, call_s: float) -> None:
        self.metrics.count("spoter_clips_total", clips)
        self.metrics.count("spoter_frames_total", frames)
        self.metrics.count("spoter_padding_frames_total", padded - frames)
        self.metrics.observe("spoter_batch_clips", clips)
        self.metrics.observe("spoter_wait_seconds", wait_s)
        self.metrics.observe("spoter_call_seconds", call_s)

    async def _server(self, request: HttpRequest) -> Response:
        return JSONResponse({"name": "spoter-kit", "version": __version__, "extensions": _EXTENSIONS})

    async def _live(self, request: HttpRequest) -> Response:
        return JSONResponse({"live": True})

    async def _ready(self, request: HttpRequest) -> Response:
        return JSONResponse({"ready": not self.draining}, status_code=503 if self.draining else 200)

    async def _model_ready(self, request: HttpRequest) -> Response:
        return self._of_model(request, lambda model: {"name": model.name, "ready": True})

    async def _metadata(self, request: HttpRequest) -> Response:
        return self._of_model(request, self._described)

    def _described(self, model: Model) -> dict[str, Any]:
        contract = model.bundle.contract
        return {
            "name": model.name,
            "versions": self.models.versions(model.name),
            "platform": model.runner.name,
            **tensors_of(contract, model.bundle.abstention),
            "parameters": {
                "labels": [label.name for label in contract.labels],
                "max_frames": contract.max_frames,
                "max_clips": self.limits.clips,
                "sha256": model.sha256,
                "goldens": model.golden,
            },
        }

    def _of_model(self, request: HttpRequest, describe: Callable[[Model], dict[str, Any]]) -> Response:
        asked = request.path_params
        try:
            return JSONResponse(describe(self.models.find(asked["name"], asked.get("version", ""))))
        except Refused as error:
            return JSONResponse({"error": str(error)}, status_code=error.status)

    async def _prometheus(self, request: HttpRequest) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _index(self, request: HttpRequest) -> Response:
        found = [{"name": one.name, "version": one.version, "state": "READY"} for one in self.models.all()]
        return JSONResponse(found)

    async def _load(self, request: HttpRequest) -> Response:
        return await self._change(request, self.reload)

    async def _roll_back(self, request: HttpRequest) -> Response:
        return await self._change(request, self.roll_back)

    async def _change(self, request: HttpRequest, change: Callable[[str, str], Awaitable[Model]]) -> Response:
        if not self._control:
            text = "clients may not reload models here. Fix: spoter-kit serve --control, or send SIGHUP"
            return JSONResponse({"error": text}, status_code=403)
        try:
            model = await change(request.path_params["name"], request.query_params.get("version", ""))
        except SpoterError as error:
            status, _ = _status_of(error)
            return JSONResponse({"error": str(error)}, status_code=status)
        return JSONResponse({"name": model.name, "version": model.version, "sha256": model.sha256})

    async def reload(self, name: str, version: str = "") -> Model:
        """Read a model's bundle again and take it if it is sound, while the old one answers.

        Raises:
            Refused: it is not; the old one goes on answering.
        """
        try:
            model = await asyncio.to_thread(self.models.reload, name, version)
        except Refused as error:
            self.metrics.count("spoter_reloads_total", result="refused")
            log.warning("%s", error)
            raise
        self.metrics.count("spoter_reloads_total", result="done")
        log.warning("reloaded %s %s: %s", model.name, model.version, model.golden)
        return model

    async def roll_back(self, name: str, version: str = "") -> Model:
        """Take back the model from before the last reload.

        Raises:
            Refused: there was none.
        """
        model = self.models.roll_back(name, version)
        log.warning("%s %s: back to %s", model.name, model.version, model.sha256[:16])
        return model


class _Infer:
    """The route of inference, on ASGI itself: Starlette's requests and responses take a tenth of its time."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, body, headers, told = await self._app.infer(scope, receive)
        level = logging.ERROR if status >= 500 else logging.INFO
        if log.isEnabledFor(level):
            log.log(level, "request %s", " ".join(f"{name}={value}" for name, value in told.items()))
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


async def _no_such_route(request: HttpRequest, error: Exception) -> Response:
    """Answer in JSON, as the protocol has it, where there is no such address, or not with this method."""
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path}: {error.detail.lower()}"
    if error.status_code == 404:
        text += "; there are /v2, /v2/health/ready, /v2/models/NAME/infer, /v2/repository/index, /metrics"
    return JSONResponse({"error": text}, status_code=error.status_code, headers=error.headers)


def _plain_id(text: str) -> str:
    """Return a client's request id for log and headers; empty if it is anything but a short word."""
    return text if _PLAIN_ID.fullmatch(text) else ""


def _status_of(error: SpoterError) -> tuple[int, dict[str, str]]:
    """Return HTTP's status for an error, and headers that belong to it."""
    if isinstance(error, Refused):
        return error.status, dict(error.headers)
    return (400 if isinstance(error, InputError) else 500), {}
