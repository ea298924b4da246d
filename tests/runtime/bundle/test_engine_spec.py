"""An engine's description: what it takes, what it leaves out, and what the file itself says."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from spoter_runtime.bundle.engine_spec import RTX_HEADER_BYTES, EngineSpec, rtx_header
from spoter_runtime.contract import GraphContract, Label, Profile, uncovered

CONTRACT = GraphContract(labels=(Label(name="a"), Label(name="b")), max_frames=99, max_batch=8)

SPEC = EngineSpec(
    library="tensorrt",
    version="10.16.1.11",
    compute_capabilities=("8.6",),
    system="Linux",
    machine="x86_64",
    profiles=(
        Profile(batch=(1, 1, 1), frames=(1, 40, 99)),
        Profile(batch=(1, 8, 8), frames=(1, 60, 99)),
    ),
    buckets=(20, 50, 99),
    onnx_sha256="0" * 64,
    built={"seconds": 1.5},
)


def test_a_description_survives_json():
    assert EngineSpec.from_json(json.loads(json.dumps(SPEC.as_json()))) == SPEC
    executed = dataclasses.replace(
        SPEC, executed={"machine": "a GPU", "max_logit_diff": 1e-6}, host_code=True
    )
    assert EngineSpec.from_json(json.loads(json.dumps(executed.as_json()))) == executed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"library": "openvino"}, "engine.library: 'openvino', expected one of tensorrt, "),
        (
            {"library": "tensorrt_lean"},
            "engine.library: tensorrt_lean, expected one of tensorrt, tensorrt_rtx",
        ),
        (
            {"profiles": [{"batch": [1, 1], "frames": [1, 1, 1]}]},
            "engine.profiles[0].batch: 2 values, expected 3",
        ),
        ({"profiles": [{"batch": [1, 1, 1]}]}, "engine.profiles[0].frames is missing"),
        (
            {"profiles": [{"batch": [1, 9, 2], "frames": [1, 1, 1]}]},
            "batch: 1, 9, 2, expected rising numbers",
        ),
        ({"buckets": [60, 30]}, "engine.buckets: (60, 30), expected rising frame counts"),
        ({"version": 10}, "engine.version: 10, expected a text"),
        ({"host_code": 1}, "engine.host_code: 1, expected true or false"),
        ({"colour": "red"}, "engine.colour is unknown, expected library, "),
    ],
)
def test_a_damaged_description_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        EngineSpec.from_json(SPEC.as_json() | change)


@pytest.mark.parametrize(
    ("batch", "frames", "fits"), [(1, 1, True), (8, 99, True), (9, 99, False), (8, 100, False), (0, 5, False)]
)
def test_a_profile_takes_what_lies_in_its_range(batch, frames, fits):
    assert SPEC.profiles[1].takes(batch, frames) is fits


def test_a_profile_is_readable():
    assert str(SPEC.profiles[1]) == "1..8 (8) × 1..99 (60)"


@pytest.mark.parametrize(
    ("profiles", "missing"),
    [
        (SPEC.profiles, None),
        (SPEC.profiles[:1], "2 clips × 1 frames"),
        ((Profile(batch=(1, 4, 8), frames=(1, 40, 98)),), "1 clips × 99 frames"),
        ((Profile(batch=(1, 4, 8), frames=(2, 40, 99)),), "1 clips × 1 frames"),
        ((Profile(batch=(2, 4, 8), frames=(1, 40, 99)),), "1 clips × 1 frames"),
        # A hole in the middle, where neither corner of the contract lies.
        (
            (
                Profile(batch=(1, 1, 8), frames=(1, 10, 40)),
                Profile(batch=(1, 1, 8), frames=(60, 70, 99)),
                Profile(batch=(1, 1, 2), frames=(1, 10, 99)),
            ),
            "3 clips × 41 frames",
        ),
        ((), "1 clips × 1 frames"),
    ],
)
def test_a_shape_that_no_profile_takes_is_found(profiles, missing):
    assert uncovered(profiles, CONTRACT) == missing


def test_uncovered_agrees_with_trying_every_shape():
    small = GraphContract(labels=CONTRACT.labels, max_frames=7, max_batch=4)
    ranges = [(1, 1, 2), (1, 1, 4), (3, 3, 4), (2, 2, 3)]
    frames = [(1, 1, 3), (1, 1, 7), (4, 4, 7), (5, 5, 6)]
    boxes = [Profile(batch=b, frames=t) for b in ranges for t in frames]
    for one in boxes:
        for other in boxes:
            holes = [
                (n, t) for n in range(1, 5) for t in range(1, 8) if not (one.takes(n, t) or other.takes(n, t))
            ]
            found = uncovered((one, other), small)
            assert (found is None) == (holes == [])
            if found is not None:
                assert tuple(map(int, re.findall(r"\d+", found))) in holes


@pytest.fixture(scope="module")
def rtx_plan():
    """Return rtx_plan(capabilities): a real TensorRT-RTX engine of one layer."""
    trt = pytest.importorskip("tensorrt_rtx", reason="the header is TensorRT-RTX's own: needs tensorrt-rtx")

    def rtx_plan(*capabilities):
        builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        given = network.add_input("given", trt.float32, (2,))
        network.mark_output(network.add_identity(given).get_output(0))
        config = builder.create_builder_config()
        config.num_compute_capabilities = len(capabilities)
        for i, capability in enumerate(capabilities):
            name = "SM" + capability.replace(".", "")
            assert config.set_compute_capability(getattr(trt.ComputeCapability, name), i)
        return bytes(builder.build_serialized_network(network, config))

    return rtx_plan


@pytest.mark.parametrize(
    "capabilities",
    [("8.0",), ("8.6",), ("8.9",), ("12.0",), ("12.1",), ("7.5",), ("8.0", "8.6", "8.9", "12.0")],
)
def test_the_header_of_a_real_engine_says_what_was_asked_for(rtx_plan, capabilities):
    import tensorrt_rtx

    plan = rtx_plan(*capabilities)
    header = rtx_header(plan)
    assert header is not None
    assert header.compute_capabilities == capabilities
    assert header.version == tensorrt_rtx.__version__
    assert header.size_bytes == len(plan)


def test_other_bytes_have_no_header(rtx_plan):
    plan = rtx_plan("8.6")
    assert rtx_header(plan[: RTX_HEADER_BYTES - 1]) is None
    assert rtx_header(b"x" + plan[1:]) is None
    assert rtx_header(plan[:8] + b"\x03" + plan[9:]) is None  # a layout that is not known here
    assert rtx_header(plan[:32] + b"\xff" + plan[33:]) is None  # a compute capability that is not
    assert rtx_header(plan[:RTX_HEADER_BYTES]) == rtx_header(plan)
