"""The C library, compiled once a run as its README says, with warnings as errors."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from failing_networks import fail_on_white
from spoter_toolkit.faces._clibrary import LIBRARY

SOURCES = Path(__file__).parents[3] / "runtime" / "cpp"


def run(*command, **options):
    """Run a tool; its words are the failure's."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed: the C library is not compiled")
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def run_tool():
    """Return `run`."""
    return run


@pytest.fixture
def c_sources():
    """The folder of the library's sources."""
    return SOURCES


@pytest.fixture(scope="session")
def c_wheel(made_once):
    """The folder ``spoter_runtime_c`` of the wheel: header, library, CMake package."""

    def make(folder):
        run("c++", "--version")
        options = ("--no-build-isolation", "--no-deps", "-C", "cmake.define.SPOTER_WERROR=ON")
        run(sys.executable, "-m", "pip", "wheel", *options, "-w", folder, SOURCES)
        (wheel,) = folder.glob("spoter_runtime_c-*-py3-none-*.whl")
        shutil.unpack_archive(wheel, folder, "zip")
        return folder / "spoter_runtime_c"

    return made_once("c-wheel", make)


@pytest.fixture
def c_library(c_wheel, monkeypatch):
    """The face `c` takes the library that was built."""
    library = c_wheel / "lib" / "libspoter.so"
    monkeypatch.setenv(LIBRARY, str(library))
    return library


@pytest.fixture
def watch():
    """Return watch(file): a descriptor from which inotify's events of the file are read."""
    made = []

    def watch(file):
        system, read_closed_opened = ctypes.CDLL(None), 0x1 | 0x10 | 0x20
        made.append(system.inotify_init1(0))
        assert system.inotify_add_watch(made[-1], os.fsencode(file), read_closed_opened) > 0
        return made[-1]

    yield watch
    for descriptor in made:
        os.close(descriptor)


@pytest.fixture
def failing(landmarker_folder, reseal_landmarker):
    """A landmarker whose networks fail on a white frame."""

    def spoil(folder):
        for network in folder.glob("*.onnx"):
            fail_on_white(network)

    return reseal_landmarker(landmarker_folder, spoil)
