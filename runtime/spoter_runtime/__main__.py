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
from spoter_runtime.doctor import diagnose, summary
from spoter_runtime.errors import (
    DataError,
    InputError,
    SpoterError,
    let_streams_write_any_letter,
    nearest_known,
)
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
    doctor = verbs.add_parser("doctor", help="say what runs here, and what could run")
    for verb in (predict, verify, tuning, doctor):
        loudness = verb.add_mutually_exclusive_group()
        loudness.add_argument("-v", "--verbose", action="store_true", help="print all there is")
        loudness.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    for verb in (predict, verify):
        known = ", ".join(BACKENDS)
        verb.add_argument("--backend", type=_backend, help=f"{known}; default: the best that works here")
        verb.add_argument("--precision", default="fp32", help="of the file to run; default: fp32")
        trust = "public key, in PEM, that has to have signed the bundle; may be repeated: any of them"
        verb.add_argument("--trust", metavar="KEY", action="append", help=trust)
    let_streams_write_any_letter()
    arguments = parser.parse_args(argv)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # no line of our code
    try:
        return _run(arguments)
    except SpoterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    """Run the verb; return the exit code."""
    if arguments.quiet:
        warnings.simplefilter("ignore")
    run = {"predict": _predict, "verify": _verify, "tune": _tune, "doctor": _doctor}[arguments.verb]
    return run(arguments)


def _tell(arguments: argparse.Namespace, *lines: str) -> None:
    """Print lines of a result; nothing after ``-q``."""
    if not arguments.quiet:
        print(*lines, sep="\n")


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


def _predict(given: argparse.Namespace) -> int:
    recognizer = Recognizer.load(given.bundle, given.backend, precision=given.precision, trust=given.trust)
    _say_passed_over(given, recognizer.passed_over)
    code = 0
    for path in given.clips:
        try:
            if is_video(path):
                prediction = recognizer.predict_video(path)
            else:
                prediction = recognizer.predict(load_clip(path), name=path)
        except (InputError, DataError) as error:  # the others get their answers
            print(f"error: {error}", file=sys.stderr)
            code = 1
            continue
        best = "  ".join(f"{label} {score:.3f}" for label, score in prediction.top(given.top))
        if prediction.is_sign is False:
            best = f"no sign ({prediction.reason})\t{best}"
        times = f"{prediction.latency_ms:.1f} ms"
        if video := prediction.video:
            times = f"decode {video.decode_ms:.0f} ms, landmarks {video.landmarks_ms:.0f} ms, model {times}"
        _tell(given, f"{path}\t{best}\t{times}")
    return code


def _verify(given: argparse.Namespace) -> int:
    report = verify_bundle(given.bundle, given.backend, precision=given.precision, trust=given.trust)
    _say_passed_over(given, report.passed_over)
    if report.passed:
        _tell(given, *report.lines())
        return 0
    print(*report.lines(), sep="\n")
    return 3


def _tune(given: argparse.Namespace) -> int:
    from spoter_runtime.tuning.search import tune  # not at the top: no start needs it
    from spoter_runtime.tuning.store import tuned_path

    found = read_bundle(given.bundle)
    tuned = tune(found, precision=given.precision, seconds=given.seconds)
    refused = [row for row in tuned.measured if "refused" in row]
    if refused and not given.quiet:
        print(f"{len(refused)} configurations are refused here (-v: why)", file=sys.stderr)
    for situation, config in tuned.configs.items():
        _tell(given, f"{situation}\t{config}\t{tuned.reasons[situation]}")
    if given.verbose:
        _tell(given, *(f"refused: {row['way']}: {row['refused']}" for row in refused))
    _tell(given, str(tuned_path(found, given.precision)))
    return 0


def _say_passed_over(given: argparse.Namespace, passed_over: dict[str, str]) -> None:
    for name, why in () if given.quiet else passed_over.items():
        print(f"{name} was not taken: {why}", file=sys.stderr)


def _doctor(given: argparse.Namespace) -> int:
    findings = diagnose()
    runs = any(f.status == "ok" and f.kind == "backend" for f in findings)
    if given.verbose:
        for finding in findings:
            print(f"{finding.status:8} {finding.name:16} {finding.detail}")
            if finding.fix:
                print(f"{'':8} {'':16} Fix: {finding.fix}")
    if not (given.quiet and runs):
        print(*summary(findings), sep="\n")
    return 0 if runs else 3


if __name__ == "__main__":
    sys.exit(main())
