"""Read a checkpoint that the notebook wrote, and turn it into a RUN."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from spoter_runtime.contract import Label
from spoter_runtime.errors import CheckpointError, ConfigError
from spoter_runtime.files import check_regular, replacing, sha256_of
from spoter_runtime.landmarks import NUM_FEATURES
from spoter_toolkit.model.config import ModelConfig
from spoter_toolkit.runs.run import Run, read_run, write_run_json
from spoter_toolkit.workspace import RUN_WEIGHTS, check_run_target, folder_lock, without_link

if TYPE_CHECKING:
    from torch import Tensor

    from spoter_toolkit.model.spoter import Spoter

# Prefix of the unused second head in the notebook's BdSL_SPOTER.
_UNUSED_HEAD: Final = "classifier."


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedCheckpoint:
    """A notebook checkpoint read into a model."""

    model: Spoter
    parameters: int  # how many numbers the model learns
    dropped: tuple[str, ...]  # unused tensors that were left out
    dropped_parameters: int  # how many numbers they held


def model_from_notebook(path: Path | str) -> ImportedCheckpoint:
    """Read a checkpoint of the notebook into a model, without running code from the file.

    The tensors give the sizes; ``model_config`` gives the number of heads, and must agree with them. The
    model is as in the notebook: no normalisation, planar landmark weights.

    Raises:
        CheckpointError: a missing, truncated or foreign file, a pickle of other objects than tensors, no
            state dict, or inconsistent sizes.
    """
    path = Path(path)
    content = load_tensors(path)
    import torch

    from spoter_toolkit.model.spoter import count_parameters, model_from_config
    from spoter_toolkit.runs.weights import load_weights

    def is_plain(name: Any, value: Any) -> bool:  # dense, and not on the meta device
        dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta
        return dense and isinstance(name, str)

    weights = content.get("model_state_dict")
    declared = content.get("model_config")
    if not isinstance(weights, dict) or not all(is_plain(n, v) for n, v in weights.items()):
        raise CheckpointError(
            f"{path}: no 'model_state_dict' of tensors; it holds {', '.join(map(repr, list(content)[:6]))}"
        )
    if not isinstance(declared, dict):
        raise CheckpointError(f"{path}: no 'model_config', which alone states the number of heads")
    if "num_heads" not in declared:
        raise CheckpointError(f"{path}: its 'model_config' does not state num_heads")
    config = config_from_weights(weights, declared, path)
    unused = config.architecture == "bdsl-spoter"
    dropped = tuple(sorted(n for n in weights if unused and n.startswith(_UNUSED_HEAD)))
    model = model_from_config(config)
    kept = {name: value for name, value in weights.items() if name not in dropped}
    load_weights(model, kept, where=str(path))
    return ImportedCheckpoint(
        model=model.eval(),
        parameters=count_parameters(model),
        dropped=dropped,
        dropped_parameters=sum(weights[name].numel() for name in dropped),
    )


def load_tensors(path: Path) -> dict[str, Any]:
    """Load a file of ``torch.save``, without running code from it.

    Raises:
        CheckpointError: a missing, damaged or foreign file, or a pickle of other objects than tensors.
    """
    try:
        check_regular(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file", fix="check the path") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    import torch  # not at the top: report a typo in the path at once

    try:
        if zipfile.is_zipfile(path):  # torch does not compare the checksums in it
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged:
                raise CheckpointError(f"{path}: {damaged} inside it is damaged", fix="copy the file again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a foreign pickle, just before it is refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of plain tensors. Loading it would run code from the file, so it is "
            "refused",
            fix="in the notebook, torch.save({'model_state_dict': model.state_dict(), "
            "'model_config': {…}}, path)",
        ) from error
    except Exception as error:  # torch raises a different error for every kind of foreign file
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: not a readable PyTorch checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: expected a dict with 'model_state_dict', got {type(content).__name__}"
        )
    return content


def config_from_weights(weights: dict[str, Tensor], declared: dict[str, Any], path: Path) -> ModelConfig:
    """Return the config that the tensors' sizes imply.

    Args:
        weights: the state dict.
        declared: ``model_config``; gives the number of heads, and must agree with the tensors.
        path: the checkpoint, for messages.

    Raises:
        CheckpointError: not a SPOTER state dict, or sizes that do not fit each other.
    """
    bdsl = "signing_space_weights" in weights
    head = "bdsl_classifier.7.weight" if bdsl else "classifier.5.weight"
    try:
        d_model, input_dim = weights["input_projection.weight"].shape
        sizes: dict[str, Any] = {
            "input_dim": input_dim,
            "d_model": d_model,
            "num_encoder_layers": len({n.split(".")[1] for n in weights if n.startswith("encoder_layers.")}),
            "d_ff": weights["encoder_layers.0.feed_forward.0.weight"].shape[0],
            "num_classes": weights[head].shape[0],
            "max_seq_length": weights["positional_encoding.pe"].shape[0],
        }
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a SPOTER state dict: {error} is missing or of another rank"
        ) from error
    for name, size in sizes.items():
        if declared.get(name, size) != size:
            raise CheckpointError(
                f"{path}: model_config says {name} = {declared[name]}, the tensors say {size}"
            )
    if sizes.pop("input_dim") != NUM_FEATURES:
        raise CheckpointError(
            f"{path}: the model takes {input_dim} features a frame; only {NUM_FEATURES} (54 landmarks × 2) "
            "can be imported"
        )
    known = {field.name for field in fields(ModelConfig)}
    choices = {k: declared[k] for k in ("num_heads", "dropout") if k in declared and k in known}
    try:
        return ModelConfig(
            architecture="bdsl-spoter" if bdsl else "spoter",
            normalize="none",
            landmark_weights="planar",
            **sizes,
            **choices,
        )
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def import_checkpoint(
    path: Path | str, folder: Path, labels: Sequence[Label] | None, *, force: bool = False
) -> tuple[Run, ImportedCheckpoint]:
    """Turn a notebook checkpoint into a RUN folder.

    Args:
        path: file of the notebook's ``torch.save``.
        folder: the RUN to write.
        labels: one per class, in the order of the logits; None numbers them, because the file has no labels.
        force: replace an existing run.

    Raises:
        CheckpointError: as `model_from_notebook`; the number of labels is wrong, `folder` exists, or a
            training is writing it.
    """
    folder = without_link(folder)
    check_run_target(folder, force=force)
    imported = model_from_notebook(path)
    config = imported.model.config
    if labels is None:
        labels = [Label(name=f"class-{i:02d}") for i in range(config.num_classes)]
    if len(labels) != config.num_classes:
        raise CheckpointError(f"{path}: {config.num_classes} classes, but {len(labels)} labels were given")
    from spoter_toolkit.runs.weights import save_weights

    with folder_lock(folder), replacing(folder) as temporary:
        temporary.mkdir()
        save_weights(imported.model, temporary / RUN_WEIGHTS)
        write_run_json(
            temporary,
            name=folder.name,
            config=config,
            labels=labels,
            status="imported",
            train=None,
            data=None,
            metrics={},
            origin=f"imported from {Path(path).name} (sha256 {sha256_of(Path(path))})",
        )
    return read_run(folder), imported
