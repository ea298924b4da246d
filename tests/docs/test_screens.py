"""The pictures of the pages: all are there, shown, and small."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "assets" / "screens"


def test_each_page_has_its_pictures_and_the_docs_show_them(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs_tools")
    from screens import PAGES, SCREENS

    expected = {f"{name}-{screen}.webp" for name in PAGES.values() for screen in (*SCREENS, "print")}
    assert {path.name for path in FOLDER.iterdir()} == expected
    shown = re.findall(r"screens/([\w-]+\.webp)", (ROOT / "docs/how-to/pages.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(expected)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3_000_000
