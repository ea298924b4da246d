"""Read a bundle: its manifest, the hashes of its files, the goldens."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import numpy as np

from spoter_runtime.bundle.engine_spec import EngineSpec
from spoter_runtime.bundle.libraries import EXTRAS, Library, builder_of
from spoter_runtime.checked_file import (
    MODEL_BYTES,
    OTHER_BYTES,
    KeptFile,
    check_digest,
    check_file,
    is_file,
    read_checked,
)
from spoter_runtime.contract import GraphContract
from spoter_runtime.decision import Abstention
from spoter_runtime.errors import BackendError, BundleError, upgrade_fix
from spoter_runtime.files import check_size, read_bytes
from spoter_runtime.landmarks import NUM_FEATURES, NUM_LANDMARKS, Float32Array
from spoter_runtime.runner import Int32Array
from spoter_runtime.strict import file_name, json_from_text, made_from, read_arrays, shown

SCHEMA_VERSION: Final = 1
MANIFEST: Final = "bundle.json"
GOLDENS: Final = "goldens.npz"
STREAM: Final = "golden_stream.jsonl"  # a landmark log
STREAM_ANSWERS: Final = "golden_answers.jsonl"  # of its segments, from the reference
PARITY: Final = "parity.json"
MODEL_CARD: Final = "MODEL_CARD.md"
SIGNATURE: Final = "model.sig"
_MOST_CLIPS: Final = 10_000_000

_GOLDENS_BYTES: Final = 1 << 28  # a hundred times what 32 clips of 299 frames take
_MANIFEST_BYTES: Final = 1 << 24  # 2,000 times what 60 labels and two files take


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A file of a bundle that an engine runs.

    Attributes:
        path: relative to the bundle, with forward slashes.
        kind: ``"onnx"``, ``"ort"`` for an ONNX file that ONNX Runtime has optimised, ``"trt8"`` for one that
            TensorRT 8.6 reads, or ``"engine"`` for a TensorRT plan.
        precision: ``"fp32"``, ``"fp16"``, …
        requires: the machine's requirements, for people and for preflight: ``{"onnxruntime": ">=1.20"}``.
        max_logit_diff: the largest difference from the reference's logits that is allowed, on any device.
        engine: the description of a TensorRT plan; None for an ONNX file.
    """

    path: str
    kind: str
    precision: str
    sha256: str
    size_bytes: int
    max_logit_diff: float
    requires: dict[str, str] = field(default_factory=dict)
    engine: EngineSpec | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; an ONNX file has no entry for an engine."""
        return {key: value for key, value in asdict(self).items() if key != "engine" or value is not None}

    def check(self, where: str) -> None:
        """Check the values of the fields, whose types are right.

        Raises:
            ValueError: no name of a kind or precision, no hash, a size or tolerance that is none, or an
                engine's file without `engine`.
        """
        for name in ("kind", "precision"):  # a newer version may have others; nothing here would run them
            value = getattr(self, name)
            if not re.fullmatch("[a-z0-9]{1,20}", value):
                raise ValueError(f"{where}.{name}: {shown(value)}, expected a name such as onnx or fp32")
        check_sha256(self.sha256, f"{where}.sha256")
        if self.size_bytes < 0:
            raise ValueError(f"{where}.size_bytes: {self.size_bytes}")
        if not self.max_logit_diff >= 0:
            raise ValueError(f"{where}.max_logit_diff: {self.max_logit_diff}, expected at least 0")
        if (self.engine is not None) != (self.kind == "engine"):
            raise ValueError(
                f"{where}: kind {self.kind} {'without' if self.engine is None else 'with'} engine"
            )
        for name, version in self.requires.items():
            if not re.fullmatch(r"[\w. -]{1,60}", name) or not re.fullmatch(r"[\w.<>=!,+ -]{0,60}", version):
                raise ValueError(f"{where}.requires: {shown(name)}: {shown(version)}")
        if self.engine is not None:
            self.engine.check(f"{where}.engine")


class Goldens(NamedTuple):
    """Stored inputs with the reference's answers, for the golden test.

    Attributes:
        poses_NTD: (N, T, 108) float32, padded with zeros.
        lengths_N: (N,) int32.
        logits_NC: (N, C) float32, from the PyTorch model.
    """

    poses_NTD: Float32Array
    lengths_N: Int32Array
    logits_NC: Float32Array

    def check(self, contract: GraphContract) -> None:
        """Check types, shapes and values.

        Raises:
            ValueError: they are no inputs and logits of this contract.
        """
        kinds = [array.dtype for array in self]
        if kinds != [np.float32, np.int32, np.float32]:
            raise ValueError(f"poses, lengths and logits are {kinds}, expected float32, int32 and float32")
        clips, frames = self.poses_NTD.shape[:2] if self.poses_NTD.ndim == 3 else (0, 0)
        expected = [(clips, frames, NUM_FEATURES), (clips,), (clips, contract.num_classes)]
        if (found := [array.shape for array in self]) != expected or clips < 1:
            raise ValueError(
                f"poses, lengths and logits are {found}; expected one row a clip, at least one, and "
                f"{contract.num_classes} classes"
            )
        if not 1 <= self.lengths_N.min() <= self.lengths_N.max() <= min(frames, contract.max_frames):
            raise ValueError(f"a clip's frames are not within 1..{min(frames, contract.max_frames)}")

    def clips(self) -> list[Float32Array]:
        """Return each clip without its padding, (frames, 54, 2)."""
        lengths = self.lengths_N.tolist()
        return [
            poses_TD[:frames].reshape(frames, NUM_LANDMARKS, 2)
            for poses_TD, frames in zip(self.poses_NTD, lengths, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle folder whose manifest has been read and checked; files are hashed when they are used."""

    folder: Path
    name: str
    contract: GraphContract
    artefacts: tuple[Artefact, ...]
    files: dict[str, str]  # every other file → its sha256
    provenance: dict[str, Any]
    abstention: Abstention | None = None  # when it says "no sign"; None: it holds no calibration

    def hashes(self) -> dict[str, str]:
        """Return path → sha256 of every listed file, artefacts first."""
        return {artefact.path: artefact.sha256 for artefact in self.artefacts} | self.files

    def onnx(self, precision: str = "fp32") -> Artefact:
        """Return the ONNX artefact (kind ``"onnx"``) of a precision.

        Raises:
            BundleError: there is none; the message names the precisions that the bundle has.
        """
        found = self.by_precision("onnx")
        if precision not in found:
            raise BundleError(
                f"{self.folder}: has no {precision} ONNX file, only {', '.join(found) or 'none at all'}",
                fix="export the RUN again with --precision, or take one of those",
            )
        return found[precision]

    def by_precision(self, kind: str) -> dict[str, Artefact]:
        """Return precision → artefact of a kind, ``"onnx"``, ``"ort"`` or ``"trt8"``."""
        return {artefact.precision: artefact for artefact in self.artefacts if artefact.kind == kind}

    def engines(self, library: Library, precision: str) -> list[Artefact]:
        """Return the engines in a precision that a library runs, or could run if they were built so.

        Raises:
            BackendError: there is none; the message says how to build one.
        """
        found = [
            artefact
            for artefact in self.artefacts
            if (spec := artefact.engine)
            and spec.library == builder_of(library)
            and artefact.precision == precision
        ]
        if not found:
            raise BackendError(
                f"{self.folder}: has no {precision} engine for {library}",
                fix=self.export_fix(library, precision),
            )
        return found

    def export_fix(self, library: Library, precision: str, *options: str) -> str:
        """Return the text of a fix: the command that builds the engine, or why it cannot be built here."""
        if precision == "int8":
            return "take ort-cpu for int8, which is for CPUs; engines are fp32 or fp16"
        precisions = () if precision == "fp32" else (f"--precision {precision}",)
        if library == "tensorrt_lean":
            options = ("--version-compatible", *options)
        command = " ".join([str(self.folder), f"--{EXTRAS[builder_of(library)]}", *precisions, *options])
        return f"spoter-kit export {command}, or python -m spoter_export {command}"

    def most_bytes(self, path: str) -> int:
        """Return how many bytes a file may have: a model or engine as many as the manifest says."""
        for artefact in self.artefacts:
            if artefact.path == path:
                return min(artefact.size_bytes, MODEL_BYTES)
        return _GOLDENS_BYTES if path == GOLDENS else OTHER_BYTES

    def read(self, path: str) -> bytes:
        """Return a file's bytes after checking them against the manifest's hash.

        Raises:
            BundleError: the file is missing, not listed, larger than `most_bytes`, or has another hash.
        """
        with self._listed(path) as (file, expected):
            return read_checked(file, expected, most_bytes=self.most_bytes(path))

    def keep(self, path: str) -> KeptFile:
        """Keep a file open, to read it later even if it is replaced; its hash is checked then.

        Raises:
            BundleError: it is missing, not listed, or larger than `most_bytes`.
        """
        with self._listed(path) as (file, expected):
            check_size(file, self.most_bytes(path))
            return KeptFile(file, expected)

    def check_files(self) -> int:
        """Check the hash of every file of the bundle; return the number of files.

        Raises:
            BundleError: as `read`, for the first file that fails.
        """
        paths = sorted(self.hashes())
        for path in paths:
            with self._listed(path) as (file, expected):
                check_file(file, expected, most_bytes=self.most_bytes(path))
        return len(paths)

    @contextmanager
    def _listed(self, path: str) -> Iterator[tuple[Path, str]]:
        """Yield a listed file's path and hash; an OSError inside the block becomes a BundleError."""
        hashes, file = self.hashes(), self.folder / path
        if path not in hashes:
            raise BundleError(f"{self.folder}: {path} is not listed in {MANIFEST}")
        try:
            yield file, hashes[path]
        except OSError as error:
            raise BundleError(
                f"{file}: listed in {MANIFEST} but cannot be read ({error.strerror})",
                fix="copy the whole bundle again",
            ) from error

    def frame_counts(self) -> dict[int, int]:
        """Return frames → number of clips of the model's training data; empty if unknown.

        Raises:
            BundleError: the provenance holds no such counts.
        """
        data = self.provenance.get("data")
        content = data.get("frame_counts") if isinstance(data, dict) else None
        try:
            return frame_counts_from_json({} if content is None else content)
        except ValueError as error:
            raise BundleError(f"{self.folder}: frame_counts in its provenance: {error}") from error

    def goldens(self) -> Goldens:
        """Load the golden inputs and reference logits.

        Raises:
            BundleError: as `read`, or the file is not a set of goldens for this contract.
        """
        import io  # not at the top: a start that replays nothing needs it not

        try:
            content = self.read(GOLDENS)
            arrays = read_arrays(
                io.BytesIO(content), ("poses", "lengths", "logits"), most_bytes=_GOLDENS_BYTES
            )
            goldens = Goldens(
                poses_NTD=arrays["poses"], lengths_N=arrays["lengths"], logits_NC=arrays["logits"]
            )
            goldens.check(self.contract)
        except ValueError as error:
            raise BundleError(f"{self.folder / GOLDENS}: cannot be read: {error}") from error
        except OSError as error:
            raise BundleError(f"{self.folder / GOLDENS}: cannot be read ({error.strerror})") from error
        return goldens


def check_sha256(value: str, where: str) -> None:
    """Raise a ValueError unless a text is the hex form of a sha256."""
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError(f"{where}: {shown(value)}, expected 64 hexadecimal digits")


def frame_counts_from_json(content: Any) -> dict[int, int]:
    """Return frames → number of clips, by rising frames and without zeros, from ``{"44": 3, "60": 1}``.

    Raises:
        ValueError: no object, no frames, or a number of clips that is not whole or below 0.
    """
    if not isinstance(content, dict):
        raise ValueError("is no histogram of lengths")
    counts: dict[int, int] = {}
    for frames, clips in content.items():
        if not re.fullmatch("[1-9][0-9]{0,6}", frames):
            raise ValueError(f"{shown(frames)} is no number of frames")
        if type(clips) is not int or clips < 0:
            raise ValueError(f"{shown(clips)} clips of {frames} frames")
        if clips:
            counts[int(frames)] = clips
    if sum(counts.values()) > _MOST_CLIPS:
        raise ValueError(f"{sum(counts.values())} clips, expected at most {_MOST_CLIPS}")
    return dict(sorted(counts.items()))


def manifest_from_bundle(bundle: Bundle) -> dict[str, Any]:
    """Return the JSON content of bundle.json, sealed with a hash of itself."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "name": bundle.name,
        "contract": bundle.contract.as_json(),
        "artefacts": [artefact.as_json() for artefact in bundle.artefacts],
        "files": dict(sorted(bundle.files.items())),
        "provenance": bundle.provenance,
    }
    if bundle.abstention:  # an older version reads past it
        content["abstention"] = bundle.abstention.as_json()
    return content | {"manifest_sha256": _seal(content)}


def _seal(content: dict[str, Any]) -> str:
    """Return the hash of a manifest's values, without its seal; indentation does not count."""
    rest = {key: value for key, value in content.items() if key != "manifest_sha256"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def read_bundle(folder: Path | str, *, sha256: str | None = None) -> Bundle:
    """Read and check a bundle's manifest.

    Args:
        folder: the bundle.
        sha256: that bundle.json has to have; None: any.

    Raises:
        BundleError: no bundle, a damaged or foreign manifest, a newer schema, a path outside the bundle, or
            a listed file that is missing.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    content = _read_manifest(path, sha256)
    if not isinstance(content, dict) or "schema_version" not in content:
        raise BundleError(f"{path}: not the manifest of a spoter-kit bundle")
    if content["schema_version"] is True or content["schema_version"] != SCHEMA_VERSION:
        raise BundleError(
            f"{path}: schema version {shown(content['schema_version'])}, "
            f"this spoter_runtime reads {SCHEMA_VERSION}",
            fix=upgrade_fix(),
        )
    try:
        if content.get("manifest_sha256") != _seal(content):
            raise BundleError(
                f"{path}: its own hash does not fit its content, so it was changed or damaged",
                fix="copy the whole bundle again",
            )
        known = {field.name for field in fields(_Manifest)}  # a newer version may state more
        stated = made_from(_Manifest, {key: content[key] for key in content if key in known})
        file_name(stated.name, "name")
        for i, artefact in enumerate(stated.artefacts):
            artefact.check(f"artefacts[{i}]")
        for name, digest in stated.files.items():
            check_sha256(digest, f"files.{name}")
        abstention = None if stated.abstention is None else Abstention.from_json(stated.abstention)
    except ValueError as error:
        raise BundleError(f"{path}: {error}", fix="export the bundle again") from error
    bundle = Bundle(
        folder=folder,
        name=stated.name,
        contract=GraphContract.from_json(stated.contract, where=str(path)),
        artefacts=stated.artefacts,
        files=stated.files,
        provenance=stated.provenance,
        abstention=abstention,
    )
    _check_rows(bundle, path)
    if len(bundle.hashes()) < len(bundle.artefacts) + len(bundle.files):
        raise BundleError(f"{path}: a file is listed twice")
    for listed in bundle.hashes():
        _check_inside(folder, listed)
    return bundle


def _check_rows(bundle: Bundle, path: Path) -> None:
    rows = len(bundle.abstention.typical_logits) if bundle.abstention else 0
    if rows not in (0, labels := len(bundle.contract.labels)):
        raise BundleError(
            f"{path}: abstention.typical_logits: {rows} rows, expected one for each of {labels} labels",
            fix="export the bundle again",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manifest:
    """The fields of bundle.json besides its schema version and its seal."""

    name: str
    contract: dict[str, Any]
    artefacts: tuple[Artefact, ...]
    files: dict[str, str]
    provenance: dict[str, Any]
    abstention: dict[str, Any] | None = None


def _read_manifest(path: Path, sha256: str | None) -> Any:
    """Return the JSON of a manifest.

    Raises:
        BundleError: no such file, not a file, larger than any manifest, or not JSON.
    """
    folder = path.parent
    try:
        content = read_bytes(path, most_bytes=_MANIFEST_BYTES)
        if sha256 is not None:  # of the very bytes that are parsed
            check_digest(path, hashlib.sha256(content).hexdigest(), sha256)
        return json_from_text(content)
    except (FileNotFoundError, NotADirectoryError) as error:
        if (folder / "run.json").is_file():  # on the desk: the bundle's name is one folder away
            import shlex  # not at the top: a bundle that is there needs none

            fix = f"spoter-kit export {shlex.quote(str(folder))}"
            raise BundleError(f"{folder}: is a RUN, expected a BUNDLE", fix=fix) from error
        what = f"not a bundle: it has no {MANIFEST}" if folder.exists() else "no such folder"
        fix = "check the path, or spoter-kit export makes one"
        if inside := sorted(str(path.parent) for path in folder.glob(f"[!.]*/{MANIFEST}")):
            what, fix = f"is a folder of bundles: {', '.join(inside[:5])}", f"take {inside[0]}"
        raise BundleError(f"{folder}: {what}", fix=fix) from error
    except OSError as error:
        there = os.path.lexists(path)
        raise BundleError(
            f"{path}: cannot be read ({error.strerror})",
            fix="copy the whole bundle again" if there else "spoter-kit export makes a bundle",
        ) from error
    except ValueError as error:
        raise BundleError(
            f"{path}: cannot be read as JSON: {error}", fix="copy the whole bundle again"
        ) from error


def _check_inside(folder: Path, listed: str) -> None:
    pure, path = PurePosixPath(listed), folder / listed
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a link to itself; which of them depends on Python's version
        inside = True
    if pure.is_absolute() or ".." in pure.parts or "\\" in listed or not inside:
        raise BundleError(f"{folder / MANIFEST}: path {listed!r} points outside the bundle; refused")
    if not is_file(path):
        what = "not a file" if os.path.lexists(path) else "not there"
        raise BundleError(
            f"{folder}: {listed} is listed in {MANIFEST} but is {what}", fix="copy the whole bundle again"
        )
