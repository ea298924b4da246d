"""Chromium, driven over a pipe by its DevTools protocol: no package and no port is needed for it."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from spoter_runtime.errors import BackendError, DataError

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS: Final = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--remote-debugging-pipe", "--hide-scrollbars"),
)
# Chromium reads commands from descriptor 3 and writes to 4; these two have any numbers before.
_START: Final = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_SECONDS: Final = 120.0


def find_browser() -> str:
    """Return the path of a Chromium.

    Raises:
        DataError: none is installed.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise DataError("no Chromium is installed", fix="apt-get install chromium")
    return found


class Browser:
    """A Chromium of one's own, with an empty profile."""

    def __init__(self, *flags: str) -> None:
        """Start it.

        Raises:
            DataError: none is installed.
        """
        path = find_browser()
        self._profile = tempfile.TemporaryDirectory(prefix="spoter-browser-", ignore_cleanup_errors=True)
        reads, self._writes = _pipe()
        self._reads, writes = _pipe()
        as_root = ("--no-sandbox",) if os.geteuid() == 0 else ()
        command = [path, *_FLAGS, *as_root, f"--user-data-dir={self._profile.name}", *flags, "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(reads), str(writes), *command],
            pass_fds=(reads, writes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(reads)
        os.close(writes)
        self._buffer = b""
        self._count = 0
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, session: str | None = None, **values: Any) -> dict[str, Any]:
        """Return the answer to a command.

        Raises:
            BackendError: the browser refused it, has ended, or did not answer.
        """
        self._count += 1
        message = {"id": self._count, "method": method, "params": values}
        if session:
            message["sessionId"] = session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._writes, content) :]
        while True:
            answer = self._receive(_SECONDS)
            if answer is None:
                raise BackendError(f"the browser did not answer {method} within {_SECONDS:.0f} s")
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise BackendError(f"the browser refused {method}: {answer['error'].get('message')}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._reads], [], [], max(0, end - time.monotonic()))
            if not ready:
                return None
            part = os.read(self._reads, 1 << 20)
            if not part:
                raise BackendError("the browser has ended")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        value: dict[str, Any] = json.loads(message)
        return value

    def page(self, url: str = "about:blank") -> Page:
        """Open a page."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        page.send("Page.enable")
        page.send("Runtime.enable")
        if url != "about:blank":
            page.go(url)
        return page

    def close(self) -> None:
        """End it and forget its profile."""
        with contextlib.suppress(BackendError, OSError):
            self.send("Browser.close")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its own group: it began a session
        self._process.wait()
        os.close(self._writes)
        os.close(self._reads)
        self._profile.cleanup()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class Page:
    """One page of a browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def send(self, method: str, **values: Any) -> dict[str, Any]:
        """Return the answer to a command about this page."""
        return self._browser.send(method, self._session, **values)

    def go(self, url: str) -> None:
        """Load an address."""
        found = self.send("Page.navigate", url=url)
        if found.get("errorText"):
            raise BackendError(f"{url}: {found['errorText']}")
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Return the JSON value of an expression, which may be a promise.

        Raises:
            BackendError: it threw an error; the message is the error's.
        """
        found = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise BackendError(details.get("exception", {}).get("description") or details["text"])
        return found["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 60.0) -> Any:
        """Return the value of an expression as soon as it is true.

        Raises:
            BackendError: it is not after so long.
        """
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(BackendError):  # a page that is just being replaced
                if value := self.evaluate(condition):
                    return value
            if time.monotonic() > end:
                raise BackendError(f"not true after {seconds:.0f} s: {condition}")
            time.sleep(0.05)

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """Show the page on a screen of a size."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """Write what the screen shows as a PNG."""
        found = self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))

    def choose_files(self, selector: str, *paths: Path) -> None:
        """Choose files in a file input, as a person would."""
        node = self.send("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.send(
            "DOM.setFileInputFiles",
            files=[str(path.resolve()) for path in paths],
            objectId=node["result"]["objectId"],
        )

    def press(self, key: str, code: int) -> None:
        """Press and let go a key, as in ``press("Tab", 9)``."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        values = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", **values, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **values)


def _pipe() -> tuple[int, int]:
    """Return a pipe whose descriptors are above those that Chromium takes."""
    made = os.pipe()
    high = tuple(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in made)
    for fd in made:
        os.close(fd)
    return high[0], high[1]
