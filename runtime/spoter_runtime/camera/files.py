"""The landmarker's folder: its ONNX files, their hashes, and where it lies."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from spoter_runtime.bundle.engine_spec import EngineSpec
from spoter_runtime.bundle.manifest import MANIFEST as BUNDLE_MANIFEST
from spoter_runtime.bundle.manifest import Bundle, check_sha256
from spoter_runtime.checked_file import COPY_AGAIN, MODEL_BYTES, OTHER_BYTES, read_checked
from spoter_runtime.errors import BundleError, warn
from spoter_runtime.files import cache_folder, read_bytes
from spoter_runtime.strict import expect, file_name, json_from_text, made_from, shown

MANIFEST: Final = "landmarker.json"
GOLDENS: Final = "goldens.npz"
SCHEMA_VERSION: Final = 1
_AGAIN: Final = "spoter-kit landmarker fetch --force"
BUNDLED: Final = "landmarker"  # its folder in a bundle
_MOST_BYTES: Final = 1 << 20  # of the manifest
GRAPHS: Final = ("pose_detection", "pose", "recrop", "hand")


@dataclass(frozen=True, slots=True, kw_only=True)
class LandmarkerEngine:
    """An engine of one of the graphs.

    Attributes:
        graph: one of `GRAPHS`.
        path: of the engine, in the landmarker's folder.
        sha256: of that file.
        size_bytes: of that file.
        spec: what it was built by, from and for; `built` has the frame sizes that it takes.
    """

    graph: str
    path: str
    sha256: str
    size_bytes: int
    spec: EngineSpec

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"spec": self.spec.as_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class LandmarkerFiles:
    """A landmarker folder whose manifest has been read; its files are hashed when they are used.

    Attributes:
        folder: where they lie.
        sha256: names this landmarker: a hash of the hashes of its graphs. It travels with what it found.
        hashes: file name → sha256, of each file but the manifest.
        source: where the networks are from, for people.
        engines: engines of the graphs, which are built on request.
        manifest: the bytes of the manifest that was read.
    """

    folder: Path
    sha256: str
    hashes: dict[str, str]
    source: str
    engines: tuple[LandmarkerEngine, ...] = ()
    manifest: bytes = b""

    @property
    def fix(self) -> str:
        """Return the fix for a landmarker's file that is missing or was changed."""
        in_bundle = self.folder.name == BUNDLED and (self.folder.parent / BUNDLE_MANIFEST).exists()
        return COPY_AGAIN if in_bundle else _AGAIN

    def read(self, name: str) -> bytes:
        """Return the bytes of one of the files, after comparing them with their hash.

        Raises:
            BundleError: the file is not listed, missing, too large, was changed, or cannot be read.
        """
        limits = {name: (digest, OTHER_BYTES) for name, digest in self.hashes.items()}
        limits |= {e.path: (e.sha256, min(e.size_bytes, MODEL_BYTES)) for e in self.engines}
        path = self.folder / name
        if name not in limits:
            raise BundleError(f"{self.folder / MANIFEST}: does not list {name}", fix=self.fix)
        digest, most_bytes = limits[name]
        try:
            return read_checked(path, digest, most_bytes=most_bytes, fix=self.fix)
        except OSError as error:
            raise BundleError(f"{path}: cannot be read: {error.strerror}", fix=self.fix) from error


def landmarker_folder() -> Path:
    """Return where `spoter-kit landmarker fetch` puts the landmarker, in the user's cache."""
    return cache_folder() / "landmarker"


def read_landmarker(folder: Path | str | None = None) -> LandmarkerFiles:
    """Return what a landmarker folder says of itself.

    Args:
        folder: None means `landmarker_folder()`.

    Raises:
        BundleError: there is none, or its manifest is damaged or of a newer schema.
    """
    folder = landmarker_folder() if folder is None else Path(folder)
    manifest = folder / MANIFEST
    try:
        content = read_bytes(manifest, most_bytes=_MOST_BYTES)
        value = json_from_text(content)
    except FileNotFoundError:
        raise BundleError(f"{folder}: no landmarker there", fix="spoter-kit landmarker fetch") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{manifest}: cannot be read: {error}", fix=_AGAIN) from error
    return _checked(folder, content, value)


def copy_landmarker(files: LandmarkerFiles, folder: Path) -> None:
    """Copy a landmarker after comparing its files with their hashes.

    Raises:
        BundleError: a file was changed, or is missing.
        OSError: the disk is full.
    """
    folder.mkdir()
    (folder / MANIFEST).write_bytes(files.manifest)
    for name in (*files.hashes, *(engine.path for engine in files.engines)):
        (folder / name).write_bytes(files.read(name))


def landmarker_in(bundle: Bundle) -> LandmarkerFiles | None:
    """Return the landmarker of a bundle; None where the bundle has none.

    Raises:
        BundleError: its manifest is not the one that was exported, or is damaged.
    """
    listed = f"{BUNDLED}/{MANIFEST}"
    if listed not in bundle.files:
        return None
    content = bundle.read(listed)  # it holds the hashes of the other files
    try:
        return _checked(bundle.folder / BUNDLED, content, json_from_text(content))
    except ValueError as error:
        raise BundleError(f"{bundle.folder / listed}: cannot be read: {error}", fix=COPY_AGAIN) from error


def trained_on(provenance: dict[str, Any]) -> str:
    """Return the name of the landmarker that found a model's training data; empty where nobody knows."""
    data = provenance.get("data")
    return str(data.get("landmarker") or "") if isinstance(data, dict) else ""


def warn_of_other_landmarker(model: str, given: str, *, where: object) -> None:
    """Warn where a model is given the landmarks of another landmarker than it was trained on.

    Args:
        model: the landmarker of its training data; empty where nobody knows.
        given: the landmarker of the clips; empty where nobody knows.
        where: names the model.
    """
    if model and given and model != given:
        warn(
            f"{where}: was trained on landmarks of {short_name(model)} and is given landmarks of "
            f"{short_name(given)}: some labels may be others. Fix: take the same landmarker for both"
        )


def short_name(landmarker: str) -> str:
    """Return a landmarker's name for people: a hash is cut."""
    return f"{landmarker[:12]}…" if len(landmarker) == 64 else landmarker


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manifest:
    """The fields of landmarker.json that are read, besides its schema version."""

    sha256: str
    files: dict[str, str]
    source: str


def _checked(folder: Path, content: bytes, value: Any) -> LandmarkerFiles:
    manifest = folder / MANIFEST
    try:
        expect(value, dict[str, Any], "")
        version = value.get("schema_version")
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{manifest}: schema {shown(version)}, this version reads {SCHEMA_VERSION}",
                fix=_AGAIN,
            )
        known = {field.name for field in fields(_Manifest)}  # a newer version may state more
        stated = made_from(_Manifest, {name: value[name] for name in value if name in known})
        for name, digest in (("sha256", stated.sha256), *stated.files.items()):
            check_sha256(digest, f"files.{file_name(name, 'files')}")
        if missing := {f"{name}.onnx" for name in GRAPHS} - stated.files.keys():
            raise BundleError(f"{manifest}: does not list {', '.join(sorted(missing))}")
        engines = tuple(
            made_from(LandmarkerEngine, engine, f"engines[{i}]")
            for i, engine in enumerate(expect(value.get("engines", []), list[Any], "engines"))
        )
        for engine in engines:
            engine.spec.check(engine.path)
            if engine.path != f"{engine.graph}.{engine.spec.library}.engine" or engine.graph not in GRAPHS:
                raise ValueError(f"{engine.path}: no name of an engine")  # never outside the folder
    except ValueError as error:
        raise BundleError(f"{manifest}: is damaged: {error}", fix=_AGAIN) from error
    return LandmarkerFiles(
        folder=folder,
        sha256=stated.sha256,
        hashes=stated.files,
        source=stated.source,
        engines=engines,
        manifest=content,
    )
