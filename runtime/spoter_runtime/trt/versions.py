"""What each version of TensorRT can do, and which version each JetPack brings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from spoter_runtime.bundle.libraries import Library
from spoter_runtime.errors import BackendError


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What the versions of an engine library from one on can do.

    Attributes:
        since: the first such version, (major, minor).
        onnx_kind: the bundle's file that it builds from (`Artefact.kind`).
        newest_opset: the newest opset that its parser reads; 0: every opset that spoter-kit writes.
        strongly_typed: each tensor has its type in the file. Without it the builder chooses, and each layer's
            precision is a constraint.
        has_progress: it reports the build's progress and stops when asked to, and names the node that its
            parser refuses.
        sized_memory: an execution context takes its memory with the size.
        newest_runtime: the newest major version whose runtimes run a version-compatible plan of it; 0: none.
    """

    since: tuple[int, int]
    onnx_kind: str = "onnx"
    newest_opset: int = 0
    strongly_typed: bool = True
    has_progress: bool = True
    sized_memory: bool = True
    newest_runtime: int = 0


_UNKNOWN: Final = 99  # NVIDIA promises the next major version; no later one is known here
_TENSORRT: Final = (
    Abilities(
        since=(8, 6), onnx_kind="trt8", newest_opset=17, strongly_typed=False, has_progress=False,
        sized_memory=False, newest_runtime=10,
    ),
    Abilities(since=(10, 3), newest_runtime=11),
    Abilities(since=(11, 0), newest_runtime=_UNKNOWN),
)  # fmt: skip
_OF: Final[dict[Library, tuple[Abilities, ...]]] = {
    "tensorrt": _TENSORRT,
    "tensorrt_lean": _TENSORRT,
    "tensorrt_rtx": (Abilities(since=(1, 4)),),
}
# Versions in between that cannot do what the version before them can.
_SKIPPED: Final = ((8, 7), (10, 3))

_JETPACK_61: Final = "update to JetPack 6.1 or newer, which has TensorRT 10.3"


def abilities(library: Library, version: str) -> Abilities:
    """Return what a version of a library can do.

    Raises:
        BackendError: the version is not supported; the fix names one that is.
    """
    number = parse_version(version)[:2]
    rows = [row for row in _OF[library] if row.since <= number]
    if not rows or (library != "tensorrt_rtx" and _SKIPPED[0] <= number < _SKIPPED[1]):
        what = "TensorRT 8.6, 10.3 or newer" if library != "tensorrt_rtx" else "TensorRT-RTX 1.4 or newer"
        if number == (8, 5):
            fix = "JetPack 5.1 has 8.5, for Python 3.8: run the bundle with ort-cpu, or update to JetPack 6"
        else:
            fix = f"install one of those; on a Jetson {_JETPACK_61}" if library != "tensorrt_rtx" else ""
        raise BackendError(f"{library} {version} is not supported; {what} is", fix=fix)
    return rows[-1]


def parse_version(version: str) -> tuple[int, ...]:
    """Return a version's numbers, at most four: Jetson's packages have only three."""
    return tuple(map(int, re.findall(r"\d+", version)[:4]))


@dataclass(frozen=True, slots=True, kw_only=True)
class JetPack:
    """What a JetPack brings, and what to do with it.

    Attributes:
        linux: the release of Jetson Linux, from `/etc/nv_tegra_release`.
        advice: the command that builds an engine there, or why none does.
    """

    name: str
    linux: tuple[int, int]
    python: str
    cuda: str
    tensorrt: str
    advice: str


_BUILD: Final = "python -m spoter_export BUNDLE --trt"
JETPACKS: Final = (
    JetPack(
        name="5.1", linux=(35, 2), python="3.8", cuda="11.4", tensorrt="8.5.2",
        advice="no engine: TensorRT 8.5 is not supported; with Python 3.10, ort-cpu runs",
    ),
    JetPack(
        name="6.0", linux=(36, 2), python="3.10", cuda="12.2", tensorrt="8.6.2",
        advice=f"on the desk: spoter-kit export BUNDLE --trt8; then here: {_BUILD}",
    ),
    JetPack(name="6.1", linux=(36, 4), python="3.10", cuda="12.6", tensorrt="10.3.0", advice=_BUILD),
    JetPack(name="7.0", linux=(38, 2), python="3.12", cuda="13.0", tensorrt="10.13.3", advice=_BUILD),
)  # fmt: skip


def jetpack_of(release: str) -> JetPack | None:
    """Return the newest JetPack here of a Jetson Linux release's series, not newer than it; None for none.

    Args:
        release: content of `/etc/nv_tegra_release`: ``"# R36 (release), REVISION: 3.0, …"``.
    """
    found = re.search(r"R(\d+) \(release\), REVISION: (\d+)", release)
    if not found:
        return None
    linux = (int(found[1]), int(found[2]))
    series = min(linux[0], JETPACKS[-1].linux[0])  # of a newer series nothing is known but that it is newer
    older = [jetpack for jetpack in JETPACKS if jetpack.linux[0] == series and jetpack.linux <= linux]
    return older[-1] if older else None
