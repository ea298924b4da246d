"""Plan an engine's shapes: its optimisation profiles, and the frame counts that a runner pads to."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spoter_runtime.contract import GraphContract, Profile, uncovered
from spoter_runtime.errors import ConfigError, InputError

# The batch profile is tuned for this batch and percentile. A batch is as long as its longest clip: on average
# the median for sorted clips, the 96th percentile for 16 random clips; most callers are in between.
TUNED_BATCH: Final = 16
BATCH_PERCENTILE: Final = 0.9

_PROFILE: Final = re.compile(r"(\d+)x(\d+),(\d+)x(\d+),(\d+)x(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """Expected share of padding among the computed frames, 0..1.

    Attributes:
        single: for single clips, each padded to its bucket.
        sorted_batches: for clips sorted by length and cut into batches, padded to the longest clip's bucket.
        unsorted_batches: for random batches.
        longest: for clips padded to the contract's `max_frames`, for comparison.
        batch: clips in a batch.
    """

    single: float
    sorted_batches: float
    unsorted_batches: float
    longest: float
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilePlan:
    """The shapes to build an engine for.

    Attributes:
        profiles: in the engine's order.
        buckets: rising frame counts that a runner pads to, so that one CUDA graph serves many lengths.
        padding: expected padding with these buckets.
        source: origin of the lengths, in words.
    """

    profiles: tuple[Profile, ...]
    buckets: tuple[int, ...]
    padding: Padding
    source: str


def plan_profiles(
    frame_counts: Sequence[int] | None, contract: GraphContract, *, buckets: int = 8
) -> ProfilePlan:
    """Plan a profile for single clips, one for batches, and the best buckets for the expected lengths.

    Both profiles take every number of frames. The single-clip profile is tuned for the bucket of the median
    length, the batch profile for the bucket of the 90th percentile.

    Args:
        frame_counts: frames of each expected clip. None or empty assumes that all lengths are equally
            frequent. Clips longer than the contract allows are left out; `source` states their number.
        contract: the contract that the profiles must cover.
        buckets: number of buckets; at most one per length.

    Raises:
        InputError: a clip has no frames, or all are longer than the contract allows.
        ConfigError: `buckets` is not positive.
    """
    if buckets < 1:
        raise ConfigError(f"{buckets} buckets; at least 1 is needed", fix="buckets=8")
    clips, source = lengths_histogram(frame_counts, contract)
    ends = halve_widest(best_buckets(clips, buckets), buckets)
    bucket_of = np.asarray(ends)[np.searchsorted(ends, np.arange(ends[-1] + 1))]  # length → its bucket
    most_frames, most_clips = contract.max_frames, contract.max_batch
    batch = min(TUNED_BATCH, most_clips)
    # The 50th and the 90th percentile.
    shares = np.array([0.5, BATCH_PERCENTILE]) * clips.sum()
    median, high = bucket_of[np.searchsorted(np.cumsum(clips), shares)].tolist()
    profiles = [Profile(batch=(1, 1, 1), frames=(1, median, most_frames))]
    if most_clips > 1:
        profiles.append(Profile(batch=(1, batch, most_clips), frames=(1, high, most_frames)))
    padding = expected_padding(clips, bucket_of, batch)
    return ProfilePlan(profiles=tuple(profiles), buckets=ends, padding=padding, source=source)


def parse_profile(text: str) -> Profile:
    """Parse a profile of the command line: ``"1x1,1x60,1x299"``, clips × frames of min, opt and max.

    Raises:
        ConfigError: another form, or not min <= opt <= max.
    """
    match = _PROFILE.fullmatch(text.replace(" ", "").lower())
    if not match:
        raise ConfigError(
            f"profile {text!r}: expected clips × frames of min, opt and max", fix="--profile 1x1,1x60,1x299"
        )
    numbers = [int(number) for number in match.groups()]
    low, opt, high = (tuple(numbers[i : i + 2]) for i in (0, 2, 4))
    if min(numbers) < 1:
        raise ConfigError(f"profile {text!r}: a shape of nothing", fix=option_of([(1, 1), opt, high]))
    if not all(a <= b <= c for a, b, c in zip(low, opt, high, strict=True)):
        # Suggest the nearest valid profile: min and max swapped if needed, opt moved into the range.
        columns = [sorted(column) for column in zip(low, high, strict=True)]
        inside = [min(max(o, a), b) for o, (a, b) in zip(opt, columns, strict=True)]
        shapes = [[column[0] for column in columns], inside, [column[1] for column in columns]]
        raise ConfigError(
            f"profile {text!r} does not contain its opt shape {opt[0]}x{opt[1]}: expected min <= opt <= max "
            f"in clips and in frames",
            fix=option_of(shapes),
        )
    return Profile(batch=(numbers[0], numbers[2], numbers[4]), frames=(numbers[1], numbers[3], numbers[5]))


def check_profiles(profiles: Sequence[Profile], contract: GraphContract) -> None:
    """Check that profiles cover the contract and nothing beyond it.

    Raises:
        ConfigError: a profile exceeds the contract, or no profile takes some shape; the message names it.
    """
    most = f"{contract.max_batch}x{contract.max_frames}"
    for profile in profiles:
        if profile.batch[2] > contract.max_batch or profile.frames[2] > contract.max_frames:
            ranges = ((profile.batch, contract.max_batch), (profile.frames, contract.max_frames))
            shapes = list(zip(*([min(n, limit) for n in numbers] for numbers, limit in ranges), strict=True))
            raise ConfigError(
                f"profile {profile}: the model takes 1..{contract.max_batch} clips of "
                f"1..{contract.max_frames} frames",
                fix=option_of(shapes),
            )
    if hole := uncovered(tuple(profiles), contract):
        described = ", ".join(map(str, profiles)) or "none"
        raise ConfigError(
            f"no profile takes {hole}, which the model does (profiles: {described})",
            fix=f"add --profile 1x1,1x{min(60, contract.max_frames)},{most}",
        )


def option_of(shapes: Sequence[Sequence[int]]) -> str:
    """Return a profile's shapes as a command-line option: ``--profile 1x1,1x60,1x299``."""
    return "--profile " + ",".join("x".join(map(str, shape)) for shape in shapes)


def lengths_histogram(
    frame_counts: Sequence[int] | None, contract: GraphContract
) -> tuple[NDArray[np.int64], str]:
    """Return the number of clips of each length 0..max_frames, and the origin of the lengths in words.

    Raises:
        InputError: a clip has no frames, or all are longer than the contract allows.
    """
    most = contract.max_frames
    if frame_counts is None or len(frame_counts) == 0:
        clips = np.minimum(np.arange(most + 1), 1)
        return clips, f"no lengths were given: every length from 1 to {most} is taken to be equally frequent"
    counts = np.asarray(frame_counts, np.int64)
    if counts.min() < 1:
        raise InputError(f"a clip of {counts.min()} frames; the model takes 1..{most}", fix="leave it out")
    short = counts[counts <= most]
    if short.size == 0:
        raise InputError(
            f"all {counts.size} clips are longer than {most} frames, the most that the model takes",
            fix=f"spoter-kit train --set model.max_seq_length={counts.max() + 1}",
        )
    left_out = counts.size - short.size
    source = f"{short.size} clips of {short.min()} to {short.max()} frames"
    remark = f"; {left_out} longer than {most} left out" if left_out else ""
    return np.bincount(short, minlength=most + 1), source + remark


def best_buckets(clips: NDArray[np.int64], most_buckets: int) -> tuple[int, ...]:
    """Return the bucket ends with the least padding; the last one is the longest length.

    Exact, by dynamic programming. Only lengths of clips are tried as ends: any other end could be lowered
    without more padding. `least[j]` is the least padding of all clips up to `ends[j]` if a bucket ends there.
    """
    ends = np.union1d(np.flatnonzero(clips), [len(clips) - 1])
    number = np.concatenate([[0], np.cumsum(clips[ends])])
    frames = np.concatenate([[0], np.cumsum(clips[ends] * ends)])
    # waste[i, j]: padding of a bucket from after ends[i - 1] to ends[j]
    waste = ends * (number[1:] - number[:-1, None]) - (frames[1:] - frames[:-1, None])
    impossible = np.iinfo(np.int64).max // 4
    waste[np.tril_indices(len(ends), -1)] = impossible
    least = waste[0]
    begins = []
    for _ in range(min(most_buckets, len(ends)) - 1):
        # Append a bucket to the best ones so far, or keep a single bucket from 0.
        totals = np.concatenate([[0], least[:-1]])[:, None] + waste
        begins.append(totals.argmin(0))
        least = totals.min(0)
    last = len(ends) - 1
    chosen = [last]
    for begin in reversed(begins):
        last = int(begin[last]) - 1
        if last < 0:
            break
        chosen.append(last)
    return tuple(int(ends[i]) for i in reversed(chosen))


def halve_widest(ends: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Halve the widest bucket until there are `count`, or one for each length.

    This reduces the padding of unplanned lengths: if all planned clips had 20 frames, one of 21 frames would
    be padded to the contract's `max_frames`.
    """
    chosen = [0, *ends]
    while len(chosen) <= min(count, ends[-1]):
        width, low = max((high - low, low) for low, high in itertools.pairwise(chosen))
        chosen = sorted([*chosen, low + width // 2])
    return tuple(chosen[1:])


def expected_padding(clips: NDArray[np.int64], bucket_of: NDArray[np.int64], batch: int) -> Padding:
    """Return the expected padding of a histogram of lengths, each padded to its bucket."""
    lengths = np.arange(len(clips))
    total = int(clips.sum())
    real = int(clips @ lengths)
    in_order = np.repeat(lengths, clips)
    longest = in_order[np.minimum(np.arange(batch - 1, total + batch - 1, batch), total - 1)]
    sizes = np.full(len(longest), batch)
    sizes[-1] = total - batch * (len(longest) - 1)
    # P(random batch is at most this long) = P(clip is at most this long) ** batch
    at_most = (np.cumsum(clips) / total) ** batch
    expected = float(bucket_of @ np.diff(at_most, prepend=0.0))
    return Padding(
        single=1 - real / int(clips @ bucket_of),
        sorted_batches=1 - real / int(sizes @ bucket_of[longest]),
        unsorted_batches=1 - real / (total * expected),
        longest=1 - real / (total * (len(clips) - 1)),
        batch=batch,
    )
