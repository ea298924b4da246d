"""Filters over time that take the jitter out of landmarks, as MediaPipe's have it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


class OneEuroFilter:
    """The One Euro filter: smooths slow points, delays fast ones little (Casiez, Roussel and Vogel 2012).

    A low-pass filter whose cutoff frequency grows with the speed.
    """

    def __init__(self, *, min_cutoff: float, beta: float) -> None:
        self._min_cutoff = min_cutoff
        self._beta = beta
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self._raw: Float64Array | None = None

    def __call__(self, values: Float64Array, elapsed_s: float, scale: float) -> Float64Array:
        """Return the values, smoothed.

        Args:
            values: of this frame; every frame has the same shape.
            elapsed_s: since the last frame; above 0.
            scale: the size of the object, so that its speed is in sizes a second.
        """
        if self._raw is None:
            self._speed = np.zeros_like(values)
            self._smooth = values
        else:
            speed = (values - self._raw) / (scale * elapsed_s)
            self._speed += _weight(1.0, elapsed_s) * (speed - self._speed)
            cutoff = self._min_cutoff + self._beta * np.abs(self._speed)
            self._smooth = self._smooth + _weight(cutoff, elapsed_s) * (values - self._smooth)
        self._raw = values
        return self._smooth


def _weight(cutoff: Float64Array | float, elapsed_s: float) -> Float64Array | float:
    """Return how much of a new value a low-pass filter of this cutoff frequency takes."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * elapsed_s))
