"""`spoter-kit bench`: latency, throughput, memory, start-up and energy of a bundle, across backends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from spoter_toolkit.cli.console import (
    ANSWER_IS_NO,
    INTERRUPTED,
    ForceOption,
    JsonOption,
    emit_json,
    emit_table,
    next_step,
    progress_bar,
    say,
)

if TYPE_CHECKING:
    from spoter_runtime.bundle.manifest import Bundle
    from spoter_runtime.contract import GraphContract
    from spoter_toolkit.bench.analysis.compare import Bound, Gate
    from spoter_toolkit.bench.analysis.result import BenchResult
    from spoter_toolkit.bench.settings import BenchSettings

BENCHES: Final = Path("bench")


def bench(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle; default: the newest.")] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Once for each backend, 'ort-cpu#2' for a second one; default: all there are."),
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(help="With commas: latency, offline, server, start, memory, energy; default: all."),
    ] = None,
    batch: Annotated[str | None, typer.Option(help="Clips a call, with commas; default: 1,16.")] = None,
    frames: Annotated[str | None, typer.Option(help="Frames a clip; default: 30,60,164.")] = None,
    threads: Annotated[
        str | None, typer.Option(help="Threads in an operator; default: all cores, and 1 for one clip.")
    ] = None,
    curve: Annotated[
        bool | None,
        typer.Option(help="Cases along lengths and batches; default: unless --batch, --frames or --quick."),
    ] = None,
    floor: Annotated[
        bool, typer.Option(help="Also the model's matrix products alone, as each case's limit.")
    ] = True,
    rounds: Annotated[int | None, typer.Option(help="How often each backend has its turn at a case.")] = None,
    seconds_per_case: Annotated[
        float | None, typer.Option(help="Measured time of a case and backend, over all rounds.")
    ] = None,
    lengths: Annotated[
        Path | None,
        typer.Option(
            help="DATASET, or JSON {frames: clips}, for offline and server; default: the training data's."
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Clips a second for the server; default: half of what the first backend can."),
    ] = None,
    bound_ms: Annotated[
        float | None, typer.Option(help="Within this time the server wants its answer; default: 33.")
    ] = None,
    find_rate: Annotated[
        bool, typer.Option("--find-rate", help="Also look for the highest rate that keeps the bound.")
    ] = False,
    pin: Annotated[
        bool, typer.Option("--pin", help="Keep each worker on as many cores as it has threads.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A first look: one clip, one length, few rounds.")
    ] = False,
    against: Annotated[Path | None, typer.Option(help="Report of an earlier run, to compare with.")] = None,
    fail_if: Annotated[
        str | None,
        typer.Option(help="With --against, exit 3 where it is sure: 'p50 > 1.05', this run ÷ that one."),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="RUN that torch loads; default: where the bundle was made.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Report folder; default: bench/BUNDLE-PROCESSOR-MONTH."),
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Also one page to read, send or print: bench.html in the report.")
    ] = False,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Measure a bundle across backends: latency, throughput, memory, start-up, the notebook's own case."""
    from spoter_runtime.bundle.manifest import read_bundle
    from spoter_runtime.errors import ConfigError, from_options, require
    from spoter_toolkit.backends import backends_of
    from spoter_toolkit.bench.analysis.compare import (
        bound_from_text,
        check_comparable,
        differences,
        earlier_run,
        gates,
    )
    from spoter_toolkit.bench.report.markdown import write_report
    from spoter_toolkit.bench.run import run_bench
    from spoter_toolkit.data.lengths import lengths_from_path
    from spoter_toolkit.workspace import newest_bundle

    with from_options():
        if fail_if is not None and not against:
            raise ConfigError("--fail-if: compares with an earlier run", fix="--against REPORT")
        bound = None if fail_if is None else bound_from_text(fail_if)
    earlier = earlier_run(against) if against else None
    path = bundle or newest_bundle()
    opened = read_bundle(path)
    clip_lengths = lengths_from_path(lengths, opened.contract) if lengths else None
    with from_options():
        settings = _settings(
            quick,
            curve,
            opened.contract,
            backends=tuple(backend or backends_of(opened)),
            scenarios=_names(scenario),
            batches=_counts("--batch", batch),
            frames=_counts("--frames", frames),
            threads=_counts("--threads", threads),
            floor=floor,
            rounds=rounds,
            seconds_per_case=seconds_per_case,
            lengths=clip_lengths,
            rate=rate,
            bound_ms=bound_ms,
            find_rate=find_rate,
            pin=pin,
        )
        of_server = {"--rate": rate, "--bound-ms": bound_ms, "--find-rate": find_rate or None}
        _check_used(settings, {option: (value, ("server",)) for option, value in of_server.items()})
        _check_used(settings, {"--lengths": (lengths, ("offline", "server", "energy"))})
    if earlier is not None:
        check_comparable(earlier, settings, opened.contract)
    folder = out or BENCHES / _report_name(opened.name)
    _check_place(folder, force)
    if html:
        require("jinja2", extra="toolkit")  # found out before the measuring, not after it
    with progress_bar() as on_progress, _stopped_by_ctrl_c() as stop:
        result = run_bench(path, settings, run=run, on_progress=on_progress, stop=stop)
    whole = not result.failures and not result.stopped_after
    found = gates(result, earlier, bound) if earlier is not None and whole else []
    changed = differences(result, earlier) if earlier is not None else []
    # Shown before it is written: a disk that fills meanwhile must not cost the figures.
    if json:
        against_json = {
            "bound": None if bound is None else str(bound),
            "gates": [asdict(gate) for gate in found],
            "differences": changed,
        }
        emit_json(result.as_json(samples=False) | ({"against": against_json} if earlier is not None else {}))
    else:
        _show(result)
    for remark in result.remarks:
        say(f"note: {remark}")
    write_report(result, folder)
    if html:
        _write_page(result, opened, folder)
    _leave_if_incomplete(result, folder)
    say(f"report: {folder}")
    if earlier is not None:
        for difference in changed:
            say(f"differs from the earlier run: {difference}")
        _show_gates(found, bound, json=json)
        if any(gate.verdict == "beyond" for gate in found):
            raise typer.Exit(ANSWER_IS_NO)
    if not json:
        next_step("spoter-kit verify {}", path)


def _show(result: BenchResult) -> None:
    from spoter_toolkit.bench.report.markdown import problems, tables

    for table in tables(result):
        emit_table(table.title, table.columns, table.rows, note=table.note)
    for name, what, why in problems(result):
        print(f"{name}: {what}: {why}")


def _leave_if_incomplete(result: BenchResult, folder: Path) -> None:
    """Leave with 130 where the run was stopped.

    Raises:
        BackendError: a worker was lost.
    """
    from spoter_runtime.errors import BackendError
    from spoter_toolkit.bench.settings import plural

    if result.stopped_after:
        say(f"stopped early; what was measured is in {folder}")
        raise typer.Exit(INTERRUPTED)
    if result.failures:
        lost = "; ".join(f"{f.backend}, {plural(f.threads, 'thread')}: {f.reason}" for f in result.failures)
        raise BackendError(
            f"{plural(len(result.failures), 'worker')} lost: {lost}. What was measured is in {folder}"
        )


@contextmanager
def _stopped_by_ctrl_c() -> Iterator[Event]:
    """Yield what the first Ctrl-C sets, for the measuring to end after its step; a second ends it at once.

    Where the shell has had Ctrl-C ignored, as in ``nohup spoter-kit bench &``, it stays so.
    """
    stop = Event()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield stop
        return

    def on_interrupt(signal_number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # Not print: the signal may have come in the middle of another one.
        os.write(
            2, b"\nstopping after this step; what was measured is kept. Ctrl-C again: at once, without it\n"
        )

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    except KeyboardInterrupt:
        say("stopped: nothing is kept of what was measured, if anything was")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, before)


def _write_page(result: BenchResult, bundle: Bundle, folder: Path) -> None:
    """Add the page to a report that is there."""
    from spoter_runtime.files import write_text
    from spoter_toolkit.bench.report.html import BENCH_HTML, html_from_result

    write_text(folder / BENCH_HTML, html_from_result(result, bundle))


def _show_gates(found: list[Gate], bound: Bound | None, *, json: bool) -> None:
    from spoter_toolkit.bench.analysis.compare import comparison_in_words
    from spoter_toolkit.bench.report.tables import interval

    rows = [
        (
            gate.backend,
            str(gate.case),
            f"{gate.ratio.estimate:.2f}",
            interval(gate.ratio),
            *([gate.verdict] if gate.verdict else []),
        )
        for gate in found
    ]
    if json:
        for row in rows:
            say("against the earlier run: " + ", ".join(row))
        return
    metric = bound.metric if bound else "p50"
    columns = (
        "backend",
        "case",
        f"{metric}, this ÷ earlier",
        "95 % interval",
        *([str(bound)] if bound else []),
    )
    emit_table("against the earlier run", columns, rows, note=comparison_in_words(found, bound))


def _settings(quick: bool, curve: bool | None, contract: GraphContract, **asked: Any) -> BenchSettings:
    """Return the settings: what was asked for, over the quick ones, over the defaults.

    Batches and frames that nobody asked for are cut to what the bundle takes.
    """
    from spoter_toolkit.bench.settings import QUICK, BenchSettings

    chosen = {name: value for name, value in asked.items() if value is not None}
    if curve is not None:
        chosen["curve"] = curve
    elif {"batches", "frames"} & chosen.keys():
        chosen["curve"] = False
    settings = BenchSettings(**((QUICK if quick else {}) | chosen))
    cut: dict[str, Any] = {
        name: tuple(value for value in getattr(settings, name) if value <= limit) or (limit,)
        for name, limit in (("batches", contract.max_batch), ("frames", contract.max_frames))
        if name not in chosen
    }
    return replace(settings, **cut)


def _check_used(settings: BenchSettings, options: Mapping[str, tuple[Any, Sequence[str]]]) -> None:
    """Refuse options of scenarios that are not measured: option → its value, and the scenarios it is for.

    Raises:
        ConfigError: one was given.
    """
    from spoter_runtime.errors import ConfigError

    for option, (value, scenarios) in options.items():
        if value is not None and not set(scenarios) & set(settings.scenarios):
            raise ConfigError(
                f"{option}: is for the scenario {' or '.join(scenarios)}, which is not measured",
                fix=f"--scenario {','.join([*settings.scenarios, scenarios[0]])}",
            )


def _names(text: str | None) -> tuple[str, ...] | None:
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


def _counts(option: str, text: str | None) -> tuple[int, ...] | None:
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


def _report_name(bundle_name: str) -> str:
    """Return ``<bundle>-<processor>-<month>``: a figure belongs to all three."""
    from datetime import datetime, timezone

    from spoter_runtime.machine import cpu_model
    from spoter_toolkit.bench.host.environment import slug

    month = datetime.now(timezone.utc).strftime("%Y-%m")
    return f"{slug(bundle_name)}-{slug(cpu_model())}-{month}"


def _check_place(folder: Path, force: bool) -> None:
    """Refuse before the measuring what would fail after it.

    Raises:
        ConfigError: something is there already.
        DataError: nothing can be written there.
    """
    from spoter_runtime.errors import ConfigError
    from spoter_runtime.files import is_replaceable
    from spoter_toolkit.input_files import check_place

    if not is_replaceable(folder, "bench.json"):
        raise ConfigError(f"{folder}: is there already and is no bench report", fix="name another with -o")
    if (folder / "bench.json").exists() and not force:
        raise ConfigError(f"{folder}: is there already", fix="--force replaces it, or name another with -o")
    check_place(folder)
