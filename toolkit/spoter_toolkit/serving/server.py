"""The HTTP server: uvicorn, with the limits that it lacks, on slow and large requests, and a drain."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from spoter_runtime.errors import DataError
from spoter_toolkit.serving.app import Application
from spoter_toolkit.serving.protocol import Refused

log = logging.getLogger(__name__)

_CTRL_C_GRACE_S: Final = 1.0  # where no load balancer looks: requests that are on their way still come
_LAST_S: Final = 0.3  # at the end, for a request that is on its way on an open connection
_KEEP_ALIVE_S: Final = 75  # an idle connection; longer than most load balancers keep theirs
_SPARE_FILES: Final = 100  # of the process's open files, for all but connections
_TOO_MANY: Final = "too many connections"
_TOO_SLOW: Final = "the request took too long to come"
_TOO_LARGE: Final = "the request's line and headers are too large"
_STATUS: Final = {
    _TOO_MANY: "503 Service Unavailable",
    _TOO_SLOW: "408 Request Timeout",
    _TOO_LARGE: "431 Request Header Fields Too Large",
}


def protocol_of(app: Application, most_connections: int) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol, bounded, and with an end that loses no request."""
    limits = app.limits

    class Bounded(HttpToolsProtocol):
        """One connection."""

        timer: asyncio.TimerHandle | None = None
        head_bytes = 0
        in_head = True
        wrong = ""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most_connections:
                self.refuse(_TOO_MANY)
            else:
                self.start_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self.stop_timer()
            super().connection_lost(exc)
            self._unset_keepalive_if_required()  # uvicorn keeps all of a connection that was reset until then

        def data_received(self, data: bytes) -> None:
            if self.in_head:
                self.head_bytes += len(data)
            super().data_received(data)
            if self.in_head and self.head_bytes > limits.header_bytes and not self.transport.is_closing():
                self.refuse(_TOO_LARGE)

        def on_message_begin(self) -> None:
            self.in_head = True
            self.start_timer()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self.in_head, self.head_bytes = False, 0
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > limits.header_bytes:
                self.wrong = _TOO_LARGE
                raise Refused(_TOO_LARGE)  # ends the parser, which then calls send_400_response
            super().on_headers_complete()
            if app.draining:
                self.cycle.keep_alive = False

        def on_message_complete(self) -> None:
            self.in_head = True
            self.stop_timer()
            super().on_message_complete()

        def shutdown(self) -> None:
            """Close a connection on which nothing comes; a request on its way is answered first.

            uvicorn closes at once: a client whose request lies unread then gets a reset, and no answer.
            """
            is_answering = self.cycle and not self.cycle.response_complete
            if is_answering or (self.cycle and not self.head_bytes and _has_ended(self.transport)):
                super().shutdown()
            else:
                self.loop.call_later(_LAST_S, super().shutdown)

        def send_400_response(self, msg: str) -> None:
            self.refuse(self.wrong or "this is no HTTP request")

        def start_timer(self) -> None:
            self.stop_timer()
            self.timer = self.loop.call_later(limits.request_s, self.refuse, _TOO_SLOW)

        def stop_timer(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

        def refuse(self, reason: str) -> None:
            """Say why, unless an answer has begun, and end the connection."""
            self.stop_timer()
            if self.transport.is_closing():
                return
            if not self.cycle or self.cycle.response_complete or not self.cycle.response_started:
                body = json.dumps({"error": reason}).encode()
                head = f"HTTP/1.1 {_STATUS.get(reason, '400 Bad Request')}\r\nconnection: close\r\n"
                head += "retry-after: 1\r\n" if reason == _TOO_MANY else ""
                head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
                self.transport.write(head.encode() + body)
            self.transport.close()

    return Bounded


class Server(uvicorn.Server):
    """Serves an application until SIGTERM or Ctrl-C; SIGHUP reloads all models."""

    def __init__(self, app: Application, listener: socket.socket) -> None:
        """Serve at a socket that listens already, from `listen`."""
        self.application = app
        config = uvicorn.Config(
            app.asgi,
            http=protocol_of(app, _most_connections(app.limits.connections)),
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=round(app.limits.drain_s) or 1,
            backlog=2048,
        )
        super().__init__(config)
        self._listener = listener
        self._tasks: set[asyncio.Task[None]] = set()

    def serve_until_told(self, on_start: Callable[[], None], seconds: float | None = None) -> None:
        """Serve; returns after the drain.

        Args:
            on_start: called once requests are answered.
            seconds: drain after so long; None: at a signal.
        """
        self._on_start, self._seconds = on_start, seconds
        logging.getLogger("uvicorn.error").addFilter(_not_invalid)
        self.run(sockets=[self._listener])
        log.warning("ended")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and say so."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_start()
        if self._seconds is not None:
            asyncio.get_running_loop().call_later(self._seconds, self.drain, _CTRL_C_GRACE_S)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take the connections that wait to be accepted, and no more; then end as uvicorn does."""
        self.application.draining = True
        waiting = []
        with self._listener.dup() as door, suppress(OSError):  # none is left, or too many are open
            for server in self.servers:
                server.close()  # the copy listens still
            door.setblocking(False)
            while True:
                waiting.append(door.accept()[0])
        for one in waiting:
            await asyncio.get_running_loop().connect_accepted_socket(self._connection, one)
        await super().shutdown(sockets)

    def _connection(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        found: asyncio.Protocol = kind(self.config, self.server_state, self.lifespan.state)
        return found

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain at SIGTERM and Ctrl-C, at once at the second; reload at SIGHUP."""
        loop = asyncio.get_running_loop()
        signals: dict[int, Callable[[], None]] = {
            signal.SIGTERM: lambda: self.drain(self.application.limits.grace_s),
            signal.SIGINT: lambda: self.drain(_CTRL_C_GRACE_S),
        }
        if hasattr(signal, "SIGHUP"):
            signals[signal.SIGHUP] = self._reload_all
        heard = []
        with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
            for number, handle in signals.items():
                loop.add_signal_handler(number, handle)
                heard.append(number)
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)

    def drain(self, grace_s: float) -> None:
        """Say not ready, answer for `grace_s` more, then end; a second call ends at once."""
        if self.application.draining:
            self.should_exit = self.force_exit = True
            return
        self.application.draining = True
        in_flight, drain_s = self.application.in_flight, self.application.limits.drain_s
        log.warning(
            "draining: not ready; requests in flight: %d; takes more for %g s, then answers for %g s at most",
            *(in_flight, grace_s, drain_s),
        )
        asyncio.get_running_loop().call_later(grace_s, setattr, self, "should_exit", True)

    def _reload_all(self) -> None:
        async def reload() -> None:
            for model in self.application.models.all():
                with suppress(Refused):  # it was logged
                    await self.application.reload(model.name, model.version)

        task = asyncio.get_running_loop().create_task(reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        DataError: the port is taken or not allowed, or there is no such address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        fix = "--port 0 takes a free port, --host 127.0.0.1 this machine"
        if error.errno == errno.EADDRINUSE:
            raise DataError(
                f"{host}:{port}: another program listens there", fix=f"--port {port % 65535 + 1}"
            ) from error
        raise DataError(f"{host}:{port}: {error.strerror}", fix=fix) from error
    return listener


def _has_ended(transport: asyncio.Transport) -> bool:
    """End the server's half of a connection on which nothing lies unread; False where something does."""
    if transport.is_closing() or transport.get_write_buffer_size():
        return True  # closing it sends what is still to be sent
    number = transport.get_extra_info("socket").fileno()
    with suppress(OSError), socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM) as same:
        try:
            same.recv(1, socket.MSG_PEEK)
            return False
        except BlockingIOError:
            same.shutdown(socket.SHUT_WR)  # at once: the loop's own close comes later, and so may a request
    return True


def _most_connections(wanted: int) -> int:
    """Let this process open as many files as it may; return how many connections that allows, at most."""
    try:
        import resource
    except ImportError:  # Windows
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _SPARE_FILES))


def _not_invalid(record: logging.LogRecord) -> bool:
    """Drop uvicorn's line for each connection that speaks no HTTP: a scanner would fill the log."""
    return "Invalid HTTP request" not in str(record.msg)
