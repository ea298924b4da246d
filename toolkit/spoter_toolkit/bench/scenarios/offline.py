"""Scenario `offline`: many clips of different lengths at once, in three ways of padding them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from spoter_toolkit.bench.settings import OFFLINE_CLIPS, BenchSettings, warm_up
from spoter_toolkit.data.lengths import ClipLengths

if TYPE_CHECKING:
    from spoter_toolkit.bench.scenarios.session import Turns

# longest: as they come, all padded to the longest of the set · batch: as they come, each batch padded to its
# longest · sorted: by length first, so that a batch holds clips of about one length.
Way = Literal["longest", "batch", "sorted"]
WAYS: Final[tuple[Way, ...]] = get_args(Way)
WAYS_IN_WORDS: Final[dict[Way, str]] = {
    "longest": "padded to the longest clip",
    "batch": "padded to the batch's longest",
    "sorted": "sorted by length, in batches",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """The clips of one pass, in batches.

    Attributes:
        lengths: of the clips of each batch.
        frames: what each batch is padded to.
    """

    lengths: tuple[tuple[int, ...], ...]
    frames: tuple[int, ...]

    @property
    def clips(self) -> int:
        """Clips of one pass."""
        return sum(map(len, self.lengths))

    @property
    def padding(self) -> float:
        """The share of padding among the frames that are computed."""
        real = sum(chain.from_iterable(self.lengths))
        return 1 - real / sum(len(b) * f for b, f in zip(self.lengths, self.frames, strict=True))

    def request(self) -> dict[str, Any]:
        """Return the batches as `spoter_toolkit.bench.worker.tasks.offline` takes them."""
        return {"do": "offline", "batches": self.lengths, "frames": self.frames}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offline:
    """One backend's passes over the clips in one way.

    Attributes:
        rounds_ns: wall time of every pass, round by round.
        joules: what each energy meter counted in a round; empty where none was read.
    """

    backend: str
    threads: int
    way: Way
    clips: int
    padding: float
    rounds_ns: tuple[tuple[int, ...], ...]
    joules: tuple[dict[str, float], ...] = ()

    @property
    def samples_ns(self) -> list[int]:
        """All passes, in the order they were made."""
        return list(chain.from_iterable(self.rounds_ns))

    @property
    def clips_per_s(self) -> float:
        """Clips answered in the measured time."""
        samples_ns = self.samples_ns
        return 1e9 * self.clips * len(samples_ns) / sum(samples_ns)


def batches_of(lengths: Sequence[int], size: int, way: Way) -> Batches:
    """Return clips in batches of `size`, the last one smaller where they do not fill it."""
    ordered = sorted(lengths) if way == "sorted" else lengths
    cut = tuple(tuple(ordered[start : start + size]) for start in range(0, len(ordered), size))
    longest = max(lengths)
    return Batches(lengths=cut, frames=tuple(longest if way == "longest" else max(b) for b in cut))


def measure_offline(
    turns: Turns,
    lengths: ClipLengths,
    *,
    max_batch: int,
    ways: Sequence[Way] = WAYS,
    scenario: str = "offline",
    meters: bool = False,
) -> tuple[Offline, ...]:
    """Let the workers with the most threads take turns at passes over the same clips.

    Args:
        turns: of this run.
        lengths: what the clips are drawn from.
        max_batch: what the contract takes.
        ways: of padding.
        scenario: ``"offline"``, or ``"energy"``.
        meters: also read the energy meters around each turn.
    """
    settings = turns.settings
    threads = settings.thread_counts[-1]
    clips = lengths.sample(OFFLINE_CLIPS, seed=settings.seed)
    plans = {way: batches_of(clips, min(settings.offline_batch, max_batch), way) for way in ways}
    answers: dict[tuple[Way, str], list[dict[str, Any]]] = {}
    for number, names in turns.rounds(scenario):
        for way, plan in plans.items():
            for name in (name for name in names if name in settings.backends):
                request = plan.request() | _timing_request(settings, number) | {"meters": meters}
                doing = f"{scenario} round {number + 1}, {WAYS_IN_WORDS[way]}"
                if answer := turns.ask(name, threads, doing, request):
                    answers.setdefault((way, name), []).append(answer)
                turns.step(
                    f"{scenario}, round {number + 1} of {settings.rounds}: {name}, {WAYS_IN_WORDS[way]}"
                )
    return tuple(
        Offline(
            backend=name,
            threads=threads,
            way=way,
            clips=plan.clips,
            padding=plan.padding,
            rounds_ns=tuple(tuple(answer["samples_ns"]) for answer in answers[way, name]),
            joules=tuple(answer["joules"] for answer in answers[way, name]) if meters else (),
        )
        for way, plan in plans.items()
        for name in settings.backends
        if (way, name) in answers
    )


def _timing_request(settings: BenchSettings, number: int) -> dict[str, Any]:
    """Return how long a turn lasts; in the first round every shape is new, and is done once before."""
    return {
        "warm_up": warm_up(first=False),
        "warm_passes": int(number == 0),
        "min_passes": 1,
        "min_ns": round(1e9 * settings.offline_seconds / settings.rounds),
    }
