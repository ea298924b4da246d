"""What an engine library says while it builds or runs, and a runtime of it that says why there is none."""

from __future__ import annotations

import logging
from typing import Any, Final

from spoter_runtime.errors import BackendError

_log = logging.getLogger(__name__)

_MOST_ERRORS: Final = 3  # the first ones tell the cause; what comes after them follows from it


class EngineLog:
    """What an engine library says: errors are kept for our messages, warnings go to `logging`.

    Attributes:
        logger: to be given to the library; it must live as long as what was made with it.
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
                    # Of no consequence: both loggers are heard. Nobody can act on it.
                    harmless = "differs from one already registered" in msg
                    _log.log(logging.DEBUG if harmless else logging.WARNING, "%s: %s", library.__name__, msg)

        self.logger: Any = Logger()
        self._errors = errors

    def take(self) -> str:
        """Return the first errors since the last call, each once, and forget all of them."""
        said, self._errors[:] = list(dict.fromkeys(self._errors)), []
        return "; ".join(said[:_MOST_ERRORS]) or "the library gave no reason"


def engine_runtime(library: Any, log: EngineLog) -> Any:
    """Return the library's ``Runtime``, which loads engines.

    Args:
        library: from `import_engine_library`; TensorRT only where `find_gpu` found one: without, it makes a
            runtime that crashes the process when it is freed.
        log: hears the library from now on.

    Raises:
        BackendError: there is none; the library's reason is in the message.
    """
    try:
        runtime = library.Runtime(log.logger)
    except TypeError as error:  # how pybind11 says that there is none
        raise BackendError(
            f"{library.__name__} {library.__version__} cannot make a runtime here: {log.take()}",
            fix="see what `nvidia-smi` says of the driver and the GPU",
        ) from error
    return runtime
