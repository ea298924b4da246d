"""Collect an engine library's messages, and create its runtime with a clear error if that fails."""

from __future__ import annotations

import logging
from typing import Any, Final

from spoter_runtime.errors import BackendError

_log = logging.getLogger(__name__)

_MOST_ERRORS: Final = 3  # the first errors give the cause, later ones are consequences


class EngineLog:
    """Collects an engine library's errors for our messages; its warnings go to `logging`.

    Attributes:
        logger: logger object for the library; must outlive every object made with it.
    """

    def __init__(self, library: Any) -> None:
        errors: list[str] = []
        severe = (library.ILogger.INTERNAL_ERROR, library.ILogger.ERROR)
        warning = library.ILogger.WARNING

        class Logger(library.ILogger):  # type: ignore[misc]  # the library is imported where it is used
            def __init__(self) -> None:
                library.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                if severity in severe:
                    errors.append(" ".join(msg.split()))
                elif severity == warning:
                    # Harmless: both loggers work, and nobody can act on it.
                    harmless = "differs from one already registered" in msg
                    _log.log(logging.DEBUG if harmless else logging.WARNING, "%s: %s", library.__name__, msg)

        self.logger: Any = Logger()
        self._errors = errors

    def take(self) -> str:
        """Return the first distinct errors since the last call, and clear all."""
        said, self._errors[:] = list(dict.fromkeys(self._errors)), []
        return "; ".join(said[:_MOST_ERRORS]) or "the library gave no reason"


def engine_runtime(library: Any, log: EngineLog) -> Any:
    """Return the library's ``Runtime``, which loads engines.

    Args:
        library: from `import_engine_library`. TensorRT needs a GPU from `find_gpu`: without one, freeing its
            runtime crashes the process.
        log: receives the library's messages.

    Raises:
        BackendError: the library cannot create a runtime; the message has its reason.
    """
    try:
        runtime = library.Runtime(log.logger)
    except TypeError as error:  # pybind11 raises this if the factory returned null
        raise BackendError(
            f"{library.__name__} {library.__version__} cannot make a runtime here: {log.take()}",
            fix="see what `nvidia-smi` says of the driver and the GPU",
        ) from error
    return runtime
