"""`spoter-kit data`: import, generate, split and look at datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from spoter_toolkit.cli.commands import add
from spoter_toolkit.cli.console import (
    DatasetArgument,
    ForceOption,
    JsonOption,
    emit_json,
    ended_in_order,
    next_step,
    progress_bar,
    progress_lines,
    say,
)

app = typer.Typer(help="Import, generate, split and look at datasets of landmarks.", no_args_is_help=True)


OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Write the DATASET to this folder; default: datasets/ and the source's name."
    ),
]


def names_in(text: str) -> tuple[str, ...]:
    """Return the names of an option such as ``--labels hello,water``."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def import_(
    kind: Annotated[
        Literal["asl33", "spoter-csv", "notebook-json", "npy"],
        typer.Argument(help="Read this format.", metavar="FORMAT"),
    ],
    source: Annotated[Path, typer.Argument(help="Read this file or folder.", metavar="SOURCE")],
    out: OutOption = None,
    labels: Annotated[str, typer.Option(help="Take only these labels: hello,water")] = "",
    without: Annotated[str, typer.Option(help="Leave out these labels: none")] = "",
    signers: Annotated[str, typer.Option(help="Take only these signers: A,B")] = "",
    shared_labels: Annotated[
        bool, typer.Option("--shared-labels", help="Take only labels that every signer (of --signers) has.")
    ] = False,
    signer: Annotated[str, typer.Option(help="Name the signer, where the source does not.")] = "",
    fps: Annotated[
        float | None, typer.Option(help="Set the frames a second; default: the source's, or 30.")
    ] = None,
    normalised: Annotated[
        bool,
        typer.Option(
            "--normalised", help="Say that the landmarks are normalised already: models will not do it again."
        ),
    ] = False,
    long: Annotated[
        Literal["error", "resample", "cut"],
        typer.Option(help="Refuse clips of more than 299 frames (error), resample or cut them."),
    ] = "error",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out clips that cannot be used, and name them.")
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


def extract(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Read this folder of LABEL/SIGNER/VIDEO or LABEL/VIDEO, BdSLW60, or a CSV: "
            "file,label,signer,start,end.",
        ),
    ],
    out: OutOption = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Swap left and right: the videos show a mirror image.")
    ] = False,
    trim: Annotated[
        bool, typer.Option("--trim", help="Cut the frames at both ends in which no hand moves.")
    ] = False,
    signer: Annotated[str, typer.Option(help="Name the signer, where the source does not.")] = "",
    long: Annotated[
        Literal["error", "resample", "cut"],
        typer.Option(help="Refuse clips of more than 299 frames (error), resample or cut them."),
    ] = "error",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out clips that cannot be used, and name them.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Work in so many processes; default: one per core.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Work on the Ray cluster at this address; auto finds one, local starts one here."),
    ] = None,
    backend: Annotated[
        Literal["ours", "mediapipe"],
        typer.Option(help="Find landmarks with ours, or, to compare, with mediapipe."),
    ] = "ours",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Fetch the landmarker without asking.")] = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Make a dataset from videos: find the 54 landmarks in each frame, on all cores.

    A run that was stopped goes on where it was: run the same command again.
    """
    from spoter_runtime.errors import from_options
    from spoter_toolkit.cli.data_view import say_stopped, show_made
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
    with ended_in_order(lambda: say_stopped(folder)), progress_lines() as on_progress:
        on_progress(0, 0, "loading the landmarker")
        dataset = extract_videos(source, folder, settings, force=force, on_progress=on_progress)
    show_made(dataset, json=json)


def synth(
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the DATASET to this folder; default: datasets/synthetic."),
    ] = None,
    signs: Annotated[int | None, typer.Option(help="Generate so many signs; default: 60.")] = None,
    signers: Annotated[int | None, typer.Option(help="Generate so many signers; default: 12.")] = None,
    clips_per_sign: Annotated[
        int | None, typer.Option(help="Generate so many clips a sign, over all signers; default: 36.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Set the random seed: the same seed gives the same clips.")] = 0,
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


def split(
    dataset: DatasetArgument = None,
    by: Annotated[
        Literal["signer", "bdslw60", "recording", "clip"],
        typer.Option(help="Keep signers whole, take BdSLW60's split, or mix signers: by recording, by clip."),
    ] = "signer",
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Take a published split: CSV of columns id (see clips.csv) and split, or JSON {id: split}.",
        ),
    ] = None,
    test: Annotated[
        str, typer.Option(help="Test on these signers: U4,U8; default: about 20 % of the clips.")
    ] = "",
    val: Annotated[
        str, typer.Option(help="Validate on these signers: U3; default: about 10 % of the clips.")
    ] = "",
    seed: Annotated[
        int, typer.Option(min=0, help="Set the random seed for choosing signers, where none are named.")
    ] = 0,
    drop_unseen: Annotated[
        bool, typer.Option("--drop-unseen", help="Leave out clips whose label train never has.")
    ] = False,
    train_all: Annotated[
        bool, typer.Option("--train-all", help="Put every clip into train: nothing is left to test on.")
    ] = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Split a dataset into train, val and test, by whole signers.

    All clips of a signer are moved together. A leak is refused unless --by asks for it by name.
    """
    from spoter_toolkit.cli.data_view import show_split
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
        train_all=train_all,
        force=force,
    )
    show_split(result, json=json)


def background(
    dataset: DatasetArgument = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write the DATASET to this folder; default: the name and -background."
        ),
    ] = None,
    label: Annotated[str, typer.Option(help="Name the new label.")] = "none",
    share: Annotated[
        float, typer.Option(help="Make so many clips, as a share of the clips of signs.")
    ] = 0.25,
    seed: Annotated[
        int, typer.Option(min=0, help="Set the random seed: the same seed gives the same clips.")
    ] = 0,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Copy a split dataset with one label more: hands that move and do no sign, made from its clips."""
    from spoter_runtime.errors import from_options
    from spoter_toolkit.calibration.background import with_background
    from spoter_toolkit.cli.data_view import show_made
    from spoter_toolkit.data.dataset import read_dataset
    from spoter_toolkit.workspace import newest_dataset

    whole = read_dataset(dataset or newest_dataset())
    folder = out or whole.folder.with_name(f"{whole.folder.name}-background")
    with from_options():
        made = with_background(whole, folder, label=label, share=share, seed=seed, force=force)
    show_made(made, json=json)


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

    from spoter_toolkit.cli.data_view import dataset_json, print_clip, print_dataset, say_next
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
        say_next(opened)


add(app, import_, "import", "spoter-kit data import npy my_clips -o datasets/mine")
add(
    app,
    extract,
    "extract",
    "spoter-kit data extract videos -o datasets/mine",
    "spoter-kit data extract videos --signer s01 --trim --skip-bad",
)
add(app, synth, "synth", "spoter-kit data synth --signs 12 -o datasets/synthetic")
add(
    app,
    split,
    "split",
    "spoter-kit data split datasets/mine",
    "spoter-kit data split datasets/mine --test s05 --val s04",
)
add(
    app,
    background,
    "background",
    "spoter-kit data background datasets/mine",
    "spoter-kit data background datasets/mine --share 0.5 -o datasets/more",
)
add(
    app,
    show,
    "show",
    "spoter-kit data show datasets/mine",
    "spoter-kit data show datasets/mine --clip clip-1 -o clip.png",
)
