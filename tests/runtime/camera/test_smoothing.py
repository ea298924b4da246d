from __future__ import annotations

import math

import numpy as np
import pytest

from spoter_runtime.camera.smoothing import OneEuroFilter


class Plain:
    """The filter for one number, as its paper writes it down."""

    def __init__(self, min_cutoff, beta):
        self.min_cutoff, self.beta, self.last = min_cutoff, beta, None

    def weight(self, cutoff, elapsed):
        tau = 1 / (2 * math.pi * cutoff)
        return 1 / (1 + tau / elapsed)

    def __call__(self, value, elapsed, scale):
        if self.last is None:
            self.speed, self.smooth = 0.0, value
        else:
            speed, a = (value - self.last) / scale / elapsed, self.weight(1, elapsed)
            self.speed = a * speed + (1 - a) * self.speed
            a = self.weight(self.min_cutoff + self.beta * abs(self.speed), elapsed)
            self.smooth = a * value + (1 - a) * self.smooth
        self.last = value
        return self.smooth


@pytest.mark.parametrize(("min_cutoff", "beta"), [(0.05, 80.0), (0.01, 10.0)])
def test_it_is_the_paper_s_filter_on_every_number(min_cutoff, beta):
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(0, 3, (40, 5, 2)), axis=0)
    elapsed, scale = rng.uniform(0.01, 0.2, 40), rng.uniform(50, 90, 40)
    smooth = OneEuroFilter(min_cutoff=min_cutoff, beta=beta)
    plain = [[Plain(min_cutoff, beta) for _ in range(2)] for _ in range(5)]
    for frame, seconds, size in zip(values, elapsed, scale, strict=True):
        expected = [[plain[i][j](frame[i, j], seconds, size) for j in range(2)] for i in range(5)]
        np.testing.assert_allclose(smooth(frame, seconds, size), expected, rtol=1e-9)


def test_jitter_goes_and_movement_stays():
    smooth = OneEuroFilter(min_cutoff=0.05, beta=80.0)
    rng = np.random.default_rng(0)
    still = np.array([smooth(100 + rng.normal(0, 0.2, 1), 1 / 30, 400.0) for _ in range(200)])
    assert still[50:].std() < 0.1
    moved = [float(smooth(np.array([100.0 + 20 * n]), 1 / 30, 400.0)[0]) for n in range(10)]
    assert abs(moved[-1] - 280) < 4


def test_reset_forgets():
    smooth = OneEuroFilter(min_cutoff=0.05, beta=80.0)
    smooth(np.array([5.0]), 0.03, 1.0)
    smooth.reset()
    assert smooth(np.array([900.0]), 0.03, 1.0) == 900
