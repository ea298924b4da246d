"""Names that cannot be run here are looked up: all that the runtime calls is in the real bindings.

The runtime's sources are read, every use of an object of TensorRT, TensorRT-RTX or CUDA is collected, and the
bindings are asked whether they have that name and take that many arguments. TensorRT's own wheel comes from
NVIDIA's own host; its runtime half, `tensorrt_lean`, has the same classes, does not, and exists for 10.x and
11.x.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tensorrt_8 import tensorrt_8

RUNTIME = Path(__file__).parents[3] / "runtime" / "spoter_runtime"
SOURCES = [
    RUNTIME / name
    for name in (
        "gpu/cuda.py",
        "gpu/device.py",
        "trt/graph_engines.py",
        "trt/runner.py",
        "trt/preflight.py",
        "trt/log.py",
        "trt/engine_check.py",
    )
]

# What a variable or attribute of this name holds, or a function returns. "" is the engine library, "cudart"
# CUDA's runtime.
HOLDS = {
    "cudart": "cudart",
    "import_cudart": "cudart",
    "properties": "cudart.cudaDeviceProp",
    "library": "",
    "_library": "",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "config": "IRuntimeConfig",
    "cache": "IRuntimeCache",
    "strategies": "CudaGraphStrategy",
}
# Modules and our own data that happen to bear such a name.
OURS = {("library", "items"), ("library", "library")}


@dataclass(frozen=True)
class Use:
    """One name of a binding as the runtime uses it; `arguments` is None where it is not called."""

    name: str  # dotted, from the module on: "IExecutionContext.set_input_shape"
    arguments: int | None
    where: str
    function: str


def uses_in(source, where="source"):
    """Return what a Collector found in a module's text."""
    collector = Collector(where)
    collector.visit(ast.parse(source))
    return collector


class Collector(ast.NodeVisitor):
    """Walks a module's functions, knowing in which of them, and under which conditions, it is."""

    def __init__(self, where):
        self.where, self.functions, self.conditions = where, [], []
        self.uses: list[Use] = []
        self.unguarded: list[str] = []  # calls of a function named rtx that nothing says are for RTX

    def visit_FunctionDef(self, node):
        self.functions.append(node.name)
        self.generic_visit(node)
        self.functions.pop()

    def visit_If(self, node):
        self.visit(node.test)
        self.conditions.append(ast.unparse(node.test))
        for child in node.body:
            self.visit(child)
        self.conditions.pop()
        for child in node.orelse:
            self.visit(child)

    def visit_Call(self, node):
        self.add(node.func, len(node.args) + len(node.keywords))
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if "_rtx" in called:
            around = " ".join([*self.functions, *self.conditions])
            if "rtx" not in around:
                self.unguarded.append(f"{self.where}:{node.lineno} {called}")
        for child in [node.func, *node.args, *node.keywords]:
            inner = child.value if isinstance(child, ast.Attribute) and child is node.func else child
            self.visit(inner)

    def visit_Attribute(self, node):
        self.add(node, None)
        self.generic_visit(node)

    def add(self, node, arguments):
        name = self.name_of(node)
        if name:
            function = self.functions[-1] if self.functions else ""
            self.uses.append(Use(name, arguments, f"{self.where}:{node.lineno}", function))

    def name_of(self, node):
        """Return the dotted name in the bindings of an attribute, "" for anything else."""
        if not isinstance(node, ast.Attribute) or node.attr.startswith("__"):
            return ""
        receiver = node.value
        made = receiver.func if isinstance(receiver, ast.Call) else receiver
        holder = made.attr if isinstance(made, ast.Attribute) else getattr(made, "id", None)
        if isinstance(receiver, ast.Attribute) and (outer := self.name_of(receiver)):
            return f"{outer}.{node.attr}"
        if holder not in HOLDS or (holder, node.attr) in OURS:
            return ""
        return ".".join(part for part in (HOLDS[holder], node.attr) if part)


def all_uses():
    collected = [uses_in(path.read_text(encoding="utf-8"), path.name) for path in SOURCES]
    return [use for collector in collected for use in collector.uses]


USES = all_uses()
CUDA = [use for use in USES if use.name.startswith("cudart.")]
ENGINE = [use for use in USES if not use.name.startswith("cudart.")]

# Run where the bindings are: prints for each name its docstring, or null where there is no such name.
_ASK = """
import functools, importlib, json, sys
module = importlib.import_module(sys.argv[1])
answers = {"": getattr(module, "__version__", "")}
for name in json.load(sys.stdin):
    try:
        answers[name] = functools.reduce(getattr, name.split("."), module).__doc__ or ""
    except AttributeError:
        answers[name] = None
print(json.dumps(answers))
"""


def ask(module, names, folder=None, python=sys.executable, environment=None):
    """Return name → docstring or None, as the bindings in a folder, or the ones installed, answer."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{_ASK}" if folder else _ASK
    command = [python, "-W", "ignore", "-c", code, module]
    given = json.dumps(sorted(names))
    whole = os.environ | (environment or {})
    done = subprocess.run(command, input=given, capture_output=True, text=True, env=whole, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def argument_counts(docstring):
    """Return (least, most) arguments of each overload in a docstring of pybind11 or of cuda-bindings."""
    counts = []
    for given in re.findall(r"^(?:\d+\. )?\w+\((.*?)\)(?: ->.*)?$", docstring, re.MULTILINE):
        if given == "*args, **kwargs":
            continue
        arguments = [a for a in re.split(r",\s*(?![^\[<]*[\]>])", given) if a and not a.startswith("self")]
        counts.append((sum("=" not in argument for argument in arguments), len(arguments)))
    return counts


def wrong_uses(uses, answers):
    """Return what the bindings do not have, or do not take so many arguments for."""
    wrong = []
    for use in uses:
        docstring = answers[use.name]
        if docstring is None:
            wrong.append(f"{use.where}: {use.name} does not exist")
        elif use.arguments is not None:
            counts = argument_counts(docstring)
            if counts and not any(least <= use.arguments <= most for least, most in counts):
                wrong.append(f"{use.where}: {use.name} takes {counts}, given {use.arguments}")
    return wrong


def names(uses):
    return {use.name for use in uses}


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """Return wheels(requirements…): a folder into which pip installed them and what they need, or skip."""
    folders: dict[tuple[str, ...], Path] = {}

    def wheels(*requirements):
        if requirements not in folders:
            folder = tmp_path_factory.mktemp("wheels")
            command = [sys.executable, "-m", "pip", "install", "-q", "--target", folder, *requirements]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = done.stderr.strip().splitlines()[-1]
                pytest.skip(f"pip cannot get {' '.join(requirements)}: {reason}")
            folders[requirements] = folder
        return folders[requirements]

    return wheels


# What 8.6 lacks: it is reached only in newer versions. A function named trt8 is called in 8.6 alone.
NOT_IN_TRT8 = {
    "ExecutionContextAllocationStrategy.USER_MANAGED",
    "ICudaEngine.device_memory_size_v2",
    "IExecutionContext.set_device_memory",
}
LEAN = [("tensorrt-lean-cu13==11.4.0.106", "11.4.0.106"), ("tensorrt-lean-cu12==10.16.1.11", "10.16.1.11")]


def rtx_only(uses, wheels):
    """Return the uses that no TensorRT has."""
    missing = [
        {name for name, doc in ask("tensorrt_lean", names(uses), wheels(wheel)).items() if doc is None}
        for wheel, _ in LEAN
    ]
    only = [use for use in uses if "trt8" not in use.function]
    return [use for use in only if any(use.name in absent for absent in missing)]


def test_no_other_source_touches_the_bindings():
    touching = r"\b(library|engine|cudart): Any\b|import_cudart\(\)|= import_engine_library\("
    found = {path for path in RUNTIME.rglob("*.py") if re.search(touching, path.read_text(encoding="utf-8"))}
    # doctor asks only whether a Builder can be made, and whatever comes of it is told.
    assert found - {RUNTIME / "doctor.py"} == set(SOURCES)


def test_the_sources_are_read():
    """Or all that follows could be true of nothing."""
    assert {
        "Runtime",
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.create_execution_context",
        "ICudaEngine.get_tensor_profile_shape",
        "IExecutionContext.set_input_shape",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.set_device_memory",
        "IExecutionContext.infer_shapes",
        "ExecutionContextAllocationStrategy.USER_MANAGED",
        "IRuntimeConfig.set_runtime_cache",
        "IRuntimeCache.deserialize",
        "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE",
        "Runtime.get_engine_validity",
        "ILogger.INTERNAL_ERROR",
    } <= names(ENGINE)
    assert {
        "cudart.cudaMalloc",
        "cudart.cudaMemcpyKind.cudaMemcpyHostToDevice",
        "cudart.cudaStreamEndCapture",
        "cudart.cudaGetDeviceProperties",
        "cudart.cudaDeviceProp.totalGlobalMem",
        "cudart.cudaFreeHost",
    } <= names(CUDA)
    assert len(names(ENGINE)) > 35
    assert len(names(CUDA)) > 30


def test_every_name_is_in_tensorrt_rtx():
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx")
    uses = [use for use in ENGINE if "trt8" not in use.function]
    assert wrong_uses(uses, ask("tensorrt_rtx", names(uses))) == []


@pytest.mark.slow
@pytest.mark.parametrize(("wheel", "version"), LEAN)
def test_every_name_outside_the_rtx_branches_is_in_tensorrt(wheels, wheel, version):
    both = [use for use in ENGINE if "rtx" not in use.function and "trt8" not in use.function]
    assert len(names(both)) > 25
    answers = ask("tensorrt_lean", names(both), wheels(wheel))
    assert answers[""] == version
    assert wrong_uses(both, answers) == []


@pytest.mark.slow
def test_every_name_is_in_tensorrt_8_6_except_those_for_newer_versions():
    uses = [use for use in ENGINE if "rtx" not in use.function]
    interpreter, environment, _ = tensorrt_8()
    answers = ask("tensorrt", names(uses), python=interpreter, environment=environment)
    assert answers[""] == "8.6.0"
    absent = {name for name in names(uses) if answers[name] is None}
    assert absent - {"ExecutionContextAllocationStrategy"} == NOT_IN_TRT8
    # Not called in 8.6 either, which takes no argument there.
    absent.add("ICudaEngine.create_execution_context")
    assert wrong_uses([use for use in uses if use.name not in absent], answers) == []
    assert {"IExecutionContext.device_memory", "ICudaEngine.device_memory_size"} <= names(uses)


@pytest.mark.slow
def test_what_only_rtx_has_is_reached_only_for_rtx(wheels):
    only = rtx_only(ENGINE, wheels)
    assert {"IRuntimeCache.serialize", "Runtime.get_engine_validity"} <= names(only)
    assert [use for use in only if "rtx" not in use.function] == []


def test_the_functions_for_rtx_are_called_only_where_that_is_asked():
    collected = [uses_in(path.read_text(encoding="utf-8"), path.name) for path in SOURCES]
    assert [call for collector in collected for call in collector.unguarded] == []


def test_every_cuda_name_is_in_the_installed_bindings():
    pytest.importorskip("cuda.bindings", reason="needs cuda-bindings")
    renamed = {name.removeprefix("cudart.") for name in names(CUDA)}
    assert wrong_uses(_without_prefix(CUDA), ask("cuda.bindings.runtime", renamed)) == []


@pytest.mark.slow
def test_every_cuda_name_is_in_the_bindings_of_cuda_12(wheels):
    uses = _without_prefix(CUDA)
    folder = wheels("cuda-bindings>=12.6,<13")
    assert wrong_uses(uses, ask("cuda.bindings.runtime", names(uses), folder)) == []


def _without_prefix(uses):
    return [Use(use.name.removeprefix("cudart."), use.arguments, use.where, use.function) for use in uses]


# That the net has no holes.


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("context.execute_async_v2(1)", "IExecutionContext.execute_async_v2 does not exist"),
        ("self._engine.get_tensor_nam(0)", "ICudaEngine.get_tensor_nam does not exist"),
        ("engine.num_bindings", "ICudaEngine.num_bindings does not exist"),
        ("library.CudaGraphStrategy.WHOLE", "CudaGraphStrategy.WHOLE does not exist"),
        ("config.cuda_graphs = strategies.DISABLED", "IRuntimeConfig.cuda_graphs does not exist"),
        ("context.execute_async_v3()", r"takes \[\(1, 1\)\], given 0"),
        ("context.set_input_shape('poses')", r"takes \[\(2, 2\), \(2, 2\), \(2, 2\)\], given 1"),
        ("context.set_tensor_address('poses', 1, 2)", r"takes \[\(2, 2\)\], given 3"),
        ("engine.create_execution_context(1, 2)", r"takes \[\(0, 1\), \(0, 1\)\], given 2"),
    ],
)
def test_a_misspelt_name_of_the_engine_library_is_found(source, message):
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx")
    uses = uses_in(f"def f(self):\n    {source}\n").uses
    (wrong,) = wrong_uses(uses, ask("tensorrt_rtx", names(uses)))
    assert re.search(message, wrong)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cudart.cudaMallocc(1)", "cudaMallocc does not exist"),
        ("cudart.cudaMemcpyKind.cudaMemcpyHostToGpu", "cudaMemcpyKind.cudaMemcpyHostToGpu does not exist"),
        ("cudart.cudaMemcpyAsync(1, 2, 3, 4)", r"takes \[\(5, 5\)\], given 4"),
        ("cudart.cudaGraphInstantiate(1)", r"takes \[\(2, 2\)\], given 1"),
    ],
)
def test_a_misspelt_name_of_cuda_is_found(source, message):
    pytest.importorskip("cuda.bindings", reason="needs cuda-bindings")
    uses = _without_prefix(uses_in(f"def f():\n    {source}\n").uses)
    found = wrong_uses(uses, ask("cuda.bindings.runtime", names(uses)))
    assert any(re.search(message, wrong) for wrong in found)


def test_a_call_for_rtx_without_a_question_before_it_is_found():
    assert uses_in("def f(self):\n    return self._rtx_cache()\n").unguarded == ["source:2 _rtx_cache"]
    guarded = "def f(self):\n    if self._is_rtx:\n        return self._rtx_cache()\n"
    assert uses_in(guarded).unguarded == []
    otherwise = "def f(self):\n    if self._is_rtx:\n        pass\n    else:\n        self._rtx_cache()\n"
    assert len(uses_in(otherwise).unguarded) == 1
