"""Labels in pictures: an installed font writes Bengali; where none does, a label is its place, not boxes."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure

from spoter_toolkit.report import fonts
from spoter_toolkit.report.fonts import set_fonts, writable

BENGALI = "স্ত্রী ক্ষ"


def test_a_latin_text_needs_no_other_font() -> None:
    figure = Figure()
    title = figure.suptitle("W49 × 3")
    before = title.get_fontfamily()
    set_fonts(figure)
    assert title.get_fontfamily() == before


def test_bengali_is_written_with_an_installed_font(tmp_path: Path) -> None:
    if writable([BENGALI]) != [BENGALI]:
        pytest.skip("no font with Bengali letters is installed")
    figure = Figure()
    figure.suptitle(f"W49 {BENGALI}")
    set_fonts(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing letter is a warning
        figure.savefig(tmp_path / "x.png")


def test_a_label_that_no_font_has_is_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    fonts._family_with.cache_clear()
    try:
        assert writable(["tea", BENGALI, "milk"]) == ["tea", "#2", "milk"]
    finally:
        fonts._family_with.cache_clear()
