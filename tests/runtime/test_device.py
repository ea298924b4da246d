"""The device stays light: numpy and one engine, and an import that does nothing."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spoter_runtime.recognizer import Recognizer

HEAVY = ("torch", "onnx", "onnxscript", "typer", "rich", "accelerate", "safetensors", "matplotlib")
UPPER_LAYERS = ("spoter_export", "spoter_toolkit")

_IMPORT = """
import json, logging, os, sys, threading, warnings
import numpy

def state():
    tasks = "/proc/self/task"
    return {
        "threads": len(os.listdir(tasks)) if os.path.isdir(tasks) else threading.active_count(),
        "environment": dict(os.environ),
        "log handlers": len(logging.getLogger().handlers),
        "warning filters": len(warnings.filters),
        "folder": os.listdir("."),
    }

before = state()
import spoter_runtime
print(json.dumps({"changed": before != state(), "modules": sorted(sys.modules)}))
"""


def test_importing_the_runtime_starts_no_engine_no_thread_and_changes_nothing(python):
    done = python("-c", _IMPORT)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert not found["changed"]
    assert "spoter_runtime.ort.runner" in found["modules"]
    assert not {"onnxruntime", *HEAVY, *UPPER_LAYERS} & set(found["modules"])


def test_a_start_on_a_cpu_loads_only_what_it_needs(python, bundle_folder):
    code = (
        "import sys; from spoter_runtime import Recognizer; import numpy\n"
        f"Recognizer.load({str(bundle_folder)!r}, 'ort-cpu').predict(numpy.ones((3, 108), 'float32'))\n"
        "print(*sys.modules)"
    )
    modules = set(python("-c", code).stdout.split())
    assert {"onnxruntime", "spoter_runtime.tuning.store"} <= modules
    parts = ("engine", "preflight", "gpu", "ort_gpu", "doctor", "verify", "tune")
    slow = {"importlib.metadata", "numpy.random", "zipfile", "ctypes.util", "shutil", "concurrent.futures"}
    assert not modules & {f"spoter_runtime.{name}" for name in parts}
    assert not modules & slow


def test_the_runtime_works_where_nothing_else_can_be_imported(python, bundle_folder, make_clip, tmp_path):
    np.save(tmp_path / "clip.npy", make_clip())
    absent = (*HEAVY, *UPPER_LAYERS)
    assert "No module named 'torch'" in python("-c", "import torch", absent=absent).stderr
    done = python("-m", "spoter_runtime", "predict", bundle_folder, tmp_path / "clip.npy", absent=absent)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"\t{Recognizer.load(bundle_folder).predict(make_clip()).label} " in done.stdout
    done = python("-m", "spoter_runtime", "verify", bundle_folder, absent=absent)
    assert (done.returncode, done.stderr) == (0, "")
    assert ": verified on ort-cpu-fused in fp32\n" in done.stdout


@pytest.fixture(scope="module")
def device(wheel, tmp_path_factory):
    """A virtual environment with the wheel, numpy and ONNX Runtime, and nothing else of ours."""
    folder = tmp_path_factory.mktemp("device")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    interpreter = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "install", "--no-index", "--no-deps", str(wheel)], capture_output=True, text=True, check=False
    )
    if "No module named pip" in done.stderr:
        pytest.skip("this environment has no pip to install the wheel with")
    assert done.returncode == 0, done.stderr
    (site_packages,) = folder.glob("**/site-packages")
    # Links, not a .pth to the parent's folder: that would bring torch and all the rest along.
    for name in ("numpy", "onnxruntime"):
        for top in {Path(file).parts[0] for file in importlib.metadata.files(name) or ()} - {".."}:
            (site_packages / top).symlink_to(importlib.metadata.distribution(name).locate_file(top))
    return interpreter


def test_the_wheel_alone_recognises_verifies_and_diagnoses(device, bundle_folder, make_clip, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [str(device), "-I", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    absent = "import importlib.util, sys; print([m for m in sys.argv[1:] if importlib.util.find_spec(m)])"
    assert run("-c", absent, *HEAVY).stdout == "[]\n"
    assert (
        str(tmp_path.parents[1]) in run("-c", "import spoter_runtime; print(spoter_runtime.__file__)").stdout
    )

    np.save(tmp_path / "clip.npy", make_clip())
    done = run("-m", "spoter_runtime", "predict", bundle_folder, "clip.npy")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"\t{Recognizer.load(bundle_folder).predict(make_clip()).label} " in done.stdout

    done = run("-m", "spoter_runtime", "verify", bundle_folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert ": verified on ort-cpu-fused in fp32\n" in done.stdout

    done = run("-m", "spoter_runtime", "doctor")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "runs here: ort-cpu, ort-cpu-fused")
    done = run("-m", "spoter_runtime", "doctor", "--verbose")
    assert done.returncode == 0
    assert "missing  torch" in done.stdout
    wheel_with = (
        r"Fix: pip install '\S+/spoter_kit-[\w.]+-py3-none-any\.whl\[{}\]'"  # what it was installed from
    )
    assert re.search(wheel_with.format("export"), done.stdout)
    assert "ok       ort-cpu" in done.stdout

    done = run("-m", "spoter_toolkit")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the spoter-kit command needs the toolkit extra. Fix: pip install" in done.stderr
    assert re.search(wheel_with.format("toolkit"), done.stderr)
    assert "Traceback" not in done.stderr
