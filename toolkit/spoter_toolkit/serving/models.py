"""The models of a server: bundles by name and version, reloaded as a whole or not at all."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from spoter_runtime.backends import open_runner
from spoter_runtime.bundle.goldens import replay_goldens
from spoter_runtime.bundle.manifest import Bundle, read_bundle
from spoter_runtime.errors import BundleError, ConfigError, SpoterError, nearest_known
from spoter_runtime.runner import Runner
from spoter_toolkit.serving.protocol import Refused

MODEL_NAME: Final = re.compile(r"[\w.-]{1,100}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """A bundle that answers.

    Attributes:
        sha256: of its fp32 ONNX file, which names the model.
        golden: the result of its golden test here, in words.
    """

    name: str
    version: str
    bundle: Bundle
    runner: Runner
    sha256: str
    golden: str


@dataclass(slots=True, kw_only=True)
class Models:
    """The models, by name and version. A reload replaces one at once; requests keep the one they began with.

    Attributes:
        sources: (name, version) → the bundle's folder.
    """

    sources: Mapping[tuple[str, str], Path]
    backend: str | None = None
    precision: str = "fp32"
    _now: dict[tuple[str, str], Model] = field(default_factory=dict)
    _before: dict[tuple[str, str], Model] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)  # one reload at a time

    def load(self) -> None:
        """Load all.

        Raises:
            SpoterError: one cannot be loaded, or fails its golden test.
        """
        for key in self.sources:
            self._now[key] = self._open(key)

    def all(self) -> list[Model]:
        """Return the models in the order of their sources."""
        return [self._now[key] for key in self.sources]

    def versions(self, name: str) -> list[str]:
        """Return a model's versions, the oldest first; empty for an unknown one."""
        found = [version for known, version in self.sources if known == name]
        return sorted(found, key=lambda version: (len(version), version))

    def find(self, name: str, version: str = "") -> Model:
        """Return a model; without a version the newest.

        Raises:
            Refused: with 404.
        """
        versions = self.versions(name)
        if not versions:
            names = list(dict.fromkeys(name for name, _ in self.sources))
            raise Refused(f"no model {name!r}; {nearest_known(name, names)}", status=404)
        if version and version not in versions:
            raise Refused(
                f"model {name!r} has no version {version!r}; there are {', '.join(versions)}", status=404
            )
        return self._now[name, version or versions[-1]]

    def reload(self, name: str, version: str = "") -> Model:
        """Read a bundle again from its folder, and replace its model if it is sound.

        Raises:
            Refused: it is not; the model of before goes on answering.
        """
        old = self.find(name, version)
        key = (old.name, old.version)
        with self._lock:
            try:
                new = self._open(key)
            except (SpoterError, OSError) as error:
                raise Refused(
                    f"not reloaded, {name} {old.version} of before goes on answering: {error}"
                ) from error
            self._before[key], self._now[key] = self._now[key], new
        return new

    def roll_back(self, name: str, version: str = "") -> Model:
        """Take back the model from before the last reload, without reading a file.

        Raises:
            Refused: there was none.
        """
        key = ((found := self.find(name, version)).name, found.version)
        with self._lock:
            if key not in self._before:
                raise Refused(f"{name} {key[1]}: was not reloaded, there is nothing to go back to")
            self._now[key], self._before[key] = self._before[key], self._now[key]
            return self._now[key]

    def _open(self, key: tuple[str, str]) -> Model:
        """Read a bundle, open it with one thread for each call, and run its golden test.

        Raises:
            SpoterError: no bundle, damaged, no engine, or other answers than the reference's.
        """
        bundle = read_bundle(self.sources[key])
        bundle.check_files()
        opened = open_runner(bundle, self.backend, precision=self.precision, threads=1)
        replay = replay_goldens(opened.runner, bundle.goldens(), opened.artefact)
        if not replay.passed:
            raise BundleError(f"{bundle.folder}: its answers here are not the model's: {replay}")
        sha256 = bundle.onnx().sha256
        name, version = key
        return Model(
            name=name,
            version=version,
            bundle=bundle,
            runner=opened.runner,
            sha256=sha256,
            golden=str(replay),
        )


def model_name(folder: Path) -> str:
    """Return a bundle's name on a server, here and in Triton: its folder's, ``letters`` of letters.spoter."""
    return folder.resolve().stem


def sources_from(words: Sequence[str]) -> dict[tuple[str, str], Path]:
    """Parse ``BUNDLE``, ``NAME=BUNDLE`` and ``NAME:VERSION=BUNDLE``; without a name, see `model_name`.

    Raises:
        ConfigError: a wrong name or version, or the same one twice.
    """
    found: dict[tuple[str, str], Path] = {}
    for word in words:
        named, equals, path = word.rpartition("=")
        folder = Path(path if equals else word)
        name, _, version = named.partition(":")
        key = (name or model_name(folder), version or "1")
        if not MODEL_NAME.fullmatch(key[0]) or not (key[1].isascii() and key[1].isdigit()):
            raise ConfigError(
                f"{word}: expected letters and digits as a name, and a number as its version",
                fix=f"letters:1={folder}",
            )
        if key in found:
            raise ConfigError(
                f"{word}: {key[0]} {key[1]} is there twice", fix=f"{key[0]}:{int(key[1]) + 1}={folder}"
            )
        found[key] = folder
    return found
