"""Check that a loaded engine's tensors and profiles match its bundle."""

from __future__ import annotations

from typing import Any, Final

from spoter_runtime.bundle.engine_spec import EngineSpec
from spoter_runtime.contract import LENGTHS, LOGITS, POSES, GraphContract
from spoter_runtime.errors import BackendError
from spoter_runtime.landmarks import NUM_FEATURES

_AXES: Final = {POSES: ("batch", "frames"), LENGTHS: ("batch",), LOGITS: ("batch",)}


def describe_engine(engine: Any) -> dict[str, str]:
    """Return an engine's description: each tensor's mode, type, location and shape, and each profile."""
    described = {}
    for i in range(engine.num_io_tensors):
        name = engine.get_tensor_name(i)
        mode, dtype = engine.get_tensor_mode(name).name, engine.get_tensor_dtype(name).name
        place, shape = engine.get_tensor_location(name).name, tuple(engine.get_tensor_shape(name))
        # Dynamic axes are compared by name: TensorRT may report an axis with one possible size as that size
        # or as -1.
        axes = _AXES.get(name, ())[: len(shape)]
        described[name] = f"{mode} {dtype} {place} {[*axes, *shape[len(axes) :]]}"
    for i in range(engine.num_optimization_profiles):
        if {POSES, LENGTHS} <= described.keys():
            poses, lengths = (engine.get_tensor_profile_shape(name, i) for name in (POSES, LENGTHS))
            described[f"profile {i}"] = f"{[tuple(d) for d in poses]}, {[tuple(d) for d in lengths]}"
    return described


def expected_engine(spec: EngineSpec, contract: GraphContract) -> dict[str, str]:
    """Return the result of `describe_engine` that a bundle's entry implies."""
    expected = {
        POSES: f"INPUT FLOAT DEVICE {[*_AXES[POSES], NUM_FEATURES]}",
        LENGTHS: f"INPUT INT32 DEVICE {[*_AXES[LENGTHS]]}",
        LOGITS: f"OUTPUT FLOAT DEVICE {[*_AXES[LOGITS], contract.num_classes]}",
    }
    for i, profile in enumerate(spec.profiles):
        poses = [(n, t, NUM_FEATURES) for n, t in zip(profile.batch, profile.frames, strict=True)]
        expected[f"profile {i}"] = f"{poses}, {[(n,) for n in profile.batch]}"
    return expected


def check_engine(library: Any, engine: Any, spec: EngineSpec, contract: GraphContract) -> None:
    """Raise if an engine's tensors or profiles differ from its bundle's entry.

    Raises:
        BackendError: the message has the first difference, expected against got.
    """
    found = difference(describe_engine(engine), expected_engine(spec, contract))
    if found is not None:
        raise BackendError(
            f"{library.__name__}: the engine is not what its bundle says: {found}",
            fix="export the bundle again",
        )


def difference(found: dict[str, str], expected: dict[str, str]) -> str | None:
    """Return the first difference of two descriptions, in words; None if they are equal."""
    for what in [*expected, *(found.keys() - expected.keys())]:
        if found.get(what) != expected.get(what):
            return f"{what}: expected {expected.get(what, 'none')}, got {found.get(what, 'none')}"
    return None
