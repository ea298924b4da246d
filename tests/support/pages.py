"""The Markdown pages: their blocks with what the page says about them, their prose, their links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
GENERATED = {"command.md", "device-command.md", "recipes.md", "errors.md"}  # docs_tools/generated_pages.py
RUN = ("sh", "console", "python")  # languages that are run
_FENCE = re.compile(r"^( *)```(\w*)\s*$")
_NOTE = re.compile(r"^ *<!-- (illustrative|given|file|output)(?:: (.+?))? -->$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        line: of its first line of text, counted from 1.
        notes: what the comment above it says: ``{"illustrative": "needs a GPU"}``, ``{"given": "bundle"}``,
            ``{"file": "strict.toml"}`` or ``{"output": ""}``.
    """

    page: Path
    line: int
    language: str
    text: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Where it is: ``docs/how-to/tune.md:5``."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """Yield the words of each command; comments and a prompt are left out."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line.removeprefix("$ "), comments=True):
                yield words


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    found, notes, lines = [], {}, page.read_text(encoding="utf-8").splitlines()
    opened: tuple[int, str, str] | None = None
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened = number, fence[1], fence[2]
        elif opened and line.strip() == "```":
            start, indent, language = opened
            text = "\n".join(one.removeprefix(indent) for one in lines[start : number - 1])
            found.append(Block(page, start + 1, language, text, notes))
            opened, notes = None, {}
        elif opened is None and (note := _NOTE.match(line)):
            notes = notes | {note[1]: note[2] or ""}
        elif opened is None and line.strip():
            notes = {}
    assert opened is None, f"{page}:{opened}: a block without an end"
    return found


def without_blocks(text: str) -> str:
    """Return a page's text without fenced blocks and comments."""
    return re.sub(r"(?ms)^ *```.*?^ *```$|<!--.*?-->", "", text)


def prose_of(page: Path) -> str:
    """Return a page's sentences: paragraphs and list items, without headings, tables and blocks.

    A piece of code counts as one short word, a link as its text, a list item as a sentence.
    """
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", without_blocks(page.read_text(encoding="utf-8"))):
        lines = paragraph.strip("\n").splitlines()
        if not lines or lines[0].lstrip().startswith(("#", "|", ":::", "options:", "members:", "![")):
            continue
        paragraphs += re.split(r"\n(?=\s*(?:[-*]|\d+\.) )", "\n".join(lines))
    sentences = []
    for paragraph in paragraphs:
        text = re.sub(r"^\s*(?:[-*]|\d+\.) ", "", paragraph)
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
        text = re.sub(r"`[^`]*`", "code", text)
        text = re.sub(r"[*_]{1,2}([^*_]+)[*_]{1,2}", r"\1", text)
        text = re.sub(r"\{ #[\w-]+ \}", "", text)
        text = re.sub(r"(\d)[.,](?=\d)", r"\1", text)  # a point in a number ends no sentence
        text = " ".join(text.split())
        if text:
            sentences.append(text if text[-1] in ".!?" else f"{text.rstrip(':;,')}.")
    return " ".join(sentences)


def links_of(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures."""
    text = re.sub(r"`[^`\n]*`", "", without_blocks(page.read_text(encoding="utf-8")))
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors_of(page: Path) -> set[str]:
    """Return the names of a page's headings, as in a link to them."""
    text = without_blocks(page.read_text(encoding="utf-8"))
    headings = [re.sub(r"[`*]", "", heading) for heading in re.findall(r"(?m)^#+ (.+)$", text)]
    slugs = {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", one.lower()).strip()) for one in headings}
    return slugs | set(re.findall(r"\{ #([\w-]+) \}", text))
