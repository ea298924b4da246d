"""How fast is the bundle in a browser: one clip, the first visit, the camera?

    python benchmarks/web.py BUNDLE VIDEO [--rounds 12] [--seconds 30]

Needs Chromium, the browser's engine (`spoter-kit export BUNDLE --web SITE --engine npm`) and, for the camera,
the landmarker in the user's cache. VIDEO shows a person who signs; it is the browser's camera. Processor time
is the figure: a busy machine costs it little. In the browser it is that of the worker's thread.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from result_files import RESULTS, write_result

from spoter_export.probes import generated_poses
from spoter_runtime.bundle.manifest import Bundle, read_bundle
from spoter_runtime.camera.video import video_frames
from spoter_runtime.ort.runner import OrtRunner
from spoter_toolkit.report.table import markdown_table
from spoter_toolkit.web.browser import Browser
from spoter_toolkit.web.engine import find_engine
from spoter_toolkit.web.server import FileServer
from spoter_toolkit.web.site import page_file, write_site

FRAMES, CALLS = 60, 40
LOADED = "performance.getEntriesByName('spoter:loaded').length"
READY = "performance.getEntriesByName('spoter:verified').length"
LOAD = """(async (poses) => {
  const { Recognizer } = await import("/spoter.js");
  const { packed, engine: { hashes } } = await (await fetch("/site.json")).json();
  globalThis.recognizer = await Recognizer.load("/bundle/", { packed, hashes });
  globalThis.clip = Float32Array.from(poses);
  return recognizer.verify();
})"""
CALL = f"(async () => {{ for (let i = 0; i < {CALLS}; i++) await recognizer.logits(clip); }})()"


def renderers(browser: Browser) -> list[Path]:
    """Return the folders of the browser's page processes."""
    found = browser.send("SystemInfo.getProcessInfo")["processInfo"]
    return [Path(f"/proc/{one['id']}") for one in found if one["type"] == "renderer"]


def worker_seconds(browser: Browser) -> dict[str, float]:
    """Return the processor time of each of the browser's workers so far."""
    threads = [thread for page in renderers(browser) for thread in (page / "task").iterdir()]
    workers = [one for one in threads if (one / "comm").read_text().startswith("DedicatedWorker")]
    return {one.name: int((one / "schedstat").read_text().split()[0]) / 1e9 for one in workers}


def memory_mb(browser: Browser) -> float:
    """Return the memory of the page processes: their own, and their share of what they have in common."""
    files = [(page / "smaps_rollup").read_text() for page in renderers(browser)]
    return sum(int(re.findall(r"^Pss: +(\d+)", text, re.MULTILINE)[0]) for text in files) / 1e3


def one_clip(bundle: Bundle, site: Path, rounds: int) -> dict[str, Any]:
    """Time one clip in the browser and in Python in turn; replay the goldens."""
    poses = generated_poses(np.random.default_rng(0), 1, FRAMES)
    native = OrtRunner(bundle.folder / page_file(bundle).path, threads=1)
    lengths = np.array([FRAMES], np.int32)
    web_ms, native_ms = [], []
    with FileServer(site) as server, Browser() as browser:
        page = browser.page(f"{server.url}site.json")
        replay = page.evaluate(f"{LOAD}({json.dumps(np.nan_to_num(poses).ravel().tolist())})")
        for number in range(rounds + 2):
            begin = sum(worker_seconds(browser).values())
            page.evaluate(CALL)
            web = 1000 * (sum(worker_seconds(browser).values()) - begin) / CALLS
            begin = time.process_time()
            for _ in range(CALLS):
                native.infer(poses, lengths)
            if number >= 2:  # the first ones warm up
                web_ms.append(web)
                native_ms.append(1000 * (time.process_time() - begin) / CALLS)
    ratios = np.array(web_ms) / np.array(native_ms)
    low, middle, high = np.percentile(ratios, (5, 50, 95))
    return {
        "goldens": f"{replay['labels_agree']} of {replay['clips']}",
        "largest_logit_difference": replay["max_logit_diff"],
        "browser_ms": round(float(np.median(web_ms)), 2),
        "native_ms": round(float(np.median(native_ms)), 2),
        "ratio": [round(float(x), 2) for x in (low, middle, high)],
    }


def visits(site: Path) -> dict[str, Any]:
    """Count what a first visit loads, and time a later one from the browser's own store."""
    with FileServer(site) as server, Browser() as browser:
        page = browser.page(server.url)
        page.wait_for(READY, 120)
        page.wait_for("performance.getEntriesByName('spoter:offline').length", 120)
        loaded = server.sent_bytes
        wall, cpu, answered = [], [], []
        for _ in range(5):
            begin = browser_seconds(browser)
            page = browser.page(server.url)
            page.wait_for(LOADED, 120)
            cpu.append(spent(begin, browser_seconds(browser)))
            page.wait_for(READY, 120)
            wall.append(page.evaluate("performance.getEntriesByName('spoter:loaded')[0].startTime"))
            answered.append(page.evaluate("performance.getEntriesByName('spoter:verified')[0].startTime"))
            page.send("Page.close")  # its engine goes on optimising, which is no part of the next visit
        again = server.sent_bytes - loaded
    return {
        "first_visit_bytes": loaded,
        "later_visit_bytes": again,
        "warm_ms": [round(x) for x in sorted(wall)],
        "warm_answered_ms": [round(x) for x in sorted(answered)],
        "warm_processor_ms": [round(1000 * x) for x in sorted(cpu)],
    }


def browser_seconds(browser: Browser) -> dict[int, float]:
    """Return the processor time of each of the browser's processes so far."""
    found = browser.send("SystemInfo.getProcessInfo")["processInfo"]
    return {one["id"]: float(one["cpuTime"]) for one in found}


def spent(before: dict[int, float], after: dict[int, float]) -> float:
    """Return the processor time in between; of a page that was closed meanwhile, none."""
    return sum(seconds - before.get(one, 0.0) for one, seconds in after.items())


def camera(site: Path, video: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """Let the page watch a film as its camera; count frames, and time the worker."""
    film = folder / "camera.y4m"
    size = write_film(video, film)
    fake = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with (
        FileServer(site) as server,
        Browser(*fake, f"--use-file-for-fake-video-capture={film}") as browser,
    ):
        page = browser.page(server.url)
        page.wait_for(READY, 120)
        alone = memory_mb(browser)
        page.evaluate("document.getElementById('camera').click()")
        page.wait_for("performance.getEntriesByName('spoter:tracking').length > 1", 240)
        # The skeleton's canvas has the time of the frame that was drawn last.
        page.evaluate("""(() => {
          globalThis.drawn = 0;
          new MutationObserver(() => drawn++).observe(
            document.getElementById("skeleton"), { attributeFilter: ["data-ms"] });
        })()""")
        begin, before = time.perf_counter(), worker_seconds(browser)
        time.sleep(seconds)
        frames = page.evaluate("drawn")
        elapsed, after = time.perf_counter() - begin, worker_seconds(browser)
        status = page.evaluate("document.getElementById('status').textContent")
        memory = memory_mb(browser)
    ms = sorted((1000 * (after[one] - before.get(one, 0.0)) / frames for one in after), reverse=True)
    return {
        "picture": size,
        "frames": frames,
        "frames_per_s": round(frames / elapsed, 1),
        "workers_ms_per_frame": [round(one, 1) for one in ms],
        "frames_per_s_of_one_free_core": round(1000 / sum(ms), 1),
        "frames_per_s_of_two_free_cores": round(1000 / max([*ms, sum(ms) / 2]), 1),
        "memory_mb": {"before": round(alone), "watching": round(memory)},
        "status": status,
    }


def write_film(video: Path, film: Path) -> str:
    """Write a video as Chromium's camera takes it, at 30 frames a second; return its size."""
    import av

    size = ""
    with film.open("wb") as file:
        for frame in video_frames(video):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.rgb), "rgb24")
            if not size:
                size = f"{picture.width} × {picture.height}"
                head = f"YUV4MPEG2 W{picture.width} H{picture.height} F30:1 Ip A1:1 C420jpeg\n"
                file.write(head.encode())
            file.write(b"FRAME\n" + picture.reformat(format="yuv420p").to_ndarray().tobytes())
    return size


def main() -> None:
    """Measure everything, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    bundle = read_bundle(given.bundle)
    with Browser() as browser:
        version = browser.send("Browser.getVersion")["product"]
    with TemporaryDirectory() as there:
        folder = Path(there)
        report = write_site(bundle, folder / "site", find_engine())
        values: dict[str, Any] = {
            "browser": version,
            "site": report.as_json() | {"site": bundle.name},
            "clip": one_clip(bundle, folder / "site", given.rounds),
            "visits": visits(folder / "site"),
        }
        if report.camera_bytes:
            values["camera"] = camera(folder / "site", given.video, folder, given.seconds)
    clip, seen, watched = values["clip"], values["visits"], values.get("camera")
    low, middle, high = clip["ratio"]
    rows = [
        ("goldens that agree", clip["goldens"], f"largest difference {clip['largest_logit_difference']:.1e}"),
        ("1 × 60, processor ms", f"{clip['browser_ms']}", f"native, one thread: {clip['native_ms']}"),
        ("browser ÷ native", f"{middle}", f"{low}–{high} in {given.rounds} rounds in turn"),
        ("first visit, MB", f"{seen['first_visit_bytes'] / 1e6:.2f}", "engine packed, model as it is"),
        ("later visit, bytes", f"{seen['later_visit_bytes']}", "from the browser's own store"),
        ("warm, until it can answer, wall ms", f"{seen['warm_ms'][0]}", f"all: {seen['warm_ms']}"),
        (
            "until it has answered all goldens, wall ms",
            f"{seen['warm_answered_ms'][0]}",
            "the bound of a first answer",
        ),
        (
            "until it can answer, processor ms",
            f"{seen['warm_processor_ms'][2]}",
            "all processes, a new tab included",
        ),
    ]
    if watched:
        about = f"{watched['picture']}; {watched['status']}"
        rows += [
            ("camera to event, frames/s", f"{watched['frames_per_s']}", about),
            (
                "workers' processor ms a frame",
                f"{sum(watched['workers_ms_per_frame']):.1f}",
                f"body and each hand in a worker: {watched['workers_ms_per_frame']}",
            ),
            ("frames/s of two free cores", f"{watched['frames_per_s_of_two_free_cores']}", "from that line"),
            ("frames/s of one free core", f"{watched['frames_per_s_of_one_free_core']}", "from that line"),
            (
                "page's memory, MB",
                f"{watched['memory_mb']['watching']}",
                f"before the camera: {watched['memory_mb']['before']}",
            ),
        ]
    write_result(
        "web",
        "The bundle in a browser",
        f"{version}, headless; WebAssembly with one thread.",
        [markdown_table(("case", "found", ""), rows)],
        values,
        folder=given.results,
    )


if __name__ == "__main__":
    main()
