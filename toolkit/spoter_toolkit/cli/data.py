"""`spoter-kit data`: import, generate, split and look at datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from spoter_toolkit.cli.console import (
    ForceOption,
    JsonOption,
    emit_json,
    next_step,
    progress_bar,
    say,
)

app = typer.Typer(help="Import, generate, split and look at datasets of landmarks.", no_args_is_help=True)


OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Dataset folder; default: datasets/ and the source's name.")
]
DatasetArgument = Annotated[Path | None, typer.Argument(help="DATASET; default: the newest in datasets/.")]


def names_in(text: str) -> tuple[str, ...]:
    """Return the names of an option such as ``--labels hello,water``."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


@app.command("import")
def import_(
    kind: Annotated[
        Literal["asl33", "spoter-csv", "notebook-json", "npy"], typer.Argument(help="Format of the source.")
    ],
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
        Literal["error", "resample", "cut"],
        typer.Option(help="Clips of more than 299 frames: refuse, resample or cut them."),
    ] = "error",
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
    from spoter_toolkit.cli.data_view import show_made
    from spoter_toolkit.data.dataset import UNKNOWN_SIGNER
    from spoter_toolkit.data.importers.common import ImportSettings
    from spoter_toolkit.data.importers.formats import import_dataset
    from spoter_toolkit.workspace import DATASETS

    with from_options():
        settings = ImportSettings(
            labels=names_in(labels),
            without=names_in(without),
            signers=names_in(signers),
            shared_labels=shared_labels,
            signer=signer or UNKNOWN_SIGNER,
            fps=fps,
            normalised=normalised,
            long=long,
            skip_bad=skip_bad,
        )
    folder = out or DATASETS / (source.resolve().stem or kind)
    with progress_bar() as on_progress:
        dataset = import_dataset(kind, source, folder, settings, force=force, on_progress=on_progress)
    show_made(dataset, json=json)
    if not json:
        next_step("spoter-kit data split {}", folder)


@app.command()
def extract(
    source: Annotated[
        Path,
        typer.Argument(help="Folder of LABEL/SIGNER/VIDEO, BdSLW60, or a CSV: file,label,signer,start,end."),
    ],
    out: OutOption = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="The videos show a mirror image: swap left and right.")
    ] = False,
    trim: Annotated[
        bool, typer.Option("--trim", help="Cut the frames at both ends in which no hand moves.")
    ] = False,
    signer: Annotated[str, typer.Option(help="Who signed, where the source does not say.")] = "",
    long: Annotated[
        Literal["error", "resample", "cut"],
        typer.Option(help="Clips of more than 299 frames: refuse, resample or cut them."),
    ] = "error",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out clips that cannot be used, and count them.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; default: one per core.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Over a Ray cluster: its address, auto, or local for one on this machine."),
    ] = None,
    backend: Annotated[
        Literal["ours", "mediapipe"], typer.Option(help="Landmarker; mediapipe is for comparison.")
    ] = "ours",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Fetch the landmarker without asking.")] = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Make a dataset from videos: find the 54 landmarks in each frame, on all cores.

    A run that was stopped goes on where it was: run the same command again.
    """
    from spoter_runtime.errors import from_options
    from spoter_toolkit.cli.data_view import show_made
    from spoter_toolkit.cli.landmarker import have_landmarker
    from spoter_toolkit.data.dataset import UNKNOWN_SIGNER
    from spoter_toolkit.data.extract.extract import ExtractSettings
    from spoter_toolkit.data.extract.extract import extract as extract_videos
    from spoter_toolkit.workspace import DATASETS

    with from_options():
        settings = ExtractSettings(
            backend=backend,
            signer=signer or UNKNOWN_SIGNER,
            mirror=mirror,
            trim=trim,
            long=long,
            skip_bad=skip_bad,
            workers=workers,
            ray=ray,
        )
    if backend == "ours":
        have_landmarker(yes=yes)
    folder = out or DATASETS / (source.resolve().stem or "videos")
    with progress_bar() as on_progress:
        dataset = extract_videos(source, folder, settings, force=force, on_progress=on_progress)
    show_made(dataset, json=json)
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
    from spoter_toolkit.cli.data_view import show_made
    from spoter_toolkit.data.synth.generate import SynthSettings, synthesize
    from spoter_toolkit.workspace import DATASETS

    given = {"signs": signs, "signers": signers, "clips_per_sign": clips_per_sign, "seed": seed}
    with from_options():
        settings = SynthSettings(**{name: value for name, value in given.items() if value is not None})
    folder = out or DATASETS / "synthetic"
    with progress_bar() as on_progress:
        dataset = synthesize(folder, settings=settings, force=force, on_progress=on_progress)
    show_made(dataset, json=json)
    if not json:
        next_step("spoter-kit train {}", folder)


@app.command()
def split(
    dataset: DatasetArgument = None,
    by: Annotated[
        Literal["signer", "bdslw60", "recording", "clip"],
        typer.Option(help="Whole signers; BdSLW60's official split; or signer-mixed: recordings, clips."),
    ] = "signer",
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="A published split: CSV with columns id and split, or JSON {id: split}."),
    ] = None,
    test: Annotated[str, typer.Option(help="Signers of test: U4,U8; default: about 20 % of the clips.")] = "",
    val: Annotated[str, typer.Option(help="Signers of val: U3; default: about 10 % of the clips.")] = "",
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed for choosing signers, where none are named.")
    ] = 0,
    drop_unseen: Annotated[
        bool, typer.Option("--drop-unseen", help="Leave out clips whose label train never has.")
    ] = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Split a dataset into train, val and test. A leak is refused unless --by asks for it by name."""
    from spoter_toolkit.cli.data_view import dataset_json, print_splits
    from spoter_toolkit.data.facts import describe
    from spoter_toolkit.data.split import split_dataset
    from spoter_toolkit.workspace import newest_dataset

    result = split_dataset(
        dataset or newest_dataset(),
        by=by,
        file=from_,
        test=names_in(test),
        val=names_in(val),
        seed=seed,
        drop_unseen=drop_unseen,
        force=force,
    )
    facts = describe(result)
    if json:
        emit_json(dataset_json(result, facts))
    else:
        print(f"{result.folder}: {result.split}")
        print_splits(facts)
        next_step("spoter-kit train {}", result.folder)


@app.command()
def show(
    dataset: DatasetArgument = None,
    clip: Annotated[str | None, typer.Option(help="Show this clip, by id, instead of the dataset.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Draw the clip's skeleton, or the lengths: .png, .pdf or .svg."),
    ] = None,
    over: Annotated[
        Path | None, typer.Option(help="Draw the clip over the frames of this video, which it was made from.")
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Show what is in a dataset, or one of its clips; with -o, as a picture."""
    from dataclasses import asdict

    from spoter_toolkit.cli.data_view import dataset_json, print_clip, print_dataset
    from spoter_toolkit.data.dataset import read_dataset
    from spoter_toolkit.data.drawing import check_picture, draw_clip, draw_lengths
    from spoter_toolkit.data.extract.videos import pictures_of
    from spoter_toolkit.data.facts import clip_named, describe
    from spoter_toolkit.input_files import check_target
    from spoter_toolkit.workspace import newest_dataset

    if out:
        check_picture(out)
        check_target(out, force=force)
    opened = read_dataset(dataset or newest_dataset())
    if clip is not None:
        row = clip_named(opened, clip)
        if out:
            title = f"{row.id}   ·   label {row.label}   ·   signer {row.signer}"
            pictures = pictures_of(over, row.frames) if over else None
            draw_clip(opened.poses_of(row), out, title=title, fps=row.fps, pictures=pictures)
        if json:
            emit_json(asdict(row))
        else:
            print_clip(opened, row)
    else:
        facts = describe(opened)
        if out:
            draw_lengths(opened, out)
        if json:
            emit_json(dataset_json(opened, facts))
        else:
            print_dataset(opened, facts)
    if out:
        say(f"picture: {out}")
    if json:
        return
    if clip is None:
        next_step("spoter-kit data show {} --clip {} -o clip.png", opened.folder, opened.clips[0].id)
    else:
        next_step("spoter-kit train {}" if opened.split else "spoter-kit data split {}", opened.folder)
