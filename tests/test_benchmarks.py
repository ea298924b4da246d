"""What the benchmarks write is dated, names its processor, and carries its environment."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from spoter_toolkit.bench.json_text import json_text

ROOT = Path(__file__).parents[1]


@pytest.fixture
def result_files(monkeypatch):
    """The module, found where the scripts find it: beside them."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("result_files")


def test_a_result_is_json_and_a_page_named_by_case_processor_and_month(result_files, tmp_path, capsys):
    where = {"cpu": "a processor"}
    result_files.write_result("case", {"rows": [1]}, "# page\n", where, folder=tmp_path)
    page, facts = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert re.fullmatch(r"case-[a-z0-9-]+-20\d\d-[01]\d\.md", page.name)
    assert (page.stem, facts.suffix) == (facts.stem, ".json")
    assert page.read_text() == "# page\n"
    assert json.loads(facts.read_text()) == {"rows": [1], "environment": where}
    assert capsys.readouterr().out == f"{page}\n"
    assert result_files.environment_lines(where)[1] == json.dumps(where, indent=2)


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
