"""Results of benchmarks are dated, name their processor and describe the machine; scripts answer --help."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from spoter_toolkit.report.json_text import json_text

ROOT = Path(__file__).parents[1]


@pytest.fixture
def result_files(monkeypatch):
    """The module, found where the scripts find it: beside them."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("result_files")


def test_a_result_is_json_and_a_page_named_by_benchmark_processor_and_month(
    result_files, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("sys.argv", ["benchmarks/case.py", str(tmp_path / "run"), "--rounds", "3"])
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    machine = {"cpu": "a processor", "usable_cores": 2}
    monkeypatch.setattr(result_files, "environment", lambda: machine)
    result_files.write_result("case", "A title", "How.", ["a line"], {"rows": [1]}, folder=tmp_path / "made")
    page, facts = sorted((tmp_path / "made").iterdir(), key=lambda path: path.suffix, reverse=True)
    assert re.fullmatch(r"case-[a-z0-9-]+-20\d\d-[01]\d\.md", page.name)
    assert (page.stem, facts.suffix) == (facts.stem, ".json")
    assert json.loads(facts.read_text()) == {"rows": [1], "environment": machine}
    title, empty, method, _, line, *_ = text = page.read_text().splitlines()
    assert (title, empty, line) == ("# A title", "", "a line")
    command = "`OMP_WAIT_POLICY=PASSIVE python benchmarks/case.py run --rounds 3`. How."
    assert method == f"On a processor, 2 cores. {command}"
    assert json.loads("\n".join(text[text.index("```json") + 1 : -1])) == machine
    assert capsys.readouterr().out == f"{page}\n"


def test_a_step_is_measured_once_unless_it_failed_or_its_key_has_changed(result_files, tmp_path):
    values = iter([1, 2, 3, 4])

    def step(key, **options):
        return result_files.stored(tmp_path / "steps" / "a.json", lambda: next(values), key=key, **options)

    assert step(("x", 1), is_final=lambda value: value > 1) == 1
    assert [step(("x", 1)), step(("x", 1)), step("y"), step("y")] == [2, 2, 3, 3]


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py")))
def test_every_script_is_importable_and_says_what_it_does(script, result_files, monkeypatch, capsys):
    module = importlib.import_module(script)
    assert module.__doc__
    if hasattr(module, "main"):
        monkeypatch.setattr("sys.argv", [f"benchmarks/{script}.py", "--help"])
        with pytest.raises(SystemExit) as ended:
            module.main()
        assert ended.value.code == 0
        assert "usage: " in capsys.readouterr().out


def test_the_page_of_learning_has_means_intervals_and_what_other_settings_gain(result_files, tmp_path):
    module = importlib.import_module("learning_page")

    def row(arm, case, draw, top1):
        figures = {"top5": 1.0, "train_top1": 1.0, "epochs": 9, "cpu_seconds": 60.0}
        return {"arm": arm, "case": case, "draw": draw, "seed": 0, "top1": top1, **figures}

    rows = [row("default", "A → B, 4", draw, top1) for draw, top1 in enumerate((0.7, 0.8, 0.9))]
    rows += [row("from", "A → B, 4", draw, top1) for draw, top1 in enumerate((0.8, 0.9, 1.0))]
    rows.append(row("default", "words", 0, 0.75))
    module.write_page(rows, folder=tmp_path)
    text = next(tmp_path.glob("*.md")).read_text(encoding="utf-8")
    assert "| both ways, 4 | default | 3 | 0.800 | 0.552 to 1.000 | 1.000 | 1.000 | 9 | 1.0 |" in text
    assert "| words | default | 1 | 0.750 | – |" in text
    assert "| A → B, 4 | from | 3 | +0.100 | +0.100 to +0.100 |" in text


def test_results_have_a_line_a_round_and_a_line_a_record():
    rounds = [[1, 2.50, -3e-05], [4, None, True], [*range(1000)], []]
    value = {
        "rounds_ns": rounds,
        "rows": [{"backend": "ort-cpu", "case": {"batch": 1, "frames": 60}, "p50": 1e-7}, {}],
        "names": ["a name that is not a number"] * 9,
        "text": 'curly {"\\n[1,  2]\n"}, bangla \u09ac',
        8: {"true": False},
    }
    text = json_text(value)
    assert json.loads(text) == {**{k: v for k, v in value.items() if k != 8}, "8": value[8]}
    lines = [line.strip() for line in text.splitlines()]
    assert lines[2:6] == ["[1, 2.5, -3e-05],", "[4, null, true],", f"{rounds[2]},", "[]"]
    assert '"case": {"batch": 1, "frames": 60},' in lines
    assert lines.count('"a name that is not a number",') == 8  # too long for a line
    assert '"8": {"true": false}' in lines
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text([float("nan")])


def test_every_stored_result_is_written_as_results_are_written():
    stored = sorted((ROOT / "benchmarks" / "results").rglob("*.json"))
    assert len(stored) > 10
    texts = {path: path.read_text(encoding="utf-8") for path in stored}
    assert [p for p, text in texts.items() if text != json_text(json.loads(text)) + "\n"] == []


def test_every_script_that_a_page_names_is_there_or_its_commit_is_named():
    pages = [*ROOT.glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
    sources = [path for floor in ("runtime", "export", "toolkit") for path in (ROOT / floor).rglob("*.py")]
    named = {
        (path.name, script)
        for path in [*pages, *sources]
        for commit, script in re.findall(
            r"([0-9a-f]{7}:)?\bbenchmarks/(\w+\.py)", path.read_text(encoding="utf-8")
        )
        if not commit
    }
    assert len(named) > 5
    assert [(page, s) for page, s in sorted(named) if not (ROOT / "benchmarks" / s).is_file()] == []


def test_a_linear_layer_learns_features_that_tell_labels_apart(result_files):
    module = importlib.import_module("frozen")
    labels = np.arange(12) % 3
    features = np.eye(3)[labels] + 0.1
    assert module.right_answers(features, labels, features, labels) == 1
    assert module.right_answers(features, labels, features, (labels + 1) % 3) == 0
