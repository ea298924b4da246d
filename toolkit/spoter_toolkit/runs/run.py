"""RUN folders: weights as safetensors, everything else as JSON."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import CheckpointError, ConfigError
from spoter_runtime.files import put_back, read_text, replacing, sha256_of, write_json
from spoter_toolkit.model.config import ModelConfig
from spoter_toolkit.model.spoter import Spoter, model_from_config
from spoter_toolkit.workspace import RUN_JSON, RUN_WEIGHTS

SCHEMA_VERSION: Final = 1

_PACKAGES: Final = ("spoter-kit", "torch", "numpy", "accelerate", "safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A RUN folder whose run.json has been read.

    Attributes:
        info: the whole of run.json: config, seed, versions, commit, data, metrics.
        data: what the model was trained on (folder, sha256, split, …); None for an imported checkpoint.
    """

    folder: Path
    config: ModelConfig
    labels: tuple[Label, ...]
    info: dict[str, Any]

    @property
    def name(self) -> str:
        """The run's name, which its bundle gets too."""
        return str(self.info["name"])

    @property
    def data(self) -> dict[str, Any] | None:
        """What the model was trained on, as run.json states it."""
        data: dict[str, Any] | None = self.info["data"]
        return data

    @property
    def is_finished(self) -> bool:
        """False for a training that was stopped and not resumed."""
        return bool(self.info["status"] != "running")

    def contract(self, max_batch: int = 32) -> GraphContract:
        """Return the contract of this run's model."""
        return GraphContract(labels=self.labels, max_frames=self.config.max_frames, max_batch=max_batch)

    def weights_sha256(self) -> str:
        """Hash the weights file.

        Raises:
            CheckpointError: the run has no weights yet.
        """
        return sha256_of(self._weights_path())

    def _weights_path(self) -> Path:
        path = self.folder / RUN_WEIGHTS
        if not path.is_file():
            raise CheckpointError(
                f"{self.folder}: no {RUN_WEIGHTS}: the training did not get that far",
                fix=f"spoter-kit train --resume -o {self.folder}",
            )
        return path

    def load_model(self) -> Spoter:
        """Return the model with this run's weights, in eval mode, on the CPU.

        Raises:
            CheckpointError: no weights, damaged ones, or ones of other sizes than run.json states.
        """
        path = self._weights_path()
        try:
            weights = load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not readable as safetensors: {error}") from error
        model = model_from_config(self.config)
        load_weights(model, weights, where=str(path))
        return model.eval()


def read_run(folder: Path | str) -> Run:
    """Open a RUN folder.

    Raises:
        CheckpointError: no run there, damaged run.json, or a newer schema.
    """
    folder = Path(folder)
    put_back(folder)
    path = folder / RUN_JSON
    try:
        info = json.loads(read_text(path))
    except FileNotFoundError as error:
        what = "no such folder" if not folder.exists() else f"not a run: it has no {RUN_JSON}"
        raise CheckpointError(f"{folder}: {what}", fix="spoter-kit train makes one") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(info, dict) or info.get("schema_version") != SCHEMA_VERSION:
        got = info.get("schema_version") if isinstance(info, dict) else None
        raise CheckpointError(f"{path}: schema version {got}, this spoter-kit reads {SCHEMA_VERSION}")
    try:
        for field in ("name", "status", "origin", "train", "data", "metrics", "commit"):
            info[field]
        return Run(
            folder=folder,
            config=ModelConfig(**info["model"]),
            labels=tuple(Label(**label) for label in info["labels"]),
            info=info,
        )
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}: a field is missing or wrong: {error!r}") from error


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
    """Write run.json: config, labels, where the weights come from, versions and commit."""
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


def installed_versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Return package → version, for those that are installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def source_commit() -> str | None:
    """Return this source tree's commit, with ``-dirty`` where files differ from it; None outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        # An installed copy may lie in somebody else's repository, whose commit says nothing of this source.
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


def save_weights(model: Spoter, path: Path) -> None:
    """Write a model's weights and buffers atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(save({name: value.contiguous() for name, value in model.state_dict().items()}))


def load_weights(model: Spoter, weights: dict[str, Tensor], *, where: str) -> None:
    """Copy weights into a model after comparing every name and shape.

    Raises:
        CheckpointError: names the missing, the unknown and the first wrongly shaped tensor.
    """
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or unknown:
        parts = [f"{len(missing)} missing ({missing[0]}, …)"] if missing else []
        parts += [f"{len(unknown)} unknown ({unknown[0]}, …)"] if unknown else []
        raise CheckpointError(f"{where}: not the weights of this model: tensors {' and '.join(parts)}")
    for name, value in own.items():
        if value.shape != weights[name].shape:
            raise CheckpointError(
                f"{where}: {name} is {tuple(weights[name].shape)}, the model has {tuple(value.shape)}"
            )
        if not torch.isfinite(weights[name]).all():
            raise CheckpointError(f"{where}: {name} holds values that are not finite")
    model.load_state_dict(weights)
