"""The device's own small command: predict, verify, tune, doctor, with nothing but the runtime.

python -m spoter_runtime verify model.spoter
python -m spoter_runtime tune model.spoter
python -m spoter_runtime predict model.spoter clip.mp4 clip.npy
python -m spoter_runtime doctor
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Sequence

from spoter_runtime._version import __version__
from spoter_runtime.backends import BACKENDS
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.clip_files import is_video, load_clip
from spoter_runtime.doctor import diagnose
from spoter_runtime.errors import SpoterError, nearest_known
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.verify import verify_bundle


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return 0 done, 1 our error, 2 usage, 3 the check was run and the answer is no."""
    parser = argparse.ArgumentParser(prog="python -m spoter_runtime", description=__doc__.split("\n")[0])
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    predict = verbs.add_parser("predict", help="print the sign in each clip")
    predict.add_argument("bundle")
    predict.add_argument("clips", nargs="+", help="videos of one sign each, or .npy files, (frames, 54, 2)")
    predict.add_argument("--top", type=int, default=1, help="how many labels a clip")
    verify = verbs.add_parser("verify", help="hash the bundle and replay its goldens here")
    verify.add_argument("bundle")
    tuning = verbs.add_parser("tune", help="find the fastest way to run the bundle here, and keep it")
    tuning.add_argument("bundle")
    tuning.add_argument("--precision", default="fp32", help="of the files to run; default: fp32")
    tuning.add_argument("--seconds", type=_seconds, default=20.0, help="of measuring; default: 20")
    verbs.add_parser("doctor", help="what is installed, what runs, what is missing")
    for verb in (predict, verify):
        known = ", ".join(BACKENDS)
        verb.add_argument("--backend", type=_backend, help=f"{known}; default: the best that works here")
        verb.add_argument("--precision", default="fp32", help="of the file to run; default: fp32")
    arguments = parser.parse_args(argv)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # no line of our code
    try:
        if arguments.verb == "predict":
            return _predict(
                arguments.bundle, arguments.clips, arguments.backend, arguments.precision, arguments.top
            )
        if arguments.verb == "verify":
            return _verify(arguments.bundle, arguments.backend, arguments.precision)
        if arguments.verb == "tune":
            return _tune(arguments.bundle, arguments.precision, arguments.seconds)
        return _doctor()
    except SpoterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _backend(name: str) -> str:
    """Return the name of a backend as it is; argparse's own message about choices would not guess."""
    if name not in BACKENDS:
        raise argparse.ArgumentTypeError(f"unknown backend {name!r}; {nearest_known(name, list(BACKENDS))}")
    return name


def _seconds(text: str) -> float:
    """Return a time to measure for."""
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a positive number")
    return seconds


def _predict(bundle: str, clips: list[str], backend: str | None, precision: str, top: int) -> int:
    recognizer = Recognizer.load(bundle, backend, precision=precision)
    _say_passed_over(recognizer.passed_over)
    for path in clips:
        if is_video(path):
            prediction = recognizer.predict_video(path)
        else:
            prediction = recognizer.predict(load_clip(path), name=path)
        best = "  ".join(f"{label} {score:.3f}" for label, score in prediction.top(top))
        times = f"{prediction.latency_ms:.1f} ms"
        if video := prediction.video:
            times = f"decode {video.decode_ms:.0f} ms, landmarks {video.landmarks_ms:.0f} ms, model {times}"
        print(f"{path}\t{best}\t{times}")
    return 0


def _verify(bundle: str, backend: str | None, precision: str) -> int:
    report = verify_bundle(bundle, backend, precision=precision)
    _say_passed_over(report.passed_over)
    print(report.summary())
    return 0 if report.passed else 3


def _tune(bundle: str, precision: str, seconds: float) -> int:
    from spoter_runtime.tuning.search import tune  # not at the top: no start needs it
    from spoter_runtime.tuning.store import tuned_path

    found = read_bundle(bundle)
    tuned = tune(found, precision=precision, seconds=seconds)
    for row in tuned.measured:
        if "refused" in row:
            print(f"refused: {row['way']}: {row['refused']}", file=sys.stderr)
    for situation, config in tuned.configs.items():
        print(f"{situation}\t{config}\t{tuned.reasons[situation]}")
    print(tuned_path(found, precision))
    return 0


def _say_passed_over(passed_over: dict[str, str]) -> None:
    for name, why in passed_over.items():
        print(f"{name} was not taken: {why}", file=sys.stderr)


def _doctor() -> int:
    findings = diagnose()
    for finding in findings:
        print(f"{finding.status:8} {finding.name:16} {finding.detail}")
        if finding.fix:
            print(f"{'':8} {'':16} Fix: {finding.fix}")
    return 0 if any(f.status == "ok" and f.kind == "backend" for f in findings) else 3


if __name__ == "__main__":
    sys.exit(main())
