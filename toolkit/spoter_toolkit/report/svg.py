"""Turn a matplotlib figure into an SVG element for an HTML page."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG: Final = "{http://www.w3.org/2000/svg}"
_XLINK: Final = "{http://www.w3.org/1999/xlink}href"
_URL: Final = re.compile(r"url\(#([^)]+)\)")
_FONT: Final = re.compile(r"font-family: [^;]+;? ?")
# What is black, grey or white on paper takes the page's own colours, light or dark.
_COLOURS: Final = {"#000000": "currentColor", "#e6e6e6": "var(--line)", "#ffffff": "var(--paper)"}


def svg_from_figure(figure: Figure, name: str, *, title: str, description: str) -> str:
    """Return a figure as an ``<svg>`` element: the same bytes each time, its ids under its own name.

    Letters stay text in the reader's own font: a search finds them, any script is shaped right, and they take
    a fraction of the space of outlines. Black, white and the grey of a grid (0.9) become the page's
    ``currentColor``, ``var(--paper)`` and ``var(--line)``.

    Args:
        figure: any, of letters that matplotlib's own font has: it is what their width is measured by.
        name: of the picture, in letters, digits and hyphens; another for each in a page.
        title: a few words for people who cannot see it.
        description: what it shows, in words.
    """
    import matplotlib

    written = io.StringIO()
    # The salt makes the ids of clip paths and markers the same in every run.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(written, format="svg", metadata={"Date": None}, transparent=True)
    drawn = ElementTree.fromstring(written.getvalue())
    used = {id_ for element in drawn.iter() for id_ in _references(element)}
    root = ElementTree.Element(
        "svg",
        {
            "viewBox": drawn.attrib["viewBox"],
            "role": "img",
            "aria-labelledby": f"{name}-title {name}-desc",
            "stroke-linejoin": "round",  # as matplotlib's style element has it, which would rule the page
        },
    )
    for tag, text in (("title", title), ("desc", description)):
        ElementTree.SubElement(root, tag, id=f"{name}-{tag}").text = text
    for part in drawn:
        if part.tag != f"{_SVG}metadata" and part.find(f"{_SVG}style") is None:
            for element in part.iter():
                _adapt(element, name, used)
            root.append(part)
    return ElementTree.tostring(root, encoding="unicode")


def _references(element: ElementTree.Element) -> list[str]:
    """Return the ids that an element's attributes point to."""
    found = [id_ for value in element.attrib.values() for id_ in _URL.findall(value)]
    return [*found, element.attrib.get(_XLINK, "").removeprefix("#")]


def _adapt(element: ElementTree.Element, name: str, used: set[str]) -> None:
    """Fit one element into a page: no namespace, ids of its own picture, the page's colours and font."""
    element.tag = element.tag.removeprefix(_SVG)  # an HTML parser knows what belongs to an svg
    element.tail = None
    element.text = (element.text or "").strip() or None
    if element.attrib.get("id") not in used:
        element.attrib.pop("id", None)
    for key, value in list(element.attrib.items()):
        if key == "id":
            element.set("id", f"{name}-{value}")
        elif key == _XLINK:
            del element.attrib[key]
            element.set("href", f"#{name}-{value.removeprefix('#')}")
        elif key == "style":
            style = _FONT.sub("", value)
            for paper, own in _COLOURS.items():
                style = style.replace(paper, own)
            element.set("style", style)
        elif key == "d":
            element.set("d", " ".join(value.split()))
        else:
            element.set(key, _URL.sub(rf"url(#{name}-\1)", value))
