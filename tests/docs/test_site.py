"""The documentation site: it builds without a warning, loads nothing from elsewhere, and no link is dead."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path

import pytest

from pages import ROOT

# Zensical needs some seconds; `make docs` and `make test-all` build as well.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def build():
    """The module docs_tools/build.py, found where it is run: in its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs_tools")
        yield importlib.import_module("build")


@pytest.fixture(scope="session")
def site(made_once, build):
    """The built site, not to be changed."""
    return made_once("site", lambda folder: build.build(folder / "docs"))


def test_no_link_is_dead_and_nothing_is_loaded_from_elsewhere(build, site):
    assert len(list(site.rglob("*.html"))) > 50
    assert build.wrong_links(site) == []


def test_a_dead_link_a_missing_anchor_and_a_foreign_file_are_found(build, tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html">b</a><a href="#c">c</a><a href="a.html#d">d</a><p id="d">'
    )
    (tmp_path / "e.html").write_text('<script src="https://elsewhere.example/x.js"></script>')
    (tmp_path / "f.css").write_text("@import 'https://elsewhere.example/y.css';")
    assert build.wrong_links(tmp_path) == [
        "a.html: no b.html",
        "a.html: no anchor #c",
        "e.html: loads https://elsewhere.example/x.js",
        "f.css: loads https://elsewhere.example/y.css",
    ]


def test_a_wrong_page_fails_the_build(build, tmp_path, monkeypatch):
    page = tmp_path / "README.md"
    page.write_text("# Title\n\n[nowhere](docs/nowhere.md)\n", encoding="utf-8")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    (tmp_path / "docs_tools").mkdir()
    config = (ROOT / "docs_tools" / "zensical.toml").read_text(encoding="utf-8")
    config = re.sub(r"(?s)nav = \[.*?\n\]", 'nav = ["README.md"]', config)
    (tmp_path / "docs_tools" / "zensical.toml").write_text(config, encoding="utf-8")
    with pytest.raises(subprocess.CalledProcessError):
        build.build(tmp_path / "out")


def test_the_reference_has_every_verb_and_every_kind_of_error(site):
    from typer.main import get_command

    from spoter_runtime import errors
    from spoter_toolkit.cli.app import app

    reference = Path(site) / "docs" / "reference"
    command = (reference / "command.html").read_text(encoding="utf-8")
    for verb in get_command(app).commands:
        assert f"spoter-kit {verb}" in command, verb
    kinds = (reference / "errors.html").read_text(encoding="utf-8")
    for kind in (errors.InputError, errors.BundleError, errors.BackendError, errors.DataError):
        assert f'id="{kind.__name__.lower()}"' in kinds
    assert "landmarks_from_mediapipe" in (reference / "python.html").read_text(encoding="utf-8")


def test_the_search_finds_a_bengali_word_without_a_server(site):
    assert (Path(site) / "search.js").is_file()
    assert "পানি" in (Path(site) / "search.js").read_text(encoding="utf-8")
