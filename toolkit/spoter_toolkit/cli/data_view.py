"""Show data sets and clips on the terminal, for the verbs of `spoter-kit data`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from spoter_toolkit.cli.console import (
    aligned,
    emit_json,
    emit_table,
    few_names,
    is_verbose,
    next_step,
    say,
    tell,
)
from spoter_toolkit.data.dataset import SKIPPED, UNKNOWN_SIGNER, Clip, Dataset, skipped_clips
from spoter_toolkit.data.facts import DatasetFacts, describe, val_gap
from spoter_toolkit.data.split import first_split_command, untested_labels
from spoter_toolkit.report.words import plural

_REMARKS: Final = 5  # lines about what was left out or changed; -v prints all
_MADE_REMARKS: Final = 8  # of a data set that was just made: each clip that was left out has a line


def show_made(dataset: Dataset, *, json: bool) -> None:
    """Print a data set that was just made: as JSON, or a summary and the next command."""
    facts = describe(dataset)
    if json:
        emit_json(dataset_json(dataset, facts))
    else:
        print_summary(dataset, facts, most=_MADE_REMARKS, skipped=skipped_clips(dataset.folder))
        tell(f"labels: {few_names([label.name for label in dataset.labels])}")  # shows a level too deep
        say_next(dataset)


def show_split(dataset: Dataset, *, json: bool) -> None:
    """Print a data set that was just split: as JSON, or its splits, what they lack, and the next command."""
    facts = describe(dataset)
    if json:
        emit_json(dataset_json(dataset, facts))
        return
    tell(f"{dataset.folder}: {dataset.split}")
    print_splits(facts)
    for lack in filter(None, (untested_labels(dataset), val_gap(dataset))):
        say(str(lack))
    say_next(dataset)


def say_next(dataset: Dataset) -> None:
    """Print the next command: train, or, before that, the split that works."""
    if dataset.split:
        next_step("spoter-kit train {}", dataset.folder)
    else:
        next_step(first_split_command(dataset))


def say_stopped(folder: Path) -> None:
    """Say what an extraction that was stopped has kept, and the command that goes on."""
    from spoter_toolkit.data.extract.store import clips_kept

    kept = clips_kept(folder)
    stays = f"{plural(kept, 'clip')} {'is' if kept == 1 else 'are'} kept" if kept else "no clip was done yet"
    say(f"interrupted; {stays}; go on with: {shlex.join(['spoter-kit', *sys.argv[1:]])}")


def dataset_json(dataset: Dataset, facts: DatasetFacts) -> dict[str, Any]:
    """Return a data set and its facts as plain JSON values."""
    return {
        "dataset": str(dataset.folder),
        "sha256": dataset.sha256,
        "coordinates": dataset.coordinates,
        "split": dataset.split,
        "origin": asdict(dataset.origin),
        "left_out": skipped_clips(dataset.folder),
        "labels": [asdict(label) for label in dataset.labels],
        **asdict(facts),
    }


def print_summary(
    dataset: Dataset, facts: DatasetFacts, *, most: int = _REMARKS, skipped: Sequence[str] = ()
) -> None:
    """Print sizes, origin, what was left out, and how the data set is split.

    Args:
        dataset: the data set.
        facts: of it.
        most: remarks at most; -v prints all.
        skipped: of `skipped_clips`, to name them.
    """
    named = [name for name in facts.clips_of_signer if name != UNKNOWN_SIGNER]
    others = " and unknown ones" if len(named) < len(facts.clips_of_signer) else ""
    signers = f" by {plural(len(named), 'signer')}{others}" if named else ", no signer is named"
    tell(
        f"{dataset.folder}: {plural(facts.clips, 'clip')} of {plural(len(facts.clips_of_label), 'label')}"
        f"{signers}, {facts.duration_s / 60:.1f} minutes"
    )
    origin = dataset.origin
    synthetic = "; nobody signed this" if origin.synthetic else ""
    licence = f"; licence: {origin.licence}" if origin.licence else ""
    tell(f"from {origin.kind}: {origin.source}{licence}{synthetic}")
    remarks = [f"left out: {plural(count, 'clip')} {reason}" for reason, count in origin.skipped.items()]
    remarks += [f"note: {plural(count, 'clip')}: {note}" for note, count in origin.notes.items()]
    remarks += [f"  {line}" for line in skipped]
    shown = remarks if is_verbose() or len(remarks) <= most else remarks[: most - 1]
    tell(*shown)
    if remarks[len(shown) :]:
        which = f"in {dataset.folder / SKIPPED}" if skipped else "remarks (-v: all)"
        tell(f"{len(remarks) - len(shown)} more {which}")
    tell(f"split: {dataset.split or 'none yet'}")
    if is_verbose():
        tell(f"{plural(facts.frames, 'frame')}, {dataset.coordinates} coordinates")


def print_splits(facts: DatasetFacts) -> None:
    """Print clips, labels and signers of each split; with ``-v`` as a table with all their names."""
    if is_verbose():
        emit_table(
            "",
            ("split", "clips", "frames", "labels", "signers"),
            [
                (part.name or "none", part.clips, part.frames, part.labels, " ".join(part.signers))
                for part in facts.splits
            ],
        )
        return
    rows = [
        (
            part.name or "none",
            plural(part.clips, "clip"),
            plural(part.labels, "label"),
            "no signer is named"
            if part.signers == (UNKNOWN_SIGNER,)
            else f"{plural(len(part.signers), 'signer')}: {few_names(part.signers)}",
        )
        for part in facts.splits
    ]
    tell(*(f"  {line}" for line in aligned(rows)))


def print_dataset(dataset: Dataset, facts: DatasetFacts) -> None:
    """Print what is in a data set in a few lines; with ``-v`` all of it as tables."""
    print_summary(dataset, facts)
    print_splits(facts)
    if is_verbose():
        print_tables(dataset, facts)
        return
    shortest, low, high, longest = (facts.length_percentiles[p] for p in (0, 25, 75, 100))
    missing = ", ".join(f"{name} {rate:.1%}" for name, rate in facts.missing.items())
    fewest = min(facts.clips_of_label.items(), key=lambda pair: pair[1])
    tell(
        f"frames a clip: {shortest:.0f} to {longest:.0f}, half of the clips {low:.0f} to {high:.0f}",
        f"not detected: {missing}; no hand in {facts.frames_without_hands:.1%} of the frames",
        f"fewest clips of a label: {fewest[1]} of {fewest[0]}",
    )


def print_tables(dataset: Dataset, facts: DatasetFacts) -> None:
    """Print lengths, missing landmarks, signers and labels as tables."""
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
    tell(clip.id, *(f"  {name:<7} {value}" for name, value in rows))
