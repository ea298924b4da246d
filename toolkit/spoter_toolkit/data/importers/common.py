"""What every importer shares: its settings, and the choice of clips by label and signer."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from spoter_runtime._types import OnProgress as OnProgress
from spoter_runtime.errors import ConfigError, DataError
from spoter_toolkit.data.bdslw60 import natural_order
from spoter_toolkit.data.dataset import MAX_FPS, MIN_FPS, UNKNOWN_SIGNER, Coordinates
from spoter_toolkit.data.dataset_writer import LongClips

# Taken where neither the source nor the user says: most cameras. Only durations depend on it.
DEFAULT_FPS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSettings:
    """What to take from a source, and what to do with clips that do not fit.

    Attributes:
        labels: take only these; empty: all.
        without: leave these labels out.
        signers: take only these; empty: all.
        shared_labels: take only labels that every (chosen) signer has.
        signer: who signed, where the source does not say.
        fps: frames a second, instead of what the source says or `DEFAULT_FPS`.
        normalised: the clips are normalised already: a model trained on them does not do it again.
        long: see `write_dataset`.
        skip_bad: see `write_dataset`.

    Raises:
        ConfigError: fps is outside `MIN_FPS`..`MAX_FPS`, or a label is both taken and left out.
    """

    labels: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    signers: tuple[str, ...] = ()
    shared_labels: bool = False
    signer: str = UNKNOWN_SIGNER
    fps: float | None = None
    normalised: bool = False
    long: LongClips = "error"
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.fps is not None and not MIN_FPS <= self.fps <= MAX_FPS:
            raise ConfigError(
                f"fps must be {MIN_FPS:g}..{MAX_FPS:g} frames a second, got {self.fps}", fix="--fps 30"
            )
        if both := sorted(set(self.labels) & set(self.without)):
            raise ConfigError(f"labels both asked for and left out: {', '.join(both)}")
        if not self.signer:
            raise ConfigError("the signer's name is empty")

    @property
    def coordinates(self) -> Coordinates:
        """What a dataset of these clips states."""
        return "normalised" if self.normalised else "image"

    def rate(self, from_source: float | None) -> tuple[float, tuple[str, ...]]:
        """Return a clip's frames a second, and the note where neither user nor source says it."""
        if self.fps is not None:
            return self.fps, ()
        if from_source is not None and 0 < from_source < float("inf"):
            return from_source, ()
        return DEFAULT_FPS, (f"frame rate not in the source, taken as {DEFAULT_FPS:g}",)


class Entry(Protocol):
    """A clip of a source before its landmarks are read."""

    @property
    def label(self) -> str:
        """Its label's name."""

    @property
    def signer(self) -> str:
        """Who signed it."""


E = TypeVar("E", bound=Entry)


def chosen(
    entries: Sequence[E], settings: ImportSettings, *, where: object
) -> tuple[list[E], dict[str, int]]:
    """Return the entries that the settings ask for, in order, and reason → how many were left out.

    Raises:
        DataError: a label or signer that is not there (the nearest is named), or nothing is left.
    """
    if not entries:
        raise DataError(f"{where}: no clips there")
    labels = {entry.label for entry in entries}
    check_known(settings.labels, labels, what="label", where=where)
    check_known(settings.without, labels, what="label", where=where)
    check_known(settings.signers, {entry.signer for entry in entries}, what="signer", where=where)
    wanted = (set(settings.labels) or labels) - set(settings.without)
    kept = [entry for entry in entries if not settings.signers or entry.signer in settings.signers]
    left_out = Counter({"of signers not asked for": len(entries) - len(kept)})
    if settings.shared_labels:
        shared = _shared_labels(kept)
        left_out["of labels that not every signer has"] = sum(
            entry.label in wanted - shared for entry in kept
        )
        kept = [entry for entry in kept if entry.label in shared or entry.label not in wanted]
    result = [entry for entry in kept if entry.label in wanted]
    left_out["of labels not asked for"] = len(kept) - len(result)
    if not result:
        raise DataError(f"{where}: none of its {len(entries)} clips is of the labels and signers asked for")
    return result, {reason: count for reason, count in left_out.items() if count}


def _shared_labels(entries: Sequence[Entry]) -> set[str]:
    labels_of = defaultdict(set)
    for entry in entries:
        labels_of[entry.signer].add(entry.label)
    return set.intersection(*labels_of.values())


def check_known(asked: Collection[str], known: Collection[str], *, what: str, where: object) -> None:
    """Refuse a name that is not there, and say which one may have been meant.

    Raises:
        DataError: names the first unknown one and the nearest known ones.
    """
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            there = near or sorted(known, key=natural_order)[:12]
            raise DataError(
                f"{where}: no {what} {name!r} there; {'did you mean' if near else 'there are'} "
                f"{', '.join(there)}{' …' if not near and len(known) > len(there) else ''}"
            )


def licence_of(folder: Path) -> str:
    """Return the first line of a LICENSE file in the folder, or an empty string where there is none."""
    for path in filter(Path.is_file, sorted(folder.glob("LICEN[CS]E*"))):
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[0].strip() if lines else ""
    return ""
