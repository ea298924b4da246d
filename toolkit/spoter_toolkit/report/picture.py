"""Turn a matplotlib figure into a picture for an HTML page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image for a page, and its content in words.

    Attributes:
        source: a ``data:`` address, so that the page needs no other file.
        alt: the content for people who cannot see it.
        caption: shown below it.
    """

    source: str
    alt: str
    caption: str


def picture_from_figure(figure: Figure, *, alt: str, caption: str) -> Picture:
    """Return a figure as an SVG image, the same bytes each time.

    Letters stay text in the reader's own font: outlines are many times as large. An image runs no script.
    """
    import matplotlib

    written = io.BytesIO()
    # The salt makes the ids of clip paths and markers the same in every run.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "spoter-kit"}):
        figure.savefig(written, format="svg", metadata={"Date": None})
    source = f"data:image/svg+xml;base64,{base64.b64encode(written.getvalue()).decode()}"
    return Picture(source=source, alt=alt, caption=caption)
