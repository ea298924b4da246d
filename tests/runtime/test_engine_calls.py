"""The end of Python and a fork: an answer or a clear error, never an abort and never a wait without end."""

from __future__ import annotations

import copy
import itertools
import multiprocessing
import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from spoter_runtime.errors import BackendError, BundleError
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.runner import Runner

# A forked process that ends by itself would wait for the telemetry's thread, whatever we do.
NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}

FORKS_HERE = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

BEGIN = """
import atexit, os, sys, threading, time, warnings
import numpy as np

def clips():
    rng = np.random.default_rng(0)
    return [rng.random((frames, 54, 2), np.float32) for frames in (30, 7, 60, 30, 12, 99)]
"""

CALLS = {
    "predict": "recognizer.predict(clips()[0])",
    "predict_many": "recognizer.predict_many(clips())",
    "load": "Recognizer.load(path, tuned=False)",
}

DAEMONS = """
from spoter_runtime import Recognizer
path = sys.argv[1]
recognizer = Recognizer.load(path, tuned=False)
running = threading.Barrier(4)

def work():
    {call}
    running.wait()
    while True:
        {call}

for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
running.wait()
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("call", "exits"), [("predict", 20), ("predict_many", 20), ("load", 10)])
def test_daemon_threads_that_use_an_engine_when_python_ends_do_not_abort_it(
    python, bundle_folder, call, exits
):
    code = BEGIN + DAEMONS.format(call=CALLS[call])

    def end(i):
        return python("-c", code, bundle_folder, 0.003 * i / exits, env=NO_TELEMETRY)

    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(end, range(exits)):
            kinds = set(re.findall(r"^([\w.]+(?:Error|Exception)): ", done.stderr, re.MULTILINE))
            assert done.returncode == 0, done.stderr
            assert "terminate called" not in done.stderr
            assert kinds <= {"spoter_runtime.errors.BackendError"}, done.stderr
            assert not kinds or "Python is ending" in done.stderr


def test_a_thread_that_begins_when_python_ends_gets_an_error_with_the_fix(python, bundle_folder):
    code = (
        BEGIN
        + """
from spoter_runtime import Recognizer
recognizer = Recognizer.load(sys.argv[1], tuned=False)
told = []

def late():
    ended.wait()
    for call in (lambda: recognizer.predict(clips()[0]), lambda: Recognizer.load(sys.argv[1], "ort-cpu")):
        try:
            call()
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")

ended = threading.Event()
thread = threading.Thread(target=late, daemon=True)
thread.start()

def last():  # the first that was registered is the last that is called
    ended.set()
    thread.join()
    print(*told, sep="\\n")
"""
    )
    code = code.replace("from spoter_runtime", "atexit.register(lambda: last())\nfrom spoter_runtime", 1)
    done = python("-c", code, bundle_folder, env=NO_TELEMETRY)
    said = "BackendError: Python is ending, so this thread can use no engine any more. Fix: stop the thread"
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.splitlines()
    assert len(told) == 2
    assert all(line.startswith(said) for line in told)


@pytest.mark.parametrize("used_before", [True, False])
def test_atexit_handlers_recognise(python, bundle_folder, used_before):
    code = """
atexit.register(lambda: print("before", [one.label for one in recognizer.predict_many(clips())]))
from spoter_runtime import Recognizer
atexit.register(lambda: print("after", [one.label for one in recognizer.predict_many(clips())]))
recognizer = Recognizer.load(sys.argv[1], tuned=False)
if sys.argv[2] == "True":
    recognizer.predict_many(clips())
print("alone", [recognizer.predict(clip).label for clip in clips()])
"""
    done = python("-c", BEGIN + code, bundle_folder, used_before, env=NO_TELEMETRY)
    assert (done.returncode, done.stderr) == (0, "")
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert said.keys() == {"alone", "after", "before"}
    assert len(set(said.values())) == 1


@pytest.mark.parametrize("used_before", [True, False])
def test_a_thread_that_outlives_the_main_one_recognises(python, bundle_folder, used_before):
    code = """
from spoter_runtime import Recognizer
recognizer = Recognizer.load(sys.argv[1], tuned=False)
if sys.argv[2] == "True":
    recognizer.predict_many(clips())

def late():
    threading.main_thread().join()
    time.sleep(0.3)
    print([one.label for one in recognizer.predict_many(clips())])

threading.Thread(target=late).start()
print([recognizer.predict(clip).label for clip in clips()])
"""
    done = python("-c", BEGIN + code, bundle_folder, used_before, env=NO_TELEMETRY)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first == second


POOL = """
import multiprocessing
from spoter_runtime import Recognizer

recognizer = None

def by_argument(given):
    sent, clip = given
    return os.getpid(), [one.label for one in (sent.predict(clip), *sent.predict_many([clip, clip[:9]]))]

def by_global(clip):
    return by_argument((recognizer, clip))

def take(sent):
    global recognizer
    recognizer = sent

if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads, Python 3.12
    method, how, path = sys.argv[1:]
    os.chdir(os.path.dirname(path))
    recognizer = Recognizer.load(os.path.basename(path), "ort-cpu", tuned=False)
    os.chdir("/")
    recognizer.predict_many(clips())
    expected = [by_global(clip)[1] for clip in clips()]
    context = multiprocessing.get_context(method)
    initializer = {"initializer": take, "initargs": (recognizer,)} if how == "initializer" else {}
    with context.Pool(2, **initializer) as pool:
        if how == "argument":
            answers = pool.map(by_argument, [(recognizer, clip) for clip in clips()], 1)
        elif how == "method":
            answers = [(0, [one.label]) for one in pool.map(recognizer.predict, clips())]
            expected = [labels[:1] for labels in expected]
        else:
            answers = pool.map(by_global, clips(), 1)
    assert [labels for _, labels in answers] == expected
    assert os.getpid() not in {process for process, _ in answers}
    print("the same")
"""

METHODS = [
    (method, how)
    for method, how in itertools.product(
        multiprocessing.get_all_start_methods(), ("argument", "method", "initializer", "global")
    )
    if method == "fork" or how != "global"
]


@pytest.mark.parametrize(("method", "how"), METHODS)
def test_worker_processes_recognise(python, tmp_path, bundle_folder, method, how):
    script = tmp_path / "script.py"
    script.write_text(BEGIN + POOL)
    done = python(script, method, how, bundle_folder, env=NO_TELEMETRY)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the same\n", "")


FORKS = """
from spoter_runtime import OrtRunner, Recognizer
from spoter_runtime.errors import SpoterError
warnings.simplefilter("ignore")
recognizer = Recognizer.load(sys.argv[1], tuned=False)
runner = OrtRunner(os.path.join(sys.argv[1], "model.onnx"))
expected = [recognizer.predict(clip).label for clip in clips()]
done = threading.Event()

def recognise():
    while not done.is_set():
        recognizer.predict_many(clips())

def load():
    while not done.is_set():
        Recognizer.load(sys.argv[1], tuned=False).predict_many(clips())

threads = [threading.Thread(target=work) for work in (recognise, load)]
for thread in threads:
    thread.start()
ends = []
for _ in range(int(sys.argv[2])):
    time.sleep(0.05)
    process = os.fork()
    if process == 0:
        try:
            runner.infer(np.ones((1, 2, 108), np.float32))
        except SpoterError as error:
            assert "opened before this process was forked" in str(error), error
        else:
            raise AssertionError
        assert [recognizer.predict(clip).label for clip in clips()] == expected
        assert [one.label for one in recognizer.predict_many(clips())] == expected
        del runner
        sys.exit(7)  # and so everything is destroyed, not as after os._exit
    ends.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
done.set()
for thread in threads:
    thread.join()
print(set(ends))
"""


@pytest.mark.slow
@FORKS_HERE
def test_a_forked_process_recognises_and_ends_while_threads_of_the_other_one_do(python, bundle_folder):
    done = python("-c", BEGIN + FORKS, bundle_folder, 12, env=NO_TELEMETRY)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{7}\n", "")


@FORKS_HERE
def test_a_forked_process_whose_bundle_is_gone_says_so(python, bundle_copy):
    code = """
import shutil
from spoter_runtime import Recognizer
warnings.simplefilter("ignore")
recognizer = Recognizer.load(sys.argv[1], tuned=False)
shutil.rmtree(sys.argv[1])
if process := os.fork():
    os.waitpid(process, 0)
    print(recognizer.predict(clips()[0]).label)
else:
    try:
        recognizer.predict(clips()[0])
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""
    done = python("-c", BEGIN + code, bundle_copy, env=NO_TELEMETRY)
    assert (done.returncode, done.stderr) == (0, "")
    child, parent = done.stdout.splitlines()
    assert child.startswith("BackendError loaded before this process was forked, and it cannot be loaded")
    assert "no such folder. Fix: keep the bundle in its place until each worker has predicted once" in child
    assert child.count("Fix: ") == 1
    assert parent


@pytest.fixture
def clip():
    return np.random.default_rng(0).random((20, 54, 2), np.float32)


def test_a_recogniser_is_pickled_as_its_path_and_options(bundle_copy, clip, monkeypatch):
    monkeypatch.chdir(bundle_copy.parent)
    recognizer = Recognizer.load(bundle_copy.name, "ort-cpu", long="resample", threads=1)
    content = pickle.dumps(recognizer)
    assert len(content) < 1000
    monkeypatch.chdir("/")
    other = pickle.loads(content)
    assert other is not recognizer
    assert (other.runner.name, other.contract, other.why) == ("ort-cpu", recognizer.contract, recognizer.why)
    long = np.tile(clip, (6, 1, 1))
    np.testing.assert_array_equal(other.predict(long).logits_C, recognizer.predict(long).logits_C)
    assert pickle.loads(content) is other  # a pool sends it with each task


def test_a_lone_file_is_pickled_too(bundle_folder, clip):
    recognizer = Recognizer.load(bundle_folder / "model.onnx")
    other = pickle.loads(pickle.dumps(recognizer))
    np.testing.assert_array_equal(other.predict(clip).logits_C, recognizer.predict(clip).logits_C)


def test_another_model_in_the_place_of_the_pickled_one_is_refused(bundle_copy, plant):
    content = pickle.dumps(Recognizer.load(bundle_copy))
    graph = (bundle_copy / "model.onnx").read_bytes()
    plant(bundle_copy, graph + b"\x7a\x00")  # another file, though it computes the same
    with pytest.raises(BundleError, match=r"another model lies there than when .* was loaded\. Fix: load"):
        pickle.loads(content)


def test_a_damaged_file_is_found_where_the_pickled_one_arrives(bundle_copy):
    content = pickle.dumps(Recognizer.load(bundle_copy, "ort-cpu"))
    (bundle_copy / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match="changed or damaged"):
        pickle.loads(content)


def test_what_was_not_loaded_is_not_pickled(bundle_folder):
    with pytest.raises(BackendError, match=r"cannot be sent to another process\. Fix: make it there, or use"):
        pickle.dumps(Recognizer(OrtRunner(bundle_folder / "model.onnx")))


def test_a_copy_is_the_recogniser_itself(bundle_folder):
    recognizer = Recognizer.load(bundle_folder)
    assert copy.copy(recognizer) is copy.deepcopy(recognizer) is recognizer


def test_a_gpus_recogniser_says_that_it_is_of_no_use_after_a_fork(bundle_folder, contract, clip, monkeypatch):
    class OnGpu(Runner):
        name = "ort-cuda"

        def _infer(self, poses_NTD, lengths_N):
            return np.zeros((len(poses_NTD), 5), np.float32)

    recognizer = Recognizer.load(bundle_folder)
    recognizer.runner = OnGpu()
    recognizer.runner.contract = contract
    assert recognizer.predict(clip).score == pytest.approx(0.2)
    monkeypatch.setattr("spoter_runtime.recognizer.os.getpid", lambda: -1)
    with pytest.raises(BackendError, match=r"ort-cuda: loaded before .* forked.*Fix: multiproc"):
        recognizer.predict(clip)
