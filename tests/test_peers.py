"""benchmarks/peers: a worker answers line by line whatever its engine does, and the page says who failed."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spoter_runtime.errors import BackendError
from spoter_toolkit.bench.worker.client import WorkerLost

PEERS = Path(__file__).parents[1] / "benchmarks" / "peers"

FAKE_ENGINE = """
import numpy as np

REQUIREMENTS = ("numpy",)
PEERS = {"fake": "a fake engine"}

def prepare(peer, folder, made):
    print("an engine that talks on stdout")
    if peer != "fake":
        raise ValueError(f"{peer}: cannot be prepared")
    (made / "weights.txt").write_text("2")

def load(peer, folder, made, threads):
    factor = int((made / "weights.txt").read_text())
    return lambda poses: factor * poses[:, 0, :3]

def many(peer, folder, made, threads):
    one = load(peer, folder, made, threads)
    return lambda clips: np.stack([one(clip[None])[0] for clip in clips])
"""


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch):
    monkeypatch.syspath_prepend(PEERS)
    monkeypatch.syspath_prepend(PEERS.parent)


def test_a_peers_modules_are_compiled_once_and_its_start_draws_no_random_numbers(monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    environment = importlib.import_module("client").peer_environment(2)
    assert not {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH"} & set(environment)
    assert (environment["OMP_NUM_THREADS"], environment["ORT_DISABLE_TELEMETRY"]) == ("2", "1")
    code = (
        f"import sys; sys.path.insert(0, {str(PEERS)!r}); import peer\n"
        "worker = peer.Worker(None, 'fake', None, 1); seen = []\n"
        "worker._engine = type('Engine', (), {'load': lambda *given: seen.append})\n"
        "worker._folder = peer.Path('.'); worker._do_first(frames=5)\n"
        "print(seen[0].shape, bool((seen[0] > 0).all()), 'numpy.random' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 5, 108) True False\n"


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "fake.py"
    path.write_text(FAKE_ENGINE)
    return path


@pytest.fixture
def model(tmp_path):
    """A model's folder: two clips of two and three frames."""
    folder = tmp_path / "model"
    folder.mkdir()
    poses = np.arange(5 * 108, dtype=np.float32).reshape(5, 108)
    np.savez(folder / "clips.npz", raw=-poses, given=poses, ends=np.array([2, 5]), true=np.array([]))
    return folder


def replies(engine, model, peer, *requests):
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    command = [sys.executable, PEERS / "peer.py", engine, peer, model, "1"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_worker_prepares_loads_answers_and_times_and_its_engine_may_print(engine, model, tmp_path):
    to = str(tmp_path / "logits.npy")
    prepared, loaded, answered, timed, many, first = replies(
        engine,
        model,
        "fake",
        {"do": "prepare"},
        {"do": "load"},
        {"do": "answer", "to": to},
        {"do": "time", "frames": 4, "calls": 3, "warm_up": 1},
        {"do": "time_many", "lengths": [1, 4], "calls": 2, "warm_up": 0},
        {"do": "first", "frames": 4},
    )
    assert prepared == {"prepared": True}
    assert loaded == {"versions": {"numpy": np.__version__}}
    assert answered == {"clips": 2}
    assert np.load(to).tolist() == [[0, 2, 4], [432, 434, 436]]  # each clip's own first frame, twice
    assert len(timed["samples_ns"]) == 3
    assert min(timed["samples_ns"]) > 0
    assert len(many["samples_ns"]) == 2
    assert first["peak_rss_bytes"] > 1e6


def test_an_engine_that_fails_is_a_reply_and_the_worker_goes_on(engine, model):
    early, prepared, loaded = replies(
        engine,
        model,
        "other",
        {"do": "time", "frames": 4, "calls": 1, "warm_up": 0},
        {"do": "prepare"},
        {"do": "load"},
    )
    assert early == {"error": "RuntimeError: not loaded"}
    assert prepared == {"error": "ValueError: other: cannot be prepared"}
    assert loaded["error"].startswith("FileNotFoundError: ")


def test_a_reason_is_one_short_line(engine):
    peer = importlib.import_module("peer")
    assert peer.reason(ValueError("one\n  two")) == "ValueError: one two"
    assert len(peer.reason(ValueError("x" * 1000))) < peer.LONGEST_REASON + 5
    worker = peer.Worker(peer.engine_from(engine), "fake", Path("missing"), 1)
    out = io.StringIO()
    peer.serve(worker, io.StringIO('{"do": "dance"}\n'), out)
    assert "_do_dance" in json.loads(out.getvalue())["error"]


def test_every_engine_file_says_what_it_needs_without_it():
    environments = importlib.import_module("environments")
    peers = environments.all_peers()
    assert {"torch-eager", "ort-stock", "openvino", "ours", "ours-fused"} <= set(peers)
    assert {peer.engine.stem for peer in peers.values()} == {p.stem for p in (PEERS / "engines").glob("*.py")}
    assert all("numpy" in peer.requirements for peer in peers.values())
    assert {name for name, peer in peers.items() if peer.many} >= {"torch-eager", "ort-stock", "ours"}


def test_the_client_starts_a_worker_asks_it_and_says_how_it_failed(engine, model):
    client = importlib.import_module("client")
    environments = importlib.import_module("environments")
    peer = environments.Peer(
        name="fake", what="a fake engine", engine=engine, requirements=("numpy",), many=True
    )
    with client.PeerProcess(Path(sys.executable), peer, model, 1) as worker:
        with pytest.raises(BackendError, match="not loaded"):
            worker.ask(do="time", frames=4, calls=1, warm_up=0)
        assert worker.ask(do="prepare") == {"prepared": True}
    engine.write_text("import os; os._exit(9)")
    lost = pytest.raises(WorkerLost, match="exit code 9")
    with client.PeerProcess(Path(sys.executable), peer, model, 1) as worker, lost:
        worker.ask(do="load")


class Canned:
    """Answers with the next reply, or raises it."""

    def __init__(self, *replies):
        self.replies = list(replies)

    def ask(self, **request):
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def test_a_peer_that_fails_has_no_further_turn_and_the_others_go_on():
    cases = importlib.import_module("cases")
    good = Canned(*[{"samples_ns": [n]} for n in (9, 1, 2)])
    bad = Canned({"samples_ns": [9]}, WorkerLost("gone"))
    found = cases.take_turns({"good": good, "bad": bad}, 2, do="time")
    assert found == {"samples_ns": {"good": [[1], [2]]}, "failed": {"bad": "gone"}}


def result():
    """Return a canned result: ours takes half of the baseline's time, one peer does not load."""
    rounds = [[1_000_000 + 1000 * n] for n in range(12)]
    half = [[n // 2 for n in taken] for taken in rounds]
    case = {
        "samples_ns": {"torch-eager": rounds, "ort-stock": rounds, "ours": half, "floor": half},
        "failed": {},
        "rounds": 12,
    }
    answer = {"clips": 4, "labels_agree": 3, "max_logit_diff": 0.5, "top1": 0.75}
    names = {"torch-eager": "PyTorch", "ort-stock": "stock", "broken": "a broken one", "ours": "ours"}
    return {
        "command": "python benchmarks/peers CHECKPOINT",
        "peers": {
            name: {"what": what, "versions": {}, "error": "no `such` thing" if name == "broken" else None}
            for name, what in names.items()
        },
        "models": {
            "model": {"source": "people", "largest_logit": 8.0, "answers": {"ours": answer}},
        },
        "cases": {
            "one": {**case, "calls": 1, "frames": 60},
            "curve": {"by_frames": {"8": case, "60": case}},
            "ragged": {**case, "lengths": [9, 164], "threads": 2},
            "cold": {**case, "peak_rss_bytes": {name: [2_000_000] for name in case["samples_ns"]}},
        },
        "ways": {"ours": "ours"},
    }


def test_the_page_gives_ratios_answers_and_reasons(tmp_path):
    page = importlib.import_module("page")
    found = result()
    text = "\n".join(page.page_lines(found, "peers.png"))
    assert "| **ours** | 0.50 | 0.50 | 2.00 (2.00–2.00) | 2.00× as fast (2.00–2.00) |" in text
    assert "| stock | 1.01 | 1.00 | 1 |  |" in text
    assert "| **ours** | 3 of 4 | 5.0e-01 | 0.7500 |" in text
    assert "- a broken one: `no 'such' thing`" in text
    assert "![one clip of 8 to 299 frames](peers.png)" in text
    page.draw_curve(found, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_labels_of_lines_that_end_together_do_not_lie_on_each_other():
    page = importlib.import_module("page")
    places = page.spread([1.0, 1.0, 5.0, 0.99])
    assert places[2] == 5.0
    assert all(b / a >= 1.13 for a, b in zip(sorted(places), sorted(places)[1:], strict=False))
