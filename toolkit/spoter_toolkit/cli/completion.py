"""What the shell offers after TAB: runs, bundles, datasets and backends. Cheap: a shell waits for it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def complete_run(incomplete: str) -> list[str]:
    """Return the runs in ``runs/`` and the folders that a word may become."""
    return _paths(incomplete, Path("runs").glob("*/run.json"))


def complete_bundle(incomplete: str) -> list[str]:
    """Return the bundles in ``bundles/`` and here, and the folders that a word may become."""
    here = (path for folder in (Path("bundles"), Path()) for path in folder.glob("*.spoter/bundle.json"))
    return _paths(incomplete, here)


def complete_dataset(incomplete: str) -> list[str]:
    """Return the datasets in ``datasets/`` and the folders that a word may become."""
    return _paths(incomplete, Path("datasets").glob("*/dataset.json"))


def complete_source(incomplete: str) -> list[str]:
    """Return runs and bundles."""
    return list(dict.fromkeys([*complete_run(incomplete), *complete_bundle(incomplete)]))


def complete_backend(incomplete: str) -> list[str]:
    """Return the backends; behind a colon, the precisions."""
    from spoter_toolkit.backends import BACKENDS, TORCH_BACKENDS

    name, colon, _ = incomplete.partition(":")
    if colon:
        names = [f"{name}:{precision}" for precision in ("fp32", "fp16", "int8")]
        known: Iterable[str] = names if name in BACKENDS and name not in TORCH_BACKENDS else ()
    else:
        known = BACKENDS
    return [one for one in known if one.startswith(incomplete)]


def complete_face(incomplete: str) -> list[str]:
    """Return the faces that parity knows."""
    from spoter_toolkit.faces.face import face_names

    return [name for name in face_names() if name.startswith(incomplete)]


def _paths(incomplete: str, found: Iterable[Path]) -> list[str]:
    """Return the folders of files that begin with a word, and any other folder that does."""
    ours = sorted(str(path.parent) for path in found if not path.parent.name.startswith("."))
    typed = Path(incomplete)
    parent, name = (typed, "") if incomplete.endswith("/") else (typed.parent, typed.name)
    try:
        others = sorted(
            f"{path}/" for path in parent.iterdir() if path.name.startswith(name) and path.is_dir()
        )
    except OSError:
        others = []
    fits = [path for path in ours if path.startswith(incomplete)]
    visible = [path for path in others if name.startswith(".") or not Path(path).name.startswith(".")]
    return [*fits, *(path for path in visible if path.rstrip("/") not in fits)]
