"""The pages: every block is run or says why not, every link leads somewhere, and the words are plain."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from importlib.metadata import metadata

import pytest
import textstat

from command_line import wrong_with
from pages import GENERATED, PAGES, ROOT, RUN, anchors_of, blocks_of, links_of, prose_of
from spoter_runtime.landmarks import BODY_NAMES, HAND_NAMES, MEDIAPIPE_POSE

README = ROOT / "README.md"
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def test_the_readme_fits_on_few_screens():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_every_block_is_run_or_says_why_not():
    blocks = [block for page in PAGES for block in blocks_of(page)]
    others = ("js", "c", "cpp", "cmake")
    known = {*RUN, *others, "json", "text", "toml"}
    assert [block.name for block in blocks if block.language not in known] == []
    silent = [
        b.name for b in blocks if b.language in (*others, *RUN) and b.notes.get("illustrative", "-") == ""
    ]
    assert silent == []
    unmarked = [
        block.name for block in blocks if block.language == "js" and "illustrative" not in block.notes
    ]
    assert unmarked == []
    kinds = Counter("illustrative" in block.notes for block in blocks if block.language in RUN)
    assert kinds[False] > kinds[True]  # most are run


def test_every_command_is_one_that_the_command_line_takes():
    """Also those that are not run."""
    from typer.main import get_command

    from spoter_toolkit.cli.app import app

    verbs = get_command(app)
    seen = [
        (block.name, words)
        for page in PAGES
        for block in blocks_of(page)
        if block.language in ("sh", "console")
        for words in block.commands()
        if words[0] == "spoter-kit"
    ]
    assert len(seen) > 40
    assert [(name, words, wrong) for name, words in seen if (wrong := wrong_with(verbs, words[1:]))] == []


def test_every_extra_that_a_page_installs_exists():
    extras = metadata("spoter-kit").get_all("Provides-Extra")
    named = {
        extra
        for page in PAGES
        for extras in re.findall(r"install '\.\[([\w,-]+)\]'", page.read_text(encoding="utf-8"))
        for extra in extras.split(",")
    }
    assert {"cpu", "gpu", "rtx"} <= named
    assert named - set(extras) == set()


def test_the_table_of_extras_has_them_all():
    (page,) = [page for page in PAGES if page.name == "install.md"]
    rows = re.findall(r"^\| (`[^|]+) \|", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = {extra for row in rows for extra in re.findall(r"`([\w-]+)`", row)}
    assert set(metadata("spoter-kit").get_all("Provides-Extra")) <= named


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page):
    wrong = []
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if "://" in link:
            wrong.append(f"{link}: a page outside, which nothing checks")
        elif not (target.is_file() or (target.parent.name == "reference" and target.name in GENERATED)) or (
            anchor and target.is_file() and anchor not in anchors_of(target)
        ):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_words_are_plain(page):
    """Flesch reading ease above 50: what a reader of twelve to fifteen years follows."""
    prose = prose_of(page)
    if len(prose.split()) < 60:
        pytest.skip("too few sentences to measure")
    assert textstat.flesch_reading_ease(prose) > 50


def test_the_landmarks_page_has_the_order_of_the_code():
    text = (ROOT / "docs" / "reference" / "landmarks.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    for index, name in enumerate(BODY_NAMES):
        sources = [
            int(number) for number in re.findall(r"\d+", dict((r[0], r[-1]) for r in rows)[str(index)])
        ]
        assert [str(index), name] in [row[:2] for row in rows]
        assert sources == list(MEDIAPIPE_POSE[index])
    for index, name in enumerate(HAND_NAMES):
        assert [str(12 + index), str(33 + index), name, str(index)] in rows


def test_the_glossary_names_modules_that_exist():
    import importlib.util

    text = (ROOT / "docs" / "reference" / "glossary.md").read_text(encoding="utf-8")
    modules = set(re.findall(r"`(spoter_[\w.]+)`", text))
    assert len(modules) > 30
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_code(monkeypatch):
    """As the generated list of errors has them, with … for what is filled in."""
    monkeypatch.syspath_prepend(ROOT / "docs_tools")
    raised = importlib.import_module("generated_pages").all_errors()
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    tables = [part.partition("\n\n")[0] for part in text.split("| message | reason | fix |\n")[1:]]
    messages = [row.split(" | ")[0].strip("| ") for table in tables for row in table.splitlines()[1:]]
    assert len(messages) > 15
    assert [message for message in messages if not any(message in error.message for error in raised)] == []
