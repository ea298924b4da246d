"""Train with the default recipe on few and many clips, and test on people or clips it has never seen.

    python benchmarks/learning.py --rows rows.jsonl [--signers DATASET] [--words DATASET --folds folds.csv]
        [--cases across,few,words,made] [--arms default,before,from] [--seeds 0,1,2] [--set KEY=VALUE …]
        [--page]

--signers: a DATASET of two signers who share some labels: trained on one, tested on the other, both ways,
all clips or 16, 4, 1 a label. --words: one without known signers, with a file ``id,fold``. Each training is a
line of --rows and is done once: a run that was stopped goes on. --page writes the page of the lines that are
there. The arm before is the default of before November 2026; from begins from a run on other words.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learning_page import write_page
from result_files import RESULTS

from spoter_export.torch_runner import TorchRunner
from spoter_runtime.files import write_text
from spoter_toolkit.data.dataset import Clip, Dataset, Origin, read_dataset
from spoter_toolkit.data.dataset_writer import write_dataset
from spoter_toolkit.data.synth.generate import SynthSettings, generate_clips
from spoter_toolkit.evaluation import Scores, evaluate
from spoter_toolkit.runs.run import Run, read_run
from spoter_toolkit.training.config import TrainConfig
from spoter_toolkit.training.loop import train
from spoter_toolkit.training.recipes import read_recipe
from spoter_toolkit.training.record import read_metrics
from spoter_toolkit.training.start import begun_from

FEW = (1, 4, 16)
MADE = {"300 × 4": (300, 4), "60 × 10": (60, 10), "5 × 3": (5, 3)}  # labels × clips to train on, of each
# The default until November 2026: a fixed number of epochs, and six layers.
BEFORE = (
    *("epochs=20", "learning_rate=5e-4", "weight_decay=1e-4", "model.num_encoder_layers=6"),
    *("augment.shorten=0.0", "model.temporal_frames=0", "model.hand_place=false"),
)
ARMS = {"default": (), "before": BEFORE, "from": ()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One training: what it is called, and a data set split into train and test."""

    name: str
    draw: int
    dataset: Dataset
    seed: int


def across(dataset: Dataset, draws: int, few: int | None, seed: int) -> Iterator[Case]:
    """Yield both directions between two signers, on the labels that they share; `few` clips a label."""
    one, other = sorted({clip.signer for clip in dataset.clips})
    for train_on, test_on in ((one, other), (other, one)):
        shared = of_labels(dataset, labels_of(dataset, one) & labels_of(dataset, other))
        for draw in range(draws):
            splits = {train_on: "train", test_on: "test"}
            clips = [replace(clip, split=splits[clip.signer]) for clip in shared.clips]
            kept = clips if few is None else drawn(clips, few, draw)
            name = f"{train_on} → {test_on}, {'all' if few is None else few}"
            yield Case(name=name, draw=draw, dataset=shared.with_clips(kept, "by signer"), seed=seed)


def by_fold(dataset: Dataset, folds: Path, seed: int) -> Iterator[Case]:
    """Yield the folds of a file, each tested on once."""
    with folds.open(encoding="utf-8") as file:
        fold_of = {row["id"]: row["fold"] for row in csv.DictReader(file)}
    for fold in sorted(set(fold_of.values())):
        clips = [replace(c, split="test" if fold_of[c.id] == fold else "train") for c in dataset.clips]
        yield Case(name="words", draw=int(fold), dataset=dataset.with_clips(clips, "by clip"), seed=seed)


def made(folder: Path, seed: int) -> Iterator[Case]:
    """Yield generated sets; the last signers are test."""
    for name, (labels, clips) in MADE.items():
        dataset = generated(folder / f"{labels}", labels)
        tested = {clip.signer for clip in dataset.clips if clip.split == "test"}
        chosen = [replace(c, split="test" if c.signer in tested else "train") for c in dataset.clips]
        yield Case(
            name=f"made {name}",
            draw=0,
            seed=seed,
            dataset=dataset.with_clips(drawn(chosen, clips, 0), "by signer"),
        )


def generated(folder: Path, labels: int) -> Dataset:
    """Return generated signs by 12 signers, one clip of each sign by each; beyond 100 from further seeds."""
    if not folder.is_dir():
        sets = [
            SynthSettings(signs=min(100, labels - first), clips_per_sign=12, seed=first)
            for first in range(0, labels, 100)
        ]
        clips = [
            replace(clip, id=f"{one.seed}-{clip.id}", label=f"{one.seed}-{clip.label}", split="")
            for one in sets
            for clip in generate_clips(one)
        ]
        names = sorted({clip.label for clip in clips})
        tested = {"s11", "s12"}
        write_dataset(
            folder,
            [replace(clip, split="test" if clip.signer in tested else "train") for clip in clips],
            labels=[replace(sets[0].labels()[0], name=name) for name in names],
            coordinates="image",
            origin=Origin(kind="synthetic", source=", ".join(map(str, sets)), synthetic=True),
            split="by signer: test s11, s12; train the other 10",
        )
    return read_dataset(folder)


def labels_of(dataset: Dataset, signer: str) -> set[str]:
    """Return the labels that a signer has clips of."""
    return {clip.label for clip in dataset.clips if clip.signer == signer}


def of_labels(dataset: Dataset, names: set[str]) -> Dataset:
    """Return the clips of some labels, as a data set that knows no others."""
    kept = dataset.with_clips([clip for clip in dataset.clips if clip.label in names], dataset.split)
    return replace(kept, labels=tuple(label for label in dataset.labels if label.name in names))


def drawn(clips: list[Clip], few: int, draw: int) -> list[Clip]:
    """Return the test clips and, of each label, a few of those to train on."""
    random, kept = np.random.default_rng(1000 + draw), [clip for clip in clips if clip.split == "test"]
    for label in sorted({clip.label for clip in clips}):
        known = [clip for clip in clips if clip.split == "train" and clip.label == label]
        kept += [known[i] for i in random.permutation(len(known))[:few]]
    return kept


def other_words(dataset: Dataset, shared: bool) -> Dataset:
    """Return all clips to train on: of every label, or of those that the two signers do not share."""
    one, other = sorted({clip.signer for clip in dataset.clips})
    both = labels_of(dataset, one) & labels_of(dataset, other)
    everything = {clip.label for clip in dataset.clips}
    chosen = of_labels(dataset, everything if shared else everything - both)
    return chosen.with_clips([replace(clip, split="train") for clip in chosen.clips], "all clips")


def trained(case: Case, config: TrainConfig, folder: Path, source: Run | None = None) -> dict[str, Any]:
    """Train a case and return its figures."""
    if source:
        config = begun_from(config, source, case.dataset)
    begin, cpu = time.perf_counter(), time.process_time()
    run = train(replace(config, seed=case.seed), case.dataset, folder, begin_from=source)
    taken, cpu = time.perf_counter() - begin, time.process_time() - cpu
    seen, known = (scored(run, case.dataset, part) for part in ("test", "train"))
    rows = read_metrics(folder)
    return {
        "case": case.name,
        "draw": case.draw,
        "seed": case.seed,
        "clips": len(case.dataset.clips_in("train")),
        "test_clips": seen.clips,
        "top1": seen.top1,
        "top5": seen.top5,
        "train_top1": known.top1,
        "epochs": len(rows),
        "seconds": round(taken, 1),
        "cpu_seconds": round(cpu, 1),
    }


def scored(run: Run, dataset: Dataset, split: str) -> Scores:
    """Return the scores of a run on one split of the data set in hand."""
    return evaluate(TorchRunner(run.load_model(), run.contract(64)), dataset, split)


def cases_of(given: argparse.Namespace, seed: int) -> Iterator[tuple[str, Case]]:
    """Yield (arm, case) in the order of the command line's cases."""
    words = read_dataset(given.words) if given.words else None
    signers = read_dataset(given.signers) if given.signers else None
    for kind in given.cases.split(","):
        for arm in given.arms.split(","):
            if kind == "across" and signers:
                found = across(signers, 1, None, seed)
            elif kind.startswith("few") and signers:
                numbers = [int(kind[3:])] if kind[3:] else FEW
                found = (case for few in numbers for case in across(signers, given.draws, few, seed))
            elif kind == "words" and words:
                found = by_fold(words, given.folds, seed)
            elif kind == "made":
                found = made(given.rows.parent / "made", seed)
            else:
                raise SystemExit(f"{kind}: no such case, or its data set is not given")
            yield from ((arm, case) for case in found)


def source_of(case: Case, given: argparse.Namespace, config: TrainConfig) -> Run:
    """Return the run that a case begins from; train it the first time."""
    words = case.name == "words"
    folder = given.rows.parent / f"from-{'all' if words else 'other'}-{given.tag}"
    if not (folder / "model.safetensors").is_file():
        train(config, other_words(read_dataset(given.signers), shared=words), folder, force=True)
    return read_run(folder)


def main() -> None:
    """Train what is not yet in the rows; write the page where it is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--signers", type=Path)
    parser.add_argument("--words", type=Path)
    parser.add_argument("--folds", type=Path)
    parser.add_argument("--cases", default="across,few,words,made")
    parser.add_argument("--arms", default="default")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--draws", type=int, default=5, help="of 16, 4 and 1 clips a label")
    parser.add_argument("--set", action="append", default=[], help="key=value on top of the recipe")
    parser.add_argument("--tag", default="default", help="name of these settings in the rows")
    parser.add_argument("--page", action="store_true", help="write the page, train nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.page:
        write_page(read_rows(given.rows), folder=given.results)
        return
    torch.set_num_threads(1)
    given.rows.parent.mkdir(parents=True, exist_ok=True)
    for seed in map(int, given.seeds.split(",")):
        for arm, case in cases_of(given, seed):
            key: dict[str, Any] = {
                "arm": arm if given.tag == "default" else f"{given.tag} {arm}".removesuffix(" default")
            }
            key |= {"case": case.name, "draw": case.draw, "seed": seed}
            if any(all(row[name] == value for name, value in key.items()) for row in read_rows(given.rows)):
                continue
            config = read_recipe("strong", [*ARMS[arm], *given.set])
            source = source_of(case, given, config) if arm == "from" else None
            with tempfile.TemporaryDirectory() as folder:
                row = key | trained(case, config, Path(folder) / "run", source)
            text = given.rows.read_text(encoding="utf-8") if given.rows.is_file() else ""
            write_text(given.rows, f"{text}{json.dumps(row, ensure_ascii=False)}\n")
            print(json.dumps(row, ensure_ascii=False), flush=True)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the trainings that are done."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
