"""Fonts for pictures whose text matplotlib's own font cannot write, such as Bengali labels.

matplotlib shapes such scripts since 3.11; an older one sets the letters side by side. Pages are better off:
their text is the browser's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OWN: Final = "DejaVu Sans"  # comes with matplotlib
# Parts of the file names of fonts with Bengali letters, on Linux, Windows and macOS.
_LIKELY: Final = ("bengali", "bangla", "nirmala", "kohinoor", "solaiman", "kalpurush", "mukti", "freesans")


def set_fonts(figure: Figure) -> None:
    """Give each text of a figure a font that has its letters, where one is installed."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if (lacking := _lacking(text.get_text())) and (found := _family_with(lacking)):
            text.set_fontfamily([_OWN, found])


def writable(texts: Sequence[str]) -> list[str]:
    """Return texts for a picture; one that no font here can write becomes its place, ``#3``, not boxes."""
    return [
        text if not (lacking := _lacking(text)) or _family_with(lacking) else f"#{place}"
        for place, text in enumerate(texts, 1)
    ]


def _lacking(text: str) -> frozenset[int]:
    return frozenset(ord(letter) for letter in text if letter.isprintable()) - _own_letters()


@lru_cache(1)
def _own_letters() -> frozenset[int]:
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(font_manager.findfont(_OWN)).get_charmap())


@lru_cache
def _family_with(letters: frozenset[int]) -> str | None:
    """Return the family of an installed font with these letters, likely ones first; None without one."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    for path in sorted(font_manager.findSystemFonts(), key=_how_unlikely):
        if _how_unlikely(path)[0] == len(_LIKELY):
            return None
        font = FT2Font(path)
        if letters <= font.get_charmap().keys():
            font_manager.fontManager.addfont(path)  # its list may be older than the font
            return str(font.family_name)
    return None


def _how_unlikely(path: str) -> tuple[int, bool, str]:
    name = Path(path).name.lower()
    place = next((i for i, part in enumerate(_LIKELY) if part in name), len(_LIKELY))
    return place, "sans" not in name or "bold" in name, name
