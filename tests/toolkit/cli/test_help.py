"""Help in the order of the work, with an example each; completion; the nearest name to a wrong one."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from command_line import wrong_with
from in_process import spoter_kit
from spoter_toolkit.backends import BACKENDS
from spoter_toolkit.cli import completion
from spoter_toolkit.cli.app import app

ROOT = get_command(app)


def verbs():
    for name, command in ROOT.commands.items():
        for inner, child in getattr(command, "commands", {"": command}).items():
            yield f"{name} {inner}".strip(), child


def test_the_verbs_stand_in_the_order_of_the_work_under_their_headings():
    shown = spoter_kit(Path(), "-h").stdout
    words = re.findall(r"^│ ([a-z-]+)  |^╭─ (\w+)", shown, re.MULTILINE)
    found = [verb or heading for verb, heading in words if verb != "" or heading]
    assert found[found.index("Data") :] == [
        *("Data", "data", "landmarker", "Train", "train", "crossval", "import-checkpoint", "eval"),
        *("Ship", "export", "parity", "sign"),
        *("Measure", "bench", "tune"),
        *("Device", "predict", "live", "serve", "verify", "doctor", "All", "demo"),
    ]


@pytest.mark.parametrize(("name", "verb"), [pytest.param(*pair, id=pair[0]) for pair in verbs()])
def test_each_help_has_an_example_that_the_command_line_takes(name, verb):
    examples = re.findall(r"`(.+?)`", verb.epilog)
    assert examples
    for example in examples:
        program, *words = shlex.split(example)
        assert program == "spoter-kit"
        assert " ".join(words).startswith(name)
        assert wrong_with(ROOT, words) is None
        assert len(example) <= 78  # one line of a terminal


@pytest.mark.parametrize(("name", "verb"), [pytest.param(*pair, id=pair[0]) for pair in verbs()])
def test_each_option_is_explained_by_a_sentence(name, verb):
    """Subject (the command), verb, object: it begins with what the command does and ends with a full stop."""
    assert "<bool>" not in spoter_kit(Path(), *name.split(), "--help").stdout
    for parameter in verb.params:
        assert parameter.help, parameter.name
        assert re.match(r"[A-Z][a-z]+ ", parameter.help), (parameter.name, parameter.help)
        assert parameter.help.split()[0] not in ("Of", "For", "With", "Default", "Also", "Only", "A", "The")
        assert parameter.help.endswith((".", '"', "'")) or ": " in parameter.help, parameter.help


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", "spoter-kit has no verb 'trian'; did you mean 'train'? Fix: spoter-kit train"),
        ("trian ds --seed 1", "did you mean 'train'? Fix: spoter-kit train ds --seed 1\n"),
        (
            "train ds --ouput=x",
            "has no option --ouput; did you mean --out? Fix: spoter-kit train ds --out=x\n",
        ),
        ("split", "spoter-kit has no verb 'split'. Fix: spoter-kit data split"),
        ("synht", "did you mean 'synth'? Fix: spoter-kit data synth"),
        ("data spilt", "spoter-kit data has no verb 'spilt'; did you mean 'split'? Fix: spoter-kit data"),
        ("data train", "spoter-kit data has no verb 'train'. Fix: spoter-kit train"),
        ("benchmark", "Fix: spoter-kit bench"),
        ("help", "Fix: spoter-kit --help"),
        ("version", "Fix: spoter-kit --version"),
        (
            "walk",
            "spoter-kit has no verb 'walk'; there are data, landmarker, train, crossval, import-checkpoint",
        ),
        ("export --precison fp32", "spoter-kit export has no option --precison; did you mean --precision?"),
        ("verify --quite", "spoter-kit verify has no option --quite; did you mean --quiet?"),
        ("data show --clp a", "spoter-kit data show has no option --clp; did you mean --clip?"),
        ("verify --zzz", "has no option --zzz. Fix: spoter-kit verify --help lists them"),
        ("train --epochs 5", "--epochs: is a setting, not an option. Fix: --set epochs=5"),
        ("train --patiense 5", "spoter-kit train has no option --patiense"),
        ("verify --quiet --zone", "has no option --zone. Fix: spoter-kit verify --help lists them"),
        ("--versoin", "spoter-kit has no option --versoin; did you mean --version? Fix: spoter-kit --ver"),
        ("data --hlp", "spoter-kit data has no option --hlp; did you mean --help? Fix: spoter-kit data -"),
        (
            "data split 'a b' --by singer",
            "error: spoter-kit data split: --by: expected signer, bdslw60, recording or clip, got 'singer'. "
            "Fix: spoter-kit data split 'a b' --by signer\n",
        ),
        ("data split --by=clips a", "got 'clips'. Fix: spoter-kit data split --by=clip a\n"),
        ("data split --by x a", "got 'x'. Fix: spoter-kit data split --help\n"),
        ("data extract v --backend mediapip", "expected ours or mediapipe, got 'mediapip'. Fix: spoter-kit"),
        (
            "data import nyp clips",
            "error: spoter-kit data import: FORMAT: expected asl33, spoter-csv, notebook-json or npy, got "
            "'nyp'. Fix: spoter-kit data import npy clips\n",
        ),
        ("train --minutes abc", "--minutes: expected a number, got 'abc'. Fix: spoter-kit train --help\n"),
        ("train a --minutes 1,5", "expected a number, got '1,5'. Fix: spoter-kit train a --minutes 1.5\n"),
        (
            "serve --port 99999",
            "error: spoter-kit serve: --port: expected a whole number, 0 to 65535, got '99999'. "
            "Fix: spoter-kit serve --port 65535\n",
        ),
        ("predict a --top 0", "a whole number of at least 1, got '0'. Fix: spoter-kit predict a --top 1\n"),
        ("export --max-batch", "error: spoter-kit export: --max-batch expects a value behind it. Fix: "),
        ("data import", "error: spoter-kit data import: FORMAT is missing. Fix: spoter-kit data import --"),
        ("data split a b", "error: spoter-kit data split: expected no more words, got b. Fix: "),
    ],
)
def test_a_wrong_word_gets_the_nearest_right_one(tmp_path, words, message):
    done = spoter_kit(tmp_path, *shlex.split(words))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in ("runs/mine/run.json", "runs/old/run.json", "bundles/mine.spoter/bundle.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    for name in ("model.spoter/bundle.json", "datasets/bd/dataset.json", "datasets/.draft/dataset.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("complete", "typed", "expected"),
    [
        (completion.complete_run, "runs/m", ["runs/mine"]),
        (completion.complete_bundle, "", ["bundles/mine.spoter", "model.spoter"]),
        (completion.complete_bundle, "mo", ["model.spoter"]),
        (completion.complete_dataset, "datasets/", ["datasets/bd"]),
        (completion.complete_source, "runs/o", ["runs/old"]),
        (completion.complete_source, "bundles/", ["bundles/mine.spoter"]),
        (completion.complete_run, "nowhere/x", []),
        (completion.complete_backend, "ort-c", ["ort-cpu-fused", "ort-cpu", "ort-cuda"]),
        (completion.complete_backend, "ort-cpu:", ["ort-cpu:fp32", "ort-cpu:fp16", "ort-cpu:int8"]),
        (completion.complete_backend, "torch:", []),
    ],
)
def test_a_name_is_completed(project, complete, typed, expected):
    found = complete(typed)
    if complete is completion.complete_backend:
        assert sorted(found) == sorted(expected)
        assert set(found) <= set(BACKENDS) or ":" in typed
    else:
        assert [name for name in found if not name.endswith("/")] == expected


def test_the_shell_gets_names_without_a_heavy_import(project):
    code = "import sys; sys.argv[0] = 'spoter-kit'; from spoter_toolkit.cli.app import app; app()"
    heavy = re.compile(r"\| +(torch|onnxruntime|onnx|matplotlib|accelerate)$", re.MULTILINE)
    shown = {}
    for words in ("spoter-kit verify m", "spoter-kit eval runs/", "spoter-kit verify --backend trt"):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", code],
            env=os.environ
            | {"_SPOTER_KIT_COMPLETE": "complete_bash", "COMP_WORDS": words}
            | {"COMP_CWORD": str(len(words.split()) - 1)},
            capture_output=True,
            text=True,
            check=False,
        )
        shown[words] = done.stdout.split()
        assert not heavy.search(done.stderr)
    assert "model.spoter" in shown["spoter-kit verify m"]
    assert {"runs/mine", "runs/old"} <= set(shown["spoter-kit eval runs/"])
    assert {"trt", "trt-rtx"} <= set(shown["spoter-kit verify --backend trt"])
