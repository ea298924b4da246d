"""Counters and histograms of a server, in the text format that Prometheus reads."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from typing import Final

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_CLIPS: Final = (1.0, 2.0, 4.0, 8.0)

# Name → (kind, help, bounds of a histogram).
_KNOWN: Final[dict[str, tuple[str, str, tuple[float, ...]]]] = {
    "spoter_requests_total": ("counter", "Requests for inference, by HTTP status.", ()),
    "spoter_clips_total": ("counter", "Clips answered.", ()),
    "spoter_frames_total": ("counter", "Frames computed, without padding.", ()),
    "spoter_padding_frames_total": ("counter", "Frames computed that were padding.", ()),
    "spoter_reloads_total": ("counter", "Reloads of a model, by result.", ()),
    "spoter_request_seconds": ("histogram", "From a request's headers to its answer.", _SECONDS),
    "spoter_wait_seconds": ("histogram", "Longest wait of a batch's clips.", _SECONDS),
    "spoter_call_seconds": ("histogram", "Engine call of a batch.", _SECONDS),
    "spoter_batch_clips": ("histogram", "Clips of a batch.", _CLIPS),
    "spoter_waiting_clips": ("gauge", "Clips that wait.", ()),
    "spoter_expected_wait_seconds": ("gauge", "Wait of a clip that comes now.", ()),
    "spoter_model_info": ("gauge", "1 for each model that answers.", ()),
}


class Metrics:
    """Counters and histograms; one thread writes and reads them."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._buckets: dict[str, list[int]] = {
            name: [0] * (len(bounds) + 1) for name, (_, _, bounds) in _KNOWN.items() if bounds
        }
        self._sums: dict[str, float] = defaultdict(float)
        self.gauges: dict[str, Callable[[], dict[str, float]]] = {}  # name → labels → value

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        """Add to a counter."""
        self._counts[name][_labels(labels)] += value

    def observe(self, name: str, value: float) -> None:
        """Add a value to a histogram."""
        self._buckets[name][bisect_left(_KNOWN[name][2], value)] += 1
        self._sums[name] += value

    def text(self) -> str:
        """Return all of them, as ``text/plain; version=0.0.4``."""
        lines = []
        for name, (kind, text, bounds) in _KNOWN.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            if kind == "histogram":
                total = 0
                for bound, count in zip((*map(str, bounds), "+Inf"), self._buckets[name], strict=True):
                    total += count
                    lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
                lines += [f"{name}_sum {self._sums[name]}", f"{name}_count {total}"]
            else:
                values = self.gauges[name]() if name in self.gauges else self._counts[name]
                lines += [f"{name}{labels} {value:g}" for labels, value in values.items()]
        return "\n".join((*lines, ""))


def _labels(labels: dict[str, str]) -> str:
    """Return ``{model="letters"}``; a value never holds a quote, a backslash or a line's end."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""
