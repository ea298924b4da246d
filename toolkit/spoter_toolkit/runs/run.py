"""RUN folders: read and write run.json, find a bundle's run and a run's training data."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from spoter_runtime.bundle.manifest import Bundle
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import BundleError, CheckpointError, DataError, SpoterError
from spoter_runtime.files import put_back, read_text, sha256_of, write_json
from spoter_runtime.strict import expect, file_name, made_from, read_json, shown
from spoter_toolkit.data.dataset import Dataset, read_dataset
from spoter_toolkit.model.config import ModelConfig
from spoter_toolkit.workspace import LAST, RUN_JSON, RUN_LEARNED, RUN_WEIGHTS, RUNS, is_locked

if TYPE_CHECKING:
    from spoter_toolkit.model.spoter import Spoter

SCHEMA_VERSION: Final = 1
RUNNING: Final = "running"  # status of a training, or of one that was killed
STOPPED: Final = "stopped"  # status of a training that ended before its last step

_MOST_BYTES: Final = 1 << 26  # of run.json
_PACKAGES: Final = ("spoter-kit", "torch", "numpy", "accelerate", "safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A RUN folder whose run.json has been read.

    Attributes:
        info: the whole of run.json: config, seed, versions, commit, data, metrics.
        data: facts of the training data (folder, sha256, split, …); None for an imported checkpoint.
    """

    folder: Path
    config: ModelConfig
    labels: tuple[Label, ...]
    info: dict[str, Any]

    @property
    def name(self) -> str:
        """The run's name, also its bundle's."""
        return str(self.info["name"])

    @property
    def data(self) -> dict[str, Any] | None:
        """The facts of the training data in run.json; None for an imported checkpoint."""
        data: dict[str, Any] | None = self.info["data"]
        return data

    @property
    def is_finished(self) -> bool:
        """False for a training that goes on, or was stopped and not resumed."""
        return self.info["status"] not in (RUNNING, STOPPED)

    def unfinished(self) -> SpoterError | None:
        """Return a remark on a training that has not ended, with how it goes on; None where it has ended."""
        if self.is_finished:
            return None
        if is_locked(self.folder):
            return SpoterError(f"{self.folder}: its training goes on", fix="wait until it ends")
        go_on = resume_command(self.folder)
        return SpoterError(f"{self.folder}: its training was interrupted{self.stopped_after()}", fix=go_on)

    def stopped_after(self) -> str:
        """Return `` after 350 of at most 4,000 steps`` of a training that was stopped, as far as is known."""
        steps, most = (self.info["metrics"].get(name) for name in ("steps", "most_steps"))
        if self.info["status"] != STOPPED or not (isinstance(steps, int) and isinstance(most, int)):
            return ""
        return f" after {steps:,} of at most {most:,} steps"

    def contract(self, max_batch: int = 32) -> GraphContract:
        """Return the contract of this run's model."""
        return GraphContract(labels=self.labels, max_frames=self.config.max_frames, max_batch=max_batch)

    def weights_sha256(self) -> str:
        """Return the sha256 of the weights file.

        Raises:
            CheckpointError: the run has no weights yet.
        """
        return sha256_of(self.weights_path())

    def weights_path(self) -> Path:
        """Return the path of the weights file.

        Raises:
            CheckpointError: the run has no weights yet.
        """
        path = self.folder / RUN_WEIGHTS
        if not path.is_file():
            unfinished = self.unfinished()
            raise CheckpointError(
                f"{self.folder}: no {RUN_WEIGHTS}: no epoch of its training has ended yet",
                fix=unfinished.fix if unfinished else "spoter-kit train makes another one",
            )
        return path

    def load_model(self) -> Spoter:
        """Return the model with this run's weights, in eval mode, on the CPU.

        Raises:
            CheckpointError: the weights are missing, damaged, or of other sizes than in run.json.
        """
        path = self.weights_path()  # before torch is imported
        from spoter_toolkit.runs.weights import model_from_weights

        return model_from_weights(path, self.config)

    def learned(self) -> frozenset[str]:
        """Return the `names_of` all clips that it was trained on; empty where an older version trained it.

        Raises:
            CheckpointError: the list cannot be read.
        """
        path = self.folder / RUN_LEARNED
        try:
            return frozenset(read_text(path).split()) if path.is_file() else frozenset()
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}", fix="delete it") from error

    def training_data(self) -> Dataset | None:
        """Return the run's training data; None if the run was imported, or the folder is gone.

        Raises:
            DataError: the folder holds other data now, or the same in another split.
        """
        if self.data is None or not Path(self.data["folder"]).is_dir():
            return None
        folder = Path(self.data["folder"])
        if folder.is_relative_to(Path.cwd()):
            folder = folder.relative_to(Path.cwd())  # shorter to read in reports
        dataset = read_dataset(folder)
        if dataset.sha256 != self.data["sha256"]:
            then, name = self.data.get("split"), shlex.quote(str(dataset.folder))
            changed = f"split {dataset.split!r}, then {then!r}" if then != dataset.split else "other clips"
            raise DataError(
                f"{dataset.folder}: has changed since {self.folder} was trained on it: {changed}",
                fix=f"--data {name} takes it as it is now",
            )
        return dataset


def resume_command(folder: Path) -> str:
    """Return the command that goes on with a training that was stopped."""
    return f"spoter-kit train --resume -o {shlex.quote(str(folder))}"


def read_run(folder: Path | str) -> Run:
    """Open a RUN folder.

    Raises:
        CheckpointError: no run there, damaged run.json, or a newer schema.
    """
    folder = Path(folder)
    put_back(folder)
    path = folder / RUN_JSON
    try:
        info = read_json(path, most_bytes=_MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = f"not a run: it has no {RUN_JSON}" if folder.exists() else "no such folder"
        raise CheckpointError(f"{folder}: {what}", fix="spoter-kit train makes one") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(info, dict) or info.get("schema_version") != SCHEMA_VERSION:
        got = info.get("schema_version") if isinstance(info, dict) else None
        raise CheckpointError(f"{path}: schema version {shown(got)}, this spoter-kit reads {SCHEMA_VERSION}")
    try:
        stated = made_from(_Stated, info)
        file_name(stated.name, "name")
        if stated.data is not None:
            for name in ("folder", "sha256"):
                expect(stated.data.get(name), str, f"data.{name}")
    except ValueError as error:
        raise CheckpointError(f"{path}: a field is missing or wrong: {error}") from error
    return Run(folder=folder, config=stated.model, labels=stated.labels, info=info)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stated:
    """The fields of run.json."""

    schema_version: int
    name: str
    status: str
    origin: str
    model: ModelConfig
    train: dict[str, Any] | None
    data: dict[str, Any] | None
    metrics: dict[str, Any]
    labels: tuple[Label, ...]
    commit: str | None
    versions: dict[str, str] = field(default_factory=dict)


def find_run(bundle: Bundle, run: Path | None = None) -> Run:
    """Return the RUN that a bundle was made from.

    Args:
        bundle: from `read_bundle`.
        run: the RUN's folder; None tries ``runs/<name>``, then the last run.

    Raises:
        BundleError: the bundle was not made from a RUN.
        CheckpointError: no such RUN, or it has other weights.
    """
    stated = bundle.provenance.get("run")
    if not isinstance(stated, dict) or not all(
        isinstance(stated.get(name), str) for name in ("name", "weights_sha256")
    ):
        raise BundleError(
            f"{bundle.folder}: does not say which run it was made from, so torch cannot load it"
        )
    folder = run or RUNS / stated["name"]
    if run is None and not folder.is_dir():
        folder = RUNS / LAST  # for a run made elsewhere with -o
        weights = folder / RUN_WEIGHTS
        if not weights.is_file() or sha256_of(weights) != stated["weights_sha256"]:
            raise CheckpointError(
                f"{bundle.folder}: made from the run {stated['name']!r}, which is not at "
                f"{RUNS / stated['name']}",
                fix="name it with --run; without the RUN, spoter-kit verify, which replays stored answers",
            )
    found = read_run(folder)
    digest = found.weights_sha256()
    if digest != stated["weights_sha256"]:
        raise CheckpointError(
            f"{folder}: its weights are {digest[:12]}…, the bundle {bundle.folder} was made from "
            f"{stated['weights_sha256'][:12]}…",
            fix="name the right one with --run, or export again",
        )
    return found


def write_run_json(
    folder: Path,
    *,
    name: str,
    config: ModelConfig,
    labels: Sequence[Label],
    status: str,
    train: dict[str, Any] | None,
    data: dict[str, Any] | None,
    metrics: dict[str, Any],
    origin: str,
) -> None:
    """Write run.json: config, labels, origin of the weights, versions and commit."""
    write_json(
        folder / RUN_JSON,
        {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "status": status,
            "origin": origin,
            "model": config.as_json(),
            "train": train,
            "data": data,
            "metrics": metrics,
            "labels": [asdict(label) for label in labels],
            "versions": installed_versions(),
            "commit": source_commit(),
        },
    )


def mark_status(folder: Path, status: str, metrics: dict[str, Any] | None = None) -> None:
    """Change the status in a run.json and, where they are given, the metrics; nothing else.

    Raises:
        CheckpointError: see `read_run`.
    """
    info = read_run(folder).info
    changed = {"status": status} | ({"metrics": metrics} if metrics else {})
    if info != info | changed:
        write_json(folder / RUN_JSON, info | changed)


def installed_versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Return package → version of the installed ones."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def source_commit() -> str | None:
    """Return this source tree's commit, with ``-dirty`` for local changes; None outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        # An installed copy may be inside a foreign repository, whose commit is irrelevant.
        subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name],
            cwd=Path(__file__).parent,
            capture_output=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
