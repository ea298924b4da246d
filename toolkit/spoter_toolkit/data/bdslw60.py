"""Facts of the BdSLW60 data set: its words, its trial file names, its official split.

Source: the public notebooks of the data set's authors (github.com/hasanssl/BdSLW60_Code).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from spoter_runtime.contract import Label
from spoter_runtime.errors import DataError
from spoter_toolkit.data.names import natural_order

FPS: Final = 30.0  # frame rate of its recordings
SIGNERS: Final = tuple(f"U{n}" for n in range(1, 19))
OFFICIAL_TEST: Final = ("U4", "U8")  # user-independent; the authors name no validation signers

SCHEME: Final = "U<signer>W<word>[view][_<session>]_trial_<number>_<L or R>"
_TRIAL: Final = re.compile(r"U(\d+)W(\d+)([A-Z]*)(?:_(\d+))?_trial_(\d+)_([LR])")
_RECORDING: Final = re.compile(r"U\d+W\d+[A-Z]*(?:_\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The facts in a trial's name."""

    name: str  # the whole name, without suffix
    signer: str  # "U13"
    word: str  # "W2"
    recording: str  # "U13W2F": the recording that the trial was cut from
    hand: str  # "L" or "R": the signing hand


@cache
def words() -> tuple[Label, ...]:
    """Return the 60 words in the authors' order of classes: W1 … W360."""
    table = files("spoter_toolkit.data").joinpath("bdslw60_words.csv").read_text(encoding="utf-8")
    return tuple(
        Label(name=row["word"], gloss=row["english"], bengali=row["bengali"], romanised=row["romanised"])
        for row in csv.DictReader(table.splitlines())
    )


def labels_named(names: Iterable[str]) -> tuple[Label, ...]:
    """Return labels for these names, in natural order; with glosses if all are words of BdSLW60."""
    unique = sorted(set(names), key=natural_order)
    known = {label.name: label for label in words()}
    if known.keys() >= set(unique):
        return tuple(known[name] for name in unique)
    return tuple(Label(name=name) for name in unique)


def trial_from_name(name: str) -> Trial:
    """Parse a trial's name, without suffix: signer, word, recording, signing hand.

    Raises:
        DataError: the name does not follow the scheme, or its word is none of the 60.
    """
    match = _TRIAL.fullmatch(name)
    if match is None:
        hint = ""
        if _RECORDING.fullmatch(name):
            hint = ". It looks like a whole recording with many repetitions: cut it into trials first"
        raise DataError(f"{name!r} is not the name of a BdSLW60 trial: {SCHEME}, as U13W2F_trial_9_L{hint}")
    signer, word = f"U{int(match[1])}", f"W{int(match[2])}"
    if word not in {label.name for label in words()}:
        raise DataError(f"{name!r}: {word} is none of the 60 words of BdSLW60 (W1 … W360, with gaps)")
    return Trial(
        name=name,
        signer=signer,
        word=word,
        recording=name.partition("_trial_")[0],
        hand=match[6],
    )
