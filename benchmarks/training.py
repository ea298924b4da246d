"""Measure training: clips a second of the notebook's own loop, of ours, and of ours without each lever.

    python benchmarks/training.py [--dataset DATASET] [--rounds 10] [--threads 1,2] [--device cpu] [--compile]
        [--curves DATASET …] [--epochs 6] [--seeds 0,1]

Every case takes an eighth of an epoch of 1,024 clips a round, batches of 16, rounds in turn; with further
numbers of threads the notebook's loop and ours alone. Without --dataset the clips are generated, 9 to 164
frames long as BdSLW60's. --curves trains on whole datasets, split as they are: our loop, our loop on
shuffled batches, and the loop that ours was, side by side. --device cuda needs a GPU.
Writes benchmarks/results/training-<processor>-<month>.json and .md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from notebook import BATCH, NotebookBdslSpoter, NotebookClips, notebook_loss
from torch import nn
from torch.utils.data import DataLoader, RandomSampler
from training_levers import Patches, before, clip_at_once, exchanged, levers, one_projection
from training_page import KERNELS, NOTEBOOK, OURS, markdown

from spoter_runtime.files import write_json, write_text
from spoter_toolkit.bench.host.environment import cpu_model, environment, load_average, slug
from spoter_toolkit.bench.statistics import paired_ratio
from spoter_toolkit.data.dataset import Clip, Dataset, read_dataset
from spoter_toolkit.data.synth.generate import SynthSettings, synthesize
from spoter_toolkit.model import spoter as models
from spoter_toolkit.model.spoter import count_parameters
from spoter_toolkit.training import batches
from spoter_toolkit.training.config import TrainConfig
from spoter_toolkit.training.cuda_graphs import make_recordable
from spoter_toolkit.training.loop import Loop, train
from spoter_toolkit.training.recipes import read_recipe
from spoter_toolkit.training.record import read_metrics

RESULTS = Path(__file__).parent / "results"
CLIPS, SHARES = 1024, 8
RECIPE, CURVES_RECIPE = "bdsl-spoter", "strong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to train: what to call for an epoch, and what is exchanged while it runs."""

    name: str
    epoch: Callable[[int], object]
    patches: Patches = ()

    def run(self, epoch: int, device: torch.device) -> int:
        """Train one epoch; return how long it took in ns, the GPU's work included."""
        with ExitStack() as stack:
            for exchange in self.patches:
                stack.enter_context(exchange())
            begin = time.perf_counter_ns()
            self.epoch(epoch)
            if device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter_ns() - begin


class NotebookLoop:
    """The notebook's loop: a DataLoader of single clips, focal loss, AdamW, warm-up, a look at each loss."""

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
    """An accelerator of which some attributes are others."""

    def __init__(self, accelerator: Any, **others: Any) -> None:
        self._accelerator, self._others = accelerator, others

    def __getattr__(self, name: str) -> Any:
        return self._others[name] if name in self._others else getattr(self._accelerator, name)


def run_share(loop: Loop, round_: int) -> None:
    """Train on a share of an epoch's batches, as one of several processes would."""
    one_of = Otherwise(loop.accelerator, process_index=round_ % SHARES, num_processes=SHARES)
    replace(loop, accelerator=one_of).run_epoch(round_ // SHARES, lambda *_: None)


def cases(
    dataset: Dataset, clips: tuple[Clip, ...], accelerator: Accelerator, *, compiled: bool
) -> list[Case]:
    """Return all ways to train: the notebook's, ours, ours without a lever, and what was tried besides."""
    config = read_recipe(RECIPE, ["epochs=1000"])  # no schedule ends within the rounds
    device = accelerator.device

    def fresh() -> Loop:
        return Loop.begin(config, dataset, clips, accelerator).prepared()

    def case(name: str, patches: Patches = (), loop: Loop | None = None, **changes: Any) -> Case:
        changed = replace(loop or fresh(), **changes)
        return Case(name=name, epoch=lambda i: run_share(changed, i), patches=patches)

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
    # Never 0: the recordable way divides by it.
    schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: min(1.0, (step + 1) / 500))
    make_recordable(adamw, device, recordable=loop.graphs is not None)
    found += [
        case(
            "without: AdamW tensor by tensor",
            loop=loop,
            optimizer=accelerator.prepare(adamw),
            schedule=schedule,
        ),
        case("tried: bfloat16", accelerator=Otherwise(accelerator, autocast=bfloat16)),
        case(
            "tried: gradients clipped all at once",
            accelerator=Otherwise(accelerator, clip_grad_norm_=clip_at_once),
        ),
        case(
            "tried: queries, keys and values in one product",
            (exchanged(models.Attention, "forward", one_projection),),
        ),
    ]
    if compiled:
        loop = fresh()
        compiled_model = torch.compile(loop.model, dynamic=True)
        without = ", without CUDA graphs" if loop.graphs else ""
        found.append(case(f"tried: torch.compile{without}", loop=loop, model=compiled_model, graphs=None))
    return found


def measure(every: list[Case], rounds: int, device: torch.device, threads: int) -> dict[str, Any]:
    """Run cases in turn; return their samples and ratios as plain JSON values."""
    torch.set_num_threads(threads)
    first_ns, samples = {}, {case.name: [] for case in every}
    # Rounds that warm up, compile and record: on a GPU two epochs, so that every usual shape is recorded.
    warm_up = 1 if device.type == "cpu" else 2 * SHARES
    for round_ in range(warm_up + rounds):
        for case in every:
            taken = case.run(round_, device)
            if round_ >= warm_up:
                samples[case.name].append(taken)
            first_ns.setdefault(case.name, taken)
        print(
            f"{threads} threads, round {round_ - warm_up + 1} of {rounds}, load {load_average()}", flush=True
        )
    rows = [row(name, samples, first_ns[name]) for name in samples]
    return {"threads": threads, "rounds": rounds, "rows": rows}


def speeds(dataset: Dataset, accelerator: Accelerator, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything on the first number of threads, the two loops on the others."""
    chosen = np.random.default_rng(0).permutation(len(dataset.clips))[:CLIPS]
    clips = tuple(dataset.clips[i] for i in sorted(chosen))
    every = cases(dataset, clips, accelerator, compiled=arguments.compile)
    frames = np.array([clip.frames for clip in clips])
    first, *others = (int(threads) for threads in arguments.threads.split(","))
    runs = [measure(every, arguments.rounds, accelerator.device, first)]
    runs += [measure(every[:2], arguments.rounds, accelerator.device, threads) for threads in others]
    return {
        "clips": len(clips),
        "clips_a_round": len(clips) // SHARES,
        "frames": [int(frames.min()), float(frames.mean()), int(frames.max())],
        "source": dataset.origin.kind,
        "device": accelerator.device.type,
        "batch": BATCH,
        "recipe": RECIPE,
        "parameters": {
            NOTEBOOK: count_parameters(NotebookBdslSpoter()),
            OURS: count_parameters(models.model_from_config(read_recipe(RECIPE).model)),
        },
        "runs": runs,
    }


def row(name: str, samples: dict[str, list[int]], first_ns: int) -> dict[str, Any]:
    """Return one case with its time over ours, and the notebook's time over its own."""
    own, ours, notebook = ([[ns] for ns in samples[key]] for key in (name, OURS, NOTEBOOK))
    of_ours, faster = paired_ratio(own, ours, seed=0), paired_ratio(notebook, own, seed=0)
    assert of_ours is not None  # there are rounds
    assert faster is not None
    return {
        "what": name,
        "clips_per_second": round(CLIPS / SHARES / (float(np.median(samples[name])) / 1e9), 1),
        "time_of_ours": [of_ours.estimate, of_ours.low, of_ours.high],
        "faster_than_notebook": [faster.estimate, faster.low, faster.high],
        "first_s": round(first_ns / 1e9, 1),
        "samples_ns": samples[name],
    }


def curves(folder: Path, epochs: int, seeds: list[int], work: Path, *, on_gpu: bool) -> dict[str, Any]:
    """Train on a whole dataset in each way; return the metrics of each epoch."""
    dataset = read_dataset(folder)
    config = read_recipe(CURVES_RECIPE, [f"epochs={epochs}", "patience=0"])
    if not dataset.clips_in("val"):  # nothing is chosen here, so that the test split can stand in
        config = replace(config, evaluate_every=1)
        seen = [replace(clip, split="val") if clip.split == "test" else clip for clip in dataset.clips]
        dataset = dataset.with_clips(seen, dataset.split)
    ways: dict[str, Patches] = {
        OURS: (),
        "shuffled": (exchanged(batches, "WINDOW", 1),),
        "before": before(),
    }
    if on_gpu:  # the levers are about a CPU
        ways = {OURS: (), KERNELS: ()}
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


def command_of(arguments: argparse.Namespace) -> str:
    """Return the command without the places where the datasets are."""
    waits = os.environ.get("OMP_WAIT_POLICY")
    parts = [
        f"OMP_WAIT_POLICY={waits} " * bool(waits) + "python benchmarks/training.py",
        f"--rounds {arguments.rounds}",
    ]
    parts.append(f"--threads {arguments.threads}")
    parts += [f"--dataset {arguments.dataset.name}"] if arguments.dataset else []
    parts += [f"--device {arguments.device}"] if arguments.device != "cpu" else []
    parts += ["--compile"] if arguments.compile else []
    if arguments.curves:
        parts.append(f"--curves {' '.join(path.name for path in arguments.curves)}")
        parts.append(f"--epochs {arguments.epochs} --seeds {arguments.seeds}")
    return " ".join(parts)


def write_result(command: str, speed: dict[str, Any], found: list[dict[str, Any]]) -> Path:
    """Write what is known so far; return the page."""
    where = environment()
    result = {"command": command, "speed": speed, "curves": found, "environment": where}
    processor = where["gpu"]["name"] if speed["device"] == "cuda" and where["gpu"] else cpu_model()
    name = f"training-{slug(processor)}-{datetime.now(timezone.utc):%Y-%m}"
    write_json(RESULTS / f"{name}.json", result)
    write_text(RESULTS / f"{name}.md", markdown(result))
    return RESULTS / f"{name}.md"


def main() -> None:
    """Measure, train, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", default=str(torch.get_num_threads()), help="1,2: both; default: torch's")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too: minutes on a CPU")
    parser.add_argument("--curves", type=Path, nargs="*", default=[])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", default="0,1")
    arguments = parser.parse_args()
    accelerator = Accelerator(cpu=arguments.device == "cpu")
    if accelerator.device.type != arguments.device:
        parser.error(f"torch sees no {arguments.device} here, only {accelerator.device}")
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        made = SynthSettings(signs=60, signers=9, clips_per_sign=18)
        path = arguments.dataset
        dataset = read_dataset(path) if path else synthesize(Path(work) / "clips", settings=made)
        speed = speeds(dataset, accelerator, arguments)
        page = write_result(command_of(arguments), speed, found)
        for path in arguments.curves:
            on_gpu = accelerator.device.type == "cuda"
            found.append(curves(path, arguments.epochs, seeds, Path(work), on_gpu=on_gpu))
            write_result(command_of(arguments), speed, found)
    print(page)


if __name__ == "__main__":
    main()
