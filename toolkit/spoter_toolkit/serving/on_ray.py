"""The same application as a Ray Serve deployment: replicas on one machine or on many.

serve run spoter_toolkit.serving.on_ray:build bundles=model.spoter replicas=2
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeVar

from spoter_runtime.errors import ConfigError, require
from spoter_toolkit.serving.limits import Limits

_Number = TypeVar("_Number", int, float)

_ARGUMENTS: Final = ("bundles", "replicas", "budget_ms", "backend")


def build(arguments: dict[str, str]) -> Any:
    """Return the application for ``serve run`` or ``serve.run``.

    Args:
        arguments: ``bundles`` as `sources_from` takes them, with commas; ``replicas``, 2 by default;
            ``budget_ms`` and ``backend`` as `spoter-kit serve` has them.

    Raises:
        ConfigError: another argument, a wrong number, or no bundle.
        MissingExtraError: Ray Serve is not installed.
    """
    if unknown := set(arguments) - set(_ARGUMENTS):
        raise ConfigError(f"{min(unknown)}: unknown, there are {', '.join(_ARGUMENTS)}")
    if not arguments.get("bundles"):
        raise ConfigError("bundles: none is named", fix="bundles=model.spoter")
    words = str(arguments["bundles"]).split(",")
    limits = Limits(budget_ms=_above_0(arguments, "budget_ms", Limits().budget_ms))
    replicas = _above_0(arguments, "replicas", 2)
    backend = arguments.get("backend")
    serve = require("ray.serve", extra="serve-ray")

    def application() -> Any:
        """Run in each replica."""
        from spoter_toolkit.serving.app import Application
        from spoter_toolkit.serving.models import Models, sources_from

        return Application(Models(sources=sources_from(words), backend=backend), limits).asgi

    deployment = serve.deployment(
        serve.ingress(application)(),
        name="spoter-kit",
        num_replicas=replicas,
        max_ongoing_requests=limits.queue_clips,  # the application itself refuses what comes too much
        health_check_period_s=1,
        ray_actor_options={"num_cpus": 1},
    )
    return deployment.bind()


def _above_0(arguments: dict[str, str], name: str, default: _Number) -> _Number:
    """Return a number of the arguments; of the default's type."""
    given = arguments.get(name, default)
    try:
        if 0 < (found := type(default)(given)) < math.inf:
            return found
    except ValueError:
        pass
    raise ConfigError(f"{name}: {given!r}, expected a number above 0", fix=f"{name}={default:g}")
