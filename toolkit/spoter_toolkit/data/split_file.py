"""Split a dataset by a file, for published splits such as WLASL's."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from spoter_runtime.errors import DataError, nearest_known
from spoter_runtime.strict import json_from_text
from spoter_toolkit.data.dataset import SPLITS, UNKNOWN_SIGNER, Clip, Dataset
from spoter_toolkit.data.leaks import ALL_TRAIN, finished_split, grouped_clips
from spoter_toolkit.data.names import listed, natural_order
from spoter_toolkit.input_files import text_of

# Name in published splits → our split; "" leaves a clip out.
SPLIT_NAMES: Final = {name: name for name in ("", *SPLITS)} | {
    "validation": "val",
    "valid": "val",
    "dev": "val",
}

_FORM: Final = (
    "write two columns, id and split, with a row a clip, the ids as in the DATASET's clips.csv; or JSON, "
    "{id: split}"
)


def split_from_file(
    dataset: Dataset,
    path: Path,
    *,
    by: Literal["signer", "recording", "clip"] = "signer",
    drop_unseen: bool = False,
) -> Dataset:
    """Return the dataset with the splits of a file; clips that the file does not name are in no split.

    Args:
        dataset: any dataset; its splits are replaced.
        path: CSV with the columns ``id`` and ``split``, or JSON ``{id: split}``; WLASL's
            ``{id: {"subset": split, …}}`` too. An id is a clip's id, the last part of one (``s1/book/69241``
            is ``69241``), or the name of its source without suffix. Splits are train, val (also validation,
            valid or dev) and test.
        by: unit that no two splits may share. ``"signer"`` refuses a signer in two splits; ``"recording"``
            and ``"clip"`` allow it, and the split's name says so.
        drop_unseen: see `split_by_signer`.

    Raises:
        DataError: the file cannot be read, names a clip twice, or names no clip of the dataset; an id matches
            several clips; with ``by="recording"`` a recording is in two splits; or see `check_no_leak`.
    """
    named = read_split_file(path)
    splits = splits_of_clips(dataset, named, path)
    clips = [replace(clip, split=splits.get(clip.id, "")) for clip in dataset.clips]
    if by == "signer" and any(clip.split and clip.signer == UNKNOWN_SIGNER for clip in clips):
        raise DataError(
            f"{dataset.folder}: some clips are of an unknown signer, who may be in two splits of {path}",
            fix=dataset.split_command("--from", str(path), "--by", "clip"),
        )
    if by == "recording":
        check_recordings(dataset, clips, path)
    parts = [name for name in ("test", "val") if any(clip.split == name for clip in clips)]
    if not parts:
        said = f"{ALL_TRAIN}, from {path.name}"
    elif by == "signer":
        words = "; ".join(
            f"{name} {listed(sorted({c.signer for c in clips if c.split == name}, key=natural_order))}"
            for name in parts
        )
        said = f"by signer, from {path.name}: {words}"
    else:
        shares = Counter(clip.split for clip in clips if clip.split)
        words = ", ".join(f"{name} {100 * shares[name] / shares.total():.0f} %" for name in parts)
        said = f"by {by}, signers are shared, from {path.name}: {words}"
    if left := sum(not clip.split for clip in clips):
        said += f"; left out: {left} clips that it does not name"
    typed = ("--from", str(path), *(("--by", by) if by != "signer" else ()))
    return finished_split(dataset, clips, said, drop_unseen, needs=("train",), typed=typed)


def read_split_file(path: Path) -> dict[str, str]:
    """Return id → split from a file in the form of `split_from_file`.

    Raises:
        DataError: no such file, another form, an unknown split, or an id that occurs twice.
    """
    text = text_of(path, expected="a split of clips", fix=_FORM)
    rows = _json_rows(text, path) if path.suffix == ".json" else _csv_rows(text, path)
    found: dict[str, str] = {}
    for where, id_, split in rows:
        name = str(split).strip().lower()
        if name not in SPLIT_NAMES:
            raise DataError(f"{path}, {where}: split {split!r}; {nearest_known(name, SPLITS)}", fix=_FORM)
        if found.setdefault(id_, SPLIT_NAMES[name]) != SPLIT_NAMES[name]:
            raise DataError(f"{path}, {where}: {id_!r} is in {found[id_]} and in {SPLIT_NAMES[name]}")
    if not found:
        raise DataError(f"{path}: names no clip", fix=_FORM)
    return found


def _json_rows(text: str, path: Path) -> list[tuple[str, str, Any]]:
    try:
        content = json_from_text(text)
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({error}), expected a split of clips", fix=_FORM) from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected {{id: split}}, got a {type(content).__name__}", fix=_FORM)
    return [
        (f"{id_!r}", id_, value.get("split", value.get("subset")) if isinstance(value, dict) else value)
        for id_, value in content.items()
    ]


def _csv_rows(text: str, path: Path) -> list[tuple[str, str, Any]]:
    reader = csv.DictReader(text.removeprefix("\ufeff").splitlines())
    missing = [name for name in ("id", "split") if name not in (reader.fieldnames or ())]
    if missing:
        there = ", ".join(reader.fieldnames or ()) or "none"
        raise DataError(f"{path}: no column {' or '.join(missing)}, the columns are {there}", fix=_FORM)
    try:
        return [(f"line {reader.line_num}", row["id"], row["split"] or "") for row in reader]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}", fix=_FORM) from error


def splits_of_clips(dataset: Dataset, named: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return clip id → split; ids of the file that match no clip are ignored.

    Raises:
        DataError: an id matches several clips, a clip is in two splits, or no id matches.
    """
    by_id = {clip.id: clip for clip in dataset.clips}
    by_name: dict[str, dict[str, Clip]] = defaultdict(dict)
    for clip in dataset.clips:
        for name in {PurePosixPath(clip.id).name, PurePosixPath(clip.source).stem}:
            by_name[name][clip.id] = clip
    splits: dict[str, str] = {}
    for id_, split in named.items():
        fitting = [by_id[id_]] if id_ in by_id else list(by_name.get(id_, {}).values())
        if len(fitting) > 1:
            raise DataError(
                f"{path}: {id_!r} fits {len(fitting)} clips of {dataset.folder}: "
                f"{listed(clip.id for clip in fitting)}",
                fix="write the whole ids, as clips.csv has them",
            )
        for clip in fitting:
            if splits.setdefault(clip.id, split) != split:
                raise DataError(f"{path}: clip {clip.id!r} is in {splits[clip.id]} and in {split}")
    if not splits:
        raise DataError(
            f"{path}: names {len(named)} clips, the first {next(iter(named))!r}, and none is in "
            f"{dataset.folder}, whose first is {dataset.clips[0].id!r}",
            fix="write the ids of clips.csv",
        )
    return splits


def check_recordings(dataset: Dataset, clips: list[Clip], path: Path) -> None:
    """Raise a DataError if clips of one recording are in two splits."""
    split_of = {clip.id: clip.split for clip in clips}
    for group in grouped_clips(dataset, "recording"):
        found = {split_of[clip.id]: clip for clip in group if split_of[clip.id]}
        if len(found) > 1:
            (one, first), (other, second) = list(found.items())[:2]
            raise DataError(
                f"{path}: a leak: {one} clip {first.id!r} and {other} clip {second.id!r} are of one "
                "recording",
                fix="put both into one split, or --by clip, whose name says it",
            )
