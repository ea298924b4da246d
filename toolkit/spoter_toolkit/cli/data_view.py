"""Show data sets and clips on the terminal, for the verbs of `spoter-kit data`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from spoter_toolkit.cli.console import emit_json, emit_table
from spoter_toolkit.data.dataset import Clip, Dataset
from spoter_toolkit.data.facts import DatasetFacts, describe
from spoter_toolkit.report.words import plural


def show_made(dataset: Dataset, *, json: bool) -> None:
    """Print a data set that was just made: as JSON, or a summary."""
    facts = describe(dataset)
    if json:
        emit_json(dataset_json(dataset, facts))
    else:
        print_summary(dataset, facts)


def dataset_json(dataset: Dataset, facts: DatasetFacts) -> dict[str, Any]:
    """Return a data set and its facts as plain JSON values."""
    return {
        "dataset": str(dataset.folder),
        "sha256": dataset.sha256,
        "coordinates": dataset.coordinates,
        "split": dataset.split,
        "origin": asdict(dataset.origin),
        "labels": [asdict(label) for label in dataset.labels],
        **asdict(facts),
    }


def print_summary(dataset: Dataset, facts: DatasetFacts) -> None:
    """Print sizes, origin, what was left out, and how the data set is split."""
    print(
        f"{dataset.folder}: {plural(facts.clips, 'clip')} of {plural(len(facts.clips_of_label), 'label')} by "
        f"{plural(len(facts.clips_of_signer), 'signer')}, {plural(facts.frames, 'frame')}, "
        f"{facts.duration_s / 60:.1f} minutes, {dataset.coordinates} coordinates"
    )
    origin = dataset.origin
    synthetic = "; nobody signed this" if origin.synthetic else ""
    licence = f"; licence: {origin.licence}" if origin.licence else ""
    print(f"from {origin.kind}: {origin.source}{licence}{synthetic}")
    for reason, count in origin.skipped.items():
        print(f"left out: {plural(count, 'clip')} {reason}")
    for note, count in origin.notes.items():
        print(f"note: {plural(count, 'clip')}: {note}")
    print(f"split: {dataset.split or 'none yet'}")


def print_splits(facts: DatasetFacts) -> None:
    """Print clips, frames, labels and signers of each split."""
    emit_table(
        "",
        ("split", "clips", "frames", "labels", "signers"),
        [
            (part.name or "none", part.clips, part.frames, part.labels, " ".join(part.signers))
            for part in facts.splits
        ],
    )


def print_dataset(dataset: Dataset, facts: DatasetFacts) -> None:
    """Print all facts of a data set as tables."""
    print_summary(dataset, facts)
    print_splits(facts)
    most = max(count for _, _, count in facts.length_histogram)
    emit_table(
        "length of a clip",
        ("frames", "clips", ""),
        [
            (f"{first}–{last}" if last > first else first, count, f"{'█' * round(30 * count / most):░<30}")
            for first, last, count in facts.length_histogram
        ],
    )
    percentiles = facts.length_percentiles.items()
    emit_table("percentiles of it", [f"p{p}" for p, _ in percentiles], [[f"{v:.0f}" for _, v in percentiles]])
    emit_table(
        "not detected",
        ("landmarks of", "missing"),
        [
            *((name, f"{100 * rate:.1f} %") for name, rate in facts.missing.items()),
            ("both hands at once (frames)", f"{100 * facts.frames_without_hands:.1f} %"),
        ],
    )
    emit_table("signers", ("signer", "clips"), list(facts.clips_of_signer.items()))
    emit_table(
        "labels",
        ("label", "clips", "gloss"),
        [
            (each.name, facts.clips_of_label[each.name], " ".join(filter(None, (each.bengali, each.gloss))))
            for each in dataset.labels
        ],
    )


def print_clip(dataset: Dataset, clip: Clip) -> None:
    """Print a clip's row."""
    label = dataset.labels[dataset.label_index()[clip.label]]
    words = ", ".join(filter(None, (label.gloss, label.bengali, label.romanised)))
    rows = [
        ("label", f"{clip.label} ({words})" if words else clip.label),
        ("signer", clip.signer),
        ("frames", f"{clip.frames} ({clip.frames / clip.fps:.2f} s at {clip.fps:g} a second)"),
        ("split", clip.split or "none"),
        ("source", clip.source),
    ]
    print("\n".join([clip.id, *(f"  {name:<7} {value}" for name, value in rows)]))
