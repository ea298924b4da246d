"""The face `web`: the bundle in a headless Chromium, through the page's own scripts and worker."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from spoter_runtime.bundle.manifest import Bundle
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import BackendError
from spoter_runtime.landmarks import Float32Array
from spoter_toolkit.faces.face import Face
from spoter_toolkit.web.browser import Browser
from spoter_toolkit.web.engine import find_engine
from spoter_toolkit.web.server import FileServer
from spoter_toolkit.web.site import SITE, write_site

_LOAD = """(async () => {
  const { Recognizer } = await import("/spoter.js");
  const site = await (await fetch("/site.json")).json();
  const { packed, precision, engine: { hashes } } = site;
  globalThis.recognizer = await Recognizer.load("/bundle/", { packed, precision, hashes });
  const { contract, file } = recognizer;
  return { contract, file };
})()"""
_ASK = """(async (lengths, text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const poses = new Float32Array(bytes.buffer);
  const answers = [];
  let begin = 0;
  for (const frames of lengths) {
    answers.push(Array.from(await recognizer.logits(poses.slice(begin, (begin += 108 * frames)))));
  }
  return answers;
})"""


class WebFace(Face):
    """Answers clips in a browser of its own, one clip at a time."""

    def __init__(self, bundle: Bundle, precision: str) -> None:
        """Write the site, serve it on this machine, and load it in the browser."""
        engine = find_engine()
        self._folder = TemporaryDirectory(prefix="spoter-web-")
        write_site(bundle, Path(self._folder.name, "site"), engine, precision=precision)
        self._server = FileServer(Path(self._folder.name, "site"))
        try:
            self._browser = Browser()
        except BaseException:
            self._server.close()
            raise
        try:
            self._page = self._browser.page(self._server.url + SITE)
            found = self._page.evaluate(_LOAD)
        except BaseException:
            self.close()
            raise
        file = next(one for one in bundle.artefacts if one.path == found["file"])
        super().__init__("web", _contract(found["contract"]), file)

    def predict(self, clips: Sequence[Float32Array]) -> Float32Array:
        """Return logits (N, C) of clips (frames, 54, 2)."""
        poses = np.concatenate([np.ascontiguousarray(clip, np.float32).ravel() for clip in clips])
        text = json.dumps(base64.b64encode(poses.tobytes()).decode())
        try:
            answers = self._page.evaluate(f"{_ASK}({[len(clip) for clip in clips]}, {text})")
            return np.array(answers, np.float32)
        except BackendError as error:
            raise BackendError(f"{self.name}: {error.message}") from error

    def close(self) -> None:
        """End browser and server."""
        self._browser.close()
        self._server.close()
        self._folder.cleanup()


def _contract(value: dict[str, Any]) -> GraphContract:
    labels = tuple(Label(**label) for label in value["labels"])
    return GraphContract(labels=labels, max_frames=value["max_frames"], max_batch=value["max_batch"])


def open_face(bundle: Bundle, precision: str) -> WebFace:
    """Open a bundle in the browser."""
    return WebFace(bundle, precision)
