"""Flip random bits in a signed bundle, add, remove, rename and swap files: is everything refused?

    python benchmarks/flipped_bits.py BUNDLE --bits 10000

BUNDLE is copied and signed with a new key. Prints the counts; exit code 1 if anything was accepted.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from spoter_export.bundle.sign import make_key, sign_bundle
from spoter_runtime.bundle.signature import SIGNATURE, files_in, read_trusted
from spoter_runtime.errors import BundleError


def is_refused(folder: Path, public: bytes) -> bool:
    """Return whether a bundle is refused before anything of it is loaded."""
    try:
        read_trusted(folder, public)
    except BundleError:
        return True
    return False


def flipped(folder: Path, public: bytes, bits: int, dice: random.Random) -> Counter[str]:
    """Flip one bit at a time, in any file; return file → bits that were refused, and "accepted"."""
    paths = [*files_in(folder).values(), folder / SIGNATURE]
    sizes = [path.stat().st_size for path in paths]
    counts: Counter[str] = Counter()
    for number in range(bits):
        # Half of them fall on files by their size, half on each file alike: the small ones too.
        path = dice.choices(paths, sizes)[0] if number % 2 else dice.choice(paths)
        with path.open("r+b") as file:
            place = dice.randrange(path.stat().st_size)
            file.seek(place)
            old = file.read(1)[0]
            for value in (old ^ 1 << dice.randrange(8), old):
                file.seek(place)
                file.write(bytes([value]))
                file.flush()
                if value != old:
                    counts[path.name if is_refused(folder, public) else "accepted"] += 1
    return counts


def moved(folder: Path, other: Path, public: bytes) -> Counter[str]:
    """Add, remove, rename, swap each file and put it back; return what was done → refused, and "accepted"."""
    counts: Counter[str] = Counter()
    for name, path in files_in(folder).items():
        for what in spoiled(path, other / name):
            counts[what if is_refused(folder, public) else "accepted"] += 1
    assert not is_refused(folder, public)
    return counts


def spoiled(path: Path, swap: Path) -> Iterator[str]:
    """Yield after each change to a file, which is undone when the next is asked for."""
    aside, content = path.with_name(f"{path.name}.x"), path.read_bytes()
    path.rename(aside)
    yield "renamed"
    aside.unlink()
    yield "removed"
    path.write_bytes(content)
    aside.write_bytes(content)
    yield "added"
    aside.unlink()
    if swap.exists() and (theirs := swap.read_bytes()) != content:
        path.write_bytes(theirs)
        yield "swapped"
        path.write_bytes(content)


def main() -> int:
    """Sign a copy of a bundle, spoil it, and print what was refused."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--other", type=Path, help="a bundle whose files are swapped in; default: none")
    parser.add_argument("--bits", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder, "a.key")
        public = make_key(key).read_bytes()
        copy = Path(shutil.copytree(given.bundle, Path(folder, "one.spoter")))
        sign_bundle(copy, key)
        other = copy
        if given.other:
            other = Path(shutil.copytree(given.other, Path(folder, "other.spoter")))
            sign_bundle(other, key)
        refused = flipped(copy, public, given.bits, random.Random(0)) + moved(copy, other, public)
    accepted = refused.pop("accepted", 0)
    print(json.dumps(dict(refused), indent=1))
    print(f"{refused.total()} refused, {accepted} accepted")
    return 1 if accepted else 0


if __name__ == "__main__":
    sys.exit(main())
