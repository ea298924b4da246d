"""`spoter-kit bench`: latency, throughput, memory, start-up and energy of a bundle, across backends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spoter_toolkit.cli.bench_view import bench_url, show, show_against
from spoter_toolkit.cli.completion import complete_backend, complete_dataset, complete_run
from spoter_toolkit.cli.console import (
    ANSWER_IS_NO,
    BundleArgument,
    ForceOption,
    JsonOption,
    emit_json,
    next_step,
    progress_bar,
    progress_with_time,
    say,
    signals_to,
    tell,
)

CAMERA_ROUNDS = 6

if TYPE_CHECKING:
    from spoter_toolkit.bench.analysis.result import BenchResult
    from spoter_toolkit.bench.settings import BenchSettings


def bench(
    bundle: BundleArgument = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure this backend; may be given again, 'ort-cpu#2' runs a second one; default: all.",
            metavar="<str>",
            autocompletion=complete_backend,
        ),
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            help="Measure these, with commas: latency, offline, server, start, memory, energy; default: all. "
            "Or camera, the landmarker alone, on --videos."
        ),
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Give so many clips to a call, with commas; default: 1,16.")
    ] = None,
    frames: Annotated[
        str | None, typer.Option(help="Give each clip so many frames, with commas; default: 30,60,164.")
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            help="Run so many threads in an operator, with commas; default: all cores, and 1 for one clip."
        ),
    ] = None,
    curve: Annotated[
        bool | None,
        typer.Option(
            help="Measure cases along lengths and batches; default: without --batch, --frames, --quick."
        ),
    ] = None,
    floor: Annotated[
        bool, typer.Option(help="Measure the model's matrix products alone too: no case can be faster.")
    ] = True,
    rounds: Annotated[int | None, typer.Option(help="Give each backend so many turns at a case.")] = None,
    seconds_per_case: Annotated[
        float | None, typer.Option(help="Measure each case and backend for so many seconds, over all rounds.")
    ] = None,
    lengths: Annotated[
        Path | None,
        typer.Option(
            help="Take the lengths for offline and server from this DATASET, or from JSON {frames: clips}; "
            "default: the training data's.",
            autocompletion=complete_dataset,
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Send the server so many clips a second; default: half of the first backend's capacity."
        ),
    ] = None,
    bound_ms: Annotated[
        float | None,
        typer.Option(help="Count the server's answers within so many milliseconds; default: 33."),
    ] = None,
    find_rate: Annotated[
        bool, typer.Option("--find-rate", help="Look for the highest rate that keeps the bound too.")
    ] = False,
    pin: Annotated[
        bool, typer.Option("--pin", help="Pin each worker to as many cores as it has threads.")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Take a first look for about a minute: one clip, few rounds."),
    ] = False,
    videos: Annotated[
        Path | None, typer.Option(help="Measure the landmarker on these videos, with --scenario camera.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="Measure this server, with --scenario server: http://HOST:PORT, or with /v2/models/NAME."
        ),
    ] = None,
    against: Annotated[Path | None, typer.Option(help="Compare with the report of an earlier run.")] = None,
    fail_if: Annotated[
        str | None,
        typer.Option(
            help="Exit 3 where this run ÷ the one of --against is surely beyond a bound: 'p50 > 1.05'."
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Let torch load this RUN; default: the one that the BUNDLE was made from.",
            autocompletion=complete_run,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write the report to this folder; default: bench/BUNDLE-PROCESSOR-MONTH."
        ),
    ] = None,
    html: Annotated[
        bool,
        typer.Option("--html", help="Write one page to read, send or print too: bench.html in the report."),
    ] = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Measure a bundle across backends: latency, throughput, memory, start-up, the notebook's own case."""
    from spoter_runtime.bundle.manifest import read_bundle
    from spoter_runtime.errors import ConfigError, from_options, require
    from spoter_toolkit.backends import backends_of
    from spoter_toolkit.bench.analysis.compare import bound_from_text, earlier_run
    from spoter_toolkit.bench.report.folder import BENCH_HTML, check_folder, default_folder, write_report
    from spoter_toolkit.bench.run import run_bench
    from spoter_toolkit.bench.settings import settings_for
    from spoter_toolkit.data.lengths import lengths_from_path
    from spoter_toolkit.workspace import newest_bundle

    if scenario == "camera":
        bench_camera(videos, rounds=rounds or CAMERA_ROUNDS, out=out, force=force, json=json)
        return
    if url:
        bench_url(
            url, bundle, scenario, lengths, rate=rate, bound_ms=bound_ms, find_rate=find_rate, out=out,
            force=force, json=json,
        )  # fmt: skip
        return
    with from_options():
        if videos:
            raise ConfigError("--videos: are for the scenario camera", fix="--scenario camera")
        if fail_if is not None and not against:
            raise ConfigError("--fail-if: compares with an earlier run", fix="--against REPORT")
        bound = None if fail_if is None else bound_from_text(fail_if)
    earlier = earlier_run(against) if against else None
    opened = read_bundle(bundle or newest_bundle())
    with from_options():
        settings = settings_for(
            opened.contract,
            quick=quick,
            backends=tuple(backend or backends_of(opened)),
            scenarios=scenario_names(scenario),
            batches=whole_numbers("--batch", batch),
            frames=whole_numbers("--frames", frames),
            threads=whole_numbers("--threads", threads),
            curve=curve,
            floor=floor,
            rounds=rounds,
            seconds_per_case=seconds_per_case,
            lengths=lengths_from_path(lengths, opened.contract) if lengths else None,
            rate=rate,
            bound_ms=bound_ms,
            find_rate=find_rate,
            pin=pin,
        )
        for option, value in (("--rate", rate), ("--bound-ms", bound_ms), ("--find-rate", find_rate or None)):
            check_used(option, value, settings, "server")
        check_used("--lengths", lengths, settings, "offline", "server", "energy")
    folder = out or default_folder(opened.name)
    check_folder(folder, force=force)
    if html:
        require("jinja2", extra="toolkit")  # found out before the measuring, not after it
    with progress_with_time() as on_progress, stopped_by_signal() as stop:
        result = run_bench(
            opened, settings, run=run, against=earlier, bound=bound, on_progress=on_progress, stop=stop
        )
    # Shown before it is written: a disk that fills meanwhile must not cost the figures.
    show(result, json=json, asked=backend or ())
    write_report(result, folder, page_of=opened if html else None)
    leave_if_incomplete(result, folder, stop.exit_code)
    say(f"page: {folder / BENCH_HTML}" if html else f"report: {folder}")
    if result.against and show_against(result, json=json):
        raise typer.Exit(ANSWER_IS_NO)
    if not json:
        next_step("spoter-kit verify {}", opened.folder)


def bench_camera(videos: Path | None, *, rounds: int, out: Path | None, force: bool, json: bool) -> None:
    """Measure the landmarker on videos, and print a row for each part of a frame's time."""
    from spoter_runtime.errors import UsageError
    from spoter_runtime.files import write_json
    from spoter_toolkit.bench.camera import measure_camera
    from spoter_toolkit.data.extract.videos import videos_in
    from spoter_toolkit.input_files import check_target

    if videos is None:
        raise UsageError("--scenario camera: measures on videos", fix="--videos FOLDER")
    if out:
        check_target(out, force=force)
    with progress_bar() as on_progress:
        found = measure_camera(
            videos_in(videos) if videos.is_dir() else [videos], rounds=rounds, on_progress=on_progress
        )
    if out:
        write_json(out, found.as_json())
    if json:
        emit_json(found.as_json())
        return
    threads = sorted({one.threads for one in found.rounds})
    tell(f"{'milliseconds a frame':<22}" + "".join(f"{f'{n} threads':>12}" for n in threads))
    for part, *cells in found.rows():
        tell(f"{part:<22}" + "".join(f"{cell:>12}" for cell in cells))
    wall, processor = sorted(found.starts_s)[len(found.starts_s) // 2]
    tell(f"cold process to the first landmark: {wall:.2f} s, processor {processor:.2f} s")
    tell(f"peak memory of a process that finds all landmarks: {found.peak_bytes / 2**20:.0f} MB")
    tell(f"energy: {found.energy()}")


def leave_if_incomplete(result: BenchResult, folder: Path, exit_code: int) -> None:
    """Leave with an exit code where the run was stopped.

    Raises:
        BackendError: a worker was lost.
    """
    from spoter_runtime.errors import BackendError
    from spoter_toolkit.report.words import plural

    if result.records.stopped_after:
        say(f"stopped early; what was measured is in {folder}")
        raise typer.Exit(exit_code)
    if failures := result.records.failures:
        lost = "; ".join(f"{f.backend}, {plural(f.threads, 'thread')}: {f.reason}" for f in failures)
        raise BackendError(
            f"{plural(len(failures), 'worker')} lost: {lost}. What was measured is in {folder}"
        )


class Stop(Event):
    """Set by the first signal that ends a run; keeps its number."""

    signal_number = signal.SIGINT.value

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells have it."""
        return 128 + self.signal_number


@contextmanager
def stopped_by_signal() -> Iterator[Stop]:
    """Yield an event that the first Ctrl-C, SIGTERM or SIGHUP sets, which ends the run; a second: at once."""
    stop = Stop()

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.signal_number = number
        stop.set()
        # Not print: the signal may have come in the middle of another one. A terminal shows ^C before it.
        os.write(
            2,
            b"\n" * sys.stderr.isatty()
            + b"stopping; what was measured is kept. Ctrl-C again: at once, without it\n",
        )

    try:
        with signals_to(on_signal, "SIGINT", "SIGTERM", "SIGHUP"):
            yield stop
    except KeyboardInterrupt:
        say("stopped: nothing is kept of what was measured, if anything was")
        raise typer.Exit(stop.exit_code) from None


def check_used(option: str, value: Any, settings: BenchSettings, *scenarios: str) -> None:
    """Check that an option that was given is for a scenario that is measured.

    Raises:
        ConfigError: it is not.
    """
    from spoter_runtime.errors import ConfigError

    if value is not None and not set(scenarios) & set(settings.scenarios):
        raise ConfigError(
            f"{option}: is for the scenario {' or '.join(scenarios)}, which is not measured",
            fix=f"--scenario {','.join([*settings.scenarios, scenarios[0]])}",
        )


def scenario_names(text: str | None) -> tuple[str, ...] | None:
    """Parse ``latency,offline``.

    Raises:
        ConfigError: nothing stands between two commas, or nothing at all.
    """
    from spoter_runtime.errors import ConfigError

    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise ConfigError(
            f"--scenario: expected names with commas, like latency,server, got {text!r}",
            fix="name one at least, and none that is empty",
        )
    return names


def whole_numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Parse ``1,16``.

    Raises:
        ConfigError: something else than whole numbers between the commas.
    """
    from spoter_runtime.errors import ConfigError

    if text is None:
        return None
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option}: expected whole numbers with commas, like 1,16, got {text!r}") from error
