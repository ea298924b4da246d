"""Write what an install consists of as CycloneDX 1.5, from the packages that are installed here.

    python docs_tools/sbom.py cpu sign > device.cdx.json

The arguments are extras of spoter-kit; `tests/test_sbom.py` checks the licences.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any

from packaging.requirements import Requirement

PROJECT = "spoter-kit"


def installed(extras: Sequence[str]) -> dict[str, Distribution]:
    """Return name → distribution of spoter-kit and all that it needs with these extras, as installed here."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(PROJECT, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = pair = waiting.pop()
        if pair in seen:
            continue
        seen.add(pair)
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # for another system, or another Python
            continue
        for line in found[name].requires or ():
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                needed = re.sub(r"[-_.]+", "-", need.name).lower()
                waiting += [(needed, more) for more in ("", *need.extras)]
    return dict(sorted(found.items()))


def licence_of(found: Distribution) -> str:
    """Return the licence that a package states, in its own words; empty without one."""
    facts = found.metadata
    if stated := facts.get("License-Expression"):
        return str(stated)
    classes = [one for one in facts.get_all("Classifier") or () if one.startswith("License :: ")]
    if named := [one.rpartition(" :: ")[2] for one in classes if one.count("::") > 1]:
        return "; ".join(named)
    return str(facts.get("License") or "").strip().partition("\n")[0]


def bill_of_materials(extras: Sequence[str]) -> dict[str, Any]:
    """Return the packages as CycloneDX."""

    def component(name: str, found: Distribution) -> dict[str, Any]:
        facts = {"type": "library", "name": name, "version": found.version}
        facts["purl"] = facts["bom-ref"] = f"pkg:pypi/{name}@{found.version}"
        licence = licence_of(found)
        return facts | ({"licenses": [{"license": {"name": licence}}]} if licence else {})

    packages = installed(extras)
    ours = component(PROJECT, packages.pop(PROJECT))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": ours | {"type": "application"}},
        "components": [component(*item) for item in packages.items()],
    }


if __name__ == "__main__":
    print(json.dumps(bill_of_materials(sys.argv[1:]), indent=2))
