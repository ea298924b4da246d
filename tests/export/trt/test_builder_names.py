"""Every name of TensorRT that the builder uses exists in the bindings of each version that is claimed."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from spoter_export.trt import build_progress, to_tensorrt
from spoter_runtime.trt import log as engine_log
from tensorrt_8 import KNOWN_TO_THE_PARSER, tensorrt_8

# What the builder's variables hold. A name that is not here is not one of the library's objects.
CLASSES = {
    "trt": "",
    "library": "",
    "flags": "BuilderFlag",
    "_builder": "Builder",
    "_config": "IBuilderConfig",
    "_network": "INetworkDefinition",
    "network": "INetworkDefinition",
    "_parser": "OnnxParser",
    "error": "ParserError",
    "made": "IOptimizationProfile",
    "cache": "ITimingCache",
    "layer": "ILayer",
    "tensor": "ITensor",
    "kinds": "NetworkDefinitionCreationFlag",
    "layer_types": "LayerType",
    "data_types": "DataType",
}
# Reached only in TensorRT 8.6, and those that 8.6 lacks, which are reached only in newer versions.
TRT8_ONLY = {
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS",
    "BuilderFlag.FP16",
    "ILayer.precision",
    "ILayer.set_output_type",
}
NOT_IN_TRT8 = {
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "IBuilderConfig.progress_monitor",
    "IProgressMonitor",
    "IProgressMonitor.phase_start",
    "IProgressMonitor.step_complete",
    "IProgressMonitor.phase_finish",
    "ParserError.node_name",
    "ParserError.node_operator",
}
RETURNS = {"ILayer.get_output": "ITensor", "ITensor.dtype": "DataType", "ILayer.type": "LayerType"}

# Reached only where there are compute capabilities to set.
RTX_ONLY = {
    "ComputeCapability",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "IBuilderConfig.get_compute_capability",
}

BINDINGS = [
    ("tensorrt", "tensorrt-cu12-bindings==10.3.0"),
    ("tensorrt", "tensorrt-cu13-bindings==10.16.1.11"),
    ("tensorrt", "tensorrt-cu13-bindings==11.4.0.106"),
    ("tensorrt_rtx", "tensorrt-rtx-cu13-bindings==1.4.0.76"),
]

# The functions that the bindings link to; none of them is called by an import.
LINKED = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)

_MISSING = """
import importlib, json, operator, sys
module = importlib.import_module(sys.argv[1])
def exists(name):
    try:
        operator.attrgetter(name)(module)
    except AttributeError:
        return False
    return True
print(json.dumps([name for name in json.loads(sys.argv[2]) if not exists(name)]))
"""


def owner_of(node):
    """Return the class in TensorRT of an expression's value, "" for the module, None if it is not of it."""
    if isinstance(node, ast.Name):
        return CLASSES.get(node.id)
    if isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return CLASSES.get(node.attr, "" if node.attr == "_trt" else None)
        owner = owner_of(node.value)
        if owner is None:
            return None
        name = f"{owner}.{node.attr}".lstrip(".")
        return RETURNS.get(name, name if owner == "" or owner == "ILogger" else None)
    return owner_of(node.func) if isinstance(node, ast.Call) else None


def used_names(source):
    """Return the dotted names of the library in a source."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and (owner := owner_of(node.value)) is not None:
            name = f"{owner}.{node.attr}".lstrip(".")
            if not node.attr.startswith("__"):
                found.add(name)
    return sorted(found)


def missing(module, names, environment=None, python=sys.executable):
    done = subprocess.run(
        [python, "-W", "ignore", "-c", _MISSING, module, json.dumps(sorted(names))],
        capture_output=True,
        text=True,
        env=os.environ | (environment or {}),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def names():
    sources = [Path(module.__file__) for module in (to_tensorrt, build_progress, engine_log)]
    found = {name for source in sources for name in used_names(source.read_text(encoding="utf-8"))}
    assert {
        "Builder",
        "OnnxParser",
        "ILogger.WARNING",
        "IProgressMonitor",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "BuilderFlag.TF32",
        "Builder.build_serialized_network",
        "INetworkDefinition.get_layer",
        "IBuilderConfig.set_timing_cache",
        "IOptimizationProfile.set_shape",
        "ITimingCache.serialize",
        "ParserError.node_operator",
        "ILayer.get_output",
        "ITensor.shape",
        "LayerType.name",
        *RTX_ONLY,
        *TRT8_ONLY,
        "LayerType.CAST",
        "DataType.HALF",
    } <= found
    # These three are overridden: what the library calls must be what is defined.
    return found | {f"IProgressMonitor.{name}" for name in ("phase_start", "step_complete", "phase_finish")}


def test_every_name_exists_in_the_tensorrt_rtx_that_is_installed(names):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: its names cannot be seen")
    assert set(missing("tensorrt_rtx", names)) <= TRT8_ONLY
    assert missing("tensorrt_rtx", ["BuilderFlag.STRICT_NANS"]) == []


@pytest.fixture(scope="module")
def bindings(tmp_path_factory):
    """Return bindings(requirement): the environment in which those bindings can be imported.

    They need the engine's libraries, of a gigabyte or more. Empty libraries of the same names take their
    place: the names can be seen, and nothing can be run.
    """
    compiler = shutil.which("cc")
    if sys.platform != "linux" or not compiler:
        pytest.skip("needs Linux and a C compiler, to stand in for the libraries that the bindings link to")
    folder = tmp_path_factory.mktemp("bindings")
    (folder / "empty.c").write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in LINKED))

    def bindings(requirement):
        target = folder / requirement
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--retries", "0"]
        pip += ["--timeout", "20", "--no-deps", "--only-binary", ":all:", "-d", str(target), requirement]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"pip cannot get {requirement}: {done.stderr.strip().splitlines()[-1]}")
        (wheel,) = target.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
        (module,) = target.glob("*_bindings/*.so")
        libraries = target / "libraries"
        libraries.mkdir()
        for major in (1, 10, 11):
            stems = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "tensorrt_rtx", "tensorrt_onnxparser_rtx")
            for stem in stems:
                library = libraries / f"lib{stem}.so.{major}"
                subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "empty.c"], check=True)
        return {"PYTHONPATH": str(module.parent), "LD_LIBRARY_PATH": str(libraries)}

    return bindings


@pytest.mark.slow
@pytest.mark.parametrize(("module", "requirement"), BINDINGS, ids=[name for _, name in BINDINGS])
def test_every_name_exists_in_the_real_bindings(names, bindings, module, requirement):
    environment = bindings(requirement)
    assert set(missing(module, names - TRT8_ONLY, environment)) == (
        RTX_ONLY if module == "tensorrt" else set()
    )
    # The one flag that is set only where it exists: TensorRT 10.3 does not have it.
    lacking = missing(module, ["BuilderFlag.STRICT_NANS"], environment)
    assert bool(lacking) == (requirement == "tensorrt-cu12-bindings==10.3.0")
    # The reverse: a name that is spelt wrong is found.
    wrong = ["IBuilderConfig.set_timing_cash", "BuilderFlag.TF33", "IBuilder"]
    assert missing(module, wrong, environment) == sorted(wrong)


@pytest.mark.slow
def test_every_name_exists_in_tensorrt_8_6_except_those_for_newer_versions(names):
    interpreter, environment, _ = tensorrt_8()
    absent = set(missing("tensorrt", names, environment, interpreter))
    assert absent == RTX_ONLY | NOT_IN_TRT8
    assert names - absent >= TRT8_ONLY
    wrong = ["BuilderFlag.NOPE", "ILayer.precisions"]
    assert missing("tensorrt", wrong, environment, interpreter) == wrong


@pytest.mark.slow
def test_the_parser_of_8_6_knows_the_operators_that_are_written_for_it_and_no_gelu():
    """Without a GPU that parser cannot be made. The names of its importers stand in the library."""
    _, _, parser = tensorrt_8()
    content = parser.read_bytes()
    assert [name for name in KNOWN_TO_THE_PARSER if b"\0" + name.encode() + b"\0" not in content] == []
    assert b"\0Gelu\0" not in content


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("trt.Bilder(log)", "Bilder"),
        ("self._trt.BuilderFlag.NOPE", "BuilderFlag.NOPE"),
        ("trt.ILogger.Severity.NOPE", "ILogger.Severity.NOPE"),
        ("self._config.set_flags(1)", "IBuilderConfig.set_flags"),
        ("[layer.get_output(i).dtyp for i in x]", "ITensor.dtyp"),
        ("made.get_shapes('poses')", "IOptimizationProfile.get_shapes"),
        ("self._network.get_layer(0)", "INetworkDefinition.get_layer"),
    ],
)
def test_a_name_is_seen_wherever_it_is_written(line, name):
    assert name in used_names(line)
