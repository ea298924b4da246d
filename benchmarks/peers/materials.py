"""A model's folder: the same weights and clips in every form that a peer starts from.

    ours.spoter/      the bundle, fp32 and int8
    notebook.pt       weights of the notebook's module
    notebook.onnx     the file that torch.onnx.export writes for it, clips and frames open
    clips.npz         the clips: `raw` for us, `given` for the others, `ends` of each, `true` labels
    calibration.npz   other clips, for int8
    expected.npy      logits of the model in PyTorch for clips.npz

A model that normalises landmarks gives the others clips that are normalised already: the notebook's module
cannot. Landmark weights that the notebook cannot express are multiplied into the projection after them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from notebook_module import MOST_FRAMES, module_from
from result_files import spoter_kit
from torch import Tensor

from spoter_export.probes import generated_poses
from spoter_runtime.files import write_json
from spoter_toolkit.data.dataset import read_dataset
from spoter_toolkit.data.lengths import generated_lengths
from spoter_toolkit.export import proof_clips
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
    if not run.exists():
        folder.mkdir(parents=True, exist_ok=True)
        spoter_kit("import-checkpoint", checkpoint, "-o", run)
    clips, calibration = generated_clips(0, GENERATED_CLIPS), generated_clips(1, CALIBRATION_CLIPS)
    fill(folder, run, clips, calibration, [], "generated clips")


def prepare_run(run: Path, data: Path, folder: Path) -> None:
    """Fill a model's folder from a RUN; the clips are of the dataset's test split, as recorded."""
    dataset = read_dataset(data)
    column = {label.name: i for i, label in enumerate(read_run(run).labels)}
    test, train = proof_clips(dataset, limit=RECORDED_CLIPS), dataset.clips_in("train")
    assert test is not None  # there is a dataset
    chosen = train[:: max(1, len(train) // CALIBRATION_CLIPS)][:CALIBRATION_CLIPS]
    calibration = [np.array(dataset.poses_of(row)) for row in chosen]
    fill(folder, run, test.clips, calibration, [column.get(name, -1) for name in test.labels], test.source)


def fill(
    folder: Path,
    run: Path,
    clips: Sequence[Any],
    calibration: Sequence[Any],
    true: list[int],
    source: str,
) -> None:
    """Write every file of a model's folder, unless all are there."""
    if (folder / READY).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    model = read_run(run).load_model().eval()
    torch.save(notebook_weights(model), folder / "notebook.pt")
    save_clips(folder / "clips.npz", model, clips, true)
    save_clips(folder / "calibration.npz", model, calibration, [])
    with torch.inference_mode():
        logits = [model(*as_batch(clip)) for clip in clips]
    expected_NC = torch.cat(logits).numpy()
    np.save(folder / "expected.npy", expected_NC)
    write_stock_onnx(folder)
    export_bundle(run, folder / "ours.spoter")
    facts = {"source": source, "clips": len(clips), "largest_logit": float(np.abs(expected_NC).max())}
    write_json(folder / READY, facts)


def export_bundle(run: Path, bundle: Path) -> None:
    """Make the bundle, with int8 where the graph can be lowered to it."""
    if bundle.exists():
        return
    try:
        spoter_kit("export", run, "--precision", "fp32,int8", *QUICK, "-o", bundle)
    except subprocess.CalledProcessError:
        spoter_kit("export", run, "--precision", "fp32", *QUICK, "-o", bundle)


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


def save_clips(path: Path, model: Spoter, clips: Sequence[Any], true: list[int]) -> None:
    """Write clips as recorded and as the model normalises them, one behind the other."""
    with torch.inference_mode():
        given = [model.normalize(*as_batch(clip))[0].numpy() for clip in clips]
    np.savez(
        path,
        raw=np.concatenate([as_batch(clip)[0][0].numpy() for clip in clips]),
        given=np.concatenate(given).astype(np.float32),
        ends=np.cumsum([len(clip) for clip in clips]),
        true=np.array(true),
    )


def as_batch(clip: Any) -> tuple[Tensor, Tensor]:
    """Return one clip as a batch (1, T, 108), and its length."""
    poses_TD = np.ascontiguousarray(clip, np.float32).reshape(len(clip), -1)
    return torch.from_numpy(poses_TD)[None], torch.tensor([len(clip)])


def generated_clips(seed: int, number: int) -> Sequence[Any]:
    """Return generated clips of BdSLW60's lengths."""
    lengths = generated_lengths(MOST_FRAMES).sample(number, seed=seed)
    random = np.random.default_rng(seed)
    return [generated_poses(random, 1, frames)[0] for frames in lengths]
