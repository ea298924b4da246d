"""Each version of TensorRT is one row of a table, and each JetPack is known by its name."""

from __future__ import annotations

import pytest

from spoter_runtime.errors import BackendError
from spoter_runtime.trt.versions import JETPACKS, abilities, jetpack_of, parse_version


@pytest.mark.parametrize(
    ("library", "version", "since"),
    [
        ("tensorrt", "8.6.0", (8, 6)),
        ("tensorrt", "8.6.2", (8, 6)),
        ("tensorrt", "10.3.0", (10, 3)),
        ("tensorrt", "10.16.1.11", (10, 3)),
        ("tensorrt", "11.4.0.106", (11, 0)),
        ("tensorrt_lean", "10.16.1.11", (10, 3)),
        ("tensorrt_rtx", "1.7.1.116", (1, 4)),
    ],
)
def test_a_version_has_the_abilities_of_the_newest_row_that_is_not_newer(library, version, since):
    assert abilities(library, version).since == since


@pytest.mark.parametrize(
    ("library", "version", "message"),
    [
        (
            "tensorrt",
            "8.5.2",
            r"tensorrt 8\.5\.2 is not supported; .* Fix: JetPack 5\.1 has 8\.5, for Python 3\.8",
        ),
        ("tensorrt", "8.4.1", r"is not supported; TensorRT 8\.6, 10\.3 or newer is"),
        ("tensorrt", "9.3.0", r"on a Jetson update to JetPack 6\.1 or newer, which has TensorRT 10\.3"),
        ("tensorrt", "10.0.1", r"is not supported"),
        ("tensorrt_rtx", "1.3.0", r"TensorRT-RTX 1\.4 or newer is"),
    ],
)
def test_a_version_that_is_not_supported_is_named_with_one_that_is(library, version, message):
    with pytest.raises(BackendError, match=message):
        abilities(library, version)


def test_only_8_6_is_weakly_typed_and_needs_a_file_of_its_own():
    old, new = abilities("tensorrt", "8.6.2"), abilities("tensorrt", "10.3.0")
    assert (old.onnx_kind, old.strongly_typed, old.newest_opset) == ("trt8", False, 17)
    assert (new.onnx_kind, new.strongly_typed, new.newest_opset) == ("onnx", True, 0)


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("# R35 (release), REVISION: 2.1, GCID: 32413640, BOARD: t186ref", "5.1"),
        ("# R36 (release), REVISION: 2.0, GCID: 35084178, BOARD: generic", "6.0"),
        ("# R36 (release), REVISION: 3.0, GCID: 36106755, BOARD: generic", "6.0"),
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "6.1"),
        ("# R38 (release), REVISION: 2.0", "7.0"),
        ("# R39 (release), REVISION: 1.0", "7.0"),
        ("# R32 (release), REVISION: 7.1", None),
        ("something else", None),
    ],
)
def test_a_jetpack_is_known_by_its_linux(release, name):
    found = jetpack_of(release)
    assert (found and found.name) == name


@pytest.mark.parametrize("jetpack", JETPACKS, ids=lambda jetpack: jetpack.name)
def test_each_jetpack_has_a_command_or_a_reason(jetpack):
    if jetpack.name == "5.1":
        assert "not supported" in jetpack.advice
        with pytest.raises(BackendError, match=r"JetPack 5\.1"):
            abilities("tensorrt", jetpack.tensorrt)
    else:
        kind = abilities("tensorrt", jetpack.tensorrt).onnx_kind
        assert ("--trt8" in jetpack.advice) == (kind == "trt8")
        assert "python -m spoter_export BUNDLE --trt" in jetpack.advice


def test_a_versions_numbers_are_at_most_four():
    assert parse_version("10.3.0") == (10, 3, 0)
    assert parse_version("10.16.1.11.post1") == (10, 16, 1, 11)
