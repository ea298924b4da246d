"""Generated signs and signers, and how a signer performs a sign before a landmark detector.

A sign is a fixed prototype: which hands, where, along which path, with which hand shapes. A signer has a
body, a camera, habits and a dominant hand. A performance has its own timing, its own wobble, and the gaps
that a detector leaves. Axes, postures and the letters A, T, P are those of `body`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from spoter_runtime.landmarks import LEFT_HAND, RIGHT_HAND, Float32Array
from spoter_toolkit.data.synth.body import (
    FLEXION,
    POSTURE_SIZE,
    TWIST,
    Array,
    Body,
    Camera,
    pose_body,
    see_body,
    smooth_noise,
)

FPS: Final = 30.0
MIN_FRAMES: Final = 9  # the lengths of BdSLW60: 9..164 frames, mean 44.2
MAX_FRAMES: Final = 164

# Causes of missing hands. Over twelve seeds 31 to 41 % of hand points are missing; in BdSLW60 it is 41 %.
_PICTURE_END: Final = (1.0, 0.97)  # right and lower edge of what a hand detector finds
_EDGE: Final = 0.04  # in pictures: one standard deviation of the detector's luck
_RAISED: Final = 0.4  # a hand at rest is clasped or seen edge-on: so far up it is found half the time,
_RAISED_STEP: Final = 0.1  # and one standard deviation more with each such step
_BLUR: Final = 5.0  # standard deviations that a hand loses at a speed of one shoulder width a frame,
_MOST_BLUR: Final = 1.6  # and at most
_BODY_LOST: Final = 2.9  # standard deviations: about 0.2 % of frames

Hands = Literal["one", "mirrored", "alternating", "resting on"]

# Frequency of one-handed, mirrored, alternating and resting-on-the-other-hand signs.
_HANDS: Final[dict[Hands, float]] = {"one": 0.36, "mirrored": 0.32, "alternating": 0.12, "resting on": 0.2}

# Positions of the dominant wrist, in the space of `body`.
_PLACES: Final = {
    "forehead": (-0.36, -0.36, 0.35),
    "temple": (-0.66, -0.30, 0.25),
    "mouth": (-0.16, -0.10, 0.40),
    "shoulder": (-0.68, 0.02, 0.35),
    "far shoulder": (0.24, 0.14, 0.40),
    "chest": (-0.12, 0.26, 0.35),
    "side": (-0.85, 0.42, 0.35),
    "neutral": (-0.34, 0.50, 0.45),
    "belly": (0.02, 0.62, 0.38),
}
_ACROSS: Final = ("far shoulder", "belly")  # two arms cannot both reach over to the other side
_BASE_PLACE: Final = (-0.12, 0.55, 0.35)  # of the still hand in "resting on"

# Each path with how often it may be repeated within a sign.
_PATHS: Final = {
    "line": (1, 1),
    "arc": (1, 1),
    "circle": (1, 3),
    "shake": (2, 4),
    "zigzag": (2, 3),
    "taps": (2, 3),
    "eight": (1, 2),
    "twist": (2, 3),
    "still": (1, 1),
}

_WRIST_STAYS: Final = ("twist", "still")

# Curls of thumb, index, middle, ring, little finger; bend, spread, thumb out: all 0..1.
_SHAPES: Final = {
    "flat": (0.1, 0, 0, 0, 0, 0, 0.1, 0.1),
    "open": (0, 0, 0, 0, 0, 0, 1, 1),
    "bent": (0.2, 0, 0, 0, 0, 1, 0, 0.3),
    "fist": (0.8, 1, 1, 1, 1, 0, 0, 0.3),
    "thumb": (0, 1, 1, 1, 1, 0, 0, 1),
    "index": (0.8, 0, 1, 1, 1, 0, 0, 0.3),
    "two": (0.9, 0, 0, 1, 1, 0, 0.8, 0.2),
    "three": (0.9, 0, 0, 0, 1, 0, 0.8, 0.2),
    "angle": (0, 0, 1, 1, 1, 0, 0, 1),
    "horns": (0.8, 0, 1, 1, 0, 0, 0.5, 0.2),
    "phone": (0, 1, 1, 1, 0, 0, 0.5, 1),
    "little": (0.8, 1, 1, 1, 0, 0, 0.3, 0.2),
    "claw": (0.3, 0.5, 0.5, 0.5, 0.5, 0.1, 0.9, 0.8),
    "pinch": (0.55, 0.5, 0.5, 0.5, 0.5, 0.4, 0, 0.4),
    "ring": (0.6, 0.65, 0.05, 0, 0, 0.1, 0.6, 0.4),
}
_RELAXED: Final = np.array([0.3, 0.25, 0.3, 0.35, 0.4, 0.1, 0.2, 0.3, 1.4, 0.1, 0.0])


# Each kind of object has its own random generator, so that no draw depends on the others.
SIGN, SIGNER, ACCENT, CLIP, LONE_CLIP = range(5)


def generator(seed: int, thing: int, *index: int) -> np.random.Generator:
    """Return the random generator of an object, by kind (`SIGN`, …) and index."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(thing, *index)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sign:
    """A prototype of a sign."""

    hands: Hands
    place: str
    path: str  # how the dominant wrist moves about the place; the other one follows as `hands` says
    shape: str  # the dominant hand's shape at the start; with `hands`, `place`, `path` what tells signs apart
    repeats: int
    angle: float  # which way the path runs, in radians; 0 is towards the other hand
    size: float  # half the path's length, in widths of the shoulders
    turn: int  # 1 or -1, the sense of circles and arcs
    postures_2P: Array  # the dominant hand at the start and at the end
    still_P: Array  # the other hand in "resting on"
    shift_3: Array  # off the place

    def features(self) -> tuple[str, str, str, str]:
        """Return the features that distinguish signs."""
        return self.hands, self.place, self.path, self.shape


def draw_signs(seed: int, count: int) -> list[Sign]:
    """Return prototypes, any two of which differ in at least two features."""
    signs: list[Sign] = []
    while len(signs) < count:
        rng = generator(seed, SIGN, len(signs))
        sign = draw_sign(rng)
        while any(sum(a != b for a, b in zip(sign.features(), s.features(), strict=True)) < 2 for s in signs):
            sign = draw_sign(rng)
        signs.append(sign)
    return signs


def draw_sign(rng: np.random.Generator) -> Sign:
    """Return a random sign."""
    hands = list(_HANDS)[rng.choice(len(_HANDS), p=list(_HANDS.values()))]
    path = str(rng.choice(list(_PATHS)))
    if hands == "alternating" and path in _WRIST_STAYS:
        hands = "mirrored"  # the two would look alike
    both = hands in ("mirrored", "alternating")
    low, high = _PATHS[path]
    first, second, still = rng.choice(list(_SHAPES), 3, replace=False)
    changes = path == "still" or rng.random() < 0.3
    start = _posture(first, rng)
    end = _posture(second, rng) if changes else start.copy()
    end[TWIST] = start[TWIST] + (rng.choice([-1, 1]) * rng.uniform(0.6, 1.2) if rng.random() < 0.3 else 0)
    return Sign(
        hands=hands,
        place=str(rng.choice([place for place in _PLACES if not (both and place in _ACROSS)])),
        path=path,
        shape=str(first),
        repeats=int(rng.integers(low, high + 1)),
        angle=float(rng.integers(8) * np.pi / 4),
        size=float(rng.uniform(0.18, 0.34)),
        turn=int(rng.choice([-1, 1])),
        postures_2P=np.stack([start, end]),
        still_P=_posture(still, rng),
        shift_3=np.zeros(3),
    )


def _posture(shape: str, rng: np.random.Generator) -> Array:
    """Return a hand shape (11,) with an orientation: twist within what a forearm can do, wrist half bent."""
    return np.array([*_SHAPES[shape], rng.uniform(0.2, 2.9), rng.uniform(-0.5, 0.7), rng.uniform(-0.3, 0.3)])


def with_accent(sign: Sign, rng: np.random.Generator) -> Sign:
    """Return a sign with one signer's accent."""
    return replace(
        sign,
        angle=sign.angle + rng.normal(0, 0.15),
        size=sign.size * float(np.exp(rng.normal(0, 0.15))),
        shift_3=rng.normal(0, 0.05, 3),
        postures_2P=sign.postures_2P + rng.normal(0, 0.06, POSTURE_SIZE),
        still_P=sign.still_P + rng.normal(0, 0.06, POSTURE_SIZE),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Signer:
    """A person, and the camera in front of them."""

    body: Body
    camera: Camera
    left_handed: bool
    slowness: float  # factor on the length of clips
    size: float  # factor on movements
    shift_3: Array  # off every place
    rest_3: Array  # where the wrists rest
    habit_P: Array  # off every posture
    detection: float  # how surely a hand in full view is found, in standard deviations of the detector's luck
    tremor: float  # of every landmark by itself, in widths of the shoulders


def draw_signer(seed: int, signer: int) -> Signer:
    """Return a signer by number; 2, 6, 10, … are left-handed, so that a few signers include one."""
    rng = generator(seed, SIGNER, signer)
    habit = np.concatenate([rng.normal(0, 0.06, 8), rng.normal(0, [0.2, 0.12, 0.08])])
    # Most let the arms hang; some keep the hands together low in front, where few detectors see them.
    hanging = np.array([rng.uniform(-0.72, -0.58), rng.uniform(1.28, 1.40), rng.uniform(0.05, 0.15)])
    folded = np.array([rng.uniform(-0.2, -0.12), rng.uniform(0.96, 1.06), rng.uniform(0.3, 0.4)])
    return Signer(
        body=Body(
            upper_arm=rng.uniform(0.72, 0.84),
            forearm=rng.uniform(0.60, 0.70),
            hand=rng.uniform(0.38, 0.46),
            head=rng.uniform(0.44, 0.58),
            face=rng.uniform(0.17, 0.23),
            elbow_out=rng.uniform(0.15, 0.55),
        ),
        camera=Camera(
            scale=rng.uniform(0.40, 0.56),
            x=rng.uniform(0.44, 0.56),
            y=rng.uniform(0.48, 0.58),
            roll=rng.normal(0, 0.04),
            yaw=rng.normal(0, 0.15),
        ),
        left_handed=signer % 4 == 2,
        slowness=float(np.exp(rng.normal(0, 0.25))),
        size=float(np.exp(rng.normal(0, 0.18))),
        shift_3=rng.normal(0, [0.06, 0.07, 0.05]),
        rest_3=folded if rng.random() < 0.3 else hanging,
        habit_P=habit,
        detection=rng.uniform(1.6, 2.6),
        tremor=rng.uniform(0.003, 0.007),
    )


def draw_frames(signer: Signer, rng: np.random.Generator) -> int:
    """Return a clip's length, which depends on the signer only, so that it does not reveal the sign."""
    frames = 41.6 * signer.slowness * np.exp(rng.normal(0, 0.33))
    return int(np.clip(round(frames), MIN_FRAMES, MAX_FRAMES))


def perform(sign: Sign, signer: Signer, frames: int, rng: np.random.Generator) -> Float32Array:
    """Return one performance (frames, 54, 2) float32 in image coordinates, NaN where nothing is found."""
    raised_AT, phase_T = _timing(frames, rng)
    wrists_AT3, postures_ATP = _arms(sign, signer, phase_T, rng)
    if sign.hands == "one":
        raised_AT[1] = 0
    wobble = smooth_noise(rng, frames, (2, 3), FPS).swapaxes(0, 1)
    wrists_AT3 = _blend(signer.rest_3, wrists_AT3, raised_AT) + 0.018 * wobble
    postures_ATP = _blend(_RELAXED, postures_ATP, raised_AT)
    wobble = smooth_noise(rng, frames, (2, POSTURE_SIZE), FPS).swapaxes(0, 1)
    postures_ATP = postures_ATP + signer.habit_P + 0.04 * wobble
    postures_ATP[..., :TWIST] = np.clip(postures_ATP[..., :TWIST], 0, 1)
    points_TL3 = pose_body(signer.body, wrists_AT3, postures_ATP, left_handed=signer.left_handed)
    sway_T13 = 0.015 * smooth_noise(rng, frames, (1, 3), FPS)
    points_TL3 = points_TL3 + sway_T13
    points_TL3[:, :6] += 0.5 * sway_T13  # the head moves more than the shoulders
    points_TL3[..., :2] += rng.normal(0, signer.tremor, (*points_TL3.shape[:2], 2))
    clip_TLD = see_body(signer.camera, points_TL3)
    hands = (LEFT_HAND, RIGHT_HAND) if signer.left_handed else (RIGHT_HAND, LEFT_HAND)
    for hand, raised_T in zip(hands, raised_AT, strict=True):
        clip_TLD[_is_lost(clip_TLD[:, hand], raised_T, signer, rng), hand] = np.nan
    body_lost_T = _bursts(frames, rng) > _BODY_LOST
    if not body_lost_T.all():
        clip_TLD[body_lost_T] = np.nan
    return clip_TLD.astype(np.float32)


def _blend(rest: Array, active_ATX: Array, raised_AT: Array) -> Array:
    return rest + raised_AT[..., None] * (active_ATX - rest)


def _timing(frames: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return how far each arm is raised (2, frames) and the sign's progress (frames,), both 0..1.

    The arms rise, the sign is made, held for a moment, and the arms sink; where the clip was cut, the
    beginning and the end at rest are partly missing, as in recordings.
    """
    rise, fall = rng.uniform(0.16, 0.28, 2)
    hold = rng.uniform(0.0, 0.1)
    begin, end = rng.uniform(0, 0.5, 2)
    begin, end = begin * rise, 1 - end * fall
    time_T = begin + (end - begin) * (np.arange(frames) + 0.5) / frames  # one frame is amid the sign
    delay = np.array([[0.0], [rng.normal(0, 0.012)]])
    up_AT = np.clip((time_T - delay) / rise, 0, 1)
    down_AT = np.clip((1 - time_T + delay) / fall, 0, 1)
    start, stop = 0.85 * rise, 1 - fall - hold
    phase_T = np.clip((time_T - start) / (stop - start), 0, 1)
    phase_T = phase_T ** np.exp(rng.normal(0, 0.15))
    phase_T += rng.uniform(-0.06, 0.06) * np.sin(2 * np.pi * phase_T)
    return _ease(up_AT) * _ease(down_AT), phase_T


def _ease(x: Array) -> Array:
    """Return the minimum-jerk course from 0 to 1 (Flash & Hogan 1985)."""
    return x**3 * (10 - 15 * x + 6 * x**2)


def _arms(sign: Sign, signer: Signer, phase_T: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return wrists (2, T, 3) and postures (2, T, 11) of both arms while they sign."""
    size = sign.size * signer.size * np.exp(rng.normal(0, 0.1))
    place = np.array(_PLACES[sign.place]) + sign.shift_3 + signer.shift_3 + rng.normal(0, 0.03, 3)
    if place[1] < 0:  # places on the head go with the head
        place[1] *= signer.body.head / 0.52
    path_T3 = size * _path(sign, phase_T)
    if sign.hands in ("mirrored", "alternating"):  # the hands may meet, but do not pass through each other
        place[0] = min(place[0], -0.12 - np.abs(path_T3[:, 0]).max())
    change_T1 = _ease(np.clip(1.6 * phase_T - 0.3, 0, 1))[:, None]
    postures_TP = sign.postures_2P[0] + change_T1 * (sign.postures_2P[1] - sign.postures_2P[0])
    if sign.path == "twist":
        postures_TP[:, TWIST] += 0.7 * np.sin(2 * np.pi * sign.repeats * phase_T)
        postures_TP[:, FLEXION] += 0.25 * np.sin(2 * np.pi * sign.repeats * phase_T)
    wrists_AT3 = place + np.stack([path_T3, -path_T3 if sign.hands == "alternating" else path_T3])
    postures_ATP = np.stack([postures_TP, postures_TP])
    if sign.hands == "resting on":
        wrists_AT3[1] = np.array(_BASE_PLACE) + signer.shift_3 + rng.normal(0, 0.03, 3)
        postures_ATP[1] = sign.still_P
    return wrists_AT3, postures_ATP


def _path(sign: Sign, phase_T: Array) -> Array:
    """Return the wrist's path (T, 3) around its place, about -1..1, rotated by the sign's angle."""
    turn_T = 2 * np.pi * sign.repeats * phase_T
    zero_T = np.zeros_like(phase_T)
    along_T, across_T = {
        "line": (2 * phase_T - 1, zero_T),
        "arc": (-np.cos(np.pi * phase_T), np.sin(np.pi * phase_T) - 0.5),
        "circle": (np.cos(turn_T), np.sin(turn_T)),
        "shake": (np.sin(turn_T), zero_T),
        "zigzag": (2 * phase_T - 1, 0.6 * np.sin(turn_T)),
        "taps": (np.abs(np.sin(turn_T / 2)) - 0.5, zero_T),
        "eight": (np.sin(turn_T), 0.6 * np.sin(2 * turn_T)),
        "twist": (zero_T, zero_T),
        "still": (zero_T, zero_T),
    }[sign.path]
    across_T = sign.turn * across_T
    cos, sin = np.cos(sign.angle), np.sin(sign.angle)
    return np.stack([cos * along_T - sin * across_T, sin * along_T + cos * across_T, 0.3 * across_T], axis=-1)


def _is_lost(
    hand_TLD: Array, raised_T: Array, signer: Signer, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Return a mask of the frames in which a detector misses a hand: at rest, outside, fast, or by chance."""
    centre_T2 = hand_TLD.mean(axis=1)
    inside_T = np.hstack([centre_T2, _PICTURE_END - centre_T2]).min(axis=1) / _EDGE
    view_T = np.minimum(inside_T, (raised_T - _RAISED) / _RAISED_STEP)
    speed_T = np.linalg.norm(np.diff(centre_T2, axis=0, prepend=centre_T2[:1]), axis=-1)
    blur_T = np.minimum(_BLUR * speed_T / signer.camera.scale, _MOST_BLUR)
    return np.asarray(np.minimum(view_T, signer.detection) - blur_T + _bursts(len(hand_TLD), rng) < 0)


def _bursts(frames: int, rng: np.random.Generator) -> Array:
    """Return (frames,) noise of variance 1 that keeps its value for about four frames."""
    return np.convolve(rng.normal(size=frames + 3), np.full(4, 0.5), mode="valid")
