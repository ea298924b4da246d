"""A model's folder: the same weights and clips in every form that a peer starts from.

    ours.spoter/      the bundle, fp32 and int8
    notebook.pt       weights of the notebook's module
    notebook.onnx     what torch.onnx.export makes of it, clips and frames open
    clips.npz         the clips: `raw` for us, `given` for the others, `ends` of each, `true` labels
    calibration.npz   other clips, for int8
    expected.npy      logits of the model in PyTorch for clips.npz

A model that normalises landmarks gives the others clips that are normalised already: the notebook's module
cannot. Landmark weights that the notebook cannot express are multiplied into the projection after them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from notebook_module import MOST_FRAMES, module_from
from torch import Tensor

from spoter_export.probes import generated_poses
from spoter_runtime.files import write_json
from spoter_toolkit.bench.lengths import generated_lengths
from spoter_toolkit.data.dataset import read_dataset
from spoter_toolkit.model.spoter import Spoter
from spoter_toolkit.runs.run import read_run

GENERATED_CLIPS = 96
CALIBRATION_CLIPS = 64
RECORDED_CLIPS = 300  # at most, of a dataset
READY = "ready.json"

# As many clips as `predict_many` puts into a call; no times for `tune`, which is left aside here.
QUICK = ("--max-batch", "8", "--no-tune")


def prepare_checkpoint(checkpoint: Path, folder: Path) -> None:
    """Fill a model's folder from a checkpoint of the notebook; the clips are generated."""
    run = folder / "run"
    if not run.exists() and (failed := _command("import-checkpoint", checkpoint, "-o", run)):
        raise SystemExit(failed)
    clips, calibration = _generated(0, GENERATED_CLIPS), _generated(1, CALIBRATION_CLIPS)
    _fill(folder, run, clips, calibration, None, "generated clips")


def prepare_run(run: Path, data: Path, folder: Path) -> None:
    """Fill a model's folder from a RUN; the clips are of the dataset's test split, as recorded."""
    dataset = read_dataset(data)
    column = {label.name: i for i, label in enumerate(read_run(run).labels)}
    test = _spread(dataset.clips_in("test"), RECORDED_CLIPS)
    train = _spread(dataset.clips_in("train"), CALIBRATION_CLIPS)
    _fill(
        folder,
        run,
        [np.array(dataset.poses_of(row)) for row in test],
        [np.array(dataset.poses_of(row)) for row in train],
        [column.get(row.label, -1) for row in test],
        f"{dataset.origin.kind}, {dataset.split}",
    )


def _spread(rows: Sequence[Any], most: int) -> list[Any]:
    """Return every so manyth row, `most` at most."""
    places = np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)
    return [rows[i] for i in places]


def _fill(
    folder: Path,
    run: Path,
    clips: Sequence[Any],
    calibration: Sequence[Any],
    true: list[int] | None,
    source: str,
) -> None:
    if (folder / READY).is_file():
        return
    model = read_run(run).load_model().eval()
    torch.save(notebook_weights(model), folder / "notebook.pt")
    _save_clips(folder / "clips.npz", model, clips, true)
    _save_clips(folder / "calibration.npz", model, calibration, None)
    with torch.inference_mode():
        logits = [model(*_alone(clip)) for clip in clips]
    expected_NC = torch.cat(logits).numpy()
    np.save(folder / "expected.npy", expected_NC)
    write_stock_onnx(folder)
    _export(run, folder / "ours.spoter")
    facts = {"source": source, "clips": len(clips), "largest_logit": float(np.abs(expected_NC).max())}
    write_json(folder / READY, facts)


def _export(run: Path, bundle: Path) -> None:
    """Make the bundle, with int8 where the graph can be lowered to it."""
    for precisions in ("fp32,int8", "fp32"):
        if bundle.exists():
            return
        failed = _command("export", run, "--precision", precisions, *QUICK, "-o", bundle)
    if not bundle.exists():
        raise SystemExit(failed)


def notebook_weights(model: Spoter) -> dict[str, Tensor]:
    """Return our weights under the notebook's names, for the same function of normalised clips."""
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    if model.config.landmark_weights == "interleaved":
        each = weights["signing_space_weights"].repeat_interleave(2)
        weights["input_projection.weight"] *= each
        weights["signing_space_weights"] = torch.ones_like(weights["signing_space_weights"])
    return weights


def write_stock_onnx(folder: Path) -> None:
    """Export the notebook's module as PyTorch's manual does: dynamo, both axes open."""
    clips, frames = torch.export.Dim("clips"), torch.export.Dim("frames", max=MOST_FRAMES)
    torch.onnx.export(
        module_from(folder),
        (torch.zeros(2, 60, 108),),
        str(folder / "notebook.onnx"),
        dynamo=True,
        input_names=["poses"],
        output_names=["logits"],
        dynamic_shapes=({0: clips, 1: frames},),
        external_data=False,
    )


def _save_clips(path: Path, model: Spoter, clips: Sequence[Any], true: list[int] | None) -> None:
    with torch.inference_mode():
        given = [model.normalize(*_alone(clip))[0].numpy() for clip in clips]
    np.savez(
        path,
        raw=np.concatenate([_alone(clip)[0][0].numpy() for clip in clips]),
        given=np.concatenate(given).astype(np.float32),
        ends=np.cumsum([len(clip) for clip in clips]),
        true=np.array([] if true is None else true),
    )


def _alone(clip: Any) -> tuple[Tensor, Tensor]:
    """Return one clip as a batch (1, T, 108), and its length."""
    poses_TD = np.ascontiguousarray(clip, np.float32).reshape(len(clip), -1)
    return torch.from_numpy(poses_TD)[None], torch.tensor([len(clip)])


def _generated(seed: int, number: int) -> Sequence[Any]:
    lengths = generated_lengths(MOST_FRAMES).sample(number, seed=seed)
    random = np.random.default_rng(seed)
    return [generated_poses(random, 1, frames)[0] for frames in lengths]


def _command(*arguments: object) -> str:
    """Run one of our commands; return what it says where it fails, or nothing."""
    command = [sys.executable, "-m", "spoter_toolkit", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{arguments[0]}: {done.stderr.strip()[-600:]}" if done.returncode else ""
