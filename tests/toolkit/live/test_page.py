"""The page of `live --page`: events, pictures and words, on this machine alone, and no outside request."""

from __future__ import annotations

import http.client
import json
import re
import socket
from importlib.resources import files

import numpy as np
import pytest

from signers import pose
from spoter_runtime.contract import Label
from spoter_runtime.errors import DataError
from spoter_runtime.live.events import Dropped
from spoter_toolkit.live.page import LOOPBACK, LivePage
from spoter_toolkit.live.sources import Arrival


@pytest.fixture
def page():
    made = LivePage([Label(name="cha", gloss="tea", bengali="চা")], port=0)
    yield made
    made.close()


def answer(page, path, **headers):
    connection = http.client.HTTPConnection(LOOPBACK, page.port, timeout=20)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def messages(response):
    """Yield what a browser's EventSource hears."""
    while line := response.readline():
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def test_events_and_landmarks_reach_a_viewer(page):
    page(Dropped(t_ms=1.0, frames=2))
    heard = messages(answer(page, "/events"))
    start = next(heard)
    assert start["words"] == {"cha": ["tea", "চা"]}
    assert next(heard)["event"] == {"type": "dropped", "t_ms": 1.0, "frames": 2}
    assert page.viewers == 1
    page.frame(Arrival(33.0, pose(0.3)), pose(2.2))
    frame = next(heard)
    assert frame["t_ms"] == 33.0
    assert len(frame["landmarks"]) == 54
    assert frame["landmarks"][40] is None


def test_pictures_reach_a_viewer(page):
    pytest.importorskip("av", reason="PyAV makes the pictures")
    page.viewers = 1
    page.frame(Arrival(1.0, np.full((480, 1280, 3), 200, np.uint8)), None)
    response = answer(page, "/picture")
    assert response.readline() == b"--frame\r\n"
    assert b"image/jpeg" in response.readline()
    length = int(response.readline().split()[1])
    response.readline()
    assert response.read(length)[:3] == b"\xff\xd8\xff"


def test_the_page_asks_for_nothing_outside_and_the_browser_would_not_let_it(page):
    response = answer(page, "/")
    html = response.read().decode()
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert re.findall(r"https?://", html) == []
    assert html.encode() == files("spoter_toolkit.live").joinpath("page.html").read_bytes()


def test_only_this_machine_is_answered_by_its_own_name(page):
    assert page._server.server_address[0] == "127.0.0.1"
    assert answer(page, "/", Host="somebody.example").status == 403
    assert answer(page, "/../../etc/passwd").status == 404


def test_nothing_is_drawn_while_nobody_looks(page):
    page.frame(Arrival(1.0, np.zeros((48, 64, 3), np.uint8)), pose(0.3))
    assert (len(page.messages), page.picture[0]) == (0, 0)


def test_a_port_that_is_taken_is_an_error():
    with socket.create_server((LOOPBACK, 0)) as taken, pytest.raises(DataError, match="--port 0"):
        LivePage([], port=taken.getsockname()[1])
