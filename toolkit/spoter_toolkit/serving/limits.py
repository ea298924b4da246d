"""What a server takes of one request, and of all that wait."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Final

from spoter_runtime.errors import ConfigError

_OPTIONS: Final = {"clips": "max-clips", "body_mb": "max-body-mb", "connections": "max-connections"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a server; a request beyond one is refused, and says which.

    Attributes:
        budget_ms: the latency budget: clips that would wait longer are refused with 429.
        queue_clips: clips that may wait.
        clips: clips of one request.
        body_mb: megabytes of a request's body.
        header_bytes: bytes of a request's line and headers.
        request_s: time from a request's first byte to its last.
        connections: open connections.
        grace_s: after SIGTERM, time for a load balancer to see that it is not ready; it still answers.
        drain_s: after that, time for the answers that are still due.
    """

    budget_ms: float = 100.0
    queue_clips: int = 256
    clips: int = 64
    body_mb: float = 8.0
    header_bytes: int = 16 << 10
    request_s: float = 10.0
    connections: int = 4096
    grace_s: float = 5.0
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value, option = getattr(self, one.name), _OPTIONS.get(one.name, one.name.replace("_", "-"))
            if not 0 < value < math.inf:
                fix = f"--{option} {one.default:g}"
                raise ConfigError(f"--{option}: {value:g}, expected a number above 0", fix=fix)
