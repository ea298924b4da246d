"""`spoter-kit data`: import, generate, split and look at datasets."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spoter_toolkit.cli.console import (
    ForceOption,
    JsonOption,
    emit_json,
    emit_table,
    next_step,
    progress_bar,
    say,
)

if TYPE_CHECKING:
    from spoter_toolkit.data.dataset import Clip, Dataset
    from spoter_toolkit.data.facts import DatasetFacts

app = typer.Typer(help="Import, generate, split and look at datasets of landmarks.", no_args_is_help=True)


class Kind(str, Enum):
    """What `data import` reads."""

    ASL33 = "asl33"
    SPOTER_CSV = "spoter-csv"
    NOTEBOOK_JSON = "notebook-json"
    NPY = "npy"


class Long(str, Enum):
    """What `data import` does with a clip of more frames than the models take."""

    ERROR = "error"
    RESAMPLE = "resample"
    CUT = "cut"


class By(str, Enum):
    """How `data split` divides."""

    SIGNER = "signer"
    BDSLW60 = "bdslw60"
    RECORDING = "recording"
    CLIP = "clip"


OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Dataset folder; default: datasets/ and the source's name.")
]
DatasetArgument = Annotated[Path | None, typer.Argument(help="Dataset; default: the newest in datasets/.")]


@app.command("import")
def import_(
    kind: Annotated[Kind, typer.Argument(help="Format of the source.")],
    source: Annotated[Path, typer.Argument(help="File or folder.")],
    out: OutOption = None,
    labels: Annotated[str, typer.Option(help="Only these labels: hello,water")] = "",
    without: Annotated[str, typer.Option(help="Not these labels: none")] = "",
    signers: Annotated[str, typer.Option(help="Only these signers: A,B")] = "",
    shared_labels: Annotated[
        bool, typer.Option("--shared-labels", help="Only labels that every signer (of --signers) has.")
    ] = False,
    signer: Annotated[str, typer.Option(help="Who signed, where the source does not say.")] = "",
    fps: Annotated[float | None, typer.Option(help="Frames a second; default: the source's, or 30.")] = None,
    normalised: Annotated[
        bool, typer.Option("--normalised", help="The landmarks are normalised already; models will not.")
    ] = False,
    long: Annotated[
        Long, typer.Option(help="Clips of more than 299 frames: refuse, resample or cut them.")
    ] = Long.ERROR,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out clips that cannot be used, and count them.")
    ] = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Make a dataset from landmarks in a foreign format.

    **asl33**: a folder with data.npz. **spoter-csv**: the original SPOTER's CSV, or a folder of them.
    **notebook-json**: a folder of U13W2F_trial_9_L.json. **npy**: LABEL/SIGNER/CLIP.npy.
    """
    from spoter_runtime.errors import from_options
    from spoter_toolkit.data.dataset import UNKNOWN_SIGNER
    from spoter_toolkit.data.importers.common import ImportSettings
    from spoter_toolkit.data.importers.formats import import_dataset
    from spoter_toolkit.workspace import DATASETS

    with from_options():
        settings = ImportSettings(
            labels=_names(labels),
            without=_names(without),
            signers=_names(signers),
            shared_labels=shared_labels,
            signer=signer or UNKNOWN_SIGNER,
            fps=fps,
            normalised=normalised,
            long=long.value,
            skip_bad=skip_bad,
        )
    folder = out or DATASETS / (source.resolve().stem or kind.value)
    with progress_bar() as on_progress:
        dataset = import_dataset(kind.value, source, folder, settings, force=force, on_progress=on_progress)
    _report_made(dataset, json)
    if not json:
        next_step("spoter-kit data split {}", folder)


@app.command()
def synth(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Dataset folder; default: datasets/synthetic.")
    ] = None,
    signs: Annotated[int | None, typer.Option(help="Classes; default: 60.")] = None,
    signers: Annotated[int | None, typer.Option(help="Generated people; default: 12.")] = None,
    clips_per_sign: Annotated[int | None, typer.Option(help="Over all signers; default: 36.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same clips.")] = 0,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Generate a synthetic dataset: distinct motions of generated signers, words of no language."""
    from spoter_runtime.errors import from_options
    from spoter_toolkit.data.synth.generate import SynthSettings, synthesize
    from spoter_toolkit.workspace import DATASETS

    given = {"signs": signs, "signers": signers, "clips_per_sign": clips_per_sign, "seed": seed}
    with from_options():
        settings = SynthSettings(**{name: value for name, value in given.items() if value is not None})
    folder = out or DATASETS / "synthetic"
    with progress_bar() as on_progress:
        dataset = synthesize(folder, settings=settings, force=force, on_progress=on_progress)
    _report_made(dataset, json)
    if not json:
        next_step("spoter-kit train {}", folder)


@app.command()
def split(
    dataset: DatasetArgument = None,
    by: Annotated[
        By, typer.Option(help="Whole signers; BdSLW60's official split; or signer-mixed: recordings, clips.")
    ] = By.SIGNER,
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="A published split: CSV with columns id and split, or JSON {id: split}."),
    ] = None,
    test: Annotated[str, typer.Option(help="Signers of test: U4,U8; default: about 20 % of the clips.")] = "",
    val: Annotated[str, typer.Option(help="Signers of val: U3; default: about 10 % of the clips.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the draw, where no signers are named.")] = 0,
    drop_unseen: Annotated[
        bool, typer.Option("--drop-unseen", help="Leave out clips whose label train never has.")
    ] = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Split a dataset into train, val and test. A leak is refused unless --by asks for it by name."""
    from spoter_toolkit.data.dataset import read_dataset
    from spoter_toolkit.data.dataset_writer import check_resplit, rewrite_split
    from spoter_toolkit.data.facts import describe
    from spoter_toolkit.data.split import split_bdslw60, split_by_clip, split_by_signer
    from spoter_toolkit.data.split_file import split_from_file
    from spoter_toolkit.workspace import newest_dataset

    if from_ and (test or val or by is By.BDSLW60):
        raise typer.BadParameter(
            "--from says which clips are test and val; leave --test, --val and bdslw60 out"
        )
    if by in (By.RECORDING, By.CLIP) and (test or val or (drop_unseen and not from_)):
        raise typer.BadParameter(f"--test, --val and --drop-unseen name signers; --by {by.value} mixes them")
    if by is By.BDSLW60 and test:
        raise typer.BadParameter("--by bdslw60 has its test signers, U4 and U8; --by signer takes others")
    whole = read_dataset(dataset or newest_dataset())
    check_resplit(whole, force=force)
    if from_ and by is not By.BDSLW60:
        result = split_from_file(whole, from_, by=by.value, drop_unseen=drop_unseen)
    elif by is By.BDSLW60:
        result = split_bdslw60(whole, val=_names(val), drop_unseen=drop_unseen)
    elif by is By.SIGNER:
        result = split_by_signer(
            whole, test=_names(test), val=_names(val), seed=seed, drop_unseen=drop_unseen
        )
    else:
        result = split_by_clip(whole, by=by.value, seed=seed)
    rewrite_split(result)
    facts = describe(result)
    if json:
        emit_json(_about(result, facts))
    else:
        print(f"{result.folder}: {result.split}")
        _emit_splits(facts)
        next_step("spoter-kit train {}", result.folder)


@app.command()
def show(
    dataset: DatasetArgument = None,
    clip: Annotated[str | None, typer.Option(help="Show this clip, by id, instead of the dataset.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Draw the clip's skeleton, or the lengths: .png, .pdf or .svg."),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Show what is in a dataset, or one of its clips; with -o, as a picture."""
    from dataclasses import asdict

    from spoter_toolkit.data.dataset import read_dataset
    from spoter_toolkit.data.drawing import draw_clip, draw_lengths
    from spoter_toolkit.data.facts import clip_named, describe
    from spoter_toolkit.input_files import check_target
    from spoter_toolkit.workspace import newest_dataset

    opened = read_dataset(dataset or newest_dataset())
    if out:
        check_target(out, force=force)
    if clip is not None:
        row = clip_named(opened, clip)
        if out:
            title = f"{row.id}   ·   label {row.label}   ·   signer {row.signer}"
            draw_clip(opened.poses_of(row), out, title=title, fps=row.fps)
        if json:
            emit_json(asdict(row))
        else:
            _print_clip(opened, row)
    else:
        facts = describe(opened)
        if out:
            draw_lengths(opened, out)
        if json:
            emit_json(_about(opened, facts))
        else:
            _print_dataset(opened, facts)
    if out:
        say(f"picture: {out}")
    if not json:
        next_step(*_after_show(opened, clip))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def _report_made(dataset: Dataset, json: bool) -> None:
    from spoter_toolkit.data.facts import describe

    facts = describe(dataset)
    if json:
        emit_json(_about(dataset, facts))
    else:
        _print_summary(dataset, facts)


def _print_summary(dataset: Dataset, facts: DatasetFacts) -> None:
    labels = _counted(len(facts.clips_of_label), "label")
    print(
        f"{dataset.folder}: {_counted(facts.clips, 'clip')} of {labels} by "
        f"{_counted(len(facts.clips_of_signer), 'signer')}, {_counted(facts.frames, 'frame')}, "
        f"{facts.duration_s / 60:.1f} minutes, {dataset.coordinates} coordinates"
    )
    origin = dataset.origin
    synthetic = "; nobody signed this" if origin.synthetic else ""
    licence = f"; licence: {origin.licence}" if origin.licence else ""
    print(f"from {origin.kind}: {origin.source}{licence}{synthetic}")
    for reason, count in origin.skipped.items():
        print(f"left out: {_counted(count, 'clip')} {reason}")
    for note, count in origin.notes.items():
        print(f"note: {_counted(count, 'clip')}: {note}")
    print(f"split: {dataset.split or 'none yet'}")


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _print_dataset(dataset: Dataset, facts: DatasetFacts) -> None:
    _print_summary(dataset, facts)
    _emit_splits(facts)
    most = max(count for _, _, count in facts.length_histogram)
    emit_table(
        "length of a clip",
        ("frames", "clips", ""),
        [
            (
                f"{first}–{last}" if last > first else f"{first}",
                count,
                f"{'█' * round(30 * count / most):░<30}",
            )
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
            (
                label.name,
                facts.clips_of_label[label.name],
                " ".join(filter(None, (label.bengali, label.gloss))),
            )
            for label in dataset.labels
        ],
    )


def _emit_splits(facts: DatasetFacts) -> None:
    emit_table(
        "",
        ("split", "clips", "frames", "labels", "signers"),
        [
            (part.name or "none", part.clips, part.frames, part.labels, " ".join(part.signers))
            for part in facts.splits
        ],
    )


def _print_clip(dataset: Dataset, clip: Clip) -> None:
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


def _about(dataset: Dataset, facts: DatasetFacts) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "dataset": str(dataset.folder),
        "sha256": dataset.sha256,
        "coordinates": dataset.coordinates,
        "split": dataset.split,
        "origin": asdict(dataset.origin),
        "labels": [asdict(label) for label in dataset.labels],
        **asdict(facts),
    }


def _after_show(dataset: Dataset, clip: str | None) -> tuple[str, ...]:
    folder = str(dataset.folder)
    if clip is None and dataset.clips:
        return "spoter-kit data show {} --clip {} -o clip.png", folder, dataset.clips[0].id
    return ("spoter-kit train {}" if dataset.split else "spoter-kit data split {}"), folder
