"""Build engines for a bundle on the device that they are for, with nothing but TensorRT.

python -m spoter_export model.spoter --trt
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence

from spoter_export.bundle.engines import add_engines, check_engine_precisions
from spoter_export.trt.profiles import parse_profile
from spoter_export.trt.to_tensorrt import parse_compute_capabilities
from spoter_runtime._types import OnProgress
from spoter_runtime._version import __version__
from spoter_runtime.errors import SpoterError, exit_code_of, from_options


def main(argv: Sequence[str] | None = None) -> int:
    """Add engines to a bundle; return the exit code: 0 done, 1 error of ours, 2 wrong usage."""
    arguments = option_parser().parse_args(argv)
    capability, profile = arguments.compute_capability, arguments.profile
    try:
        with from_options():
            capabilities = None if capability is None else parse_compute_capabilities(capability)
            profiles = [parse_profile(text) for text in profile] if profile else None
            precisions = [name.strip() for name in arguments.precision.split(",")]
            check_engine_precisions(precisions)
        added = add_engines(
            arguments.bundle,
            library=arguments.library,
            precisions=precisions,
            compute_capabilities=capabilities,
            profiles=profiles,
            version_compatible=arguments.version_compatible,
            force=arguments.force,
            on_progress=progress_lines(),
        )
    except SpoterError as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_code_of(error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"error: {arguments.bundle}: the disk is full. Fix: make room", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    for engine in added:
        spec = engine.artefact.engine
        assert spec is not None  # it is an engine
        ran = f"not executed: {engine.not_executed}" if engine.not_executed else f"executed: {spec.executed}"
        print(f"{engine.artefact.path}\tbuilt in {spec.built['seconds']:.1f} s\t{ran}")
    return 0


def option_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m spoter_export", description=__doc__.split("\n")[0])
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("bundle")
    library = parser.add_mutually_exclusive_group(required=True)
    for option, name, what in (("--trt", "tensorrt", "TensorRT"), ("--rtx", "tensorrt_rtx", "TensorRT-RTX")):
        library.add_argument(option, action="store_const", const=name, dest="library", help=what)
    parser.add_argument("--precision", default="fp32", help="with commas: fp32,fp16; default: fp32")
    parser.add_argument("--compute-capability", help="GPUs for --rtx, with commas: 8.6,8.9")
    parser.add_argument(
        "--profile", action="append", help="least,tuned,most as clips x frames: 1x1,1x60,1x299"
    )
    parser.add_argument(
        "--version-compatible",
        action="store_true",
        help="for newer versions of TensorRT and its lean runtime too; the engine brings code for the CPU",
    )
    parser.add_argument("--force", action="store_true", help="build anew what is there already")
    return parser


def progress_lines() -> OnProgress:
    """Return a callback that writes a line to stderr for each twentieth of the work."""
    last = -1

    def on_progress(done: int, total: int, what: str) -> None:
        nonlocal last
        share = done * 20 // total if total else -1
        if share != last or not total:
            last = share
            print(f"{share * 5:3d} %  {what}" if total else what, file=sys.stderr, flush=True)

    return on_progress


if __name__ == "__main__":
    sys.exit(main())
