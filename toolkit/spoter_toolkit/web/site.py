"""Write a bundle as a static site: page, worker, engine, bundle, landmarker; any file server serves it."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np

from spoter_runtime import __version__
from spoter_runtime.bundle.manifest import GOLDENS, MANIFEST, Artefact, Bundle
from spoter_runtime.camera.files import GRAPHS, LandmarkerFiles, landmarker_in, read_landmarker
from spoter_runtime.camera.files import MANIFEST as LANDMARKER_MANIFEST
from spoter_runtime.errors import BundleError, DataError
from spoter_runtime.files import check_replaceable, link_or_copy, replacing, sha256_of
from spoter_toolkit.web.engine import NOTICE, VERSION, WASM, WEBGPU_FILES, WEBGPU_WASM, engine_files

SITE: Final = "site.json"
PAGE: Final = ("index.html", "style.css", "icon.svg", "app.js", "worker.js", "spoter.js")
# Without a time, so that the same files give the same site.
_ZIPPED: Final[dict[str, Any]] = {"compresslevel": 9, "mtime": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteReport:
    """A written site.

    Attributes:
        folder: where it is.
        first_bytes: that a first visit loads, over a server that packs nothing by itself.
        camera_bytes: that the camera or a video loads besides; None without a landmarker.
        webgpu_bytes: that they load besides in a browser with WebGPU; None without its engine.
    """

    folder: Path
    first_bytes: int
    camera_bytes: int | None
    webgpu_bytes: int | None

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "site": str(self.folder),
            "first_bytes": self.first_bytes,
            "camera_bytes": self.camera_bytes,
            "webgpu_bytes": self.webgpu_bytes,
        }


def check_site_folder(folder: Path, *, force: bool) -> None:
    """Raise a DataError unless a site may be written there."""
    check_replaceable(folder, SITE, force=force, foreign="is no site of spoter-kit", error=DataError)


def page_file(bundle: Bundle, precision: str = "fp32") -> Artefact:
    """Return the file that the page runs: that which ONNX Runtime has optimised already, or the plain one.

    Raises:
        BundleError: it has no model of the precision.
    """
    plain = bundle.onnx(precision)
    return bundle.by_precision("ort").get(precision, plain)


def write_site(
    bundle: Bundle,
    folder: Path,
    engine: Path,
    *,
    precision: str = "fp32",
    webgpu: bool = False,
    force: bool = False,
) -> SiteReport:
    """Write the site.

    Args:
        bundle: from `read_bundle`; every file of it is compared with its hash and copied.
        folder: the site's.
        engine: from `find_engine`.
        precision: of the model that the page runs.
        webgpu: with the engine's files for WebGPU.
        force: replace a site.

    Raises:
        BundleError: the bundle or the landmarker is damaged, or has no model of the precision.
        DataError: another folder is there.
    """
    check_site_folder(folder, force=force)
    model = page_file(bundle, precision).path
    bundle.check_files()
    landmarker = _landmarker(bundle)
    page = files("spoter_toolkit.web").joinpath("page")
    with replacing(folder) as site:
        shutil.copytree(bundle.folder, site / "bundle", copy_function=link_or_copy)
        for name in PAGE:
            (site / name).write_bytes(page.joinpath(name).read_bytes())
        (site / "engine").mkdir()
        for name in engine_files(webgpu=webgpu):
            content = (engine / name).read_bytes()
            _write_packed(site / "engine" / name, content, packed=name in (WASM, WEBGPU_WASM))
        (site / "engine" / "NOTICE").write_text(NOTICE, encoding="utf-8")
        if landmarker:
            _write_landmarker(landmarker, site / "landmarker")
        camera_bytes = _size(site / "landmarker") if landmarker else None
        gpu_files = [path for name in WEBGPU_FILES for path in (site / "engine").glob(f"{name}*")]
        webgpu_bytes = sum(path.stat().st_size for path in gpu_files) or None
        _write_json(site / SITE, _facts(bundle, precision, camera_bytes, webgpu=webgpu))
        _write_json(site / "manifest.webmanifest", _web_manifest(bundle))
        first = [
            *(*PAGE, SITE, "manifest.webmanifest", "engine/ort.wasm.bundle.min.mjs", f"engine/{WASM}.gz"),
            *(f"bundle/{name}" for name in (MANIFEST, model, GOLDENS)),
        ]
        worker = page.joinpath("sw.js").read_text(encoding="utf-8")
        hashes = _hashes(site)
        kept = {"version": _version(hashes), "files": ["./", *first], "hashes": hashes}
        (site / "sw.js").write_text(f"self.SITE = {json.dumps(kept)};\n{worker}", encoding="utf-8")
        first_bytes = sum((site / name).stat().st_size for name in first)
    return SiteReport(
        folder=folder, first_bytes=first_bytes, camera_bytes=camera_bytes, webgpu_bytes=webgpu_bytes
    )


def _landmarker(bundle: Bundle) -> LandmarkerFiles | None:
    """Return the bundle's landmarker, or else the one of the user's cache; None where neither is."""
    if own := landmarker_in(bundle):
        return own
    try:
        return read_landmarker()
    except BundleError:
        return None


def _write_landmarker(found: LandmarkerFiles, folder: Path) -> None:
    """Write the networks packed, and their goldens with what they are asked."""
    from spoter_runtime.camera.goldens import golden_answers, golden_inputs

    folder.mkdir()
    answers = golden_answers(found)
    for graph in GRAPHS:
        _write_packed(folder / f"{graph}.onnx", found.read(f"{graph}.onnx"), packed=True)
    (folder / LANDMARKER_MANIFEST).write_bytes(found.manifest)
    for name in ("LICENSE", "NOTICE"):
        if (found.folder / name).is_file():
            shutil.copyfile(found.folder / name, folder / name)
    asked = {
        f"{graph}:{name}": value
        for graph, inputs in golden_inputs().items()
        for name, value in inputs.items()
    }
    np.savez_compressed(folder / "web-goldens.npz", allow_pickle=False, **answers, **asked)


def _write_packed(file: Path, content: bytes, *, packed: bool) -> None:
    if packed:
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(content, **_ZIPPED))
    else:
        file.write_bytes(content)


def _facts(bundle: Bundle, precision: str, camera_bytes: int | None, *, webgpu: bool) -> dict[str, Any]:
    return {
        "name": bundle.name,
        "spoter_kit": __version__,
        "precision": precision,
        "engine": {"version": VERSION, "hashes": engine_files(webgpu=webgpu), "webgpu": webgpu},
        "packed": [WASM, WEBGPU_WASM, *(f"{graph}.onnx" for graph in GRAPHS)],
        "landmarker": None if camera_bytes is None else {"bytes": camera_bytes},
    }


def _web_manifest(bundle: Bundle) -> dict[str, Any]:
    return {
        "name": f"{bundle.name}: sign recognition",
        "short_name": bundle.name[:12],
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "background_color": "#ffffff",
        "theme_color": "#0b5c8a",
        "icons": [{"src": "icon.svg", "sizes": "any", "type": "image/svg+xml", "purpose": "any maskable"}],
    }


def _hashes(site: Path) -> dict[str, str]:
    """Return path → sha256 of each file, so that a browser keeps none that was damaged on the way."""
    return {
        path.relative_to(site).as_posix(): sha256_of(path)
        for path in sorted(site.rglob("*"))
        if path.is_file()
    }


def _version(hashes: dict[str, str]) -> str:
    """Return a hash of the files that a browser keeps: another site has another."""
    return hashlib.sha256("".join(hashes.values()).encode()).hexdigest()[:16]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
