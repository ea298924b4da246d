"""Shared code of the importers: settings, sources, and the choice of clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from spoter_runtime.errors import ConfigError, DataError, SpoterError
from spoter_toolkit.data.dataset import MAX_FPS, MIN_FPS, UNKNOWN_SIGNER, Coordinates
from spoter_toolkit.data.dataset_writer import LongClips, NewClip
from spoter_toolkit.data.names import check_known

# Frame rate if neither the source nor the user gives one. Only durations depend on it.
DEFAULT_FPS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSettings:
    """Options of an import: labels, signers and frame rate, and what is done with clips that do not fit.

    Raises:
        ConfigError: fps is outside `MIN_FPS`..`MAX_FPS`, or a label is both taken and left out.
    """

    labels: tuple[str, ...] = ()  # take only these; empty: all
    without: tuple[str, ...] = ()  # leave these labels out
    signers: tuple[str, ...] = ()  # take only these; empty: all
    shared_labels: bool = False  # take only labels that every (chosen) signer has
    signer: str = UNKNOWN_SIGNER  # signer of clips whose source names none
    fps: float | None = None  # frame rate; None means the source's, or else `DEFAULT_FPS`
    normalised: bool = False  # the clips are normalised already, so that a model must not do it again
    long: LongClips = "error"  # see `write_dataset`
    skip_bad: bool = False  # see `write_dataset`

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
        """The value of a dataset's field `coordinates`."""
        return "normalised" if self.normalised else "image"

    def rate(self, from_source: float | None) -> tuple[float, tuple[str, ...]]:
        """Return a clip's frame rate, and a note if neither the user nor the source gives one."""
        if self.fps is not None:
            return self.fps, ()
        if from_source is not None and 0 < from_source < float("inf"):
            return from_source, ()
        return DEFAULT_FPS, (f"frame rate not in the source, taken as {DEFAULT_FPS:g}",)


class Entry(Protocol):
    """A clip of a source before its landmarks are read."""

    @property
    def label(self) -> str:
        """The name of its label."""

    @property
    def signer(self) -> str:
        """The name of its signer."""


E = TypeVar("E", bound=Entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Generic[E]):
    """A foreign source with its list of clips, which are not read yet."""

    name: str  # name of the file or folder, for `Origin`
    entries: Sequence[E]  # one for each clip
    # reads the clip of an entry; its DataError or InputError names the clip
    read: Callable[[E], NewClip]
    unit: str  # unit of `entries` in the progress: "files"
    licence: str = ""  # the first line of the source's licence file, if any
    bad: Sequence[SpoterError] = ()  # errors of clips without an entry
    # corrects all clips together, for faults that a single clip does not show
    mend: Callable[[list[NewClip | SpoterError]], list[NewClip | SpoterError]] | None = None


Format = Callable[[Path, ImportSettings], Source[Any]]  # finds the clips of a source


def chosen(
    entries: Sequence[E], settings: ImportSettings, *, where: object
) -> tuple[list[E], dict[str, int]]:
    """Return the entries that the settings select, in order, and reason → number of entries left out.

    Raises:
        DataError: an unknown label or signer, or nothing is left.
    """
    if not entries:
        raise DataError(f"{where}: no clips there")
    labels = {entry.label for entry in entries}
    check_known([*settings.labels, *settings.without], labels, what="label", where=where)
    check_known(settings.signers, {entry.signer for entry in entries}, what="signer", where=where)
    wanted = (set(settings.labels) or labels) - set(settings.without)
    kept = [entry for entry in entries if not settings.signers or entry.signer in settings.signers]
    left_out = Counter({"of signers not asked for": len(entries) - len(kept)})
    if settings.shared_labels:
        there = {(entry.signer, entry.label) for entry in kept}
        signers = {signer for signer, _ in there}
        unshared = {label for label in wanted if any((signer, label) not in there for signer in signers)}
        left_out["of labels that not every signer has"] = sum(entry.label in unshared for entry in kept)
        kept = [entry for entry in kept if entry.label not in unshared]
    result = [entry for entry in kept if entry.label in wanted]
    left_out["of labels not asked for"] = len(kept) - len(result)
    if not result:
        raise DataError(f"{where}: none of its {len(entries)} clips is of the labels and signers asked for")
    return result, {reason: count for reason, count in left_out.items() if count}


def licence_of(folder: Path) -> str:
    """Return the first line of the folder's LICENSE file; empty without one."""
    for path in filter(Path.is_file, sorted(folder.glob("LICEN[CS]E*"))):
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = file.read(10_000).strip().splitlines()
        return lines[0].strip() if lines else ""
    return ""
