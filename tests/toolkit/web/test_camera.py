"""Camera and videos in a real browser: Python's landmarks, events, and words for what a browser lacks."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest

from spoter_runtime.camera.landmarker import Landmarker
from spoter_runtime.camera.video import video_frames
from spoter_toolkit.web.browser import Browser
from spoter_toolkit.web.server import FileServer

pytestmark = pytest.mark.slow

READY = "performance.getEntriesByName('spoter:verified').length"
ERROR = "document.getElementById('error').textContent"
# Another engine sums in another order, and the networks' crops round to whole pixel values: ONNX Runtime
# without its own optimisations differs from itself as much.
NEAR = 2e-3

LOAD = """(async () => {
  const spoter = await import("/spoter.js");
  const { packed, engine: { hashes } } = await (await fetch("/site.json")).json();
  const recognizer = await spoter.Recognizer.load("/bundle/", { packed, hashes });
  globalThis.landmarker = await spoter.Landmarker.load("/landmarker/", recognizer);
  return landmarker.verify();
})()"""
# Each picture is handed over before the one before is answered, as the page does it.
FIND = """(async (height, width, text) => {
  const rgb = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const finding = [];
  for (let i = 0; i < rgb.length; ) {
    const picture = new ImageData(width, height);
    for (let j = 0; j < picture.data.length; i += 3, j += 4)
      picture.data.set([rgb[i], rgb[i + 1], rgb[i + 2], 255], j);
    finding.push(landmarker.find(picture));
  }
  const plain = (found) => Array.from(found, (x) => (Number.isNaN(x) ? null : x));
  return (await Promise.all(finding)).map(plain);
})"""


@pytest.fixture(scope="module")
def camera_site(site_with_landmarker):
    """The small bundle's site with a landmarker, served."""
    report = site_with_landmarker()
    assert report.camera_bytes > 10e6
    with FileServer(report.folder) as server:
        yield server


@pytest.fixture(scope="module")
def frames(signing_video):
    pytest.importorskip("av", reason="PyAV reads the video")
    return [frame.rgb for frame in video_frames(signing_video())]


@pytest.fixture(scope="module")
def film(frames, tmp_path_factory):
    """The frames as a file that Chromium takes for its camera: 4:2:0, uncompressed, at 15 frames a second."""
    import av

    path = tmp_path_factory.mktemp("film") / "camera.y4m"
    height, width = frames[0].shape[:2]
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F15:1 Ip A1:1 C420jpeg\n".encode())
        for frame in frames:
            yuv = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24").reformat(format="yuv420p")
            file.write(b"FRAME\n" + yuv.to_ndarray().tobytes())
    return path


@pytest.fixture(scope="module")
def video(frames, tmp_path_factory):
    """The frames as a video file: WebM, at 7 frames a second."""
    import av

    path = tmp_path_factory.mktemp("video") / "signing.webm"
    height, width = (size // 2 * 2 for size in frames[0].shape[:2])
    with av.open(path, "w") as file:
        stream = file.add_stream("libvpx", rate=7, width=width, height=height, pix_fmt="yuv420p")
        for frame in frames:
            picture = np.ascontiguousarray(frame[:height, :width])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        file.mux(stream.encode())
    return path


def test_landmarks_are_those_of_python(browser, camera_site, landmarker_folder, frames):
    page = browser.page(f"{camera_site.url}site.json")
    found = page.evaluate(LOAD)
    assert found["passed"]
    assert set(found["differences"]) == {"pose_detection", "pose", "recrop", "hand"}
    python = Landmarker.load(landmarker_folder)
    seen = 0
    height, width = frames[0].shape[:2]
    text = json.dumps(base64.b64encode(np.stack(frames[:8]).tobytes()).decode())
    for frame, answer in zip(frames, page.evaluate(f"{FIND}({height}, {width}, {text})"), strict=False):
        other = np.array([np.nan if x is None else x for x in answer]).reshape(54, 2)
        expected = python(frame)
        np.testing.assert_array_equal(np.isnan(other), np.isnan(expected))
        distance = np.linalg.norm(other - expected, axis=1)
        assert np.nanmean(distance) < NEAR
        seen += int(np.isfinite(distance).sum())
    assert seen > 8 * 30  # the body and a hand
    blank = np.zeros((64, 64, 3), np.uint8)
    nobody = page.evaluate(f"{FIND}(64, 64, {json.dumps(base64.b64encode(blank.tobytes()).decode())})")
    assert nobody == [[None] * 108]


def test_a_video_file_is_watched_to_its_end(browser, camera_site, video, contract):
    page = browser.page(camera_site.url)
    page.wait_for(READY)
    page.choose_files("#file", video)
    page.wait_for(f"{ERROR} || document.getElementById('status').textContent === 'ended'", 120)
    assert page.evaluate(ERROR) == ""
    marks = page.evaluate("performance.getEntriesByType('mark').map((mark) => mark.name)")
    assert {"spoter:tracking", "spoter:sign"} <= set(marks)
    word = page.evaluate("document.querySelector('#word [lang=bn]').textContent")
    assert word in {label.bengali for label in contract.labels}
    assert page.evaluate("document.getElementById('stop').hidden")
    proof = page.evaluate("document.getElementById('proof-rows').textContent")
    assert re.search("landmarkswasm; WebGPU: (this browser has no WebGPU|WebGPU finds no GPU here)", proof)


def test_the_camera_gives_events_and_stops(camera_site, film):
    fake = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with Browser(*fake, f"--use-file-for-fake-video-capture={film}") as browser:
        page = browser.page(camera_site.url)
        page.wait_for(READY)
        page.evaluate("document.getElementById('camera').focus()")
        page.press("Enter", 13)  # by keyboard
        page.wait_for("performance.getEntriesByName('spoter:tracking').length", 120)
        said = page.evaluate("document.getElementById('status').textContent")
        assert "frames a second; body " in said
        assert "body 0 %" not in said
        drawn = """(() => {
          const canvas = document.getElementById("skeleton");
          const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          return pixels.some((value) => value > 0);
        })()"""
        page.wait_for(drawn)
        assert page.evaluate("document.querySelector('#view').classList.contains('mirrored')")
        page.evaluate("document.getElementById('stop').click()")
        page.wait_for("document.getElementById('status').textContent === 'stopped'")
        assert page.evaluate("document.querySelector('video').srcObject.getTracks()[0].readyState") == "ended"
        assert page.evaluate("document.activeElement.id") == "camera"


def said_when_asked_for_the_camera(browser, url):
    page = browser.page(url)
    page.wait_for(READY)
    page.evaluate("document.getElementById('camera').click()")
    return page.wait_for(ERROR)


def test_without_a_camera_or_leave_to_use_it_the_page_says_so(browser, camera_site):
    found = said_when_asked_for_the_camera(browser, camera_site.url)
    assert found == "no camera was found. Fix: connect one, or open a video"
    with Browser("--use-fake-device-for-media-stream", "--deny-permission-prompts") as denied:
        found = said_when_asked_for_the_camera(denied, camera_site.url)
    assert found.startswith("the camera was not allowed. Fix: allow the camera for this page")


def test_a_browser_without_simd_or_webassembly_is_told_what_it_lacks(camera_site):
    for flags, lacks in (
        ("--no-enable-sse4-1,--no-enable-ssse3", "this browser's WebAssembly has no SIMD"),
        ("--jitless", "this browser has no WebAssembly"),
    ):
        with Browser(f"--js-flags={flags}") as browser:
            page = browser.page(camera_site.url)
            said = page.wait_for(ERROR)
            assert said == f"{lacks}, which the model needs. Fix: a current Chrome, Edge, Firefox or Safari"
            assert page.evaluate("document.getElementById('camera').disabled")
