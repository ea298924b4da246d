"""The body of a generated signer: arms and hands posed in three dimensions, seen by a camera.

A arms (dominant, other), T frames, P posture values, K knuckles, J joints of a finger, L landmarks.
Space: the middle of the shoulders is the origin, the width of the shoulders is 1; x to the right of the
picture, y down, z towards the camera. Everything is posed for a right-handed signer, whose dominant
shoulder is on the left of the picture; the other arm is posed in mirrored space and then turned round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from spoter_runtime.landmarks import LEFT_HAND, MIRRORED, NUM_LANDMARKS, RIGHT_HAND

Array = npt.NDArray[np.float64]

# A posture is P = 11 values a frame: five curls (thumb first, 0 straight .. 1 closed), bend of all knuckles,
# spread, thumb away from the palm (all 0..1), then the forearm's twist (0 palm down or forward, pi palm up
# or back), the wrist's flexion towards the palm and its deviation towards the thumb, in radians.
BEND, SPREAD, THUMB_OUT, TWIST, FLEXION, DEVIATION = range(5, 11)
POSTURE_SIZE: Final = 11

PICTURE_ASPECT: Final = 16 / 9  # width over height; x and y are each normalised to 0..1

_SHOULDER: Final = np.array([-0.5, 0.0, 0.0])
_MIRROR_X: Final = np.array([-1.0, 1.0, 1.0])

# A hand whose middle finger tip is at 1 from the wrist. Knuckles, index to little: ahead, towards the thumb.
_KNUCKLES_K2: Final = np.array([[0.49, 0.12], [0.50, 0.01], [0.46, -0.10], [0.41, -0.19]])
_BONES_KJ: Final = np.array([[0.22, 0.13, 0.10], [0.24, 0.15, 0.11], [0.22, 0.14, 0.10], [0.17, 0.10, 0.09]])
_SPLAY_K: Final = np.array([0.26, 0.04, -0.18, -0.42])  # radians at full spread
_CURL_J: Final = np.array([1.35, 1.75, 1.1])  # radians that each joint adds at full curl
_THUMB_ROOT: Final = (0.12, 0.13)
_THUMB_BONES_J: Final = np.array([0.19, 0.16, 0.13])
_THUMB_CURL_J: Final = np.array([0.25, 0.75, 0.95])


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A signer's proportions, in widths of the shoulders."""

    upper_arm: float
    forearm: float
    hand: float
    head: float  # height of the nose above the shoulders
    face: float  # half the distance between the ears
    elbow_out: float  # sideways direction of the elbows: 0 straight down, 1 equally down and out


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """The position of a signer in the picture."""

    scale: float  # width of the shoulders, in picture heights
    x: float  # where the middle of the shoulders is, in picture widths
    y: float  # the same downwards, in picture heights
    roll: float  # radians the picture is turned
    yaw: float  # radians the signer is turned away from the camera


def pose_body(body: Body, wrists_AT3: Array, postures_ATP: Array, *, left_handed: bool) -> Array:
    """Return the landmarks (frames, 54, 3) of a body with given wrist positions and hand postures.

    Args:
        body: the proportions.
        wrists_AT3: (2, frames, 3) positions of the dominant and the other wrist, each in the space of its own
            side (x < 0 is outwards for both); unreachable positions are moved nearer.
        postures_ATP: (2, frames, 11) postures of the hands.
        left_handed: the dominant arm is the left one.
    """
    elbows_AT3, wrists_AT3, hinges_AT3 = _bend_arms(body, wrists_AT3)
    hands_ATL3 = _pose_hands(body, elbows_AT3, wrists_AT3, hinges_AT3, postures_ATP)
    for points in (elbows_AT3, wrists_AT3, hands_ATL3):
        points[1] *= _MIRROR_X
    points_TL3 = np.empty((wrists_AT3.shape[1], NUM_LANDMARKS, 3))
    points_TL3[:, :8] = _head_and_shoulders(body)
    points_TL3[:, 8], points_TL3[:, 9] = elbows_AT3
    points_TL3[:, 10], points_TL3[:, 11] = wrists_AT3
    points_TL3[:, RIGHT_HAND], points_TL3[:, LEFT_HAND] = hands_ATL3
    return (points_TL3 * _MIRROR_X)[:, list(MIRRORED)] if left_handed else points_TL3


def see_body(camera: Camera, points_TL3: Array) -> Array:
    """Return image coordinates (..., 2), 0..1 inside the picture, of points (..., 3) in body space."""
    x = points_TL3[..., 0] * np.cos(camera.yaw) + points_TL3[..., 2] * np.sin(camera.yaw)
    y = points_TL3[..., 1]
    cos, sin = np.cos(camera.roll), np.sin(camera.roll)
    across = (x * cos - y * sin) * camera.scale / PICTURE_ASPECT + camera.x
    down = (x * sin + y * cos) * camera.scale + camera.y
    return np.stack([across, down], axis=-1)


def _head_and_shoulders(body: Body) -> Array:
    face, head = body.face, body.head
    return np.array(
        [
            [0, -head, 0.25],
            [0, 0, 0],
            [-0.55 * face, -head - 0.55 * face, 0.18],
            [0.55 * face, -head - 0.55 * face, 0.18],
            [-face, -head - 0.4 * face, 0],
            [face, -head - 0.4 * face, 0],
            _SHOULDER,
            _SHOULDER * _MIRROR_X,
        ]
    )


def _bend_arms(body: Body, targets_AT3: Array) -> tuple[Array, Array, Array]:
    """Solve the inverse kinematics of both arms; return elbows, wrists and the elbows' unit axes."""
    reach = targets_AT3 - _SHOULDER
    distance = np.linalg.norm(reach, axis=-1, keepdims=True)
    along = reach / np.maximum(distance, 1e-9)
    shortest = abs(body.upper_arm - body.forearm) + 0.1
    distance = np.clip(distance, shortest, 0.985 * (body.upper_arm + body.forearm))
    # Of all elbows on the circle that the bones allow, the one nearest to "down, out and back". The higher
    # the arm, the more it is "out": straight up there is no "down", and the elbow would jump.
    pole = np.broadcast_to([-body.elbow_out, 1.0, -0.3], along.shape).copy()
    pole[..., 0] -= 1.2 * np.maximum(-along[..., 1], 0) ** 3
    aside = pole - (along * pole).sum(axis=-1, keepdims=True) * along
    aside /= np.maximum(np.linalg.norm(aside, axis=-1, keepdims=True), 1e-9)
    foot = (body.upper_arm**2 - body.forearm**2 + distance**2) / (2 * distance)
    height = np.sqrt(np.maximum(body.upper_arm**2 - foot**2, 0))
    elbows = _SHOULDER + foot * along + height * aside
    return elbows, _SHOULDER + distance * along, np.cross(aside, along)


def _pose_hands(body: Body, elbows: Array, wrists: Array, hinges: Array, postures: Array) -> Array:
    """Return the 21 points of each hand (A, T, 21, 3) in MediaPipe Hands order, wrist first."""
    ahead = wrists - elbows
    ahead /= np.linalg.norm(ahead, axis=-1, keepdims=True)
    twist = postures[..., TWIST, None]
    thumbward = np.cos(twist) * hinges - np.sin(twist) * np.cross(ahead, hinges)
    palm = np.cross(ahead, thumbward)
    ahead, palm = _turn(ahead, palm, postures[..., FLEXION])
    ahead, thumbward = _turn(ahead, thumbward, postures[..., DEVIATION])
    ahead, thumbward, palm = ahead[..., None, :], thumbward[..., None, :], palm[..., None, :]
    hands = np.zeros((*wrists.shape[:-1], 21, 3))
    hands[..., 1:5, :] = _pose_thumb(ahead, thumbward, palm, postures)
    hands[..., 5:, :] = _pose_fingers(ahead, thumbward, palm, postures)
    return hands * body.hand + wrists[..., None, :]


def _turn(first: Array, second: Array, angle: Array) -> tuple[Array, Array]:
    """Turn two orthogonal unit vectors in their plane, the first towards the second."""
    cos, sin = np.cos(angle)[..., None], np.sin(angle)[..., None]
    return cos * first + sin * second, cos * second - sin * first


def _pose_fingers(ahead: Array, thumbward: Array, palm: Array, postures: Array) -> Array:
    splay = (postures[..., SPREAD, None] * _SPLAY_K)[..., None]
    straight = np.cos(splay) * ahead + np.sin(splay) * thumbward  # (A, T, K, 3)
    angles = postures[..., 1:5, None] * _CURL_J
    angles[..., 0] += 1.4 * postures[..., BEND, None]
    angles = np.cumsum(angles, axis=-1)[..., None]  # (A, T, K, J, 1)
    bones = np.cos(angles) * straight[..., None, :] + np.sin(angles) * palm[..., None, :]
    bones *= _BONES_KJ[..., None]
    knuckles = _KNUCKLES_K2[:, :1] * ahead + _KNUCKLES_K2[:, 1:] * thumbward
    joints = np.concatenate([knuckles[..., None, :], bones], axis=-2).cumsum(axis=-2)
    return joints.reshape(*joints.shape[:2], 16, 3)


def _pose_thumb(ahead: Array, thumbward: Array, palm: Array, postures: Array) -> Array:
    curl = postures[..., 0, None]
    out = 0.3 + 0.8 * postures[..., THUMB_OUT, None]
    angles = (out - np.cumsum(curl * _THUMB_CURL_J, axis=-1))[..., None]  # (A, T, J, 1)
    lift = (0.25 + 0.45 * curl)[..., None]  # the thumb closes in front of the palm, not through it
    bones = np.cos(lift) * (np.cos(angles) * ahead + np.sin(angles) * thumbward) + np.sin(lift) * palm
    root = _THUMB_ROOT[0] * ahead + _THUMB_ROOT[1] * thumbward
    return np.concatenate([root, bones * _THUMB_BONES_J[:, None]], axis=-2).cumsum(axis=-2)


def smooth_noise(rng: np.random.Generator, frames: int, shape: tuple[int, ...], fps: float) -> Array:
    """Return (frames, *shape) noise of mean 0 and variance about 1 without sudden steps (0.3 to 2.5 Hz)."""
    waves = 4
    hertz = rng.uniform(0.3, 2.5, (waves, *shape))
    start = rng.uniform(0, 2 * np.pi, (waves, *shape))
    seconds = np.arange(frames).reshape(-1, 1, *(1 for _ in shape)) / fps
    return np.asarray(np.sin(2 * np.pi * hertz * seconds + start).sum(axis=1) * np.sqrt(2 / waves))
