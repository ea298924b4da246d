"""The house rules: imports point down, the wheel holds what it should, every command answers."""

from __future__ import annotations

import ast
import graphlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

import spoter_runtime
from command_line import wrong_with

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "spoter_runtime": ROOT / "runtime" / "spoter_runtime",
    "spoter_export": ROOT / "export" / "spoter_export",
    "spoter_toolkit": ROOT / "toolkit" / "spoter_toolkit",
}
MODULES = [path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py"))]

# The rooms of a folder, files and sub-packages, the lowest first: each imports rooms of earlier lines only.
ORDER = {
    "spoter_runtime": (
        "_types _version errors input_fixes machine statistics",
        "engine_calls files landmarks",
        "checked_file strict",
        "clip_files",
        "contract",
        "model_file",
        "decision runner",
        "batching bundle",
        "gpu",
        "ort trt",
        "backends camera doctor",
        "tuning verify",
        "recognizer",
        "live",
        "__main__",
    ),
    "spoter_export": (
        "passes probes torch_runner trt",
        "landmarker parity to_onnx",
        "precision",
        "bundle diagnose",
        "__main__",
    ),
    "spoter_toolkit": (
        "input_files model remote report serving web worker_process",
        "data",
        "workspace",
        "calibration prediction runs",
        "export faces reference",
        "backends",
        "evaluation",
        "streams",
        "parity",
        "bench live training",
        "crossval story",
        "cli",
        "__main__",
    ),
    "spoter_toolkit.bench": (
        "host statistics",
        "settings worker",
        "camera records",
        "analysis scenarios url",
        "report run",
    ),
}

HEAVY = ("torch", "onnx", "onnxscript", "onnxruntime", "accelerate", "safetensors", "matplotlib", "jinja2")


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_by(path):
    """Return the top-level names that a module imports anywhere, in functions and by name too."""
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        elif isinstance(node, ast.Call):
            function = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if function in ("import_module", "__import__", "require", "find_spec", "is_installed"):
                names |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    return {name.partition(".")[0] for name in names}


def relative(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize(
    ("package", "others"),
    [
        (
            "spoter_runtime",
            {
                *("numpy", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda", "av", "mediapipe"),
                "cryptography",
            },
        ),
        (
            "spoter_export",
            {
                *(
                    "spoter_runtime",
                    "numpy",
                    "torch",
                    "onnx",
                    "onnx_ir",
                    "onnxscript",
                    "onnxruntime",
                    "filelock",
                ),
                *("tflite", "ai_edge_litert", "cryptography"),
            },
        ),
    ],
)
def test_imports_point_down_and_only_to_what_the_layer_may_use(package, others):
    allowed = {package, "__future__", *others} | sys.stdlib_module_names
    modules = sorted(PACKAGES[package].rglob("*.py"))
    assert len(modules) >= 5
    wrong = {relative(path): names for path in modules if (names := imported_by(path) - allowed)}
    assert wrong == {}


def module_of(path):
    """Return the dotted name of a module, or of the package whose __init__ it is."""
    folder = next(folder for folder in PACKAGES.values() if path.is_relative_to(folder))
    return ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__")


def ours_imported_by(path, known):
    """Return the modules of this project that a module imports, in functions and for types too."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in whole}
    return found & known


@pytest.fixture(scope="module")
def arrows():
    """Module → the modules of this project that it imports."""
    known = {module_of(path) for path in MODULES}
    return {(name := module_of(path)): ours_imported_by(path, known) - {name} for path in MODULES}


def room_in(folder, module):
    """Return the file or sub-package of a folder that a module lies in; None where it lies elsewhere."""
    inside = module.removeprefix(f"{folder}.")
    return None if inside == module else inside.partition(".")[0]


def rooms_of(folder, arrows):
    """Return room → the other rooms of the folder that it imports."""
    rooms = {}
    for module, others in arrows.items():
        if room := room_in(folder, module):
            below = {room_in(folder, other) for other in others} - {None, room}
            rooms.setdefault(room, set()).update(below)
    return rooms


def circles_of(arrows):
    """Return a line for each folder whose files and sub-packages import each other in a circle.

    Without a circle they have an order, and every import runs downwards in it.
    """
    found = []
    for folder in sorted({module.rpartition(".")[0] for module in arrows} - {""}):
        try:
            graphlib.TopologicalSorter(rooms_of(folder, arrows)).prepare()
        except graphlib.CycleError as error:
            found.append(f"{folder}: {' <- '.join(error.args[1])}")
    return found


def upward_imports(lines, rooms):
    """Return each import of a room that does not stand in a line before the importer's."""
    height = {room: line for line, names in enumerate(lines) for room in names.split()}
    assert sorted(height) == sorted(rooms), "each room has one place in the order"
    return [
        f"{room} imports {other}" for room in rooms for other in rooms[room] if height[other] >= height[room]
    ]


def test_no_rooms_import_each_other_in_a_circle(arrows):
    assert sum(map(len, arrows.values())) > 300
    assert circles_of(arrows) == []


def test_a_circle_of_imports_is_found():
    assert circles_of({"p.a": {"p.b.c"}, "p.b.c": {"p.d"}, "p.d": {"p.a"}, "p.b.e": set()}) != []
    assert circles_of({"p.a.x": {"p.b"}, "p.b": {"p.a.y"}, "p.a.y": set()}) == ["p: a <- b <- a"]
    assert circles_of({"p.a.x": {"p.b"}, "p.b": set(), "p.a.y": {"p.a.x"}}) == []


@pytest.mark.parametrize("folder", ORDER)
def test_rooms_import_only_rooms_below_them(folder, arrows):
    assert upward_imports(ORDER[folder], rooms_of(folder, arrows)) == []


def test_an_import_that_runs_upwards_is_found():
    rooms = rooms_of("p", {"p.a.x": {"p.b"}, "p.b": {"p.c"}, "p.c": set(), "q.a": {"p.b"}})
    assert upward_imports(("c", "b", "a"), rooms) == []
    assert upward_imports(("b", "c", "a"), rooms) == ["b imports c"]
    assert upward_imports(("c", "a b"), rooms) == ["a imports b"]
    with pytest.raises(AssertionError, match="each room has one place in the order"):
        upward_imports(("c", "b"), rooms)


def test_no_folder_has_more_modules_than_a_reader_can_look_over():
    counts = Counter(path.parent for path in MODULES if path.name not in ("__init__.py", "__main__.py"))
    most = {PACKAGES["spoter_runtime"]: 20, PACKAGES["spoter_toolkit"] / "cli": 25}  # cli: a file a verb
    assert {relative(folder): n for folder, n in counts.items() if n > most.get(folder, 15)} == {}


def test_every_module_opens_with_a_sentence_that_says_what_it_owns():
    assert len(MODULES) > 50
    first = {
        relative(path): (ast.get_docstring(tree_of(path)) or "").partition("\n\n")[0] for path in MODULES
    }
    assert [path for path, sentence in first.items() if not sentence.endswith((".", ":"))] == []


def test_the_runtimes_public_names_are_those_it_states():
    modules = {name for name in vars(spoter_runtime) if f"spoter_runtime.{name}" in sys.modules}
    public = {name for name in vars(spoter_runtime) if not name.startswith("_")} - modules
    later = set(spoter_runtime._LATER)  # they are there once they were asked for
    assert public - {"TYPE_CHECKING"} | later | {"__version__"} == set(spoter_runtime.__all__)
    assert dir(spoter_runtime) == sorted(spoter_runtime.__all__)
    for name in public - {"TYPE_CHECKING"} | later:
        value = getattr(spoter_runtime, name)
        assert not callable(value) or value.__doc__, name


def test_the_wheel_holds_the_three_packages_their_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    info = {name for name in held if name.startswith(f"spoter_kit-{spoter_runtime.__version__}.dist-info/")}
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.suffix in (".py", ".toml", ".csv", ".html", ".j2", ".npz", ".js", ".css", ".svg")
        or path.name == "py.typed"
    }
    assert held - info == expected
    for package in PACKAGES:
        assert {f"{package}/__init__.py", f"{package}/py.typed"} <= held
    assert "spoter_toolkit/training/recipes/demo.toml" in held
    assert "spoter_toolkit/data/bdslw60_words.csv" in held
    assert "spoter_toolkit/report/page.html.j2" in held
    assert any(name.endswith("/licenses/LICENSE") for name in info)


@pytest.mark.slow
def test_the_wheel_is_the_same_bytes_each_time(wheel, tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True, env=os.environ | {"TZ": "Asia/Dhaka"})
    assert next(tmp_path.glob("*.whl")).read_bytes() == wheel.read_bytes()


def test_the_base_install_is_numpy_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    needs = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    assert [need for need in needs if "extra ==" not in need] == ["numpy>=1.26"]
    assert not any("onnxruntime" in need and "toolkit" in need for need in needs)
    extras = {line.removeprefix("Provides-Extra: ") for line in lines if line.startswith("Provides-Extra: ")}
    assert {"cpu", "export", "toolkit", "dev"} <= extras


def test_every_dependency_says_what_it_is_for():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    assert section.count('"') > 20
    unexplained = []
    above = ""
    for line in section.splitlines():
        code, _, remark = line.partition("#")
        needs = [need for need in re.findall(r'"([^"]+)"', code) if not need.startswith("spoter-kit[")]
        if needs and not remark.strip() and not (above.startswith("#") and "[" in code):
            unexplained += needs
        above = line
    assert unexplained == []


_HELP = """
import contextlib, io, json, sys
import typer
from spoter_toolkit.cli.app import app

def verbs(command, path=()):
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from verbs(child, (*path, name))

answers = {}
for path in verbs(typer.main.get_command(app)):
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        try:
            app([*path, "--help"])
        except SystemExit as done:
            answers[" ".join(path)] = [done.code, shown.getvalue()]
print(json.dumps({"answers": answers, "modules": sorted(sys.modules)}))
"""


def test_every_help_answers_without_a_heavy_import(python):
    done = python("-c", _HELP)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"", "train", "export", "predict", "verify", "doctor", "data", "data synth"} <= found[
        "answers"
    ].keys()
    for verb, (code, shown) in found["answers"].items():
        assert code == 0, verb
        assert "Usage: " in shown, verb
        assert len(shown.splitlines()) > 5, verb
    assert not set(HEAVY) & set(found["modules"])


def test_the_installed_command_answers_help_and_version(python):
    code = "import sys; sys.argv[0] = 'spoter-kit'; from spoter_toolkit.__main__ import main; main()"
    done = python("-c", f"try:\n {code}\nfinally: print(*sys.modules, file=sys.stderr)", "--help")
    assert done.returncode == 0
    assert "Usage: spoter-kit " in done.stdout
    assert not set(HEAVY) & set(done.stderr.split())
    assert "Exit codes: 0 done" in done.stdout
    assert python("-m", "spoter_toolkit", "data", "split", "-h").returncode == 0
    done = python("-m", "spoter_toolkit", "--version")
    assert (done.returncode, done.stdout) == (0, f"{spoter_runtime.__version__}\n")
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="spoter-kit")
    assert script.value == "spoter_toolkit.__main__:main"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "--no-such-option"], 2, "spoter-kit train has no option --no-such-option"),
        (["walk"], 2, "spoter-kit has no verb 'walk'; there are data, landmarker, train, crossval,"),
        (
            ["verify", "nowhere.spoter"],
            1,
            "error: nowhere.spoter: no such folder. Fix: check the path, or spoter-kit export makes one",
        ),
        (["verify"], 1, "error: bundles/: no bundle there. Fix: spoter-kit export --onnx, or name one"),
        (["predict", "none.npy", "--bundle", "BUNDLE"], 1, "error: none.npy: cannot be read: No such file"),
        (["verify", "BUNDLE"], 0, "next: spoter-kit predict"),
    ],
)
def test_exit_codes_and_one_line_errors(python, bundle_folder, arguments, code, message):
    arguments = [bundle_folder if argument == "BUNDLE" else argument for argument in arguments]
    done = python("-m", "spoter_toolkit", *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1


def test_exit_3_when_it_ran_and_the_answer_is_no(python, bundle_folder):
    assert python("-m", "spoter_toolkit", "doctor", absent=["onnxruntime"]).returncode == 3
    assert python("-m", "spoter_toolkit", "doctor").returncode == 0


def test_no_tracked_file_names_a_package_host_or_a_place_on_a_machine():
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what is tracked cannot be known")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    tracked = [ROOT / name for name in listed.decode().split("\0") if name]
    assert len(tracked) > 50
    # In pieces, or this file would name them.
    patterns = ["/" + "work/", "/" + "root/", "files." + "pythonhosted", "://" + "pypi", "index" + "-url"]
    named = {
        relative(path): pattern
        for path in tracked
        if path.is_file()
        for pattern in patterns
        if pattern.encode() in path.read_bytes()
    }
    assert named == {}


def texts_of(path):
    """Return the strings of a module; what an f-string fills in is X."""
    tree = tree_of(path)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def commands_in(text):
    """Yield the words of each `spoter-kit` command in a text, to where its sentence goes on in prose."""
    for found in re.finditer(r"(?<![\w./-])spoter-kit ((?:[a-zX]|--?\w)[^,;()`'\"\n]*)", text):
        yield re.split(r"\.(?:\s|$)|: |  +#", found[1])[0].split()


def test_every_command_in_a_message_is_one_that_the_command_line_takes():
    from typer.main import get_command

    from spoter_toolkit.cli.app import app

    verbs = get_command(app)
    assert wrong_with(verbs, ["data", "split", "--max-frames", "X"]) == "split has no --max-frames"
    seen = [
        (relative(path), words)
        for path in MODULES
        for text in texts_of(path)
        if re.search(r"Fix|next|Then|^spoter-kit ", text)
        for words in commands_in(text)
        # "spoter-kit's", "this spoter-kit reads": the program; X: a verb that is filled in
        if words[0] not in ("X", "reads", "writes", "exported", "dataset", "bundle", "command")
    ]
    assert len(seen) > 30
    assert [(path, words, wrong) for path, words in seen if (wrong := wrong_with(verbs, words))] == []
