"""What cameras, trackers and people do to a clip: the changes that parity also runs people's clips under."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from spoter_export.probes import ClipSet, mirrored, spread_by_length
from spoter_runtime.landmarks import (
    LEFT_HAND,
    LEFT_SHOULDER,
    RIGHT_HAND,
    RIGHT_SHOULDER,
    Float32Array,
    detected,
    resample_clip,
)

if TYPE_CHECKING:
    from spoter_export.parity.compare import ClipFact, ClipFacts, ParityFacts

# Clips of a source that each change is run on: a share of 256 clips is known to about 6 points.
CHANGED_CLIPS: Final = 256

_LOST_HANDS: Final = 0.3  # of the frames, for each hand; in BdSLW60 41 % of the hand points are missing
_LOST_FRAMES: Final = 0.25
_JITTER: Final = 0.02  # standard deviation, in shoulder widths; a hand is about half a shoulder width


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustnessRow:
    """What a change does to the answers on the clips of one source.

    Attributes:
        change: `NO_CHANGE`, or what was done to each clip.
        reference_accuracy, candidate_accuracy: share of right labels; None where labels are not known.
        kept: share of clips to which the candidate answers as it does to the unchanged clip.
        agree: clips whose best label is the reference's.
        max_logit_diff: largest absolute difference from the reference.
    """

    source: str
    change: str
    clips: int
    reference_accuracy: float | None
    candidate_accuracy: float | None
    kept: float
    agree: int
    max_logit_diff: float


NO_CHANGE: Final = "as recorded"


def changed_sets(group: ClipSet, *, max_frames: int, seed: int) -> list[ClipSet]:
    """Return up to `CHANGED_CLIPS` of a source's clips, once under each of `CHANGES`.

    Args:
        group: people's clips.
        max_frames: the most that the model takes; a clip played slower keeps within it.
        seed: of what is lost and of the noise.
    """
    rows = spread_by_length(group.clips, CHANGED_CLIPS)
    sets = []
    for number, (change, apply) in enumerate(CHANGES.items()):
        rng = np.random.default_rng((seed, 3, number))
        sets.append(
            replace(
                group,
                clips=[apply(np.array(group.clips[i], np.float32), rng)[:max_frames] for i in rows],
                names=[group.name_of(i) for i in rows],
                labels=[group.labels[i] for i in rows] if group.labels else (),
                signers=[group.signers[i] for i in rows] if group.signers else (),
                change=change,
            )
        )
    return sets


def robustness_rows(facts: ParityFacts) -> list[RobustnessRow]:
    """Return a row for each change of each source, behind one for the same clips without any."""
    rows = []
    for clean in facts.clips:
        changed = [
            group for group in facts.clips if group.source == clean.source and group.change and group.clips
        ]
        if clean.change is None and clean.clips and changed:
            answers = {clip.name: clip for clip in clean.clips}
            same = [answers[clip.name] for clip in changed[0].clips]
            rows.append(_row(clean, NO_CHANGE, same, answers))
            rows += [_row(group, group.change or "", group.clips, answers) for group in changed]
    return rows


ROBUSTNESS_COLUMNS: Final = (
    *("clips", "right labels", "reference's", "answer kept", "labels agree", "largest logit difference"),
)


def robustness_cells(row: RobustnessRow) -> tuple[str, ...]:
    """Return a row as text for `ROBUSTNESS_COLUMNS`."""
    shares = [
        "not known" if share is None else f"{share:.1%}"
        for share in (row.candidate_accuracy, row.reference_accuracy)
    ]
    agree = f"{row.agree} of {row.clips}"
    return (f"{row.source}, {row.change}", *shares, f"{row.kept:.1%}", agree, f"{row.max_logit_diff:.1e}")


def _row(
    group: ClipFacts, change: str, clips: Sequence[ClipFact], unchanged: dict[str, ClipFact]
) -> RobustnessRow:
    labelled = all(clip.label is not None for clip in clips)
    return RobustnessRow(
        source=group.source,
        change=change,
        clips=len(clips),
        reference_accuracy=_share([c.reference == c.label for c in clips]) if labelled else None,
        candidate_accuracy=_share([c.candidate == c.label for c in clips]) if labelled else None,
        kept=_share([c.candidate == unchanged[c.name].candidate for c in clips]),
        agree=sum(not clip.is_flip for clip in clips),
        max_logit_diff=max(clip.max_logit_diff for clip in clips),
    )


def _share(answers: Sequence[bool]) -> float:
    return sum(answers) / len(answers)


def _without(hand: slice) -> Callable[[Float32Array, np.random.Generator], Float32Array]:
    def change(clip: Float32Array, rng: np.random.Generator) -> Float32Array:
        clip[:, hand] = np.nan
        return clip

    return change


def _hands_lost(clip: Float32Array, rng: np.random.Generator) -> Float32Array:
    for hand in (LEFT_HAND, RIGHT_HAND):
        clip[rng.random(len(clip)) < _LOST_HANDS, hand] = np.nan
    return clip


def _frames_lost(clip: Float32Array, rng: np.random.Generator) -> Float32Array:
    kept = rng.random(len(clip)) >= _LOST_FRAMES
    kept[0] = True  # of a clip without frames nothing can be said
    return clip[kept]


def _half_rate(clip: Float32Array, rng: np.random.Generator) -> Float32Array:
    return clip[::2]


def _double_rate(clip: Float32Array, rng: np.random.Generator) -> Float32Array:
    return resample_clip(clip, 2 * len(clip))


def _jitter(clip: Float32Array, rng: np.random.Generator) -> Float32Array:
    found = detected(clip)
    both = found[:, LEFT_SHOULDER] & found[:, RIGHT_SHOULDER]
    widths = np.linalg.norm(clip[both, LEFT_SHOULDER] - clip[both, RIGHT_SHOULDER], axis=1)
    size = np.median(widths) if both.any() else np.ptp(clip[found][:, 0]) if found.any() else 0.0
    noisy = clip + rng.normal(0, _JITTER * size, clip.shape)
    clip[found] = noisy[found].astype(np.float32)
    return clip


CHANGES: Final[dict[str, Callable[[Float32Array, np.random.Generator], Float32Array]]] = {
    "left hand never found": _without(LEFT_HAND),
    "right hand never found": _without(RIGHT_HAND),
    f"each hand lost in {_LOST_HANDS:.0%} of the frames": _hands_lost,
    f"{_LOST_FRAMES:.0%} of the frames dropped": _frames_lost,
    "half the frame rate": _half_rate,
    "double the frame rate": _double_rate,
    f"jitter of {_JITTER:.0%} of the shoulder width": _jitter,
    "mirrored signer": mirrored,
}
