"""The graphs around the networks: a region of a picture to a network's input, and its output to the picture.

A region is a square, turned in any way: (x, y) of its centre, then its upper edge as a vector (x, y) from
left to right, all in pixels. So neither size nor angle is ever computed. Each function is the counterpart of
a part of MediaPipe 0.10.21's Holistic graph; its numbers are that graph's.

N regions or hands, P sampled pixels, A anchors.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper
from onnxscript import FLOAT, INT32, UINT8, script
from onnxscript import opset20 as op

POSE_SIDE: Final = 256
HAND_SIDE: Final = 224
RECROP_SIDE: Final = 256
DETECTION_SIDE: Final = 224

_REACH: Final = [-4, -3, -2, -1, 0, 1, 2, 3, 4]

# The wrist, the thumb and the two joints of each finger that move least.
_PALM: Final = numpy_helper.from_array(np.int64([0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]))


def _anchors() -> npt.NDArray[np.float32]:
    """Return the centres (A, 2) of the detector's anchors, 0..1."""
    centers = []
    for cells, count in ((28, 2), (14, 2), (7, 6)):
        middle = (np.arange(cells, dtype=np.float32) + 0.5) / cells
        grid = np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 1, 2)
        centers.append(np.repeat(grid, count, axis=1).reshape(-1, 2))
    return np.concatenate(centers)


_ANCHORS: Final = numpy_helper.from_array(_anchors())
_NO_OFFSETS: Final = numpy_helper.from_array(np.zeros((2254, 2), np.float32))
_DETECTION_STEPS: Final = numpy_helper.from_array(np.arange(224, dtype=np.float32) / 224 - np.float32(0.5))


@script(default_opset=op)
def blended(flat: UINT8["bytes"], first: INT32["P"], right, down, a, b, c, d):
    """One colour of each pixel, from its four neighbours and the weight of each.

    GatherElements of single bytes: ONNX Runtime's Gather of whole pixels takes 1.5 times as long, and the
    colours would have to be transposed after it. A half is rounded up, as OpenCV does: rounding it to even
    changes 1 % of a body's pixels by 1, and moved its landmarks by 0.004 shoulder widths.
    """
    upper = op.Cast(op.GatherElements(flat, first), to=1) * a
    upper = op.Cast(op.GatherElements(flat, first + right), to=1) * b + upper
    below = first + down
    lower = op.Cast(op.GatherElements(flat, below), to=1) * c
    lower = op.Cast(op.GatherElements(flat, below + right), to=1) * d + lower
    return op.Floor(upper + lower + 0.5)


def crop_graph(side: int) -> Any:
    """Return the graph (frame, regions) → images (N, 3, side, side) in 0..255, bilinear.

    Beyond the frame's edge the edge's colours go on. Places are rounded to 1/32 of a pixel, as OpenCV does.
    GridSample would need the frame as float32, channels first: twice the time at 320 × 320, more at 1080p.
    """
    steps = np.arange(side, dtype=np.float32) / side - np.float32(0.5)
    columns = numpy_helper.from_array(steps.reshape(1, 1, side))
    rows = numpy_helper.from_array(steps.reshape(1, side, 1))
    shape = [-1, 1, side, side]

    @script(default_opset=op)
    def crop(frame: UINT8["height", "width", 3], regions: FLOAT["N", 4]) -> FLOAT["N", 3, "side", "side"]:
        across = op.Constant(value=columns)
        along = op.Constant(value=rows)
        center_x, center_y, edge_x, edge_y = op.Split(op.Unsqueeze(regions * 32.0, 2), num_outputs=4, axis=1)
        height, width, _ = op.Split(op.Cast(op.Shape(frame), to=6), num_outputs=3, axis=0)
        last_x = op.Squeeze(op.Cast(width - 1, to=1))
        last_y = op.Squeeze(op.Cast(height - 1, to=1))
        x = op.Round(edge_x * across + center_x - edge_y * along)
        y = op.Round(edge_y * across + center_y + edge_x * along)
        x = op.Clip(x / 32.0, 0.0, last_x)
        y = op.Clip(y / 32.0, 0.0, last_y)
        left = op.Cast(op.Min(x, op.Max(last_x - 1.0, 0.0)), to=6)
        top = op.Cast(op.Min(y, op.Max(last_y - 1.0, 0.0)), to=6)
        first = op.Reshape((top * width + left) * 3, [-1])
        right = op.Min(width - 1, 1) * 3  # a frame of one column has no next one
        down = op.Min(height - 1, 1) * width * 3
        to_right = op.Reshape(x - op.Cast(left, to=1), [-1])
        to_down = op.Reshape(y - op.Cast(top, to=1), [-1])
        d = to_right * to_down
        b = to_right - d
        c = to_down - d
        a = 1.0 - to_right - c
        flat = op.Reshape(frame, [-1])
        red = blended(flat, first, right, down, a, b, c, d)
        green = blended(flat, first + 1, right, down, a, b, c, d)
        blue = blended(flat, first + 2, right, down, a, b, c, d)
        one_colour = op.Constant(value_ints=shape)
        return op.Concat(
            op.Reshape(red, one_colour), op.Reshape(green, one_colour), op.Reshape(blue, one_colour), axis=1
        )

    return crop


@script(default_opset=op)
def frame_size(frame: UINT8["height", "width", 3]) -> FLOAT[2]:
    """Width and height."""
    height, width, _ = op.Split(op.Cast(op.Shape(frame), to=1), num_outputs=3, axis=0)
    return op.Concat(width, height, axis=0)


@script(default_opset=op)
def turned(vectors: FLOAT["N", 2]) -> FLOAT["N", 2]:
    """Turn each by 90 degrees, from the right to downwards, as a picture shows it."""
    x, y = op.Split(vectors, num_outputs=2, axis=1)
    return op.Concat(-y, x, axis=1)


@script(default_opset=op)
def in_picture(points: FLOAT["N", "L", 2], regions: FLOAT["N", 4]) -> FLOAT["N", "L", 2]:
    """Points of a crop, 0..1, as pixels of the picture."""
    center, edge = op.Split(regions, num_outputs=2, axis=1)
    x, y = op.Split(points - 0.5, num_outputs=2, axis=2)
    return op.Unsqueeze(center, 1) + x * op.Unsqueeze(edge, 1) + y * op.Unsqueeze(turned(edge), 1)


@script(default_opset=op)
def palm_region(points: FLOAT["N", 21, 2]) -> FLOAT["N", 4]:
    """The region of a hand in the next frame: twice the palm, with the fingers upwards."""
    wrist = op.Gather(points, 0, axis=1)
    index = op.Gather(points, 5, axis=1)
    middle = op.Gather(points, 9, axis=1)
    ring = op.Gather(points, 13, axis=1)
    fingers = ((index + ring) / 2.0 + middle) / 2.0 - wrist
    down = -fingers / op.ReduceL2(fingers, [1], keepdims=1)
    axes = op.Concat(op.Unsqueeze(-turned(down), 1), op.Unsqueeze(down, 1), axis=1)  # N, (right, down), 2
    palm = op.MatMul(op.Gather(points, op.Constant(value=_PALM), axis=1), op.Transpose(axes, perm=[0, 2, 1]))
    low = op.ReduceMin(palm, [1], keepdims=0)
    high = op.ReduceMax(palm, [1], keepdims=0)
    size = high - low
    _, height = op.Split(size, num_outputs=2, axis=1)
    middle_of_box = op.Unsqueeze((low + high) / 2.0, 1)
    center = op.Squeeze(op.MatMul(middle_of_box, axes), [1]) - 0.1 * height * down
    edge = -turned(down) * (2.0 * op.ReduceMax(size, [1], keepdims=1))
    return op.Concat(center, edge, axis=1)


@script(default_opset=op)
def hand_outputs(
    frame: UINT8["height", "width", 3],
    regions: FLOAT["N", 4],
    raw_points: FLOAT["N", 63],
    raw_presence: FLOAT["N", 1],
):
    """Landmarks in 0..1 of the picture, presence, and the region for the next frame."""
    points = op.Slice(op.Reshape(raw_points, [-1, 21, 3]), [0], [2], [2]) / 224.0
    pixels = in_picture(points, regions)
    landmarks = pixels / frame_size(frame)
    presence = op.Squeeze(raw_presence, [1])
    next_regions = palm_region(pixels)
    return landmarks, presence, next_regions


@script(default_opset=op)
def wrist_region(frame: UINT8["height", "width", 3], points: FLOAT["N", 3, 2]) -> FLOAT["N", 4]:
    """Where a hand is looked for, from the body's wrist, little and index finger of it, 0..1."""
    pixels = points * frame_size(frame)
    wrist = op.Gather(pixels, 0, axis=1)
    middle = (2.0 * op.Gather(pixels, 2, axis=1) + op.Gather(pixels, 1, axis=1)) / 3.0
    fingers = middle - wrist
    return op.Concat(middle + 0.2 * fingers, 5.4 * turned(fingers), axis=1)


@script(default_opset=op)
def recrop_region(regions: FLOAT["N", 4], raw_points: FLOAT["N", 4, 1, 1]) -> FLOAT["N", 4]:
    """The hand's own region, from the two points that the network gives: its centre, and half of its size."""
    points = in_picture(op.Reshape(raw_points, [-1, 2, 2]) / 256.0, regions)
    center = op.Gather(points, 0, axis=1)
    half = op.Gather(points, 1, axis=1) - center
    return op.Concat(center - 0.2 * half, -2.0 * turned(half), axis=1)


@script(default_opset=op)
def tracked_region(
    frame: UINT8["height", "width", 3],
    found: FLOAT["N", 4],
    landmarks: FLOAT["N", 21, 2],
    tracked: FLOAT["N", 4],
) -> FLOAT["N", 4]:
    """Return `tracked`, the last frame's hand, while it lies where this frame's is found; else `found`.

    That is: at most 40 degrees, 0.2 of the size and 0.4 in size away, and each landmark within 0.9 of it.
    NaN, where there was no hand, is near nothing.
    """
    center, edge = op.Split(found, num_outputs=2, axis=1)
    old_center, old_edge = op.Split(tracked, num_outputs=2, axis=1)
    size = op.ReduceL2(edge, [1], keepdims=1)
    old_size = op.ReduceL2(old_edge, [1], keepdims=1)
    right = edge / size
    axes = op.Concat(op.Unsqueeze(right, 2), op.Unsqueeze(turned(right), 2), axis=2)  # N, 2, (right, down)
    cosine = op.ReduceSum(right * old_edge, [1], keepdims=1) / old_size
    moved = op.Abs(op.Squeeze(op.MatMul(op.Unsqueeze(old_center - center, 1), axes), [1]))
    pixels = landmarks * frame_size(frame) - op.Unsqueeze(center, 1)
    reach = op.Squeeze(op.ReduceMax(op.Abs(op.MatMul(pixels, axes)), [1, 2], keepdims=1), [2])
    near = op.And(
        op.And(cosine >= 0.766044443, op.ReduceMax(moved, [1], keepdims=1) <= 0.2 * size),
        op.And(op.Abs(old_size - size) <= 0.4 * size, reach < 0.45 * size),
    )
    return op.Where(near, tracked, found)


@script(default_opset=op)
def refined(points: FLOAT[39, 2], heatmap: FLOAT[1, 39, 64, 64]) -> FLOAT[39, 2]:
    """Move each point to the mean of its heatmap's 9 × 9 cells around it, where the heatmap is sure of it."""
    cell = op.Cast(points * 64.0, to=7)  # towards zero
    col, row = op.Split(cell, num_outputs=2, axis=1)
    cols = op.Unsqueeze(col + op.Constant(value_ints=_REACH), 1)
    rows = op.Unsqueeze(row + op.Constant(value_ints=_REACH), 2)
    inside = op.And(op.And(cols >= 0, cols < 64), op.And(rows >= 0, rows < 64))
    place = op.Clip(rows, 0, 63) * 64 + op.Clip(cols, 0, 63)
    heat = op.GatherElements(op.Reshape(heatmap, [39, 4096]), op.Reshape(place, [39, 81]), axis=1)
    sure = op.Sigmoid(op.Reshape(heat, [39, 9, 9])) * op.Cast(inside, to=1)
    total = op.ReduceSum(sure, [1, 2], keepdims=0)
    x = op.ReduceSum(sure * op.Cast(cols, to=1), [1, 2], keepdims=0) / total
    y = op.ReduceSum(sure * op.Cast(rows, to=1), [1, 2], keepdims=0) / total
    mean = op.Concat(op.Unsqueeze(x, 1), op.Unsqueeze(y, 1), axis=1) / 64.0
    # MediaPipe asks for the column twice here, and never whether the row is below the heatmap.
    within = op.And(op.And(col >= 0, col < 64), row >= 0)
    use = op.And(
        within, op.ReduceMax(op.Squeeze(op.ReduceMax(sure, [1], keepdims=0)), [1], keepdims=1) >= 0.5
    )
    return op.Where(use, mean, points)


@script(default_opset=op)
def pose_outputs(
    frame: UINT8["height", "width", 3],
    regions: FLOAT[1, 4],
    raw_points: FLOAT[1, 195],
    raw_presence: FLOAT[1, 1],
    heatmap: FLOAT[1, 39, 64, 64],
):
    """The body's 33 landmarks and 2 points of its region, in 0..1 of the picture, visibility and presence."""
    rows = op.Reshape(raw_points, [39, 5])
    points = refined(op.Slice(rows, [0], [2], [1]) / 256.0, heatmap)
    pixels = in_picture(op.Unsqueeze(points, 0), regions)
    placed = op.Squeeze(pixels / frame_size(frame), [0])
    landmarks = op.Slice(placed, [0], [33], [0])
    region_points = op.Slice(placed, [33], [35], [0])
    visibility = op.Squeeze(op.Sigmoid(op.Slice(rows, [0, 3], [33, 4], [0, 1])), [1])
    presence = op.Squeeze(raw_presence, [1])
    return landmarks, region_points, visibility, presence


@script(default_opset=op)
def whole_frame(frame: UINT8["height", "width", 3]) -> FLOAT[1, 4]:
    """The square around the frame."""
    size = frame_size(frame)
    side = op.ReduceMax(size, keepdims=1)
    return op.Unsqueeze(op.Concat(size / 2.0, side, side * 0.0, axis=0), 0)


@script(default_opset=op)
def letterboxed(frame: UINT8["height", "width", 3], image: FLOAT[1, 3, 224, 224]) -> FLOAT[1, 3, 224, 224]:
    """The detector's input, -1..1: black beyond the frame's edge."""
    size = frame_size(frame)
    side = op.ReduceMax(size, keepdims=1)
    steps = op.Constant(value=_DETECTION_STEPS) * side
    width, height = op.Split(size, num_outputs=2, axis=0)
    x = steps + width / 2.0
    y = steps + height / 2.0
    shown_x = op.Clip(op.Min(x + 1.0, width - x), 0.0, 1.0)
    shown_y = op.Clip(op.Min(y + 1.0, height - y), 0.0, 1.0)
    return image * (shown_x * op.Unsqueeze(shown_y, 1) * (2.0 / 255.0)) - 1.0


@script(default_opset=op)
def person(values: FLOAT["A", 12], scores: FLOAT["A"], least: FLOAT):
    """The person of the best score: two points (2, 2) in 0..1, score, and which anchors show another one."""
    boxes = op.Slice(values, [0], [4], [1])
    best = op.Gather(boxes, op.ArgMax(scores, axis=0, keepdims=1), axis=0)
    center, size = op.Split(boxes, num_outputs=2, axis=1)
    best_center, best_size = op.Split(best, num_outputs=2, axis=1)
    high = op.Min(center + size / 2.0, best_center + best_size / 2.0)
    low = op.Max(center - size / 2.0, best_center - best_size / 2.0)
    shared = op.ReduceProd(op.Max(high - low, 0.0), [1], keepdims=0)
    union = op.ReduceProd(size, [1], keepdims=0) + op.ReduceProd(best_size, [1], keepdims=0) - shared
    same = shared > 0.3 * union
    weights = op.Where(op.And(same, scores >= least), scores, 0.0)
    mean = op.MatMul(op.Unsqueeze(weights, 0), op.Slice(values, [4], [8], [1])) / op.ReduceSum(weights)
    return op.Reshape(mean, [2, 2]), op.ReduceMax(scores, keepdims=0), op.Not(same)


@script(default_opset=op)
def person_region(points: FLOAT[2, 2]) -> FLOAT[1, 4]:
    """The region around a body, from the middle of its hips and a point above or below, in pixels."""
    hips = op.Gather(points, [0])
    return op.Concat(hips, 2.5 * turned(op.Gather(points, [1]) - hips), axis=1)


@script(default_opset=op)
def detection_outputs(
    frame: UINT8["height", "width", 3],
    raw_values: FLOAT[1, 2254, 12],
    raw_scores: FLOAT[1, 2254, 1],
):
    """Return the region (1, 4) of the larger of the two best persons, its score, and the other's score."""
    anchors = op.Constant(value=_ANCHORS)
    offsets = op.Concat(anchors, op.Constant(value=_NO_OFFSETS), anchors, anchors, anchors, anchors, axis=1)
    values = op.Squeeze(raw_values, [0]) / 224.0 + offsets
    scores = op.Sigmoid(op.Reshape(raw_scores, [-1]))
    first, score, others = person(values, scores, 0.5)
    second, other_score, _ = person(values, op.Where(others, scores, 0.0), 0.5)
    size = op.ReduceL2(op.Gather(first, 1) - op.Gather(first, 0), keepdims=0)
    other_size = op.ReduceL2(op.Gather(second, 1) - op.Gather(second, 0), keepdims=0)
    larger = op.And(other_score >= 0.5, other_size > size)
    points = op.Where(larger, second, first)
    picture_size = frame_size(frame)
    pixels = (points - 0.5) * op.ReduceMax(picture_size, keepdims=1) + picture_size / 2.0
    region = person_region(pixels)
    return region, op.Where(larger, other_score, score), op.Where(larger, score, other_score)
