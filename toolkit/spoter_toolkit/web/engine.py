"""The browser's engine, ONNX Runtime Web: from a folder, or from npm where somebody asks for it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from spoter_runtime.errors import BundleError, DataError
from spoter_runtime.files import cache_folder, replacing

VERSION: Final = "1.30.0"
PACKAGE: Final = f"onnxruntime-web@{VERSION}"
WASM: Final = "ort-wasm-simd-threaded.wasm"
FROM_NPM: Final = "npm"  # as `--engine`

# File of the package's folder dist → its sha256.
FILES: Final = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
# The same with WebGPU, for browsers that have it and JSPI.
WEBGPU_WASM: Final = "ort-wasm-simd-threaded.jspi.wasm"
WEBGPU_FILES: Final = {
    "ort.jspi.bundle.min.mjs": "07ec090355e11b342c95436db54da2d0c2bd5b1d319745bfd3337e6bdcf170ac",
    WEBGPU_WASM: "a54c76f86b0f0d9572380cf1c6292a7b3903716ffcbcd6b0e5c7050bf430eb93",
}
NOTICE: Final = (
    f"ONNX Runtime Web {VERSION}, Copyright (c) Microsoft Corporation, MIT License: "
    "the scripts ort.*.mjs and the WebAssembly beside them, unchanged.\n"
)


def engine_files(*, webgpu: bool) -> dict[str, str]:
    """Return file → sha256 of the engine, with the files for WebGPU or without."""
    return FILES | WEBGPU_FILES if webgpu else FILES


def find_engine(given: str | None = None, *, webgpu: bool = False) -> Path:
    """Return the folder with the engine's files, each checked by its hash.

    Args:
        given: a folder, the package's own or its ``dist``; ``"npm"`` downloads it into the user's cache; None
            takes the one in the cache.
        webgpu: with the files for WebGPU.

    Raises:
        DataError: it is not there, or npm could not fetch it.
        BundleError: a file has another hash.
    """
    cached = cache_folder() / f"onnxruntime-web-{VERSION}"
    wanted = engine_files(webgpu=webgpu)
    if given == FROM_NPM and not all((cached / name).is_file() for name in wanted):
        fetch_engine(cached)
    folder = cached if given in (None, FROM_NPM) else Path(given)
    folder = folder if (folder / WASM).is_file() else folder / "dist"
    for name, expected in wanted.items():
        if not (folder / name).is_file():
            raise DataError(
                f"{given or 'the browser engine'}: no {name} of {PACKAGE} there",
                fix="spoter-kit export BUNDLE --web SITE --engine npm, which downloads it once; or --engine "
                "node_modules/onnxruntime-web",
            )
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if digest != expected:
            raise BundleError(
                f"{folder / name}: is not the one of {PACKAGE}: sha256 {digest[:12]}…, expected "
                f"{expected[:12]}…",
                fix=f"npm install {PACKAGE}",
            )
    return folder


def fetch_engine(folder: Path) -> None:
    """Download the engine with npm, and keep its files in a folder, those for WebGPU too.

    Raises:
        DataError: there is no npm, or it failed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed", fix=f"install Node.js, or --engine FOLDER with {PACKAGE}")
    with TemporaryDirectory() as there:
        done = subprocess.run(
            [npm, "pack", "--silent", "--pack-destination", there, PACKAGE],
            cwd=there,
            capture_output=True,
            text=True,
            check=False,
        )
        archive = next(Path(there).glob("*.tgz"), None)
        if done.returncode or archive is None:
            last = (done.stderr.strip() or "npm said nothing").splitlines()[-1]
            raise DataError(
                f"npm could not download {PACKAGE}: {last}", fix="--engine FOLDER, copied from elsewhere"
            )
        with replacing(folder) as temporary, tarfile.open(archive) as packed:
            temporary.mkdir()
            for name in engine_files(webgpu=True):
                member = packed.extractfile(f"package/dist/{name}")
                assert member is not None
                (temporary / name).write_bytes(member.read())
