"""Generate a dataset of distinct motions by different generated signers.

Signs, signers and performances are in `signing`; the body and the camera in `body`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spoter_runtime._types import OnProgress
from spoter_runtime.contract import Label
from spoter_runtime.errors import ConfigError, InputError
from spoter_runtime.landmarks import Float32Array
from spoter_toolkit.data.dataset import Dataset, Origin
from spoter_toolkit.data.dataset_writer import NewClip, write_dataset
from spoter_toolkit.data.synth.signing import (
    ACCENT,
    CLIP,
    FPS,
    LONE_CLIP,
    draw_frames,
    draw_sign,
    draw_signer,
    draw_signs,
    generator,
    perform,
    with_accent,
)

MAX_SIGNS: Final = 100  # limit at which any two signs can still differ in two features


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthSettings:
    """Settings of the generator. A sign, a signer or a clip does not depend on the number of others.

    Raises:
        ConfigError: a value out of its range.
    """

    signs: int = 60  # number of classes, 1..100
    # number of people, at least 3: the last are test, those before them val, the others train. Every fourth
    # (s03, s07, …) is left-handed.
    signers: int = 12
    clips_per_sign: int = 36  # over all signers, dealt out in turn; at least one a signer
    seed: int = 0  # not negative; the same settings give the same bytes on one machine with one numpy

    def __post_init__(self) -> None:
        limits = {
            "signs": (1, MAX_SIGNS, ""),
            "signers": (3, 1000, ": train, val and test share no signer"),
            "clips_per_sign": (self.signers, 100_000, f": one at least by each of {self.signers} signers"),
            "seed": (0, 2**63 - 1, ""),
        }
        for name, (low, high, why) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(
                    f"generated signing: {name} is {value}, expected {low}..{high}{why}",
                    fix=f"--{name.replace('_', '-')} {min(max(value, low), high)}",
                )

    def __str__(self) -> str:
        """Return the settings in words."""
        return (
            f"{self.signs} generated signs, {self.signers} generated signers, "
            f"{self.clips_per_sign} clips a sign, seed {self.seed}"
        )

    def labels(self) -> tuple[Label, ...]:
        """Return the classes, without glosses, because they are not words of a language."""
        return tuple(Label(name=f"synthetic-{sign + 1:02d}") for sign in range(self.signs))

    def splits(self) -> dict[str, tuple[str, ...]]:
        """Return split → its signers: 1/6 in test, 1/12 in val, at least one each, others in train."""
        names = tuple(f"s{signer + 1:02d}" for signer in range(self.signers))
        test = max(1, round(self.signers / 6))
        val = max(1, round(self.signers / 12))
        return {"train": names[: -test - val], "val": names[-test - val : -test], "test": names[-test:]}

    def split_in_words(self) -> str:
        """Return the split's name, with the signers of each part."""
        parts = (
            f"{split} {names[0]}" + (f"..{names[-1]}" if len(names) > 1 else "")
            for split, names in self.splits().items()
        )
        return f"by signer: {', '.join(parts)}"


def synthesize(
    out: Path,
    *,
    settings: SynthSettings | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Dataset:
    """Write a DATASET of generated signing, split by signer.

    Args:
        out: the folder; an existing one is only replaced with `force`.
        settings: None means `SynthSettings()`.
        force: replace an existing dataset.
        on_progress: called with (clips done, clips in all, what).

    Raises:
        DataError: the folder exists.
        OSError: the disk is full or read-only; nothing is left behind.
    """
    settings = settings or SynthSettings()

    def reported() -> Iterator[NewClip]:
        for done, clip in enumerate(generate_clips(settings), start=1):
            yield clip
            if on_progress is not None:
                on_progress(done, settings.signs * settings.clips_per_sign, "generating clips")

    return write_dataset(
        out,
        reported(),
        labels=settings.labels(),
        coordinates="image",
        origin=Origin(kind="synthetic", source=str(settings), synthetic=True),
        split=settings.split_in_words(),
        force=force,
    )


def generate_clips(settings: SynthSettings) -> Iterator[NewClip]:
    """Yield the clips sign by sign, each already in the split of its signer."""
    split_of = {signer: split for split, signers in settings.splits().items() for signer in signers}
    signers = [draw_signer(settings.seed, signer) for signer in range(settings.signers)]
    signs = draw_signs(settings.seed, settings.signs)
    for index, (sign, label) in enumerate(zip(signs, settings.labels(), strict=True)):
        for clip in range(settings.clips_per_sign):
            repetition, signer = divmod(clip, settings.signers)
            name = f"s{signer + 1:02d}"
            accent = with_accent(sign, generator(settings.seed, ACCENT, index, signer))
            rng = generator(settings.seed, CLIP, index, signer, repetition)
            yield NewClip(
                id=f"{label.name}_{name}_{repetition + 1}",
                label=label.name,
                signer=name,
                fps=FPS,
                poses_TLD=perform(accent, signers[signer], draw_frames(signers[signer], rng), rng),
                split=split_of[name],
                source=f"generated, seed {settings.seed}",
            )


def generated_clip(seed: int, frames: int) -> Float32Array:
    """Return one clip (frames, 54, 2) float32 of some sign by some signer, without a dataset.

    Args:
        seed: not negative; chooses the sign, the signer and the performance.
        frames: number of frames, at least 1; the clip is always the whole sign, faster with fewer frames.

    Returns:
        Image coordinates, about 0..1; NaN for landmarks that a detector would miss, never in every frame.

    Raises:
        InputError: fewer than 1 frame.
    """
    if frames < 1:
        raise InputError(f"generated clip: {frames} frames, expected 1 or more")
    rng = generator(seed, LONE_CLIP)
    return perform(draw_sign(rng), draw_signer(seed, int(rng.integers(1000))), frames, rng)
