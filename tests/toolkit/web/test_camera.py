"""Camera and videos in a real browser: Python's landmarks, events, and words for what a browser lacks."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil

import numpy as np
import pytest

from failing_networks import fail_on_white, not_white, white
from spoter_runtime import Recognizer
from spoter_runtime.camera.landmarker import Landmarker
from spoter_runtime.camera.video import video_frames
from spoter_runtime.files import sha256_of
from spoter_runtime.live.stream import SignStream
from spoter_toolkit.web.browser import Browser
from spoter_toolkit.web.server import FileServer
from spoter_toolkit.web.site import PAGE, SITE

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
    return film_of(frames, tmp_path_factory.mktemp("video") / "signing.webm")


def film_of(frames, path):
    import av

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


def another(site, name):
    """Return the folder of the same site under another address, and its own copy of the landmarker."""
    folder = site.folder / name
    folder.mkdir()
    for part in (*PAGE, SITE, "manifest.webmanifest", "sw.js", "bundle", "engine"):
        (folder / part).symlink_to(site.folder / part)
    return folder, shutil.copytree(site.folder / "landmarker", folder / "landmarker")


@pytest.fixture(scope="module")
def failing_site(camera_site):
    """The same site with networks that fail on a white frame: its address, and its landmarker's folder."""
    folder, made = another(camera_site, "failing")
    manifest = json.loads((made / "landmarker.json").read_text())
    for packed in made.glob("*.onnx.gz"):
        network = packed.with_suffix("")
        network.write_bytes(gzip.decompress(packed.read_bytes()))
        fail_on_white(network)
        packed.write_bytes(gzip.compress(network.read_bytes(), 1))
        manifest["files"][network.name] = sha256_of(network)
    (made / "landmarker.json").write_text(json.dumps(manifest))
    return f"{camera_site.url}{folder.name}/", made


# Counts the bitmaps that a worker frees.
COUNTED = """
const close = ImageBitmap.prototype.close;
let count = 0;
ImageBitmap.prototype.close = function () {
  new BroadcastChannel("freed").postMessage(++count);
  close.call(this);
};
"""
STREAMED = """(async (url, shown, worker) => {
  const spoter = await import("/spoter.js");
  const { packed, engine: { hashes } } = await (await fetch("/site.json")).json();
  const recognizer = await spoter.Recognizer.load("/bundle/", { packed, hashes, worker });
  const landmarker = await spoter.Landmarker.load(url, recognizer);
  const stream = new spoter.SignStream(recognizer, "rest", { landmarker, settings: { tracking_ms: 0 } });
  let freed = 0;
  new BroadcastChannel("freed").onmessage = ({ data }) => (freed = data);
  const events = [], seen = [];
  for (const [height, width, text, t_ms] of shown) {
    const rgb = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const picture = new ImageData(width, height);
    for (let i = 0, j = 0; i < rgb.length; i += 3, j += 4)
      picture.data.set([rgb[i], rgb[i + 1], rgb[i + 2], 255], j);
    await stream.accept(await createImageBitmap(picture), t_ms ?? NaN);
    events.push(...stream.events());
    seen.push(stream.landmarks && Array.from(stream.landmarks, (x) => (Number.isNaN(x) ? null : x)));
  }
  await landmarker.close();
  recognizer.close();
  return [events, seen, freed];
})"""


def test_a_frame_that_fails_is_a_fault_and_the_next_ones_go_on_as_in_python(
    browser, camera_site, failing_site, bundle_folder, frames
):
    (camera_site.folder / "counted.js").write_text(COUNTED)
    (camera_site.folder / "counted-worker.js").write_text("import './counted.js'; import './worker.js';")
    first, second, third = map(not_white, frames[:3])
    small = np.ascontiguousarray(third[::2, ::2])
    shown = [first, second, white(third), third, small, white(small), second, white(first), first, second]
    times = [40.0 * n for n in range(len(shown))]
    times[6] = None
    url, folder = failing_site
    stream = SignStream(Recognizer.load(bundle_folder, tuned=False), landmarker=Landmarker.load(folder))
    given, expected = [], []
    for frame, t_ms in zip(shown, times, strict=True):
        stream.accept(frame, float("nan") if t_ms is None else t_ms)
        expected.append(stream.landmarks)
        given.append((*frame.shape[:2], base64.b64encode(frame.tobytes()).decode(), t_ms))
    events, seen, freed = browser.page(f"{camera_site.url}site.json").evaluate(
        f"{STREAMED}('{url}landmarker/', {json.dumps(given)}, '/counted-worker.js')"
    )
    faults = [(event["t_ms"], event["code"]) for event in events if event["type"] == "fault"]
    assert faults == [(event.t_ms, event.code) for event in stream.events() if event.type == "fault"]
    assert [code for _, code in faults] == ["landmarker", "landmarker", "time", "landmarker"]
    assert "pose.onnx: ONNX Runtime Web failed: " in next(e["reason"] for e in events if e["type"] == "fault")
    for answer, points in zip(seen, expected, strict=True):
        assert (answer is None) == (points is None)
        if answer:
            other = np.array([np.nan if x is None else x for x in answer]).reshape(54, 2)
            np.testing.assert_array_equal(np.isnan(other), np.isnan(points))
            assert np.nanmean(np.linalg.norm(other - points, axis=1)) < NEAR
    assert freed == len(shown)  # also those that were refused


def test_the_page_says_that_a_frame_failed_and_watches_on(browser, failing_site, frames, tmp_path):
    spoiled = [not_white(frame) for frame in frames]
    spoiled[2][:48, :48] = 255
    page = browser.page(failing_site[0])
    page.wait_for(READY)
    page.evaluate(
        """new MutationObserver((seen) => seen.forEach(({ target: { textContent } }) => {
          if (textContent.includes("ONNX Runtime Web failed")) globalThis.said = textContent;
        })).observe(document.getElementById("remark"), { childList: true })"""
    )
    page.choose_files("#file", film_of(spoiled, tmp_path / "spoiled.webm"))
    page.wait_for(f"{ERROR} || document.getElementById('status').textContent === 'ended'", 120)
    assert page.evaluate(ERROR) == ""
    assert page.evaluate("said").startswith("pose.onnx: ONNX Runtime Web failed: ")
    assert page.evaluate("performance.getEntriesByName('spoter:sign').length") == 1


def test_a_landmarker_with_other_answers_is_never_used(browser, camera_site, video):
    folder, landmarker = another(camera_site, "wrong")
    goldens = dict(np.load(landmarker / "web-goldens.npz"))
    goldens["hand/0"][0, 3] += 0.5
    np.savez(landmarker / "web-goldens.npz", **goldens)
    page = browser.page(f"{camera_site.url}{folder.name}/")
    page.wait_for(READY)
    for _ in range(2):  # not when it is asked for again either
        page.choose_files("#file", video)
        page.wait_for("!document.getElementById('stop').hidden")
        page.wait_for("document.getElementById('stop').hidden")
        assert page.evaluate("document.getElementById('error').hidden") is False
        assert page.evaluate(ERROR).startswith("the landmarker gives other answers in this browser")


def test_the_camera_gives_events_and_stops(camera_site, film):
    fake = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with Browser(*fake, f"--use-file-for-fake-video-capture={film}") as browser:
        page = browser.page(camera_site.url)
        page.wait_for(READY)
        page.evaluate("document.getElementById('camera').click()")
        page.wait_for("!document.getElementById('stop').hidden")
        page.evaluate("document.getElementById('stop').click()")  # while the landmarker is loaded
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
        page.evaluate("new Promise((waited) => setTimeout(waited, 1000))")  # for the last events
        assert page.evaluate("document.getElementById('status').textContent") == "stopped"
        np.save(film.with_name("clip.npy"), np.full((9, 54, 2), 0.5, np.float32))
        page.choose_files("#file", film.with_name("clip.npy"))
        page.wait_for("document.getElementById('status').textContent.startsWith('answered')")
        # Its landmarks lie over no picture of the camera, and are not mirrored.
        assert page.evaluate("document.querySelector('#view video, #view.mirrored')") is None


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
