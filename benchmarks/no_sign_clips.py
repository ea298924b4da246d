"""The data sets of `no_sign.py`: one signer for training and validation, the other for the test.

Validation takes whole recording batches. A background label ``none`` is of recorded clips or of made ones.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from result_files import spoter_kit

from spoter_toolkit.data.dataset import read_dataset

NONE = "none"


def write_split(folder: Path, test: str) -> None:
    """Split a data set: one signer for the test, and of the other about a fifth of the batches for val."""
    clips = read_dataset(folder).clips
    batches: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        if clip.signer != test and clip.source not in batches[clip.label]:
            batches[clip.label].append(clip.source)
    val = {batch for names in batches.values() for batch in names[::5][: len(names) // 2]}
    rows = [
        f"{clip.id},{'test' if clip.signer == test else 'val' if clip.source in val else 'train'}\n"
        for clip in clips
    ]
    file = folder.with_suffix(".csv")
    file.write_text("id,split\n" + "".join(rows), encoding="utf-8")
    spoter_kit("data", "split", folder, "--from", file, "--by", "recording")


def write_data(source: Path, work: Path, test: str) -> None:
    """Import the words that both signers have, with and without ``none``, and ``none`` alone."""
    shared = ("--signers", "A,B", "--skip-bad")
    options = {
        "thresholds": ("--shared-labels", "--without", NONE),
        "recorded": ("--shared-labels",),
        NONE: ("--labels", NONE),
    }
    for name, chosen in options.items():
        folder = work / f"{name}-test-{test}"
        if folder.exists():
            continue
        spoter_kit("data", "import", "asl33", source, "-o", folder, *shared, *chosen)
        if name == NONE:
            spoter_kit("data", "split", folder, "--test", test)
        else:
            write_split(folder, test)
    if not (work / f"made-test-{test}").exists():
        spoter_kit("data", "background", work / f"thresholds-test-{test}", "-o", work / f"made-test-{test}")
