"""Draw the README's picture: frames of a generated clip as a skeleton, and the word that a bundle gives.

spoter-kit demo
python docs_tools/first_picture.py demo/synthetic-12 demo/demo.spoter synthetic-09_s11_1 PICTURE.svg
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from spoter_runtime import Recognizer
from spoter_runtime.landmarks import BONES, LEFT_HAND, RIGHT_HAND
from spoter_toolkit.data.dataset import read_dataset

FRAMES = 6
WIDTH, HEIGHT = 150, 190  # of one frame, in pixels of the picture
# Readable on white and on black, for the picture's ground is the page's.
FACE = range(2, 6)  # eyes and ears: a circle stands for the head
COLOURS = {"body": "#7d8a94", "left": "#2f95d8", "right": "#e5752a"}


def main(dataset: str, bundle: str, clip: str, out: str) -> None:
    """Write the picture of one clip."""
    data = read_dataset(Path(dataset))
    poses = data.poses_of(next(one for one in data.clips if one.id == clip))
    answer = Recognizer.load(bundle).predict(poses)
    frames = np.linspace(0.1 * len(poses), 0.9 * len(poses), FRAMES).astype(int)
    shown = poses[frames]
    low, high = np.nanmin(shown, axis=(0, 1)), np.nanmax(shown, axis=(0, 1))
    scale = 0.94 * min((WIDTH, HEIGHT) / (high - low))
    width = FRAMES * WIDTH
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT + 44}" width="{width}" '
        f'height="{HEIGHT + 44}" role="img" fill="none" stroke-linecap="round" stroke-linejoin="round">',
        f"<title>{clip}: {answer.label}, score {answer.score:.2f}</title>",
    ]
    for place, points in enumerate(shown):
        points = (points - (low + high) / 2) * scale + (WIDTH * (place + 0.5), HEIGHT / 2)
        head = 0.45 * float(np.linalg.norm(points[0] - points[1]))  # nose and neck
        parts.append(
            f'<circle cx="{points[0][0]:.0f}" cy="{points[0][1]:.0f}" r="{head:.0f}" '
            f'stroke="{COLOURS["body"]}" stroke-width="3"/>'
        )
        for name, colour in COLOURS.items():
            lines = "".join(
                f"M{points[a][0]:.0f} {points[a][1]:.0f}L{points[b][0]:.0f} {points[b][1]:.0f}"
                for a, b in BONES
                if _part(a) == name and max(a, b) not in FACE and not np.isnan(points[[a, b]]).any()
            )
            if lines:
                parts.append(
                    f'<path d="{lines}" stroke="{colour}" stroke-width="{3 if name == "body" else 1.6}"/>'
                )
    parts.append(
        f'<text x="{width / 2:.0f}" y="{HEIGHT + 34}" text-anchor="middle" '
        'font-family="system-ui, sans-serif" '
        f'font-size="26" font-weight="600" fill="{COLOURS["left"]}">{answer.label}'
        f'<tspan fill="{COLOURS["body"]}" font-weight="400"> · score {answer.score:.2f}</tspan></text></svg>'
    )
    Path(out).write_text("\n".join(parts) + "\n", encoding="utf-8")


def _part(landmark: int) -> str:
    if landmark >= RIGHT_HAND.start:
        return "right"
    return "left" if landmark >= LEFT_HAND.start else "body"


if __name__ == "__main__":
    main(*sys.argv[1:])
