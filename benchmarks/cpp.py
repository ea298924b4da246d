"""How small, quick to start and fast is the C library? In turn with Python's `Recognizer`, one thread.

    python benchmarks/cpp.py BUNDLE [--rounds 11] [--calls 50] [--core 1]
        [--video VIDEO [--landmarker FOLDER]]

Needs a C compiler and the library: pip install ./runtime/cpp. The clip is a golden, brought to 60 frames.
With a video, both landmarkers also take its first 12 frames each round.
Processor time is the figure for answers and starts: a busy machine costs it little.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from result_files import RESULTS, write_result

from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.camera.files import landmarker_folder
from spoter_runtime.camera.landmarker import Landmarker
from spoter_runtime.camera.video import video_frames
from spoter_runtime.landmarks import Float32Array, resample_clip
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.statistics import ratio_of_rounds
from spoter_toolkit.faces._clibrary import library_path, onnxruntime_library
from spoter_toolkit.faces.c import CLandmarker
from spoter_toolkit.report.table import markdown_table

SOURCES = Path(__file__).parents[1] / "runtime" / "cpp"
_FRAMES = 12  # of the video, a round
_PYTHON_START = """
import sys, time, json
import numpy as np
from spoter_runtime import Recognizer
clip = np.fromfile(sys.argv[2], np.float32).reshape(-1, 54, 2)
Recognizer.load(sys.argv[1], threads=1).predict(clip)
peak = int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
print(json.dumps({"cpu_ms": time.process_time() * 1e3, "peak_mb": peak}))
"""


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--calls", type=int, default=50, help="answers of each a round")
    parser.add_argument("--core", type=int, default=1)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--landmarker", type=Path, help="its folder; default: the user's cache")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {arguments.core})  # for what it starts, too
    with tempfile.TemporaryDirectory() as folder:
        clip = clip_of(arguments.bundle)
        file, worker = Path(folder, "clip.f32"), Path(folder, "worker")
        clip.tofile(file)
        build(worker)
        command = [str(worker), str(arguments.bundle), str(file), str(onnxruntime_library())]
        python = [sys.executable, "-c", _PYTHON_START, str(arguments.bundle), str(file)]
        starts = [(started(command), started(python)) for _ in range(arguments.rounds)]
        answers = in_turn(command, arguments.bundle, clip, arguments.rounds, arguments.calls)
        frames = None
        if arguments.video:
            frames = frames_in_turn(arguments.video, arguments.landmarker, arguments.rounds)
    os.sched_setaffinity(0, cores)
    result = {
        "library_bytes": library_path().stat().st_size,
        "frames": len(clip),
        "starts": [{"c": c, "python": other} for c, other in starts],
        "answers_cpu_ms": answers,
        "frames_cpu_ms": frames,
    }
    method = (
        f"{arguments.rounds} rounds in turn on core {arguments.core}, one thread, a clip of 60 frames; "
        "medians, and 95 % intervals of the rounds' ratios."
    )
    write_result("cpp", "The C library", method, lines(result), result, folder=arguments.out)


def clip_of(bundle: Path) -> Float32Array:
    """Return 60 frames of the golden that is nearest to that length and shows something."""
    clips = [clip for clip in read_bundle(bundle).goldens().clips() if np.nan_to_num(clip).any()]
    return resample_clip(min(clips, key=lambda clip: abs(len(clip) - 60)), 60)


def build(worker: Path) -> None:
    """Compile the worker against the library."""
    library = library_path()
    source = Path(__file__).parent / "peers" / "c_worker.c"
    flags = [f"-I{SOURCES / 'include'}", f"-Wl,-rpath,{library.parent}"]
    subprocess.run(["cc", "-std=c99", "-O2", *flags, source, library, "-o", worker], check=True)


def started(command: list[str]) -> dict[str, Any]:
    """Return the figures of a cold process up to its first answer; wall time from its very beginning."""
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"process_wall_ms": (time.perf_counter() - begin) * 1e3}


def in_turn(
    command: list[str], bundle: Path, clip: Float32Array, rounds: int, calls: int
) -> dict[str, list[float]]:
    """Return milliseconds of processor time an answer, a value a round; the order changes each round."""
    recognizer = Recognizer.load(bundle, threads=1)
    rows: dict[str, list[float]] = {"c": [], "python": []}

    def python() -> float:
        begin = time.process_time()
        for _ in range(calls):
            recognizer.predict(clip)
        return (time.process_time() - begin) * 1e3 / calls

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdout.readline()  # of its start
        for number in range(rounds + 1):
            found = {}
            for name in ("c", "python") if number % 2 else ("python", "c"):
                if name == "c":
                    print(calls, file=worker.stdin, flush=True)
                    found[name] = float(worker.stdout.readline())
                else:
                    found[name] = python()
            if number:  # the first round warms up
                for name, value in found.items():
                    rows[name].append(value)
        worker.stdin.close()
    return rows


def frames_in_turn(video: Path, folder: Path | None, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of processor time a frame, a value a round; the order changes each round."""
    landmarkers: dict[str, CLandmarker | Landmarker] = {
        "c": CLandmarker(folder or landmarker_folder()),
        "python": Landmarker.load(folder),
    }
    frames = [np.ascontiguousarray(frame.rgb) for frame in itertools.islice(video_frames(video), _FRAMES)]
    rows: dict[str, list[float]] = {"c": [], "python": []}
    for number in range(rounds + 1):
        for name in ("c", "python") if number % 2 else ("python", "c"):
            landmarker = landmarkers[name]
            landmarker.reset()
            begin = time.process_time()
            for frame in frames:
                landmarker(frame)
            if number:  # the first round warms up
                rows[name].append((time.process_time() - begin) * 1e3 / len(frames))
    return rows


def lines(result: dict[str, Any]) -> list[str]:
    """Return the page's table."""
    answers, starts = result["answers_cpu_ms"], result["starts"]

    def median(name: str, key: str) -> float:
        return float(np.median([one[name][key] for one in starts]))

    def ratio(above: list[float], below: list[float]) -> str:
        found = ratio_of_rounds([a / b for a, b in zip(above, below, strict=True)], seed=0)
        interval = "" if found.low is None else f" ({found.low:.2f}–{found.high:.2f})"
        return f"{found.estimate:.2f}{interval}"

    cold = [[one[name]["cpu_ms"] for one in starts] for name in ("c", "python")]
    rows = [
        (
            "an answer, processor time",
            *(f"{np.median(answers[name]):.3f} ms" for name in ("c", "python")),
            ratio(answers["c"], answers["python"]),
        ),
        (
            "cold process to the first answer, processor time",
            *(f"{median(name, 'cpu_ms'):.1f} ms" for name in ("c", "python")),
            ratio(*cold),
        ),
        (
            "the same, wall time, process included",
            *(f"{median(n, 'process_wall_ms'):.0f} ms" for n in ("c", "python")),
            "",
        ),
        (
            "peak memory after one answer",
            *(f"{median(name, 'peak_mb'):.1f} MB" for name in ("c", "python")),
            "",
        ),
        *(
            (
                "the landmarks of a frame, processor time",
                *(f"{np.median(frames[name]):.1f} ms" for name in ("c", "python")),
                ratio(frames["c"], frames["python"]),
            )
            for frames in [result["frames_cpu_ms"]]
            if frames
        ),
        ("library without ONNX Runtime", f"{result['library_bytes'] / 1e3:.0f} kB", "", ""),
    ]
    return [markdown_table(("", "C", "Python", "C ÷ Python"), rows)]


if __name__ == "__main__":
    main()
