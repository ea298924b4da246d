"""Find signs in streams of people whom the model has never seen; count repetitions; watch the memory.

    python benchmarks/streams.py PATH/asl33 [--bdslw60 PATH] [--work FOLDER] [--minutes 4] [--set epochs=8]
        [--methods thresholds,made] [--seeds 0,1,2]

PATH/asl33 holds data.npz: real landmarks of people signing, 33 classes. The calibration is fitted on
validation batches of the training signer; the method made has a background label of made clips too. A bundle
METHOD-A-SEED.spoter that is in the work folder already is taken instead of training one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from no_sign_clips import NONE, write_data
from result_files import RESULTS, spoter_kit, stored, write_result

from spoter_runtime import Recognizer, SignStream
from spoter_runtime.files import sha256_of
from spoter_runtime.landmarks import landmarks_from_mediapipe
from spoter_toolkit.report.table import markdown_table

METHODS = {"thresholds": "thresholds alone", "made": "background label, made clips"}
COLUMNS = (
    *("bundle", "trained on", "seed", "stream", "signs", "said", "F1 .1 / .25 / .5", "sequence"),
    *("false alarms a minute", "delay p50 / p95, ms", "frames right"),
)
CAUTION = (
    "The streams are simulated: real clips of the other signer in random order, with made rests and "
    "movements. Settings are the defaults. They were chosen on generated signing and on the two BdSLW60 "
    "recordings, and checked on validation clips of each signer with the signer's own model. That the "
    "calibration counts copies with jitter and lost hands as signs was decided on clips of both directions. "
    "The likeness was chosen on other words and clips of `none` of the training signer; figures on the other "
    "signer were looked at too. Hardly a frame of the clips is without a body; the moments in which "
    "the tracker loses the person are made, too."
)
OTHER = {"A": "B", "B": "A"}
RECORDINGS = {"U2W2F": 11, "U4W1F": 10}  # repetitions, counted by eye in the height of the hands


def bundle_of(source: Path, work: Path, method: str, train: str, seed: int, options: list[str]) -> Path:
    """Return a bundle that was trained and calibrated on one signer."""
    bundle, test = work / f"{method}-{train}-{seed}.spoter", OTHER[train]
    if not bundle.exists():
        write_data(source, work, test)
        run = work / f"{method}-{train}-to-{test}-{seed}"
        if not (run / "report.html").exists():
            spoter_kit(
                "train", work / f"{method}-test-{test}", "-o", run, "--seed", seed, "--force", *options
            )
        background = ("--background", NONE) if method == "made" else ()
        spoter_kit("export", run, "--onnx", "--no-tune", *background, "-o", bundle)
    return bundle


def one_direction(
    source: Path, work: Path, method: str, train: str, seed: int, minutes: float, options: list[str]
) -> dict[str, Any]:
    """Score the streams of the other signer, and of a third one."""
    bundle, test = bundle_of(source, work, method, train, seed, options), OTHER[train]
    data = work / f"all-{test}"
    if not data.exists():
        spoter_kit("data", "import", "asl33", source, "-o", data, "--signers", f"{test},C", "--skip-bad")
    found = stored(
        work / f"streams-{method}-{train}-{seed}.json",
        lambda: spoter_kit(
            "eval", bundle, "--stream", "--data", data, "--split", "all", "--minutes", minutes,
            "--backend", "ort-cpu",
        ),
        key=[minutes, sha256_of(bundle / "bundle.json")],
    )  # fmt: skip
    return (
        {"method": method, "train": train, "test": test, "seed": seed}
        | found
        | {"source": bundle.name, "data": data.name}
    )


def means(ways: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return mean and range over the seeds of each stream's figures, as rows of a table."""
    rows = []
    for number, stream in enumerate(ways[0]["streams"]):
        measures = {"false alarms a minute": lambda one: one["false_alarms_per_minute"]}
        if stream["signs"]:
            measures = {
                "F1 at .25": lambda one: one["f1"]["0.25"],
                "F1 at .5": lambda one: one["f1"]["0.5"],
                "sequence": lambda one: one["sequence"],
                "delay p50, ms": lambda one: one["delay_ms"][0],
                "delay p95, ms": lambda one: one["delay_ms"][1],
                **measures,
            }
        for name, measure in measures.items():
            by_way: dict[tuple[str, str], list[float]] = {}
            for way in ways:
                by_way.setdefault((way["method"], way["train"]), []).append(measure(way["streams"][number]))
            rows.append((stream["name"], name, *(spread(values) for values in by_way.values())))
    return rows


def spread(values: Sequence[float]) -> str:
    """Return a mean with its range."""
    digits = 0 if min(values) > 50 else 2
    mean, low, high = (f"{value:.{digits}f}" for value in (np.mean(values), min(values), max(values)))
    return f"{mean} ({low}–{high})"


def cells(way: dict[str, Any], one: dict[str, Any]) -> tuple[str, ...]:
    """Return one stream as the cells of the page's table."""
    f1 = " / ".join(f"{one['f1'][iou]:.3f}" for iou in ("0.1", "0.25", "0.5")) if one["signs"] else "–"
    return (
        METHODS[way["method"]],
        way["train"],
        str(way["seed"]),
        one["name"],
        str(one["signs"]),
        str(one["said"]),
        f1,
        "–" if one["sequence"] is None else f"{one['sequence']:.3f}",
        f"{one['false_alarms_per_minute']:.2f}",
        "–" if one["delay_ms"] is None else " / ".join(f"{value:.0f}" for value in one["delay_ms"]),
        f"{one['signing']:.3f}",
    )


def repetitions(bundle: Path, folder: Path) -> list[dict[str, Any]]:
    """Count the segments that the rest gate finds in each recording."""
    rows = []
    for name, expected in RECORDINGS.items():
        arrays = np.load(folder / f"{name}.npz")
        poses = landmarks_from_mediapipe(arrays["pose"], arrays["lh"], arrays["rh"])
        stream = SignStream(Recognizer.load(bundle, "ort-cpu", threads=1, tuned=False))
        for number, pose in enumerate(poses):
            stream.accept(pose, number * 1000 / 30)
        stream.flush()
        # the words are foreign to the model: a segment counts, whether it is said or not
        found = [event for event in stream.events() if event.type in ("sign", "abstain") and event.label]
        rows.append({"recording": name, "by eye": expected, "found": len(found)})
    return rows


def an_hour(bundle: Path, recording: Path) -> dict[str, float]:
    """Stream a recording over and over for 60 minutes of its time; return memory and time a frame."""
    arrays = np.load(recording)
    poses = landmarks_from_mediapipe(arrays["pose"], arrays["lh"], arrays["rh"])
    stream = SignStream(Recognizer.load(bundle, "ort-cpu", threads=1, tuned=False))
    process, memory = psutil.Process(), {}
    begin = time.process_time()
    for number in range(60 * 60 * 30 + 1):
        stream.accept(poses[number % len(poses)], number * 1000 / 30)
        stream.events()
        if number in (5 * 60 * 30, 60 * 60 * 30):
            memory[f"MB at minute {number // 1800}"] = round(process.memory_info().rss / 1e6, 1)
    return memory | {"CPU ms a frame": round(1000 * (time.process_time() - begin) / number, 3)}


def main() -> None:
    """Run both directions and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--bdslw60", type=Path, help="folder with the two recordings")
    parser.add_argument("--work", type=Path, default=Path("streams"))
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--set", action="append", default=[], help="key=value of the recipe")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    options = [word for value in given.set for word in ("--set", value)]
    ways = [
        one_direction(given.source, given.work, method, train, int(seed), given.minutes, options)
        for method in given.methods.split(",")
        for train in "AB"
        for seed in given.seeds.split(",")
    ]
    content = {"directions": ways}
    heads = [f"{METHODS[way['method']]}, {way['train']} → {way['test']}" for way in ways]
    lines = [
        "Mean over the seeds, and in brackets the least and the most:",
        "",
        markdown_table(("stream", "measure", *dict.fromkeys(heads)), means(ways)),
        "",
        "Each training:",
        "",
        markdown_table(COLUMNS, [cells(way, one) for way in ways for one in way["streams"]]),
    ]
    if given.bdslw60:
        counted = repetitions(given.work / "thresholds-A-0.spoter", given.bdslw60)
        hour = an_hour(given.work / "thresholds-A-0.spoter", given.bdslw60 / "U2W2F.npz")
        content |= {"repetitions": counted, "hour": hour}
        lines += [
            *("", markdown_table(tuple(counted[0]), [tuple(map(str, row.values())) for row in counted])),
            *("", markdown_table(tuple(hour), [tuple(map(str, hour.values()))])),
        ]
    write_result(
        "streams",
        "Streams: signs of people whom the model has never seen, at known times",
        "Models of one signer each, 14 words; default recipe, settings and calibration.",
        [*lines, "", CAUTION],
        content,
        folder=given.results,
    )


if __name__ == "__main__":
    main()
