"""Pack an environment for a machine without a network: wheels, and a CPython, in pieces of at most 60 MiB.

    python benchmarks/pack.py FOLDER --python PYTHON REQUIREMENT ...
    sh FOLDER/unpack.sh /opt/trt86      # there: joins the pieces, checks them, makes /opt/trt86/bin/python

PYTHON is the interpreter that the environment is for; its own folder is packed too. `.` among the
requirements is spoter-kit itself. For `benchmarks/gpu.py`:

- TensorRT 8.6.0, with a CPython 3.10, about 2 GB: `. tensorrt==8.6.0 nvidia-cublas-cu12==12.1.3.1
  nvidia-cudnn-cu12==8.9.7.29 'cuda-bindings==12.*' 'numpy<2' filelock`
- its lean runtime, about 150 MB: `. tensorrt-lean-cu12==10.16.1.11 'cuda-bindings==12.*' filelock`
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

PIECE_BYTES = 60 << 20
# After unpacking, the interpreter lies in TARGET/python, its environment in TARGET.
UNPACK = """#!/bin/sh
# Join the pieces, check them, and make the environment TARGET: sh unpack.sh TARGET
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=$1
mkdir -p "$target/wheels"
cd "$here"
sha256sum --check --quiet pieces.sha256
for first in *.000; do
    cat "${first%.000}".[0-9][0-9][0-9] > "$target/wheels/${first%.000}"
done
cd "$target"
tar -xf wheels/python.tar
rm wheels/python.tar
python/bin/python3 -m venv --copies .
bin/python -m pip install --no-index --no-deps wheels/*.whl
rm -r wheels
"""


def cut(path: Path, folder: Path) -> list[Path]:
    """Cut a file into pieces of a folder, NAME.000, NAME.001 and so on."""
    pieces: list[Path] = []
    with path.open("rb") as source:
        while content := source.read(PIECE_BYTES):
            piece = folder / f"{path.name}.{len(pieces):03d}"
            piece.write_bytes(content)
            pieces.append(piece)
    return pieces


def pack(folder: Path, python: Path, requirements: list[str]) -> list[Path]:
    """Write the pieces, their hashes and unpack.sh into a folder; return the pieces."""
    folder.mkdir(parents=True)
    whole = folder / "whole"
    whole.mkdir()
    command = [str(python), "-m", "pip", "wheel", "-w", str(whole), *requirements]
    subprocess.run(command, check=True)
    prefix = subprocess.run(
        [python, "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True, check=True
    )
    with tarfile.open(whole / "python.tar", "w") as archive:
        archive.add(prefix.stdout.strip(), arcname="python", filter=without_caches)
    pieces = [piece for path in sorted(whole.iterdir()) for piece in cut(path, folder)]
    shutil.rmtree(whole)
    sums = [f"{hashlib.sha256(piece.read_bytes()).hexdigest()}  {piece.name}\n" for piece in pieces]
    (folder / "pieces.sha256").write_text("".join(sums))
    (folder / "unpack.sh").write_text(UNPACK)
    return pieces


def without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Return a file to pack; None for caches, the interpreter's tests and its installed packages but pip."""
    parts = Path(member.name).parts
    in_packages = "site-packages" in parts and parts[-1] != "site-packages"
    if in_packages and not parts[parts.index("site-packages") + 1].startswith(("pip", "setuptools")):
        return None
    return None if {"__pycache__", "test"} & set(parts) else member


def main() -> int:
    """Pack an environment; 0 done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("requirements", nargs="+", help="as for pip")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the interpreter to pack")
    given = parser.parse_args()
    pieces = pack(given.folder, given.python, given.requirements)
    size = sum(piece.stat().st_size for piece in pieces)
    print(f"{given.folder}: {len(pieces)} pieces, {size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
