"""Build the documentation site: copy the pages, generate the reference, run Zensical, look at the result.

`python docs_tools/build.py [FOLDER]` leaves the site in FOLDER/site, by default build/docs/site. Open its
index.html: it needs no server and no network. Exit 1 where a page, a link or an anchor is wrong.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from generated_pages import write_generated_pages

ROOT = Path(__file__).parents[1]
# The repository's own tree, so that a relative link is right here and where the repository is read.
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
    "docs/**/*",
    "benchmarks/**/*.md",
)
PICTURES = ("benchmarks/results/**/*.png",)
_LOADED = {"script": "src", "img": "src", "source": "srcset", "link": "href", "iframe": "src"}


def build(folder: Path) -> Path:
    """Build the site under `folder`, anew, and return its folder.

    Raises:
        subprocess.CalledProcessError: Zensical found something wrong; it has said what.
    """
    shutil.rmtree(folder, ignore_errors=True)
    source = folder / "source"
    for path in (path for pattern in (*PAGES, *PICTURES) for path in sorted(ROOT.glob(pattern))):
        if path.is_file():
            target = source / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    write_generated_pages(source / "docs" / "reference")
    shutil.copyfile(ROOT / "docs_tools" / "zensical.toml", folder / "zensical.toml")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "site"


class _Page(HTMLParser):
    """The links, the anchors and the loaded files of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note what a tag refers to."""
        values = {name: value or "" for name, value in attributes}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in _LOADED and _LOADED[tag] in values and values.get("rel") != "canonical":
            self.loads.append(values[_LOADED[tag]])


def wrong_links(site: Path) -> list[str]:
    """Return each link of the site to a page or an anchor that is not there, and each file from elsewhere."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    wrong = []
    for path, page in pages.items():
        name = path.relative_to(site)
        if name.name == "404.html":  # a server shows it under any address
            continue
        wrong += [f"{name}: loads {url}" for url in page.loads if urlsplit(url).netloc]
        for url in (*page.links, *page.loads):
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                wrong.append(f"{name}: no {url}")
            elif parts.fragment and target in pages:
                fragment = unquote(parts.fragment)
                if fragment not in pages[target].anchors and not fragment.startswith("__"):
                    wrong.append(f"{name}: no anchor {url}")
    styles = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    wrong += [
        f"{path.relative_to(site)}: loads {url}"
        for path, text in styles.items()
        for url in re.findall(r"(?:url\(|@import )[\"']?(https?:[^\"')]+)", text)
    ]
    return wrong


def main() -> int:
    """Build and check; return the exit code."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs"
    try:
        site = build(folder.resolve())
    except subprocess.CalledProcessError:
        return 1
    for line in (wrong := wrong_links(site)):
        print(line, file=sys.stderr)
    print(f"{len(list(site.rglob('*.html')))} pages: {site / 'index.html'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
