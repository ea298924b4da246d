"""TensorRT 8.6.0's real bindings, from its wheel for CPython 3.10: names can be seen, nothing can be run."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import filelock
import pytest

from spoter_runtime.files import cache_folder

WHEEL = "tensorrt==8.6.0"
# Operators whose names the compiler keeps as texts; shorter names are inside instructions.
KNOWN_TO_THE_PARSER = ("Erf", "LayerNormalization", "Range", "ReduceL2", "Split", "Where")
_PARTS = ("tensorrt/__init__.py", "tensorrt/tensorrt.so", "tensorrt/libnvonnxparser.so.8")
_LINKED = ("nvinfer", "nvonnxparser", "nvparsers", "nvinfer_plugin")


def python_310() -> str | None:
    """Return a CPython 3.10, or None."""
    if sys.version_info[:2] == (3, 10):
        return sys.executable
    # pyenv's first: its `python3.10` on the path works only where it is the chosen version.
    of_pyenv = sorted((Path.home() / ".pyenv" / "versions").glob("3.10.*/bin/python"))
    return str(of_pyenv[-1]) if of_pyenv else shutil.which("python3.10")


@functools.cache
def tensorrt_8() -> tuple[str, dict[str, str], Path]:
    """Return an interpreter, the environment in which it imports TensorRT 8.6, and the real parser's library.

    The wheel of 819 MB is downloaded once; 7 MB of it are kept in the user's cache. Empty libraries take the
    place of the others. Skips, with the reason, where CPython 3.10, a C compiler or the wheel is missing.
    """
    interpreter, compiler = python_310(), shutil.which("cc")
    if interpreter is None:
        pytest.skip("TensorRT 8.6 needs CPython 3.10, which is not installed")
    if sys.platform != "linux" or not compiler:
        pytest.skip("needs Linux and a C compiler, to stand in for the libraries that the bindings link to")
    folder = cache_folder() / "tests" / "tensorrt-8.6.0"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if not folder.exists():
            _fetch(folder, compiler)
    return (
        interpreter,
        {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder / "libraries")},
        folder / "tensorrt" / "libnvonnxparser.so.8.real",
    )


def _fetch(folder: Path, compiler: str) -> None:
    draft = folder.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--retries",
        "0",
        "--timeout",
        "20",
        "--no-deps",
    ]
    command += ["--only-binary", ":all:", "--python-version", "3.10", "--platform", "manylinux_2_17_x86_64"]
    done = subprocess.run([*command, "-d", draft, WHEEL], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot get {WHEEL}: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = draft.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(draft, _PARTS)
    wheel.unlink()
    # Not as *.so.8: the package loads all such files beside it, and this one needs the others.
    (draft / _PARTS[-1]).rename(draft / f"{_PARTS[-1]}.real")
    stand_ins(draft, compiler)
    draft.rename(folder)


def stand_ins(folder: Path, compiler: str) -> None:
    """Compile libraries that have every function that the bindings link to, all of them empty."""
    libraries = folder / "libraries"
    libraries.mkdir(exist_ok=True)
    functions = subprocess.run(
        ["nm", "-D", "--undefined-only", folder / _PARTS[1]], capture_output=True, text=True, check=True
    ).stdout.split()
    source = folder / "empty.c"
    names = [n for n in functions if re.fullmatch(r"(create|get|init)\w+|_ZN\d+nv\w+", n)]
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in names))
    for stem in _LINKED:
        target = libraries / f"lib{stem}.so.8"
        subprocess.run([compiler, "-w", "-shared", "-fPIC", "-o", target, source], check=True)
