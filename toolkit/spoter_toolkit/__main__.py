"""Entry point of `spoter-kit`: runs the command, turns our errors into one message and an exit code."""

from __future__ import annotations

import sys
import warnings

from spoter_runtime.errors import (
    SpoterError,
    exit_code_of,
    is_installed,
    let_streams_write_any_letter,
    pip_fix,
)


def main() -> None:
    """Run `spoter-kit`. Exit 0 done, 1 our error, 2 usage, 3 it ran and the answer is no."""
    let_streams_write_any_letter()
    if not is_installed("typer"):
        fix = pip_fix("toolkit")
        print(
            f"error: {SpoterError('the spoter-kit command needs the toolkit extra', fix=fix)}\n"
            "On a device, python -m spoter_runtime has predict, verify and doctor without it.",
            file=sys.stderr,
        )
        sys.exit(1)
    from spoter_toolkit.cli.app import app
    from spoter_toolkit.cli.console import fitted
    from spoter_toolkit.input_files import error_from_os

    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # no line of our code
    try:
        app()
    except SpoterError as error:
        print(fitted(f"error: {error}", sys.stderr), file=sys.stderr)
        sys.exit(exit_code_of(error))
    except OSError as error:  # a full disk, a read-only folder
        print(fitted(f"error: {error_from_os(error)}", sys.stderr), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
