"""A client of the Open Inference Protocol v2, of this server or of another: Triton, KServe, Ray Serve."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from spoter_runtime.contract import LENGTHS, LOGITS, POSES
from spoter_runtime.errors import BackendError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.runner import pad_clips
from spoter_toolkit.serving.protocol import ALLOW_EMPTY, BINARY, HEADER_LENGTH

_TIMEOUT_S: Final = 60.0


def body_of(clips: Sequence[Float32Array], *, allow_empty: bool = False) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a request for the logits of clips (frames, 54, 2), all in binary."""
    poses_NTD, lengths_N = pad_clips(list(clips))
    lengths_N = lengths_N.reshape(-1, 1)  # Triton has no inputs without a size beside the batch
    inputs = [
        {
            "name": name,
            "datatype": kind,
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, kind, array in ((POSES, "FP32", poses_NTD), (LENGTHS, "INT32", lengths_N))
    ]
    asked: dict[str, Any] = {
        "inputs": inputs,
        "outputs": [{"name": LOGITS, "parameters": {"binary_data": True}}],
    }
    if allow_empty:
        asked["parameters"] = {ALLOW_EMPTY: True}
    head = json.dumps(asked).encode()
    body = b"".join((head, poses_NTD.astype("<f4").tobytes(), lengths_N.astype("<i4").tobytes()))
    return body, {"Content-Type": BINARY, HEADER_LENGTH: str(len(head))}


def logits_from(body: bytes, header_length: str | None) -> Float32Array:
    """Return the logits (N, C) of an answer to `body_of`.

    Raises:
        BackendError: it is no such answer.
    """
    try:
        length = len(body) if header_length is None else int(header_length)
        (output,) = json.loads(body[:length])["outputs"]
        found = np.frombuffer(body[length:], "<f4") if length < len(body) else output["data"]
        return np.array(found, np.float32).reshape(output["shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise BackendError(f"the server's answer holds no logits: {error}") from error


class ServedModel:
    """One model of a server; asks a request at a time.

    Attributes:
        path: of the model on the server: ``/v2/models/letters``.
    """

    def __init__(self, url: str) -> None:
        """Find the model.

        Args:
            url: ``http://host:port/v2/models/NAME``; without the path the server's first model.

        Raises:
            BackendError: nothing answers there, or it has no model.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise BackendError(f"{url}: expected http://HOST:PORT, or with /v2/models/NAME")
        self.url = url
        self.host, self.port = parts.hostname, parts.port or 80
        self._connection = HTTPConnection(self.host, self.port, timeout=_TIMEOUT_S)
        self.path = parts.path.rstrip("/") or self._first_model()

    def _first_model(self) -> str:
        index = self._json("POST", "/v2/repository/index")
        ready = [one["name"] for one in index if one.get("state") == "READY"]
        if not ready:
            raise BackendError(f"{self.url}: no model is ready there")
        return f"/v2/models/{ready[0]}"

    def metadata(self) -> dict[str, Any]:
        """Return what the server says of the model.

        Raises:
            BackendError: it does not answer, or has no such model.
        """
        found: dict[str, Any] = self._json("GET", self.path)
        return found

    def infer(self, clips: Sequence[Float32Array], *, allow_empty: bool = False) -> Float32Array:
        """Return the logits (N, C) of clips (frames, 54, 2).

        Raises:
            BackendError: the server refuses them, with its reason.
        """
        body, headers = body_of(clips, allow_empty=allow_empty)
        content, length = self._ask("POST", f"{self.path}/infer", body, headers)
        return logits_from(content, length)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _json(self, method: str, path: str) -> Any:
        content, _ = self._ask(method, path)
        try:
            return json.loads(content)
        except ValueError as error:
            raise BackendError(f"{self.url}: answers {path} with no JSON") from error

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[bytes, str | None]:
        try:
            try:
                answer = self._answer(method, path, body, headers)
            except (BrokenPipeError, ConnectionResetError):
                # The server had closed the connection of before. A clip may be sent again: same answer.
                self._connection.close()
                answer = self._answer(method, path, body, headers)
            content = answer.read()
        except (OSError, HTTPException) as error:
            self._connection.close()
            reason = getattr(error, "strerror", None) or error
            raise BackendError(
                f"{self.url}: does not answer: {reason}",
                fix=f"spoter-kit serve BUNDLE --port {self.port} starts a server",
            ) from error
        if answer.status != 200:
            raise BackendError(f"{self.url}: answers {path} with {answer.status}: {_reason_in(content)}")
        return content, answer.headers.get(HEADER_LENGTH)

    def _answer(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str] | None
    ) -> HTTPResponse:
        self._connection.request(method, path, body, headers or {})
        return self._connection.getresponse()


def _reason_in(content: bytes) -> str:
    """Return why a server refused: the protocol's error, or what it wrote instead."""
    try:
        return str(json.loads(content)["error"])
    except (KeyError, TypeError, ValueError):
        return content.decode("utf-8", "replace")[:500]
