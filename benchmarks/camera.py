"""How fast are landmarks found, against MediaPipe's Holistic and its Tasks API? In turn, on real videos.

    python benchmarks/camera.py VIDEOS LANDMARKER MEDIAPIPE_PYTHON [--rounds 7] [--core 0]

VIDEOS is a folder LABEL/SIGNER/VIDEO, LANDMARKER what `spoter-kit landmarker fetch` wrote, MEDIAPIPE_PYTHON
an interpreter that has mediapipe 0.10.21, NumPy and PyAV. Each process is kept on one core.
Processor time is the figure: a busy machine costs it little.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from result_files import RESULTS, write_result

from spoter_runtime.camera.video import video_frames
from spoter_runtime.statistics import ratio_of_rounds
from spoter_toolkit.data.extract.videos import videos_in
from spoter_toolkit.report.table import markdown_table

RUNTIME = Path(__file__).parents[1] / "runtime"
WORKER = Path(__file__).parent / "peers" / "camera_worker.py"
_COLD = """
import sys, time
begin = time.perf_counter()
import numpy as np
from spoter_runtime.camera.{module} import {name} as Found
frame = np.load(sys.argv[1])[0]
landmarker = Found{load}
found = landmarker(frame)
assert np.isfinite(found[:12]).all()
print(time.perf_counter() - begin, time.process_time())
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""


def environment() -> dict[str, str]:
    """Return the environment of a process that is measured."""
    return os.environ | {"PYTHONPATH": str(RUNTIME), "ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}


def turns(commands: dict[str, list[str]], files: list[Path], rounds: int, core: int) -> dict[str, Any]:
    """Return name → a row a round, of milliseconds a frame over all videos, wall and processor."""
    workers = {
        name: subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )
        for name, command in commands.items()
    }
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for number in range(rounds + 1):
        order = list(workers) if number % 2 else list(reversed(workers))
        sums = {name: {"wall_ms": 0.0, "cpu_ms": 0.0} for name in workers}
        for file in files:
            for name in order:
                worker = workers[name]
                worker.stdin.write(f"{file}\n")
                worker.stdin.flush()
                for key, value in json.loads(worker.stdout.readline()).items():
                    sums[name][key] += value / len(files)
        if number:  # the first round warms up
            for name, row in sums.items():
                rows[name].append(row)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return rows


def cold(python: str, code: str, frames: Path, core: int) -> dict[str, float]:
    """Return what a fresh process takes to its first landmark."""
    done = subprocess.run(
        ["taskset", "-c", str(core), python, "-c", code, str(frames)],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    wall_s, cpu_s, kib = done.stdout.split()
    return {"wall_s": float(wall_s), "cpu_s": float(cpu_s), "peak_mb": int(kib) / 1024}


def extracted(videos: Path, python: str, landmarker: Path, copies: int) -> dict[str, float]:
    """Return the seconds of `data extract` on all cores, and of one process of MediaPipe.

    Each video is there `copies` times: a data set has many clips, so the starts of processes count little.
    """
    with tempfile.TemporaryDirectory() as folder:
        for video in videos_in(videos):
            for number in range(copies):
                copy = Path(folder) / "videos" / video.parent.relative_to(videos) / f"{number}_{video.name}"
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(video, copy)
        videos = Path(folder) / "videos"
        cache = Path(folder) / "cache" / "spoter-kit"
        cache.mkdir(parents=True)
        (cache / "landmarker").symlink_to(landmarker.resolve())
        words = ["-m", "spoter_toolkit", "data", "extract", str(videos.resolve()), "-o", f"{folder}/d"]
        begin = time.perf_counter()
        own = os.environ | {"XDG_CACHE_HOME": f"{folder}/cache"}
        subprocess.run([sys.executable, *words], check=True, capture_output=True, env=own)
        ours = time.perf_counter() - begin
        code = (
            "import sys\nfrom pathlib import Path\n"
            "from spoter_runtime.camera.clips import clip_from_video\n"
            "from spoter_runtime.camera.mediapipe import MediaPipeLandmarker\n"
            "landmarker = MediaPipeLandmarker()\n"
            "for path in sys.argv[1:]: clip_from_video(path, landmarker)\n"
        )
        begin = time.perf_counter()
        subprocess.run(
            [python, "-c", code, *map(str, videos_in(videos))],
            check=True,
            capture_output=True,
            env=environment(),
        )
        return {"ours_s": ours, "mediapipe_s": time.perf_counter() - begin}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("videos", type=Path)
    parser.add_argument("landmarker", type=Path)
    parser.add_argument("mediapipe_python")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--starts", type=int, default=6)
    parser.add_argument("--copies", type=int, default=6, help="how often each video is extracted")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for video in videos_in(given.videos):
            files.append(Path(folder) / f"{video.stem}.npy")
            np.save(files[-1], np.stack([frame.rgb for frame in video_frames(video)]))
        commands = {
            "mediapipe": [given.mediapipe_python, str(WORKER), "mediapipe"],
            "tasks": [given.mediapipe_python, str(WORKER), "tasks"],
            "ours": [sys.executable, str(WORKER), "ours", str(given.landmarker)],
        }
        rows = turns(commands, files, given.rounds, given.core)
        load = f".load({str(given.landmarker.resolve())!r})"
        codes = {
            "mediapipe": (
                given.mediapipe_python,
                _COLD.format(module="mediapipe", name="MediaPipeLandmarker", load="()"),
            ),
            "ours": (sys.executable, _COLD.format(module="landmarker", name="Landmarker", load=load)),
        }
        starts: dict[str, list[Any]] = {name: [] for name in codes}
        for _ in range(given.starts):
            for name, (python, code) in codes.items():
                starts[name].append(cold(python, code, files[0], given.core))
    clips = [
        extracted(given.videos, given.mediapipe_python, given.landmarker, given.copies) for _ in range(3)
    ]
    ratios = {
        name: {
            key: str(
                ratio_of_rounds([a[key] / b[key] for a, b in zip(rows[name], rows["ours"], strict=True)])
            )
            for key in ("cpu_ms", "wall_ms")
        }
        for name in ("mediapipe", "tasks")
    }

    def median(values: list[float]) -> str:
        return f"{np.median(values):.3g}"

    table = [
        (
            label,
            *(median([row[key] for row in rows[name]]) for key in ("cpu_ms", "wall_ms")),
            *(
                median([start[key] for start in starts[name]]) if name in starts else "–"
                for key in ("cpu_s", "wall_s", "peak_mb")
            ),
        )
        for name, label in (("ours", "ours"), ("mediapipe", "Holistic"), ("tasks", "Tasks API: pose, hands"))
    ]
    columns = (
        *("landmarker", "processor ms a frame", "wall ms a frame"),
        *("start: processor s", "start: wall s", "start: peak MB"),
    )
    gain = [each["mediapipe_s"] / each["ours_s"] for each in clips]
    lines = [
        markdown_table(columns, table),
        "",
        f"Holistic's time ÷ ours, a frame: processor {ratios['mediapipe']['cpu_ms']}, "
        f"wall {ratios['mediapipe']['wall_ms']}. The Tasks API's ÷ ours: processor "
        f"{ratios['tasks']['cpu_ms']}, wall {ratios['tasks']['wall_ms']}.",
        "",
        f"`data extract` on all cores against one process of MediaPipe: {median(gain)} × "
        f"({', '.join(f'{value:.2f}' for value in sorted(gain))}), starts of processes included, "
        f"each video {given.copies} times.",
    ]
    write_result(
        "camera",
        "Landmarks from pictures, against MediaPipe 0.10.21",
        f"{len(files)} videos, one core, in turn, {given.rounds} rounds; a start is a fresh process to its "
        "first landmark.",
        lines,
        {"rounds": rows, "starts": starts, "ratios": ratios, "extract": clips},
        folder=given.results,
    )


if __name__ == "__main__":
    main()
