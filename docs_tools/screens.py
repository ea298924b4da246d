"""Take the pictures of every page in Chromium: phone, desktop, dark, and the first sheet of paper.

spoter-kit demo
spoter-kit verify demo/demo.spoter --html demo/verify.html
python docs_tools/screens.py demo docs/assets/screens

Needs Chromium, and pdftoppm of poppler-utils for the paper.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image  # comes with matplotlib

# The demo's page → the name of its pictures.
PAGES: Final = {
    "demo.html": "demo",
    "run/report.html": "train",
    "eval.html": "eval",
    "verify.html": "verify",
    "parity.html": "parity",
    "bench/bench.html": "bench",
}
# The picture → (width, height, dark). A phone's picture is tall: a reader scrolls there.
SCREENS: Final = {"390": (390, 1500, False), "1280": (1280, 1000, False), "dark": (1280, 1000, True)}
QUALITY: Final = 72
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
FLAGS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--allow-file-access-from-files", "--virtual-time-budget=3000"),
)


def main(demo: str, out: str) -> None:
    """Take all pictures of the pages of a demo's folder."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("no Chromium found. Fix: apt-get install chromium poppler-utils")
    Path(out).mkdir(parents=True, exist_ok=True)
    for page, name in PAGES.items():
        for screen, (width, height, dark) in SCREENS.items():
            target = Path(out) / f"{name}-{screen}.webp"
            take(browser, Path(demo, page).resolve(), target, width, height, dark=dark)
        take_paper(browser, Path(demo, page).resolve(), Path(out) / f"{name}-print.webp")


def take(browser: str, page: Path, target: Path, width: int, height: int, *, dark: bool) -> None:
    """Take one picture. In a frame, because a headless window is never narrower than about 500."""
    with tempfile.TemporaryDirectory() as folder:
        frame, shot = Path(folder, "frame.html"), Path(folder, "shot.png")
        frame.write_text(
            "<body style='margin:0'>"
            f"<iframe src='{page.as_uri()}' style='border:0;width:{width}px;height:{height}px'></iframe>"
        )
        scheme = (
            "--blink-settings=preferredColorScheme=0" if dark else "--blink-settings=preferredColorScheme=1"
        )
        size = f"--window-size={max(width, 600)},{height + 100}"
        run(browser, folder, scheme, size, f"--screenshot={shot}", frame.as_uri())
        save(Image.open(shot).crop((0, 0, width, height)), target)


def take_paper(browser: str, page: Path, target: Path) -> None:
    """Take the first sheet of the printed page."""
    with tempfile.TemporaryDirectory() as folder:
        pdf = Path(folder, "page.pdf")
        run(browser, folder, f"--print-to-pdf={pdf}", "--no-pdf-header-footer", page.as_uri())
        command = [
            "pdftoppm",
            "-png",
            "-r",
            "80",
            "-f",
            "1",
            "-l",
            "1",
            "-singlefile",
            pdf,
            Path(folder, "sheet"),
        ]
        subprocess.run(command, check=True)
        save(Image.open(Path(folder, "sheet.png")), target)


def run(browser: str, folder: str, *arguments: str) -> None:
    """Run Chromium with a profile of its own."""
    command = [browser, *FLAGS, f"--user-data-dir={folder}/profile", *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def save(picture: Image.Image, target: Path) -> None:
    """Write a picture as WebP."""
    picture.convert("RGB").save(target, "WEBP", quality=QUALITY, method=6)


if __name__ == "__main__":
    main(*sys.argv[1:])
