"""The C library, compiled once a run as its README says, with warnings as errors."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from spoter_toolkit.faces import c

SOURCES = Path(__file__).parents[3] / "runtime" / "cpp"


def built(folder, *options):
    """Return the folder of a build with CMake; the compiler's words are the failure's."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: the C library is not compiled")
    for command in (
        ["cmake", "-S", SOURCES, "-B", folder, "-DSPOTER_WERROR=ON", *options],
        ["cmake", "--build", folder, "-j", str(len(os.sched_getaffinity(0)))],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def c_sources():
    """The folder of the library's sources."""
    return SOURCES


@pytest.fixture(scope="session")
def c_build(made_once):
    """The folder with libspoter.so and the example, built as they are shipped."""
    return made_once("c-library", lambda folder: built(folder, "-DSPOTER_EXAMPLES=ON"))


@pytest.fixture
def c_library(c_build, monkeypatch):
    """`spoter_toolkit.faces.c` takes the library that was built."""
    monkeypatch.setenv(c.LIBRARY, str(c_build / "libspoter.so"))
    return c_build / "libspoter.so"
