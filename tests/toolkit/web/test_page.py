"""The page in a real browser: its proof, its answers, its privacy, without a network, by keyboard."""

from __future__ import annotations

import io
import json
import os
import shutil
import time

import numpy as np
import pytest

from in_process import spoter_kit
from signers import signing, write_log
from spoter_runtime import Recognizer
from spoter_runtime.errors import BackendError
from spoter_toolkit.web.browser import Browser
from spoter_toolkit.web.engine import WASM
from spoter_toolkit.web.server import FileServer

pytestmark = pytest.mark.slow

READY = "performance.getEntriesByName('spoter:verified').length"
TEXT = "document.getElementById('{}').textContent"


@pytest.fixture(scope="module")
def opened(browser, server):
    """The page, after it has replayed the goldens."""
    page = browser.page(server.url)
    page.wait_for(READY)
    return page


KEPT = """(async (name) => {
  const cache = await caches.open((await caches.keys())[0]);
  return Array.from(new Uint8Array(await (await cache.match(name)).arrayBuffer()).slice(0, 4));
})"""


def text(page, name):
    return page.evaluate(TEXT.format(name))


def test_export_writes_a_site_and_says_what_a_visit_costs(bundle_folder, engine, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = spoter_kit(tmp_path, "export", bundle_folder, "--web", "site", "--engine", engine)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("site: a first visit loads ")
    assert "no landmarker, so no camera" in done.stdout
    assert "next: python -m http.server --directory site" in done.stderr
    again = spoter_kit(tmp_path, "export", bundle_folder, "--web", "site", "--engine", engine)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    asked = ("export", bundle_folder, "--web", "site", "--engine", engine, "--force", "--json", "--webgpu")
    web = json.loads(spoter_kit(tmp_path, *asked).stdout)["web"]
    assert 3e6 < web["first_bytes"] < 6e6
    assert 3e6 < web["webgpu_bytes"] < 6e6
    alone = spoter_kit(tmp_path, "export", bundle_folder, "--web", "other")
    assert "--engine npm, which" in alone.stderr
    assert spoter_kit(tmp_path, "export", bundle_folder, "--engine", engine).returncode == 2
    assert spoter_kit(tmp_path, "export", bundle_folder, "--trt", "--webgpu").returncode == 2


def test_the_page_shows_that_the_goldens_agree(opened, bundle):
    goldens = len(bundle.goldens().lengths_N)
    assert text(opened, "status") == f"ready: {goldens} of {goldens} stored answers agree"
    assert opened.evaluate("document.getElementById('proof').dataset.passed") == "true"
    assert "ONNX Runtime Web 1.30.0, wasm, fp32" in text(opened, "proof-rows")
    assert text(opened, "name") == "small"
    assert "takes recorded landmarks only" in text(opened, "no-landmarker")


def test_a_recorded_clip_and_a_log_are_answered_in_bengali(opened, bundle_folder, make_clip, tmp_path):
    clip = make_clip(3, 30)
    expected = Recognizer.load(bundle_folder, "ort-cpu", tuned=False).predict(clip).sign
    np.save(tmp_path / "clip.npy", clip)
    opened.choose_files("#file", tmp_path / "clip.npy")
    opened.wait_for("document.getElementById('status').textContent.startsWith('answered')")
    assert opened.evaluate("document.querySelector('#word [lang=bn]').textContent") == expected.bengali
    assert text(opened, "word") == f"{expected.bengali} {expected.gloss}"
    log = write_log(tmp_path / "log.jsonl", *signing([(1000.0, 1700.0), (2700.0, 3500.0)], end_ms=5000))
    opened.choose_files("#file", log)
    opened.wait_for("document.getElementById('status').textContent.startsWith('replayed 150')")
    assert opened.evaluate("document.querySelectorAll('#last li').length") == 2


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_wrong_files_are_refused_in_words(opened, tmp_path):
    frames = np.full((54, 2, 108), 0.5, np.float32)
    for name, content, said in (
        ("clip.npy", b"nothing", "clip.npy: cannot be read: a wrong header. Fix: numpy.save"),
        (
            "axes.npy",
            npy(frames),
            "axes.npy: cannot be read: expected (frames, 54, 2) or (frames, 108), got (54",
        ),
        (
            "half.npy",
            npy(frames.astype("f2")),
            "half.npy: cannot be read: holds <f2, expected one of <f4, <f8",
        ),
        ("log.jsonl", b'{"a": 1}\n', "log.jsonl: not a landmark log of version 1"),
        ("film.mp4", b"film", "this site has no landmarker, so it cannot take videos"),
    ):
        (tmp_path / name).write_bytes(content)
        opened.choose_files("#file", tmp_path / name)
        opened.wait_for(f"document.getElementById('error').textContent.startsWith({said!r})")
        assert opened.evaluate("document.getElementById('error').hidden") is False


def test_it_is_used_by_keyboard_and_read_by_a_screen_reader(opened):
    names = []
    opened.evaluate("document.activeElement.blur()")
    for _ in range(8):
        opened.press("Tab", 9)
        names.append(opened.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert [name for name in names if name in ("file", "SUMMARY")][:3] == ["file", "SUMMARY", "SUMMARY"]
    nodes = opened.send("Accessibility.getFullAXTree")["nodes"]
    roles = {
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    }
    assert "Open a video or landmarks" in {name for role, name in roles if role == "button"}, roles
    assert any(role == "status" for role, _ in roles)
    assert any(role == "image" and "landmarks" in name for role, name in roles)
    unnamed = [role for role, name in roles if role in ("button", "image", "meter", "region") and not name]
    assert unnamed == []


def test_nothing_overflows_sideways(browser, server):
    page = browser.page()
    page.size(360, 900)
    page.go(server.url)
    page.wait_for(READY)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for width in (360, 390, 1280):
        page.size(width, 900)
        needed, given = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert needed <= given == width


ASK_ELSEWHERE = """(async (url) => {
  const tried = {};
  const doing = {
    page: () => fetch(url),
    picture: () => new Promise((resolve, reject) => {
      const made = new Image();
      made.onload = resolve;
      made.onerror = reject;
      made.src = url + "icon.svg";
    }),
    beacon: async () => {
      navigator.sendBeacon(url); // says true also where the policy stops it: nothing may arrive
      await new Promise((resolve) => setTimeout(resolve, 300));
      throw new Error();
    },
    script: () => import(url + "spoter.js"),
    worker: () => new Promise((resolve, reject) => {
      const source = `fetch("${url}").then(() => postMessage(1), () => postMessage(0))`;
      const made = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
      made.onmessage = ({ data }) => (data ? resolve() : reject(new Error()));
      made.onerror = reject;
    }),
  };
  for (const [name, attempt] of Object.entries(doing))
    tried[name] = await attempt().then(() => "sent", () => "refused");
  return tried;
})"""


def test_no_request_reaches_another_host(opened, site, server, browser):
    with FileServer(site) as elsewhere:
        tried = opened.evaluate(f"{ASK_ELSEWHERE}({elsewhere.url!r})")
        assert set(tried.values()) == {"refused"}, tried
        assert elsewhere.asked == []
        bare = browser.page(f"{elsewhere.url}site.json")  # without the policy the same requests arrive
        assert bare.evaluate(f"{ASK_ELSEWHERE}({server.url!r})")["worker"] == "refused"  # no CORS, but …
        assert any(path == "/icon.svg" for path in server.asked)


def test_it_works_without_a_network_after_the_first_load(site, chromium):
    with Browser() as browser:
        with FileServer(site) as server:
            page = browser.page(server.url)
            page.wait_for(READY)
            page.wait_for("performance.getEntriesByName('spoter:offline').length")
            url = server.url
        # The server is gone.
        page.go(url)
        page.wait_for(READY)
        assert "stored answers agree" in text(page, "status")
        assert "works without a network" in text(page, "offline")
        # What came packed is kept unpacked: a later visit does not unpack it again.
        assert page.evaluate(f"{KEPT}('engine/{WASM}.gz')") == list(b"\0asm")
        with pytest.raises(BackendError, match="fetch"):
            page.evaluate("fetch('bundle/MODEL_CARD.md')")


def test_a_file_that_was_damaged_on_the_way_is_not_kept(browser, site, tmp_path):
    """Once it is sound on the server, the page works; it was kept, and refused at each visit."""
    copy = shutil.copytree(site, tmp_path / "site")
    facts, model = copy / "site.json", copy / "bundle" / "model.ort.onnx"
    with FileServer(copy) as server:
        page = browser.page()
        for file, said in ((facts, "site.json: cannot be read ("), (model, "changed or damaged")):
            sound = file.read_bytes()
            file.write_bytes(sound[:-2] + b"x\n")
            page.go(server.url)
            page.wait_for(f"document.getElementById('error').textContent.includes({said!r})")
            page.wait_for("document.getElementById('offline').textContent.includes('needs its server')")
            file.write_bytes(sound)
            os.utime(file, (time.time() + 9,) * 2)  # in another second: the browser asks whether it is newer
        page.go(server.url)
        page.wait_for(READY)
        page.wait_for("performance.getEntriesByName('spoter:offline').length")
