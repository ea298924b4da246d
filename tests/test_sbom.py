"""What an install consists of, and that its licences let anybody use it."""

from __future__ import annotations

import re
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs_tools"))

from sbom import bill_of_materials, installed, licence_of

FREE = re.compile(
    r"\b(Apache|BSD|0BSD|MIT|ISC|Python|PSF|MPL|Mozilla Public|HPND|Unlicense|Zlib|CC0|Public Domain)\b", re.I
)
# Packages whose licence is not free, which somebody has to ask for by an extra of their own.
PROPRIETARY = re.compile(r"^(nvidia-|tensorrt|cuda-)")


@pytest.mark.parametrize("extra", ["cpu", "sign", "toolkit", "video", "landmarker"])
def test_the_licences_of_all_that_is_installed_are_free(extra):
    found = installed([extra])
    assert {"spoter-kit", "numpy"} <= found.keys()
    wrong = {
        name: licence
        for name, one in found.items()
        if not FREE.search(licence := licence_of(one)) and not PROPRIETARY.match(name)
    }
    assert wrong == {}


def test_the_device_has_few_packages():
    names = {component["name"] for component in bill_of_materials(["cpu", "sign"])["components"]}
    assert {"numpy", "onnxruntime", "cryptography"} <= names
    assert not {"torch", "typer", "rich"} & names


def test_each_package_has_its_version_and_place():
    made = bill_of_materials(["cpu"])
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.5")
    assert made["metadata"]["component"]["version"] == metadata("spoter-kit")["Version"]
    for component in made["components"]:
        assert component["purl"] == f"pkg:pypi/{component['name']}@{component['version']}"
