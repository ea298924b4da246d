"""A made person before a camera: raises the hands, signs, and lets them hang down again."""

from __future__ import annotations

import numpy as np

from spoter_runtime.landmarks import BODY_NAMES
from spoter_runtime.live.log import LogFrame, header_line, line_of
from spoter_runtime.live.settings import StreamSettings

REST, SIGNING = 2.2, 0.3  # of the wrists below the shoulders, in shoulder widths
WIDTH = 0.25  # of the shoulders, in pictures

_BODY = {"nose": (0, -0.7), "neck": (0, 0), "right_eye": (-0.1, -0.8), "left_eye": (0.1, -0.8)}
_BODY |= {"right_ear": (-0.2, -0.75), "left_ear": (0.2, -0.75)}
_BODY |= {"right_shoulder": (-0.5, 0), "left_shoulder": (0.5, 0), "right_elbow": (-0.6, 0.9)}
_BODY |= {"left_elbow": (0.6, 0.9), "right_wrist": (-0.5, REST), "left_wrist": (0.5, REST)}


def pose(height: float, shape: int = 0, shift: float = 0.0):
    """Return one frame (54, 2): the right hand at a height, in a hand shape, `shift` to the side."""
    points = np.full((54, 2), np.nan)
    points[:12] = [_BODY[name] for name in BODY_NAMES]
    points[10] = (-0.4 + shift, height)
    if height < 1.7:  # else the hand is below the picture
        fingers = np.random.default_rng(shape).uniform(-0.35, 0.35, (21, 2))
        fingers[0] = 0
        points[33:54] = points[10] + fingers
    return (points * WIDTH + (0.5, 0.4)).astype(np.float32)


def heights(t_ms, signs, raise_ms=250.0):
    """Return the hand's height at each time: up from start to end of each (start, end), smooth between."""
    up = np.zeros(len(t_ms))
    for start, end in signs:
        rising = np.clip((t_ms - start + raise_ms) / raise_ms, 0, 1)
        falling = np.clip((end + raise_ms - t_ms) / raise_ms, 0, 1)
        share = np.minimum(rising, falling)
        up = np.maximum(up, share * share * (3 - 2 * share))
    return REST + up * (SIGNING - REST)


def signing(signs, *, end_ms, fps=30.0, shape=lambda t_ms: 0):
    """Return (times, frames (F, 54, 2)) of somebody who signs at these (start, end) times."""
    times = np.arange(0, end_ms, 1000 / fps)
    shifts = 0.2 * np.sin(times / 150)
    frames = [
        pose(height, shape(t_ms), shift)
        for t_ms, height, shift in zip(times, heights(times, signs), shifts, strict=True)
    ]
    return times.tolist(), np.stack(frames)


def write_log(path, times, frames, *, gate="rest", settings=None, dropped=lambda n: 0):
    """Write a landmark log, as `live --record` does."""
    lines = [line_of(LogFrame(t, f, dropped(n))) for n, (t, f) in enumerate(zip(times, frames, strict=True))]
    path.write_text("\n".join([header_line(gate, settings or StreamSettings()), *lines, ""]))
    return path
