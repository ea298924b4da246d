"""No verb, and no recogniser that lives for a minute, sends anything or looks up a name unasked."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from signers import signing, write_log
from spoter_runtime.errors import is_installed
from spoter_runtime.ort.installed import import_onnxruntime, is_older

ROOT = Path(__file__).parents[1]

# What tells a destination. --seccomp-bpf: the process stops at these calls alone, and costs no time else.
_STRACE = ("strace", "-f", "--seccomp-bpf", "-qq", "-s", "100", "-e", "signal=none")
_STRACE += ("-e", "trace=connect,sendto,sendmsg,sendmmsg,execve")
_NOT_ALONE = "unshare -rn fails. Fix: apt-get install util-linux iproute2, and allow user namespaces"
# A network of its own, in which there is nothing but this machine.
_ALONE = ("unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "alone")
_RESOLVERS = ("/nscd/socket", "/systemd/resolve/", "/dbus/system_bus_socket")  # they look names up for others
_LOOPBACK = re.compile(r'(inet_addr\("127\.|"::1"|"::ffff:127\.)')
_STARTED = re.compile(r'execve\("([^"]+)".*\) = 0$')
# Where ONNX Runtime keeps its unsent events and a device id.
_MICROSOFT = Path(".cache", "Microsoft")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A process that runs, or ran, under strace in a home of its own."""

    process: subprocess.Popen[str]
    home: Path
    trace: Path

    def finish(self, timeout_s: float = 300) -> tuple[int, str]:
        """Wait for it; return its exit code and what it wrote."""
        output, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, output

    def started(self) -> list[str]:
        """Return the programs that it started, the first of which is itself."""
        lines = self.trace.read_text(errors="replace").splitlines()
        return [match.group(1) for line in lines if (match := _STARTED.search(line))][1:]

    def unasked(self) -> list[str]:
        """Return lookups, destinations beyond this machine, and ONNX Runtime's files."""
        found = [line for line in self.trace.read_text(errors="replace").splitlines() if _leaves(line)]
        return found + [str(path) for path in (self.home / _MICROSOFT).rglob("*")]


def _leaves(line: str) -> bool:
    """Tell whether a line of strace is a lookup or goes beyond this machine."""
    if "execve(" in line:  # its arguments may name anything
        return False
    if "AF_INET" in line:
        return "port=htons(53)" in line or not _LOOPBACK.search(line)
    return any(resolver in line for resolver in _RESOLVERS)


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """Return trace(*arguments): start Python under strace, nothing set that keeps a library quiet."""
    if not shutil.which("strace"):
        pytest.skip("strace is not installed. Fix: apt-get install strace")
    tried = subprocess.run([*_STRACE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"strace cannot trace here: {tried.stderr.strip()}")
    folder = tmp_path_factory.mktemp("traced")
    started = []

    def trace(*arguments, home=None, cwd=None, env=None, within=()):
        number = len(started)
        home = home or folder / f"home-{number}"
        home.mkdir(exist_ok=True)
        file = folder / f"{number}.strace"
        file.touch()
        # Built from nothing: ONNX Runtime sends nothing where it finds a variable of a CI service.
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        process = subprocess.Popen(
            [*within, *_STRACE, "-o", file, sys.executable, *map(str, arguments)],
            cwd=cwd or home,
            # USER: or torch asks the system who this is, which may ask nscd.
            env=kept | {"HOME": str(home), "USER": "somebody", "OMP_NUM_THREADS": "1"} | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return Traced(process=process, home=home, trace=file)

    yield trace
    for process in started:
        process.kill()
        process.communicate()


_LOOKS_UP = "import socket\ntry: socket.getaddrinfo('spoter.invalid', 443)\nexcept OSError: pass"
_SENDS = "import socket; socket.socket(socket.{0}, socket.SOCK_DGRAM).connect(('{1}', 9))"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (_LOOKS_UP, True),
        (_SENDS.format("AF_INET", "192.0.2.1"), True),
        (_SENDS.format("AF_INET", "127.0.0.1"), False),
        ("import os; os.makedirs(os.path.expanduser('~/.cache/Microsoft/DeveloperTools'))", True),
        ("", False),
    ],
    ids=["a lookup", "a destination outside", "this machine", "ONNX Runtime's folder", "nothing"],
)
def test_what_leaves_the_machine_is_found(trace, code, found):
    traced = trace("-c", code)
    code, output = traced.finish()
    unreachable = "Network is unreachable" in output  # the attempt is in the trace all the same
    assert code == 0 or unreachable, output
    assert bool(traced.unasked()) is found


@pytest.mark.parametrize(
    ("line", "leaves"),
    [
        (
            'connect(8, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("127.0.0.53")}, 16) = 0',
            True,
        ),
        ('connect(8, {sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}, 110) = -1 ENOENT', True),
        ('connect(8, {sa_family=AF_UNIX, sun_path="/run/systemd/resolve/io.systemd.Resolve"}, 42) = 0', True),
        ('connect(8, {sa_family=AF_UNIX, sun_path="/tmp/worker"}, 110) = 0', False),
        (
            'sendto(3, "x", 1, 0, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), '
            'inet_pton(AF_INET6, "2001:db8::1", &sin6_addr), sin6_scope_id=0}, 28) = 1',
            True,
        ),
        (
            "connect(3, {sa_family=AF_INET6, sin6_port=htons(29500), sin6_flowinfo=htonl(0), "
            'inet_pton(AF_INET6, "::1", &sin6_addr), sin6_scope_id=0}, 28) = 0',
            False,
        ),
        ('sendto(3, "{\\"do\\":1}", 8, MSG_NOSIGNAL, NULL, 0) = 8', False),
    ],
)
def test_a_line_of_strace_is_read_as_it_is_meant(line, leaves):
    assert _leaves(f"4711  {line}") is leaves


# --- ONNX Runtime ---


def reports() -> bool:
    return not is_older(import_onnxruntime().__version__, "1.29")


_IMPORT = "from spoter_runtime.ort.runner import import_onnxruntime; import_onnxruntime(); "


@pytest.mark.parametrize(
    ("code", "env", "found"),
    [
        ("import onnxruntime", {}, True),
        (_IMPORT, {}, False),
        (_IMPORT, {"ORT_DISABLE_TELEMETRY": ""}, False),
        (_IMPORT, {"ORT_DISABLE_TELEMETRY": "0"}, True),  # somebody wants it
        ("import spoter_runtime, os; assert 'ORT_DISABLE_TELEMETRY' not in os.environ", {}, False),
    ],
    ids=["without us", "with us", "set to nothing", "set to 0", "our package alone"],
)
def test_importing_onnx_runtime_leaves_no_file_in_the_home_unless_asked_to(trace, code, env, found):
    if found and not reports():
        pytest.skip("this ONNX Runtime is older than 1.29, the first that reports")
    traced = trace("-c", code, env=env)
    code, output = traced.finish()
    assert code == 0, output
    assert bool(traced.unasked()) is found


def test_an_app_that_imported_onnx_runtime_before_us_is_warned_once(python):
    if not reports():
        pytest.skip("this ONNX Runtime is older than 1.29, the first that reports")
    code = f"import onnxruntime, warnings; warnings.simplefilter('always'); {_IMPORT * 2}"
    # CI: this process itself shall not report either.
    done = python("-c", code, env={"ORT_DISABLE_TELEMETRY": "", "CI": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("was imported before spoter_runtime imports it") == 1
    assert "Fix: set ORT_DISABLE_TELEMETRY=1 in the environment" in done.stderr
    for value in ("0", "1"):
        assert python("-c", code, env={"ORT_DISABLE_TELEMETRY": value, "CI": "1"}).stderr == ""
    assert python("-c", _IMPORT * 2, env={"ORT_DISABLE_TELEMETRY": "", "CI": "1"}).stderr == ""


def test_a_switch_that_was_set_too_late_is_warned_of(trace):
    """The variable says 1, and ONNX Runtime has its file open all the same."""
    if not reports():
        pytest.skip("this ONNX Runtime is older than 1.29, the first that reports")
    late = "import onnxruntime, os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; "
    early = "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; import onnxruntime; "
    for code, warned in ((late, 1), (early, 0)):
        code, output = trace("-c", code + _IMPORT * 2).finish()
        assert code == 0, output
        assert output.count("ORT_DISABLE_TELEMETRY was not set then: it may report to Microsoft") == warned


def test_no_warning_about_an_onnx_runtime_that_does_not_report(python):
    code = f"import onnxruntime; onnxruntime.__version__ = '1.28.0'; {_IMPORT}"
    assert python("-c", code, env={"ORT_DISABLE_TELEMETRY": "", "CI": "1"}).stderr == ""


_MAY_IMPORT = {
    "runtime/spoter_runtime/ort/installed.py",  # `import_onnxruntime` itself
    "benchmarks/peers/engines/onnxruntime_stock.py",  # in an environment whose variables `client.py` sets
    "benchmarks/trust.py",  # in a process whose environment the benchmark sets
}


def test_onnx_runtime_is_imported_behind_its_switch_alone():
    """Each `import onnxruntime` stands in a function that has called `import_onnxruntime` before."""
    wrong = []
    for folder in ("runtime", "export", "toolkit", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            tree = ast.parse(path.read_text(encoding="utf-8"))
            calls = [
                node.lineno
                for node in ast.walk(tree)
                if isinstance(node, ast.Call) and _name(node.func) == "import_onnxruntime"
            ]
            functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
            for line in _imports_of_onnxruntime(tree):
                guarded = any(
                    f.lineno < call < line <= (f.end_lineno or 0) for f in functions for call in calls
                )
                if not guarded and name not in _MAY_IMPORT:
                    wrong.append(f"{name}:{line}")
    assert wrong == []


def _imports_of_onnxruntime(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and _name(node.func) in ("require", "import_module", "__import__"):
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        else:
            continue
        if any(name.partition(".")[0] == "onnxruntime" for name in names):
            yield node.lineno


def _name(function):
    return getattr(function, "id", getattr(function, "attr", ""))


_TRAIN = """
import os
from pathlib import Path
from spoter_toolkit.training.loop import train
try:
    train(None, None, Path("run"))
except ModuleNotFoundError as error:
    print(error.name, os.environ["HF_HUB_DISABLE_TELEMETRY"], os.environ["WANDB_ERROR_REPORTING"])
"""


@pytest.mark.parametrize(("own", "set_to"), [({}, "1 false"), ({"WANDB_ERROR_REPORTING": "true"}, "1 true")])
def test_training_switches_telemetry_off_before_it_imports_accelerate(python, own, set_to):
    done = python("-c", _TRAIN, absent=["accelerate"], env=own)
    assert done.stdout == f"accelerate {set_to}\n", done.stderr


# --- every verb, and a recogniser for a minute ---

_SIXTY_SECONDS = """
import sys, time
import numpy as np
from spoter_runtime import Recognizer

recognizer = Recognizer.load(sys.argv[1])
clip = np.load(sys.argv[2])
end = time.monotonic() + 60
while time.monotonic() < end:
    recognizer.predict(clip)
    list(recognizer.predict_many([clip] * 3))
    time.sleep(0.5)
"""
# Long enough for ONNX Runtime's first lookup, nine seconds after its import.
_CONTROL = "onnxruntime alone"
_REPORTS = "import onnxruntime, time; time.sleep(60)"
_SETTINGS = ("epochs=1", "model.num_encoder_layers=1", "model.d_model=36", "model.d_ff=40")
_SMALL = tuple(part for setting in _SETTINGS for part in ("--set", setting))
_BRIEF = ("--backend", "ort-cpu", "--backend", "torch", "--scenario", "latency,start", "--frames", "10")
_BRIEF += ("--rounds", "2", "--seconds-per-case", "0.1")

# What each verb is called with, in an order in which each finds what it needs.
KIT = {
    "data synth": ("--signs", "4", "--signers", "4", "--clips-per-sign", "8", "-o", "made"),
    "data import": ("npy", "clips", "-o", "mine"),
    "data split": ("mine", "--by", "clip"),
    "data background": ("made", "-o", "background"),
    "data show": ("made", "-o", "lengths.png"),
    "train": ("made", "--recipe", "demo", *_SMALL, "--tensorboard", "-o", "run"),
    "crossval": ("made", "--folds", "2", "--recipe", "demo", *_SMALL, "-o", "crossed"),
    "eval": ("run", "-o", "eval.html"),
    "export": (
        "run",
        "--onnx",
        "--precision",
        "fp32,int8",
        "--no-tune",
        "--max-batch",
        "1",
        "-o",
        "small.spoter",
    ),
    "parity": ("small.spoter", "--run", "run", "--backend", "ort-cpu", "--html", "parity.html"),
    "bench": ("small.spoter", "--run", "run", "--quick", *_BRIEF, "--html", "-o", "bench"),
    "predict": ("clips/tea/s1/0.npy", "--bundle", "small.spoter"),
    "live": ("landmarks.jsonl", "--bundle", "small.spoter", "--record", "session"),
    "serve": ("small.spoter", "--port", "0", "--seconds", "1"),
    "sign": ("small.spoter", "--key", "mine.key", "--new-key"),
    "verify": ("small.spoter", "--trust", "mine.key.pub"),
    "tune": ("small.spoter", "--seconds", "1"),
    "doctor": (),
    "import-checkpoint": ("notebook.pth", "-o", "imported"),
    "landmarker fetch": ("--from", "originals"),
    "landmarker verify": (),
    "data extract": ("videos", "-o", "seen", "--workers", "1"),
    "--help": (),
}
RUNTIME = {
    "predict": ("small.spoter", "clips/tea/s1/0.npy"),
    "verify": ("small.spoter",),
    "tune": ("small.spoter", "--seconds", "1"),
    "doctor": (),
}
# The programs that a verb starts, besides ldconfig, which Python asks for the place of a library.
_WORKERS = {Path(sys.executable).name}
_STARTS = {
    "train": {"git"},
    "crossval": {"git"} | _WORKERS,
    "import-checkpoint": {"git"},
    "bench": _WORKERS,
}
# Nobody is in the video that is made here: the networks run on each frame, and then no clip is left.
ENDS_WITH = {"data extract": 1}
VERBS = [("spoter_toolkit", verb) for verb in KIT] + [("spoter_runtime", verb) for verb in RUNTIME]
VERBS.append(("spoter_export", "--rtx"))


def _commands():
    """Return (module, verb) → arguments."""
    commands = {("spoter_toolkit", verb): (*verb.split(), *rest) for verb, rest in KIT.items()}
    commands |= {("spoter_runtime", verb): (verb, *rest) for verb, rest in RUNTIME.items()}
    commands["spoter_export", "--rtx"] = ("--rtx", "--compute-capability", "8.6", "small.spoter")
    return commands


def test_every_verb_is_among_those_that_are_run():
    import typer

    from spoter_toolkit.cli.app import app

    def verbs(command, path=()):
        children = getattr(command, "commands", None)
        if not children:
            yield " ".join(path)
        for name, child in (children or {}).items():
            yield from verbs(child, (*path, name))

    # The demo is these verbs in a row.
    assert {*verbs(typer.main.get_command(app))} == {*KIT} - {"--help"} | {"demo"}
    usage = subprocess.run([sys.executable, "-m", "spoter_runtime", "--help"], capture_output=True, text=True)
    assert re.search(r"\{([a-z,]+)\}", usage.stdout).group(1).split(",") == [*RUNTIME]


@pytest.fixture(scope="module")
def long_lived(trace, bundle_folder, tmp_path_factory):
    """Two processes that run while the verbs do: a recogniser for a minute, and one that reports."""
    clip = tmp_path_factory.mktemp("clip") / "clip.npy"
    np.save(clip, np.random.default_rng(0).random((40, 54, 2), np.float32))
    return {
        "recognizer": trace("-c", _SIXTY_SECONDS, bundle_folder, clip),
        _CONTROL: trace("-c", _REPORTS, env={"ORT_DISABLE_TELEMETRY": "0"}),
    }


@pytest.fixture(scope="module")
def alone():
    """What runs a command in a network of its own; empty where the system forbids that."""
    tried = subprocess.run([*_ALONE, "true"], capture_output=True, check=False)
    return () if tried.returncode else _ALONE


@pytest.fixture(scope="module")
def ran(trace, alone, long_lived, tmp_path_factory, request):
    """Run every verb under strace; return (module, verb) → (exit code, output, unasked, started)."""
    folder = tmp_path_factory.mktemp("verbs")
    clips = np.random.default_rng(0).random((12, 20, 54, 2), np.float32)
    for number, clip in enumerate(clips):
        file = (
            folder / "clips" / ("tea", "milk")[number % 2] / f"s{number // 2 % 2 + 1}" / f"{number // 4}.npy"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, clip)
    _notebook_checkpoint(folder / "notebook.pth")
    _empty_video(folder / "videos" / "tea" / "s1" / "1.mkv")
    write_log(folder / "landmarks.jsonl", *signing([(1000.0, 1700.0)], end_ms=2500))
    missing = ""
    try:
        landmarker = request.getfixturevalue("landmarker_folder")
        shutil.copytree(landmarker.parent / "originals", folder / "originals")
    except pytest.skip.Exception as error:
        missing = str(error)
    home = folder / "home"
    results = {}
    for (module, verb), arguments in _commands().items():
        if missing and verb in ("landmarker fetch", "landmarker verify", "data extract"):
            results[module, verb] = missing
            continue
        traced = trace(
            *("-m", module, *arguments),
            home=home,
            cwd=folder,
            env={"MPLCONFIGDIR": matplotlib.get_cachedir()},  # the fonts are known already
            within=alone,
        )
        results[module, verb] = (*traced.finish(), traced.unasked(), traced.started())
        shutil.rmtree(home / _MICROSOFT, ignore_errors=True)  # the next verb is not blamed for it
    return results


def _notebook_checkpoint(path):
    from spoter_toolkit.model.spoter import ModelConfig, model_from_config

    config = ModelConfig(d_model=36, num_encoder_layers=1, d_ff=40, num_classes=2, landmark_weights="planar")
    declared = {"input_dim": 108, "d_model": 36, "num_heads": 9, "num_encoder_layers": 1, "d_ff": 40}
    weights = model_from_config(config).state_dict()
    torch.save({"model_state_dict": weights, "model_config": declared | {"num_classes": 2}}, path)


def _empty_video(path):
    import av

    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.slow
@pytest.mark.parametrize(("module", "verb"), VERBS, ids=lambda value: value.replace(" ", "-"))
def test_no_verb_looks_anything_up_or_leaves_the_machine(ran, module, verb):
    if module == "spoter_export" and not is_installed("tensorrt_rtx"):
        pytest.skip("TensorRT-RTX is not installed: no engine can be built")
    if isinstance(ran[module, verb], str):
        pytest.skip(ran[module, verb])
    code, output, unasked, started = ran[module, verb]
    assert code == ENDS_WITH.get(verb, 0), output
    assert unasked == []
    assert {Path(program).name for program in started} <= _STARTS.get(verb, set()) | {"ldconfig"}


@pytest.mark.slow
def test_every_verb_succeeded_where_there_is_no_network(ran, alone):
    if not alone:
        pytest.skip(_NOT_ALONE)
    failed = {
        verb: found
        for verb, found in ran.items()
        if not isinstance(found, str) and found[0] != ENDS_WITH.get(verb[1], 0)
    }
    assert not failed


def test_a_network_of_ones_own_has_nobody_but_this_machine(alone):
    if not alone:
        pytest.skip(_NOT_ALONE)
    code = _SENDS.format("AF_INET", "192.0.2.1") + "; "
    done = subprocess.run([*alone, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Network is unreachable" in done.stderr
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    )
    subprocess.run([*alone, sys.executable, "-c", code], check=True)


def test_a_program_that_is_started_is_seen_and_each_is_in_the_table(trace):
    code = "import subprocess; subprocess.run(['true']); subprocess.run(['no-such-program-9'])"
    traced = trace("-c", code)
    assert traced.finish()[0] == 1
    assert [Path(program).name for program in traced.started()] == ["true"]
    table = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## Which programs")[2]
    assert [name for name in ("git", "ldconfig", "this Python") if f"| {name}" not in table] == []


@pytest.mark.slow
def test_a_recognizer_that_lives_for_a_minute_looks_nothing_up(long_lived):
    code, output = long_lived["recognizer"].finish()
    assert code == 0, output
    assert long_lived["recognizer"].unasked() == []


@pytest.mark.slow
def test_onnx_runtime_alone_is_caught_looking_its_maker_up(long_lived):
    """The control of the tests above: what they look for is seen where it happens."""
    if not reports():
        pytest.skip("this ONNX Runtime is older than 1.29, the first that reports")
    end = time.monotonic() + 60
    while time.monotonic() < end and not any("htons(53)" in line for line in long_lived[_CONTROL].unasked()):
        time.sleep(0.5)
    unasked = long_lived[_CONTROL].unasked()
    assert any("port=htons(53)" in line for line in unasked)
    assert any(line.endswith("onnxruntime.db") for line in unasked)
