"""How much a wrong port of the landmarks costs: top-1 of a run's test clips, changed as ports change them.

    python benchmarks/wrong_ports.py RUN DATASET

The model is in PyTorch; that an export answers the same is what `spoter-kit parity` is for.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from result_files import RESULTS, write_result

from spoter_export.torch_runner import TorchRunner
from spoter_runtime import Recognizer
from spoter_runtime.landmarks import MIRRORED, Float32Array, resample_clip
from spoter_toolkit.data.dataset import read_dataset
from spoter_toolkit.report.table import markdown_table
from spoter_toolkit.runs.run import read_run

Change = Callable[[Float32Array], Float32Array]


def _scaled(x: float, y: float) -> Change:
    return lambda clip: clip * np.array((x, y), np.float32)


def _hands_swapped(clip: Float32Array) -> Float32Array:
    return np.concatenate((clip[:, :12], clip[:, 33:], clip[:, 12:33]), axis=1)


def _planar(clip: Float32Array) -> Float32Array:
    """Return x0 … x53 y0 … y53 of each frame, to be read as x0 y0 x1 y1 …."""
    return np.ascontiguousarray(clip.transpose(0, 2, 1)).reshape(clip.shape)


def _flipped(clip: Float32Array) -> Float32Array:
    return np.stack((1 - clip[..., 0], clip[..., 1]), axis=-1)


def _faster(factor: float) -> Change:
    return lambda clip: resample_clip(clip, max(1, round(len(clip) * factor)))


CHANGES: dict[str, Change] = {
    "as recorded": lambda clip: clip,
    "left and right hand swapped": _hands_swapped,
    "x0…x53 y0…y53 instead of x0 y0 x1 y1 …": _planar,
    "y upwards": lambda clip: np.stack((clip[..., 0], 1 - clip[..., 1]), axis=-1),
    "x flipped after the tracker": _flipped,
    "20 still frames before and after": lambda clip: np.pad(clip, ((20, 20), (0, 0), (0, 0)), "edge"),
    "the first 40 % of the frames cut off": lambda clip: clip[round(0.4 * len(clip)) :],
    "the whole picture mirrored before the tracker": lambda clip: _flipped(clip)[:, list(MIRRORED)],
    "pixels of 1280 × 960 instead of 0..1": _scaled(1280, 960),
    "a wide picture, 16:9 for 4:3": _scaled(0.75, 1),
    "a tall picture, 9:16 for 4:3": _scaled(64 / 27, 1),
    "half the frame rate": _faster(0.5),
    "twice the frame rate": _faster(2),
}


def main() -> None:
    """Score the test split under every change and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    run, data = read_run(given.run), read_dataset(given.dataset)
    recognizer = Recognizer(TorchRunner(run.load_model(), run.contract()))
    clips = data.clips_in("test")
    rows: list[dict[str, Any]] = []
    for name, change in CHANGES.items():
        answers = recognizer.predict_many(change(data.poses_of(clip)) for clip in clips)
        rows.append(
            {
                "change": name,
                "top1": np.mean([a.label == c.label for a, c in zip(answers, clips, strict=True)]),
                "score": np.mean([answer.score for answer in answers]),
            }
        )
        print(rows[-1], flush=True)
    table = [(row["change"], f"{row['top1']:.3f}", f"{row['score']:.2f}") for row in rows]
    write_result(
        "wrong-ports",
        "What a wrong port of the landmarks costs",
        f"{len(clips)} clips, {data.split}. Nothing warns of any of these changes.",
        [markdown_table(("change", "top-1", "mean score"), table)],
        {"clips": len(clips), "split": data.split, "rows": rows},
        folder=given.results,
    )


if __name__ == "__main__":
    main()
