"""Print a path of the C library: ``--prefix``, ``--include`` or ``--library``."""

from __future__ import annotations

import argparse
import sys

import spoter_runtime_c

_parser = argparse.ArgumentParser(prog="python -m spoter_runtime_c", description=__doc__)
_names = _parser.add_mutually_exclusive_group(required=True)
for _name in ("prefix", "include", "library"):
    _names.add_argument(
        f"--{_name}", dest="path", action="store_const", const=getattr(spoter_runtime_c, _name)
    )

if __name__ == "__main__":
    sys.stdout.write(f"{_parser.parse_args().path()}\n")
