"""Each verb says little: the verdict, the figure that matters, the next command; -v and -q change that."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.text import Text
from typer.main import get_command

from in_process import Done, spoter_kit
from signers import signing, write_log
from spoter_runtime import __main__ as device
from spoter_runtime.doctor import diagnose
from spoter_toolkit.cli import console, train
from spoter_toolkit.cli.app import app
from spoter_toolkit.cli.bench_view import Bar, chart
from spoter_toolkit.data.dataset import Dataset
from spoter_toolkit.model.config import ModelConfig
from spoter_toolkit.model.spoter import model_from_config

MOST_LINES = 12
SMALL = [
    word
    for setting in ("epochs=2", "model.num_encoder_layers=1", "model.d_model=36", "model.d_ff=40")
    for word in ("--set", setting)
]

# verb → (its arguments, how its first line goes on behind names, its next verb)
HAPPY: dict[str, tuple[list[str], str, str]] = {
    "data import": (["npy", "clips", "-o", "datasets/npy"], r": 4 clips of 2 labels", "data split"),
    "data synth": (["--signs", "2", "--signers", "4", "--clips-per-sign", "4"], r": 8 clips of 2", "train"),
    "data split": (["data", "--test", "s01", "--force"], r": by signer: test s01", "train"),
    "data background": (["data", "-o", "more"], r": \d+ clips of 5 labels", "train"),
    "data show": (["data"], r": 32 clips of 4 labels by 4 signers", "data show"),
    "import-checkpoint": (["ck.pth"], r"^runs/ck: .* of 4 classes", "export"),
    "eval": ([], r"runs/tiny-\S+: top-1 \d\.\d{4} on \d+ generated clips: test split", "export"),
    "verify": ([], r": verified on ort-cpu-fused in fp32", "predict"),
    "sign": (["--key", "mine.key", "--new-key"], r"model\.sig: \d files signed by [0-9a-f]{12}…", "verify"),
    "serve": (["--port", "0", "--seconds", "0"], r"^http://127\.0\.0\.1:\d+/v2/models/[\w.-]+/versions/", ""),
    "live": (["landmarks.jsonl"], r"^ +[01]\.\d s  synthetic-", ""),
    "predict": (["clip.npy"], r"^clip\.npy  synthetic-0", ""),
    "doctor": ([], r"^runs here: ort-cpu, ort-cpu-fused", "verify"),
    "tune": (["--seconds", "0.3"], r"^one clip: .* ms a clip", "predict"),
}
QUICK = ["--quick", "--rounds", "2", "--seconds-per-case", "0.05", "--no-floor", "--threads", "1"]
# These take more than five seconds.
SLOW: dict[str, tuple[list[str], str, str]] = {
    "crossval": (
        ["data", "--folds", "2", "--recipe", "demo", *SMALL],
        r"^top-1 0\.\d{4} \(95 %: 0\.\d{4} to \d\.\d{4}\), mean of 2 folds by signer; 32 generated clips",
        "train",
    ),
    "train": (
        ["data", "--recipe", "demo", *SMALL],
        r"^reading \d+ clips of 4 labels from data, split by signer",
        "eval",
    ),
    "export": (
        ["--precision", "fp32,int8", "--max-batch", "2", "-o", "two.spoter"],
        r"^two\.spoter: same answers as PyTorch",
        "verify",
    ),
    "parity": ([], r": parity holds, 2 proofs", "bench"),
    "bench": (
        [*QUICK, "-o", "report"],
        r"^fastest: [\w-]+, [\d.]+ ms for 1 clip of 60 frames",
        "verify",
    ),
}
# What of these has the tables, and not more.
TABLES = {
    "export": ["--max-batch", "2", "--no-tune", "-o", "two.spoter"],
    "bench": [*QUICK, "--scenario", "latency", "-o", "report"],
}
# Other tests count the lines of these: demo, live, and the ones that need a landmarker.
ELSEWHERE = ("demo", "live", "data extract", "landmarker fetch", "landmarker verify")


@pytest.fixture
def workplace(home: Path, tiny: Dataset) -> Path:
    """The folder with a run and a bundle, and what the verbs take besides."""
    for number, clip in enumerate(tiny.clips[:4]):
        path = home / "clips" / f"label-{number % 2}" / f"s{number // 2}" / "0.npy"
        path.parent.mkdir(parents=True)
        np.save(path, tiny.poses_of(clip))
    np.save(home / "clip.npy", tiny.poses_of(tiny.clips[0]))
    write_log(home / "landmarks.jsonl", *signing([(1000.0, 1700.0)], end_ms=2500))
    (home / "data").symlink_to(tiny.folder)
    config = ModelConfig(
        landmark_weights="planar", d_model=36, num_encoder_layers=1, d_ff=40, num_classes=4, max_seq_length=99
    )
    declared = {"input_dim": 108, "num_heads": 9, "d_model": 36, "num_encoder_layers": 1}
    declared |= {"d_ff": 40, "num_classes": 4, "max_seq_length": 99}
    weights = model_from_config(config).state_dict()
    torch.save({"model_state_dict": weights, "model_config": declared}, home / "ck.pth")
    return home


def words_of(verb: str, arguments: list[str]) -> list[str]:
    return [*verb.split(), *arguments]


def lines_of(done: Done) -> list[str]:
    return (done.stdout + done.stderr).splitlines()


@pytest.mark.parametrize("verb", [*HAPPY, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_verb_says_the_verdict_first_in_few_lines(workplace: Path, tmp_path: Path, verb: str) -> None:
    arguments, verdict, following = (HAPPY | SLOW)[verb]
    if verb == "data split":  # the shared data set is not to be changed
        made = spoter_kit(
            workplace, "data", "synth", "--signs", "2", "--signers", "4", "--clips-per-sign", "4"
        )
        assert made.returncode == 0, made.stderr
        arguments = ["datasets/synthetic", *arguments[1:]]
    done = spoter_kit(workplace, *words_of(verb, arguments))
    assert done.returncode == 0, done.stderr
    lines = lines_of(done)
    assert len(lines) <= MOST_LINES, "\n".join(lines)
    first = (done.stderr if verb == "train" else done.stdout).splitlines()[0]
    assert re.search(verdict, first), first
    steps = [line for line in lines if line.startswith("next: ")]
    assert [line.startswith(f"next: spoter-kit {following}") for line in steps] == [True] * bool(following)


def all_verbs() -> Iterator[tuple[str, Any]]:
    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, child in command.commands.items():
            if getattr(child, "commands", None):
                yield from walk(child, (*words, name))
            else:
                yield " ".join((*words, name)), child

    return walk(get_command(app), ())


def test_no_verb_is_left_out_here_and_each_takes_both_options() -> None:
    verbs = dict(all_verbs())
    assert verbs.keys() == {*HAPPY, *SLOW, *ELSEWHERE}
    for name, verb in verbs.items():
        options = {option for parameter in verb.params for option in parameter.opts}
        assert {"-v", "--verbose", "-q", "--quiet"} <= options, name


@pytest.mark.parametrize("verb", ["data show", "eval", "verify", "predict", "doctor"])
def test_quiet_prints_nothing_where_all_is_well(workplace: Path, verb: str) -> None:
    words = words_of(verb, HAPPY[verb][0])
    for command in ([*words, "-q"], ["-q", *words], [*words, "--quiet"]):
        done = spoter_kit(workplace, *command)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), command


@pytest.mark.parametrize(
    ("verb", "more"),
    [
        ("data show", "percentiles of it"),
        ("data split", "frames"),
        ("eval", "macro F1"),
        ("import-checkpoint", "landmark weights"),
        ("doctor", "builds engines"),
        ("tune", "÷ the default's"),
        pytest.param("parity", "batch order, ort-cpu", marks=pytest.mark.slow),
        pytest.param("export", "batch order, ort-cpu", marks=pytest.mark.slow),
        pytest.param("bench", "Times as fast, paired by round", marks=pytest.mark.slow),
        pytest.param("train", "val macro F1", marks=pytest.mark.slow),
    ],
)
def test_verbose_prints_the_tables(workplace: Path, verb: str, more: str) -> None:
    arguments = TABLES.get(verb) or (HAPPY | SLOW)[verb][0]
    if verb == "data split":
        assert (
            spoter_kit(
                workplace, "data", "synth", "--signs", "2", "--signers", "4", "--clips-per-sign", "4"
            ).returncode
            == 0
        )
        arguments = ["datasets/synthetic", *arguments[1:]]
    before_the_verb = spoter_kit(workplace, "-v", *words_of(verb, arguments))
    assert (before_the_verb.returncode, more in before_the_verb.stdout) == (0, True), before_the_verb.stderr
    force = [] if verb in ("data show", "doctor", "eval", "tune", "parity", "data split") else ["--force"]
    if verb not in SLOW:
        behind = spoter_kit(workplace, *words_of(verb, [*arguments, *force]), "-v")
        assert (behind.returncode, more in behind.stdout) == (0, True), behind.stderr


def test_behind_the_verb_wins_and_both_at_once_are_refused(workplace: Path) -> None:
    assert "percentiles" in spoter_kit(workplace, "-q", "data", "show", "data", "-v").stdout
    both = spoter_kit(workplace, "verify", "-v", "-q")
    assert (both.returncode, "expected one of them" in both.stderr) == (2, True)


def test_quiet_still_prints_errors_and_an_answer_that_is_no(
    workplace: Path, reseal: Callable[..., None]
) -> None:
    error = spoter_kit(workplace, "-q", "verify", "nowhere.spoter")
    assert (error.returncode, error.stdout) == (1, "")
    assert error.stderr.startswith("error: nowhere.spoter: no such folder")
    folder = next((workplace / "bundles").iterdir())

    def allow_nothing(manifest: dict[str, Any]) -> None:
        for artefact in manifest["artefacts"]:
            artefact["max_logit_diff"] = 0.0

    reseal(folder, allow_nothing)
    no = spoter_kit(workplace, "verify", folder, "-q")
    assert no.returncode == 3
    assert "NOT VERIFIED" in no.stdout.splitlines()[0]


def test_json_is_what_it_was_whatever_is_said_beside_it(workplace: Path) -> None:
    plain, loud, silent = (spoter_kit(workplace, "verify", "--json", *more) for more in ([], ["-v"], ["-q"]))
    answers = [json.loads(done.stdout) | {"seconds": 0} for done in (plain, loud, silent)]
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize(
    ("arguments", "verdict"),
    [
        (["verify", "BUNDLE"], r": verified on ort-cpu-fused in fp32$"),
        (["predict", "BUNDLE", "clip.npy"], r"^clip\.npy\tsynthetic-0\d 0\.\d{3}\t[\d.]+ ms$"),
        (["tune", "BUNDLE", "--seconds", "0.2"], r"^one\tort-cpu"),
        (["doctor"], r"^runs here: ort-cpu, ort-cpu-fused$"),
    ],
)
def test_the_devices_command_is_as_short(
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    verdict: str,
) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
    bundle = str(next((workplace / "bundles").iterdir()))
    words = [bundle if word == "BUNDLE" else word for word in arguments]
    assert device.main(words) == 0
    shown = capsys.readouterr()
    lines = (shown.out + shown.err).splitlines()
    assert len(lines) <= MOST_LINES
    assert re.search(verdict, lines[0]), lines[0]
    assert device.main([*words, "-q"]) == 0
    silent = capsys.readouterr()
    assert (silent.out, silent.err) == ("", "")


@pytest.mark.parametrize("columns", [80, 40])
def test_a_terminal_breaks_lines_between_words_and_no_command(
    workplace: Path, on_terminal: Callable[..., str], columns: int
) -> None:
    shown = on_terminal(workplace, "data", "show", "data", COLUMNS=str(columns))
    command = [line for line in shown.splitlines() if line.startswith("next: ")]
    assert [line.endswith("-o clip.png") for line in command] == [True]
    rest = [line for line in shown.splitlines() if line not in command]
    assert max(map(len, rest)) <= columns
    joined = " ".join(line.strip() for line in rest)
    assert "no hand in" in joined  # a sentence that was broken is whole
    assert "\x1b" not in shown


def test_a_fix_is_in_one_piece_on_a_narrow_terminal(workplace: Path, on_terminal: Callable[..., str]) -> None:
    shown = on_terminal(workplace, "doctor", "-v", COLUMNS="40")
    fixes = [finding.fix for finding in diagnose() if finding.fix]
    assert fixes
    lines = shown.splitlines()
    for fix in fixes:
        assert any(line.endswith((f": Fix: {fix}", f"  Fix: {fix}")) for line in lines), fix
    for finding in diagnose():
        if finding.kind == "backend" and finding.status == "missing":
            assert any(line.endswith(f"({finding.fix})") for line in lines), finding.name


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_none_is_wanted(
    workplace: Path, on_terminal: Callable[..., str], environment: dict[str, str]
) -> None:
    shown = on_terminal(workplace, "-v", "data", "show", "data", COLUMNS="80", **environment)
    assert "percentiles of it" in shown
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", shown)
    if environment == {"TERM": "dumb"}:
        assert "\x1b" not in shown


@pytest.mark.parametrize("module", ["spoter_toolkit", "spoter_runtime"])
def test_a_terminal_without_bengali_shows_escapes_and_no_traceback(
    workplace: Path, tmp_path: Path, module: str
) -> None:
    bengali = tmp_path / "ক.npy"
    bengali.write_bytes((workplace / "clip.npy").read_bytes())
    bundle = next((workplace / "bundles").iterdir())
    words = ["predict", str(bundle), str(bengali)]
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        env=os.environ | {"PYTHONIOENCODING": "ascii", "XDG_CACHE_HOME": str(workplace / "cache")},
        capture_output=True,
        encoding="ascii",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "\\u0995.npy" in done.stdout


def test_an_error_before_the_work_stands_alone(tmp_path: Path, on_terminal: Callable[..., str]) -> None:
    shown = on_terminal(tmp_path, "parity", "nowhere.spoter", COLUMNS="80")
    assert shown.startswith("error: nowhere.spoter: no such folder")
    assert "\x1b" not in shown


def test_a_bar_keeps_its_figures_whole_and_says_no_time_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(console, "_draws", lambda: True)
    monkeypatch.setattr(
        console, "Console", lambda **_: Console(file=shown, force_terminal=True, width=60, color_system=None)
    )
    with console.progress_bar() as on_progress:
        assert shown.getvalue() == ""
        on_progress(999, 1000, f"building the engine for {'many GPUs, ' * 20}[bold]")
        on_progress(1000, 1000, f"building the engine for {'many GPUs, ' * 20}[bold]")
    assert re.search(r"building the engine .*… ━{10} 1000/1000\n", shown.getvalue()), shown.getvalue()
    assert "0:00:00" not in shown.getvalue()


def test_the_bar_of_a_training_shows_its_accuracy_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, clock = io.StringIO(), itertools.count(0.0, 0.5)
    on_80 = Console(
        file=shown, force_terminal=True, width=80, color_system=None, get_time=lambda: next(clock)
    )
    monkeypatch.setattr(console, "_draws", lambda: True)
    monkeypatch.setattr(console, "Console", lambda **_: on_80)
    with console.progress_bar() as on_progress:
        for step in range(1000, 1100, 10):
            on_progress(step, 4000, "steps  val 0.981  accuracy 0.912  loss 0.345")
    assert re.search(r"steps  val 0\.981  accuracy 0\.912.* 1090/4000  about \d+ (sec|min)", shown.getvalue())


BARS = [
    Bar(name=name, low_ms=low, middle_ms=middle, high_ms=high, ratio=ratio, ratio_interval=interval)
    for name, low, middle, high, ratio, interval in (
        ("ort-cpu-fused", 2.2, 2.31, 2.6, "3.10×", "2.95–3.31"),
        ("ort-cpu", 2.9, 3.0, 3.4, "2.39×", "2.21–2.52"),
        ("torch", 7.0, 7.16, 60.0, "1.00×", ""),  # a long tail must not make the others dots
    )
]


@pytest.mark.parametrize("width", [40, 60, 80, 100])
@pytest.mark.parametrize("plain", [True, False])
def test_the_chart_fits_and_its_bars_are_in_proportion(width: int, plain: bool) -> None:
    lines = [line.plain for line in chart(BARS, width, plain=plain)]
    full = "#" if plain else "█"
    assert max(map(len, lines)) <= width
    first, second, last = lines[:3]
    assert re.match(r"ort-cpu-fused .* 2\.31 ms .*3\.10×", first)
    assert ("2.95–3.31" in first) == (width >= 60)
    assert first.count(full) <= second.count(full) < last.count(full)
    assert last.count(full) / first.count(full) == pytest.approx(7.16 / 2.31, rel=0.6 if width < 60 else 0.3)
    if plain:
        assert "█" not in "".join(lines)


def test_the_chart_needs_no_colour_to_be_read() -> None:
    assert all(isinstance(line, Text) and line.plain.strip() for line in chart(BARS, 80))


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of progress."""
    clock = Clock()
    monkeypatch.setattr(console.time, "monotonic", clock)
    return clock


def test_a_training_in_a_pipe_shows_that_it_lives(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    lines = console.Lines()
    for step in range(1, 1401):  # 2 s a step; after 400 it is known that 700 are not enough
        clock.now += 2.0
        lines(step, 700 if step <= 400 else 1400, "steps  loss 1.0")
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "10 of 700 steps  loss 1.0  about 23 minutes left"
    assert shown[-1] == "960 of 1,400 steps  loss 1.0  about 15 minutes left"
    assert len(shown) == 7  # after 20 s, 1, 2, 4, 8, 16 and 32 minutes

    clock.now = 0.0
    lines = console.Lines()
    for step in range(1, 101):  # nothing to wait for
        clock.now += 0.05
        lines(step, 100, "steps  loss 1.0")
    assert capsys.readouterr().err == ""

    lines = console.Lines()
    for what in ("loading PyTorch", "training"):
        clock.now += 4.0
        lines(0, 0, what)
    for step in range(501, 1001):  # a resumed one: what was done before says nothing about the time
        clock.now += 2.0
        lines(step, 1000, "steps  loss 1.0")
    assert "about 16 minutes left" in capsys.readouterr().err.splitlines()[0]

    lines = console.Lines()
    for what in (
        "exporting to ONNX",
        "lowering",
        "comparing 48 shapes",
    ):  # nobody knows how many there will be
        clock.now += 20.0
        lines(0, 0, what)
    assert capsys.readouterr().err.splitlines() == ["exporting to ONNX", "comparing 48 shapes"]

    lines = console.Lines()
    for done in range(1, 4):
        clock.now += 20.0
        lines(done, 4, "clips, 12 frames/s")
    assert capsys.readouterr().err.splitlines()[0] == "1 of 4 clips, 12 frames/s  about 60 seconds left"


def test_a_training_on_a_busy_machine_says_what_is_faster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("spoter_runtime.machine.usable_cores", lambda: 2)
    monkeypatch.setattr(sys, "argv", ["x", "train", "my data"])
    for load in (3.9, 17.2):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        console.say_busy()
    assert capsys.readouterr().err == (
        "this machine is busy (load 17 on 2 cores); then one thread is faster. "
        "Fix: OMP_NUM_THREADS=1 spoter-kit train 'my data'\n"
    )


def test_a_training_that_took_longer_than_it_was_given_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    for took in (2.9, 3.1, 4.72):
        train._say_late(took, 3)
    assert capsys.readouterr().err == "took 4.7 of 3 minutes: the machine was busy\n"


def test_each_part_of_the_work_has_its_own_forecast(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    lines = console.Lines()
    for total, seconds, what in ((640, 0.125, "comparing"), (40, 5.0, "tuning")):
        for done in range(1, total + 1):
            clock.now += seconds
            lines(done, total, f"{what}: {done}")
    assert capsys.readouterr().err.splitlines() == [
        "160 of 640 comparing: 160  about 60 seconds left",
        "480 of 640 comparing: 480  about 20 seconds left",
        "8 of 40 tuning: 8  about 3 minutes left",
        "32 of 40 tuning: 32  about 40 seconds left",
    ]


def test_a_short_part_of_the_work_has_no_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    lines = console.Lines()
    for total, seconds, what in ((20, 0.9, "comparing"), (40, 0.2, "tuning")):  # 18 s, and 8 s more
        for done in range(total + 1):
            lines(done, total, f"{what}: {done}")
            clock.now += seconds
    assert capsys.readouterr().err == ""
    for done in range(41):  # this one takes longer
        lines(done, 40, "proving")
        clock.now += 0.9
    assert capsys.readouterr().err == "23 of 40 proving  about 20 seconds left\n"


def test_a_forecast_leaves_out_what_was_before(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    lines = console.Lines()
    lines(0, 0, "exporting to ONNX")
    clock.now += 100.0
    for done in range(100):
        lines(done, 100, f"comparing: {done}")
        clock.now += 1.0
    assert capsys.readouterr().err.splitlines()[0] == "20 of 100 comparing: 20  about 80 seconds left"
