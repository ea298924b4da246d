"""What the benchmarks write is dated, names its processor, and carries its environment."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

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
