"""Say what the body of a trained model is worth for other words when it stays as it is.

    python benchmarks/frozen.py RUN --signers DATASET [--draws 5]
    python benchmarks/frozen.py RUN --words DATASET --folds folds.csv

RUN was trained on other words, as `learning.py` does for its arm "from"; the cases are those of `learning.py`
too. The clips to train on are changed as the recipe changes them; a linear layer on the model's features
learns them. No body learns, so this takes seconds.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from learning import Case, across, by_fold
from learning_page import interval, names_of
from result_files import RESULTS, write_result
from torch import Tensor, nn

from spoter_runtime.runner import pad_clips
from spoter_toolkit.data.dataset import Clip, Dataset, read_dataset
from spoter_toolkit.model.spoter import Spoter, model_from_config
from spoter_toolkit.report.table import markdown_table
from spoter_toolkit.runs.run import read_run
from spoter_toolkit.training.augment import augment
from spoter_toolkit.training.batches import plan_epoch, read_batch
from spoter_toolkit.training.config import TrainConfig
from spoter_toolkit.training.recipes import read_recipe

Floats = npt.NDArray[np.float64]
FEW = (1, 4)
BATCHES = 24  # of 32 changed clips, to learn from
RIDGE = 0.1
METHOD = (
    "The run was trained on other words: with --signers on those that the two signers do not share. The "
    "model stays as it is, and so does one of random weights. A linear layer (ridge regression on scaled "
    "features) learns the clips to train on, each changed as the recipe changes it: one or four clips a "
    "label by one signer, and is tested on all of the other's; or four folds, and is tested on the fifth. "
    "The interval is Student's, of 95 %, over draws and directions, or folds."
)


class Body:
    """A model that says what passes through its class token, and what its last layer is given."""

    def __init__(self, model: Spoter) -> None:
        self.model = model.eval()
        self.seen: dict[str, Floats] = {}
        for number, layer in enumerate(model.encoder_layers, start=1):
            layer.register_forward_hook(self._keep(f"class token behind layer {number}"))
        model.get_submodule(model.last_layer).register_forward_hook(self._keep("before the last layer"))

    def _keep(self, name: str) -> Any:
        def keep(_module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            value = made[:, 0] if made.ndim == 3 else given[0]
            self.seen[name] = value.numpy().astype(np.float64)

        return keep

    @torch.no_grad()
    def features(self, poses_NTL2: Tensor, lengths_N: Tensor) -> dict[str, Floats]:
        """Return the features of clips, at each place."""
        self.model(poses_NTL2.flatten(2), lengths_N)
        return dict(self.seen)

    def of_clips(self, dataset: Dataset, clips: list[Clip]) -> dict[str, Floats]:
        """Return the features of clips as they were recorded, in order."""
        found: dict[str, list[Floats]] = defaultdict(list)
        for begin in range(0, len(clips), 64):
            poses, lengths = pad_clips([dataset.poses_of(clip) for clip in clips[begin : begin + 64]])
            for name, value in self.features(torch.from_numpy(poses), torch.from_numpy(lengths)).items():
                found[name].append(value)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def of_changed(self, case: Case, config: TrainConfig) -> tuple[dict[str, Floats], npt.NDArray[np.int64]]:
        """Return the features and labels of changed clips to learn from."""
        generator = torch.Generator().manual_seed(case.draw)
        found: dict[str, list[Floats]] = defaultdict(list)
        labels = []
        for takes in plan_epoch(case.dataset.clips_in("train"), config, case.draw)[:BATCHES]:
            batch = read_batch(case.dataset, takes, torch.device("cpu"))
            poses = augment(batch.poses_NTL2, batch.lengths_N, config.augment, generator, centre=(0.5, 0.5))
            for name, value in self.features(poses, batch.lengths_N).items():
                found[name].append(value)
            labels.append(batch.labels_N.numpy())
        return {name: np.concatenate(parts) for name, parts in found.items()}, np.concatenate(labels)


def right_answers(
    learnt_ND: Floats, labels_N: npt.NDArray[np.int64], tested_MD: Floats, true_M: npt.NDArray[np.int64]
) -> float:
    """Return the share of clips that a linear layer has right."""
    mean_D, scale_D = learnt_ND.mean(0), learnt_ND.std(0) + 1e-6
    known_ND, asked_MD = (learnt_ND - mean_D) / scale_D, (tested_MD - mean_D) / scale_D
    wanted_NC = np.eye(labels_N.max() + 1)[labels_N]
    square_DD = known_ND.T @ known_ND + RIDGE * len(known_ND) * np.eye(len(mean_D))
    weights_DC = np.linalg.solve(square_DD, known_ND.T @ (wanted_NC - wanted_NC.mean(0)))
    return float(((asked_MD @ weights_DC).argmax(1) == true_M).mean())


def measured(body: Body, dataset: Dataset, cases: Iterable[Case]) -> Iterator[dict[str, Any]]:
    """Yield a row for each case and place."""
    config = read_recipe("strong", ["max_steps=4000"])
    index = {clip.id: i for i, clip in enumerate(dataset.clips)}
    plain = body.of_clips(dataset, list(dataset.clips))
    for case in cases:
        learnt, labels = body.of_changed(case, config)
        tested = case.dataset.clips_in("test")
        rows, names = [index[clip.id] for clip in tested], case.dataset.label_index()
        true = np.array([names[clip.label] for clip in tested])
        for place, features in learnt.items():
            top1 = right_answers(features, labels, plain[place][rows], true)
            yield {"case": case.name, "draw": case.draw, "place": place, "top1": top1}


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--signers", type=Path, help="two signers, one or four clips a label of one of them")
    parser.add_argument("--words", type=Path, help="clips with --folds")
    parser.add_argument("--folds", type=Path)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    run, rows = read_run(given.run), []
    torch.manual_seed(0)
    models = {"the run": run.load_model(), "an untrained model": model_from_config(run.config)}
    if given.words:
        dataset = read_dataset(given.words)
        cases = list(by_fold(dataset, given.folds, 0))
    else:
        dataset = read_dataset(given.signers)
        cases = [case for few in FEW for case in across(dataset, given.draws, few, 0)]
    for name, model in models.items():
        rows += [{"model": name} | row for row in measured(Body(model), dataset, cases)]
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for row in rows:
        groups[names_of(row["case"])[-1], row["model"], row["place"]].append(row["top1"])
    table = [(*key, f"{np.mean(top1):.3f}", interval(top1), str(len(top1))) for key, top1 in groups.items()]
    columns = ("case", "features of", "where", "top-1", "95 % interval", "cases")
    write_result(
        "frozen-words" if given.words else "frozen",
        "What a frozen body is worth for other words",
        METHOD,
        [markdown_table(columns, table)],
        {"rows": rows},
        folder=given.results,
    )


if __name__ == "__main__":
    main()
