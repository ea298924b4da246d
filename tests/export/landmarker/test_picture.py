"""The picture's part of each graph, run by ONNX Runtime, against the same said in numpy."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest

from spoter_export.landmarker import picture


@pytest.fixture(scope="module")
def run():
    """Return run(graph, *inputs): the outputs of a graph of `picture`."""
    sessions = {}

    def run(graph, *inputs):
        if graph not in sessions:
            model = onnx.inliner.inline_local_functions(graph.to_model_proto())
            sessions[graph] = onnxruntime.InferenceSession(model.SerializeToString())
        names = [value.name for value in sessions[graph].get_inputs()]
        return sessions[graph].run(None, dict(zip(names, inputs, strict=True)))

    return run


def frame_of(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def cropped(frame, region, side):
    """Bilinear in float64, with places rounded to 1/32 of a pixel and colours to whole numbers, half up."""
    x, y, edge_x, edge_y = map(float, region)
    steps = np.arange(side) / side - 0.5
    u, v = np.meshgrid(steps, steps)
    height, width = frame.shape[:2]
    xs = np.clip(np.round((x + u * edge_x - v * edge_y) * 32) / 32, 0, width - 1)
    ys = np.clip(np.round((y + u * edge_y + v * edge_x) * 32) / 32, 0, height - 1)
    left, top = np.floor(xs).astype(int), np.floor(ys).astype(int)
    right, low = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    a, b = (xs - left)[..., None], (ys - top)[..., None]
    colours = frame.astype(float)
    upper = colours[top, left] * (1 - a) + colours[top, right] * a
    lower = colours[low, left] * (1 - a) + colours[low, right] * a
    return np.moveaxis(np.floor(upper * (1 - b) + lower * b + 0.5), 2, 0)


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (1, 1), (1, 9), (9, 1), (2, 2), (480, 640)])
@pytest.mark.parametrize(
    "region", [(0.5, 0.5, 0.6, 0), (0.3, 0.8, 0.4, 0.3), (0, 1, -0.5, 0.5), (2, 2, 1, 0)]
)
def test_a_crop_is_bilinear_and_turned_as_the_region_says(run, graph_of_16, size, region):
    frame = frame_of(*size)
    region = np.float32(
        [[region[0] * size[1], region[1] * size[0], region[2] * size[1], region[3] * size[1]]]
    )
    (crop,) = run(graph_of_16, frame, region)
    assert crop.shape == (1, 3, 16, 16)
    off = np.abs(crop[0] - cropped(frame, region[0], 16))
    assert np.median(off) == 0
    assert (off > 1).mean() < 0.01  # float32 takes a place on the other side of a rounding now and then


@pytest.fixture(scope="module")
def graph_of_16():
    return picture.crop_graph(16)


def test_a_colour_in_the_middle_of_two_is_rounded_up(run, graph_of_16):
    """As OpenCV does: the middle of 100 and 101, and of 101 and 102, is the higher one."""
    frame = np.repeat(np.arange(100, 132, dtype=np.uint8)[None, :, None], 3, 2).repeat(32, 0)
    (crop,) = run(graph_of_16, frame, np.float32([[16.5, 16, 16, 0]]))
    np.testing.assert_array_equal(crop[0, 0, 0], np.arange(109, 125))


def test_crops_of_several_regions_are_those_of_each(run, graph_of_16):
    frame = frame_of(50, 70)
    regions = np.float32([[20, 20, 30, 3], [60, 40, -9, 14], [5, 45, 0, 20]])
    (together,) = run(graph_of_16, frame, regions)
    for region, crop in zip(regions, together, strict=True):
        np.testing.assert_array_equal(run(graph_of_16, frame, region[None])[0][0], crop)


def test_points_of_a_crop_go_back_to_where_the_crop_took_them_from(run, graph_of_16):
    """A point painted into the picture is found in the crop, and its place there leads back to it."""
    frame = np.zeros((100, 120, 3), np.uint8)
    frame[61:64, 43:46] = 255
    region = np.float32([[50, 55, 20, 30]])
    (crop,) = run(picture.crop_graph(64), frame, region)
    row, col = np.argwhere(crop[0, 0] > 200).mean(axis=0)
    (back,) = run(picture.in_picture, np.float32([[[col / 64, row / 64]]]), region)
    np.testing.assert_allclose(back[0, 0], [44, 62], atol=0.5)


def test_the_palm_s_region_stands_upright_on_the_fingers_and_is_twice_the_palm(run):
    hand = np.float32([[0, 0]] * 21)
    hand[[5, 9, 13, 17]] = [[-20, -80], [0, -90], [20, -80], [30, -70]]
    hand[[6, 10, 14, 18]] = [[-20, -110], [0, -120], [20, -110], [30, -100]]
    hand[20] = [500, 500]  # a fingertip counts nothing
    hand += [200, 300]
    (region,) = run(picture.palm_region, hand[None])
    center, edge = region[0, :2], region[0, 2:]
    np.testing.assert_allclose(edge, [240, 0], atol=1e-3)
    np.testing.assert_allclose(center, [205, 300 - 60 - 12], atol=1e-3)
    turn = np.float32([[0, -1], [1, 0]])  # the whole hand turned by 90 degrees turns the region with it
    (turned,) = run(picture.palm_region, (hand @ turn.T)[None])
    np.testing.assert_allclose(turned[0, :2], center @ turn.T, atol=0.01)
    np.testing.assert_allclose(turned[0, 2:], edge @ turn.T, atol=0.01)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"angle": 39}, True),
        ({"angle": 41}, False),
        ({"angle": -41}, False),
        ({"move": (19, -19)}, True),
        ({"move": (21, 0)}, False),
        ({"move": (0, 21)}, False),
        ({"size": 1.39}, True),
        ({"size": 1.41}, False),
        ({"size": 0.59}, False),
        ({"reach": 44}, True),
        ({"reach": 46}, False),
        ({"none": True}, False),
    ],
)
def test_a_tracked_hand_keeps_its_region_while_it_lies_where_it_is_found(run, change, kept):
    frame = frame_of(400, 600)
    found = np.float32([[300, 200, 100, 0]])
    angle, size = np.radians(change.get("angle", 0)), 100 * change.get("size", 1)
    move = np.float32(change.get("move", (0, 0)))
    tracked = np.float32([[*(found[0, :2] + move), size * np.cos(angle), size * np.sin(angle)]])
    points = np.zeros((1, 21, 2), np.float32)
    points[0, 7] = [0, -change.get("reach", 10)]
    landmarks = (points + found[0, :2]) / np.float32([600, 400])
    if change.get("none"):
        tracked, landmarks = tracked * np.nan, landmarks * np.nan
    (region,) = run(picture.tracked_region, frame, found, landmarks, tracked)
    np.testing.assert_array_equal(region, tracked if kept else found)


def test_points_move_to_the_mean_of_a_sure_heatmap(run):
    rng = np.random.default_rng(3)
    points = rng.uniform(-0.05, 1.05, (39, 2)).astype(np.float32)
    heatmap = rng.normal(-2, 2, (1, 39, 64, 64)).astype(np.float32)
    heatmap[:, ::3] -= 9  # nowhere sure
    (moved,) = run(picture.refined, points, heatmap)
    unmoved = 0
    for n, (x, y) in enumerate(points):
        col, row = int(x * 64), int(y * 64)
        expected = still = np.array([x, y])
        if 0 <= col < 64 and row >= 0:
            rows, cols = np.mgrid[max(0, row - 4) : min(64, row + 5), max(0, col - 4) : min(64, col + 5)]
            sure = 1 / (1 + np.exp(-heatmap[0, n, rows, cols].astype(float)))
            if sure.size and sure.max() >= 0.5:
                expected = np.array([(sure * cols).sum(), (sure * rows).sum()]) / sure.sum() / 64
        unmoved += expected is still
        np.testing.assert_allclose(moved[n], expected, atol=2e-5)
    assert 10 < unmoved < 30


def detection(values):
    """The detector's raw outputs in which anchors say: (anchor, score, box center, box size, hips, top)."""
    raw, scores = np.zeros((1, 2254, 12), np.float32), np.full((1, 2254, 1), -20, np.float32)
    for anchor, score, box, size, hips, top in values:
        middle = picture._anchors()[anchor]
        offsets = [np.subtract(box, middle), size, np.subtract(hips, middle), np.subtract(top, middle)]
        raw[0, anchor, :8] = np.concatenate(offsets) * 224
        scores[0, anchor] = np.log(score / (1 - score))
    return raw, scores


def test_a_person_is_the_mean_of_the_boxes_that_agree_with_the_best(run):
    raw = detection(
        [
            (100, 0.9, (0.5, 0.3), (0.2, 0.2), (0.5, 0.7), (0.5, 0.2)),
            (900, 0.6, (0.51, 0.31), (0.2, 0.2), (0.53, 0.73), (0.53, 0.23)),
            (901, 0.4, (0.51, 0.31), (0.2, 0.2), (0.9, 0.9), (0.9, 0.1)),  # not sure enough
        ]
    )
    region, score, other = run(picture.detection_outputs, frame_of(200, 100), *raw)
    hips = (0.9 * np.array([0.5, 0.7]) + 0.6 * np.array([0.53, 0.73])) / 1.5
    np.testing.assert_allclose(region[0, :2], (hips - 0.5) * 200 + [50, 100], atol=0.01)
    np.testing.assert_allclose(region[0, 2:], [2.5 * 0.5 * 200, 0], atol=0.01)
    assert (score, other < 0.5) == (pytest.approx(0.9), True)


def test_of_two_persons_the_larger_is_taken(run):
    small = (100, 0.9, (0.2, 0.3), (0.1, 0.1), (0.2, 0.5), (0.2, 0.3))
    large = (900, 0.7, (0.7, 0.3), (0.3, 0.3), (0.7, 0.8), (0.7, 0.2))
    region, score, other = run(picture.detection_outputs, frame_of(100, 100), *detection([small, large]))
    np.testing.assert_allclose(region[0], [70, 80, 150, 0], atol=0.01)
    assert (score, other) == (pytest.approx(0.7), pytest.approx(0.9))
    region, score, other = run(picture.detection_outputs, frame_of(100, 100), *detection([small]))
    np.testing.assert_allclose(region[0], [20, 50, 50, 0], atol=0.01)
    assert score == pytest.approx(0.9)
    assert other < 0.5
