"""Measure training: clips a second of the notebook's own loop, of ours, and of ours without each lever.

    python benchmarks/training.py [--dataset DATASET] [--rounds 10] [--threads 1,2] [--device cpu] [--compile]
        [--curves DATASET …] [--epochs 6] [--seeds 0,1]

Every case takes an eighth of an epoch of 1,024 clips a round, batches of 16, rounds in turn; with further
numbers of threads the notebook's loop and ours alone. Without --dataset the clips are generated, 9 to 164
frames long as BdSLW60's. --curves trains on whole datasets, split as they are: our loop beside our loop on
shuffled batches, on a GPU beside our loop without CUDA graphs. --device cuda needs a GPU.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from notebook import BATCH, NotebookBdslSpoter, NotebookClips, notebook_loss
from result_files import RESULTS, write_result
from torch import nn
from torch.utils.data import DataLoader, RandomSampler
from training_levers import Patches, exchanged, levers
from training_page import KERNELS, NOTEBOOK, OURS, SHUFFLED, curve_lines, method, speed_lines

from spoter_toolkit.bench.scenarios.interleave import interleaved
from spoter_toolkit.bench.statistics import paired_ratio
from spoter_toolkit.data.dataset import Clip, Dataset, read_dataset
from spoter_toolkit.data.synth.generate import SynthSettings, synthesize
from spoter_toolkit.model.spoter import count_parameters, model_from_config
from spoter_toolkit.training import batches
from spoter_toolkit.training.config import TrainConfig
from spoter_toolkit.training.cuda_graphs import make_recordable
from spoter_toolkit.training.epochs import Loop
from spoter_toolkit.training.loop import train
from spoter_toolkit.training.recipes import read_recipe
from spoter_toolkit.training.record import read_metrics

CLIPS, SHARES = 1024, 8
RECIPE, CURVES_RECIPE = "bdsl-spoter", "strong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to train: the function that trains an epoch, and the patches while it runs."""

    name: str
    epoch: Callable[[int], object]
    patches: Patches = ()

    def run(self, epoch: int, device: torch.device) -> int:
        """Train one epoch; return its time in nanoseconds, the GPU's work included."""
        with ExitStack() as stack:
            for exchange in self.patches:
                stack.enter_context(exchange())
            begin = time.perf_counter_ns()
            self.epoch(epoch)
            if device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter_ns() - begin


class NotebookLoop:
    """The notebook's loop: a DataLoader of single clips, focal loss, AdamW, warm-up, each loss read back."""

    def __init__(self, dataset: Dataset, clips: tuple[Clip, ...], config: TrainConfig, device: torch.device):
        index = dataset.label_index()
        poses = [np.array(dataset.poses_of(clip)) for clip in clips]
        data = NotebookClips(poses, [index[clip.label] for clip in clips], config.seed)
        self.device = device
        taken = len(clips) // SHARES
        self.loader = DataLoader(data, batch_size=BATCH, sampler=RandomSampler(data, num_samples=taken))
        self.model = NotebookBdslSpoter(num_classes=config.model.num_classes).to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: min(1.0, step / 500))

    def run_epoch(self, epoch: int) -> tuple[float, float]:
        """Take one step a batch; return the mean loss and the accuracy."""
        self.model.train()
        loss_sum, right = 0.0, 0
        for x, labels in self.loader:
            x, labels = x.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            logits = self.model(x)
            loss = notebook_loss(logits, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            loss_sum += loss.item()
            right += (logits.argmax(1) == labels).sum().item()
        return loss_sum / len(self.loader), right / (len(self.loader) * BATCH)


class Otherwise:
    """An accelerator some of whose attributes are replaced."""

    def __init__(self, accelerator: Any, **others: Any) -> None:
        self._accelerator, self._others = accelerator, others

    def __getattr__(self, name: str) -> Any:
        return self._others[name] if name in self._others else getattr(self._accelerator, name)


def run_share(loop: Loop, number: int) -> None:
    """Train on a share of an epoch's batches, as one of several processes would."""
    one_of = Otherwise(loop.accelerator, process_index=number % SHARES, num_processes=SHARES)
    replace(loop, accelerator=one_of).run_epoch(number // SHARES, lambda *_: None)


def cases(
    dataset: Dataset, clips: tuple[Clip, ...], accelerator: Accelerator, *, compiled: bool
) -> list[Case]:
    """Return all ways to train: the notebook's, ours, ours without a lever, and ours with an alternative."""
    config = read_recipe(RECIPE, ["epochs=1000"])  # no schedule ends within the rounds
    device = accelerator.device

    def fresh() -> Loop:
        return Loop.begin(config, dataset, clips, accelerator).prepared()

    def case(name: str, patches: Patches = (), loop: Loop | None = None, **changes: Any) -> Case:
        changed = replace(loop or fresh(), **changes)
        return Case(name=name, epoch=lambda number: run_share(changed, number), patches=patches)

    def bfloat16() -> AbstractContextManager[object]:
        return torch.autocast(device.type, torch.bfloat16)

    found = [
        Case(name=NOTEBOOK, epoch=NotebookLoop(dataset, clips, config, device).run_epoch),
        case(OURS),
        *(case(f"without: {name}", patches) for name, patches in levers(device).items()),
    ]
    if device.type == "cuda":
        found.append(case("without: steps as CUDA graphs", graphs=None))
    loop = fresh()
    adamw = torch.optim.AdamW(loop.model.parameters(), lr=config.learning_rate, foreach=False)
    # Never 0: a recordable AdamW divides by it.
    schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: min(1.0, (step + 1) / 500))
    make_recordable(adamw, device, recordable=loop.graphs is not None)
    by_tensor = {"optimizer": accelerator.prepare(adamw), "schedule": schedule}
    found.append(case("without: AdamW tensor by tensor", loop=loop, **by_tensor))
    found.append(case("with: bfloat16", accelerator=Otherwise(accelerator, autocast=bfloat16)))
    if compiled:
        loop = fresh()
        compiled_model = torch.compile(loop.model, dynamic=True)
        without = ", without CUDA graphs" if loop.graphs else ""
        found.append(case(f"with: torch.compile{without}", loop=loop, model=compiled_model, graphs=None))
    return found


def measure(every: list[Case], rounds: int, device: torch.device, threads: int, clips: int) -> dict[str, Any]:
    """Run cases of so many clips in turn; return their samples and ratios as plain JSON values."""
    torch.set_num_threads(threads)
    by_name = {case.name: case for case in every}
    first_ns: dict[str, int] = {}
    samples: dict[str, list[list[int]]] = {name: [] for name in by_name}
    # Rounds that warm up, compile and record: on a GPU two epochs, so that every usual shape is recorded.
    warm_up = 1 if device.type == "cpu" else 2 * SHARES
    for number, name in interleaved([*by_name], rounds, warm_up=warm_up):
        taken = by_name[name].run(number + warm_up, device)
        first_ns.setdefault(name, taken)
        if number >= 0:
            samples[name].append([taken])
    rows = []
    for name, own in samples.items():
        of_ours, faster = (
            paired_ratio(*pair, seed=0) for pair in ((own, samples[OURS]), (samples[NOTEBOOK], own))
        )
        assert of_ours is not None  # there are rounds
        assert faster is not None
        rows.append(
            {
                "what": name,
                "clips_per_second": round(clips / (float(np.median(own)) / 1e9), 1),
                "time_of_ours": asdict(of_ours),
                "faster_than_notebook": asdict(faster),
                "first_s": round(first_ns[name] / 1e9, 1),
                "samples_ns": [ns for taken in own for ns in taken],
            }
        )
    return {"threads": threads, "rounds": rounds, "rows": rows}


def speeds(dataset: Dataset, accelerator: Accelerator, given: argparse.Namespace) -> dict[str, Any]:
    """Measure everything on the first number of threads, the two loops on the others."""
    chosen = np.random.default_rng(0).permutation(len(dataset.clips))[:CLIPS]
    clips = tuple(dataset.clips[i] for i in sorted(chosen))
    every = cases(dataset, clips, accelerator, compiled=given.compile)
    frames = np.array([clip.frames for clip in clips])
    first, *others = (int(threads) for threads in given.threads.split(","))
    share = len(clips) // SHARES
    runs = [measure(every, given.rounds, accelerator.device, first, share)]
    runs += [measure(every[:2], given.rounds, accelerator.device, threads, share) for threads in others]
    return {
        "clips": len(clips),
        "clips_a_round": share,
        "frames": [int(frames.min()), float(frames.mean()), int(frames.max())],
        "source": dataset.origin.kind,
        "device": accelerator.device.type,
        "batch": BATCH,
        "recipe": RECIPE,
        "parameters": {
            NOTEBOOK: count_parameters(NotebookBdslSpoter()),
            OURS: count_parameters(model_from_config(read_recipe(RECIPE).model)),
        },
        "runs": runs,
    }


def curves(folder: Path, epochs: int, seeds: list[int], work: Path, *, on_gpu: bool) -> dict[str, Any]:
    """Train on a whole dataset in each way; return the metrics of each epoch."""
    dataset = read_dataset(folder)
    config = read_recipe(CURVES_RECIPE, [f"epochs={epochs}", "patience=0"])
    if not dataset.clips_in("val"):  # nothing is chosen here, so that the test split can stand in
        config = replace(config, evaluate_every=1)
        seen = [replace(clip, split="val") if clip.split == "test" else clip for clip in dataset.clips]
        dataset = dataset.with_clips(seen, dataset.split)
    shuffled = exchanged(batches, "WINDOW", 1)
    # The levers are about a CPU; on a GPU the graphs are compared.
    ways: dict[str, Patches] = {OURS: (), KERNELS: ()} if on_gpu else {OURS: (), SHUFFLED: (shuffled,)}
    runs = []
    for seed in seeds:
        for name, patches in ways.items():
            with ExitStack() as stack:
                for exchange in patches:
                    stack.enter_context(exchange())
                run = work / f"{folder.name}-{name}-{seed}"
                train(replace(config, seed=seed, cuda_graphs=name != KERNELS), dataset, run)
            runs.append({"way": name, "seed": seed, "epochs": read_metrics(run)})
            print(folder.name, name, seed, runs[-1]["epochs"][-1], flush=True)
    return {
        "dataset": dataset.origin.kind,
        "split": dataset.split,
        "clips": {split: len(dataset.clips_in(split)) for split in ("train", "val")},
        "recipe": CURVES_RECIPE,
        "runs": runs,
    }


def main() -> None:
    """Measure, train, and write the result after each dataset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", default=str(torch.get_num_threads()), help="1,2: both; default: torch's")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too: minutes on a CPU")
    parser.add_argument("--curves", type=Path, nargs="*", default=[])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    accelerator = Accelerator(cpu=given.device == "cpu")
    if accelerator.device.type != given.device:
        parser.error(f"torch sees no {given.device} here, only {accelerator.device}")
    on_gpu = given.device == "cuda"
    processor = torch.cuda.get_device_name() if on_gpu else None
    seeds = [int(seed) for seed in given.seeds.split(",")]
    learned: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        made = SynthSettings(signs=60, signers=9, clips_per_sign=18)
        path = given.dataset
        dataset = read_dataset(path) if path else synthesize(Path(work) / "clips", settings=made)
        speed = speeds(dataset, accelerator, given)
        for path in (None, *given.curves):
            if path:
                learned.append(curves(path, given.epochs, seeds, Path(work), on_gpu=on_gpu))
            write_result(
                "training",
                "Training: clips a second against the notebook's own loop",
                method(speed),
                [*speed_lines(speed), *curve_lines(learned, on_gpu=on_gpu)],
                {"speed": speed, "curves": learned},
                folder=given.results,
                processor=processor,
            )


if __name__ == "__main__":
    main()
