"""A Triton model repository from a bundle: one model for each engine that Triton can run it in."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from spoter_runtime.bundle.manifest import Artefact, Bundle
from spoter_runtime.errors import ConfigError, DataError
from spoter_runtime.files import link_or_copy, replacing
from spoter_runtime.landmarks import NUM_FEATURES, detected
from spoter_runtime.ort.execution import MOST_CLIPS
from spoter_toolkit.serving.models import MODEL_NAME, model_name

MARKER: Final = "spoter-kit.json"  # tells a repository that this module wrote from any other folder
_DELAY_US: Final = 2000  # that Triton waits for more clips
_QUEUE: Final = 256
_WARM_UP: Final = 2  # goldens that are run before the first request

_CONFIG: Final = """\
name: "{name}"
{engine}
max_batch_size: {max_batch}
input [
  {{ name: "poses" data_type: TYPE_FP32 dims: [ -1, {features} ]{ragged} }},
  {{ name: "lengths" data_type: TYPE_INT32 dims: [ 1 ]{scalar} }}
]
output [
  {{ name: "logits" data_type: TYPE_FP32 dims: [ {classes} ] label_filename: "labels.txt" }}
]
dynamic_batching {{
  preferred_batch_size: [ {batch} ]
  max_queue_delay_microseconds: {delay}
  default_queue_policy {{ max_queue_size: {queue} }}
}}
{instances}
"""
_WARM: Final = """\
model_warmup {{
  name: "golden-{number}"
  batch_size: 1
  inputs {{
    key: "poses"
    value {{ data_type: TYPE_FP32 dims: [ {frames}, {features} ] input_data_file: "golden-{number}-poses" }}
  }}
  inputs {{
    key: "lengths"
    value {{ data_type: TYPE_INT32 dims: [ 1 ] input_data_file: "golden-{number}-lengths" }}
  }}
}}
"""
_ON_CPU: Final = "instance_group [ { count: 2 kind: KIND_CPU } ]"
_ON_GPU: Final = "instance_group [ { count: 1 kind: KIND_GPU } ]"
_ONE_THREAD: Final = (
    'parameters { key: "intra_op_thread_count" value { string_value: "1" } }'  # an instance a core
)
_BY_TENSORRT: Final = (
    'optimization { execution_accelerators { gpu_execution_accelerator [ { name: "tensorrt" } ] } }'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A written model repository."""

    folder: Path
    models: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"repository": str(self.folder), "models": list(self.models)}


def check_repository_folder(folder: Path, bundle: Path, *, force: bool) -> None:
    """Check that a bundle's model repository may be written to a folder.

    Raises:
        ConfigError: a model cannot have the name of the bundle's folder.
        DataError: the folder is there already, or is something else.
    """
    if not MODEL_NAME.fullmatch(name := model_name(bundle)):
        raise ConfigError(
            f"{bundle}: Triton's model gets the folder's name, and {name!r} is more than letters and digits",
            fix=f"mv {shlex.quote(str(bundle))} letters.spoter",
        )
    if folder.exists() and not (force and (folder / MARKER).is_file()):
        fix = "--force replaces it" if (folder / MARKER).is_file() else "choose another --triton"
        raise DataError(f"{folder}: exists already", fix=fix)


def write_repository(bundle: Bundle, folder: Path, *, force: bool = False) -> Repository:
    """Write a model repository.

    NAME, the bundle's folder's as in `serve`, runs the ONNX file on CPUs. NAME_tensorrt runs the bundle's
    TensorRT engines, or the ONNX file, for which ONNX Runtime then builds some while Triton starts.
    NAME_python runs the bundle by this runtime, and alone puts clips of different lengths into one batch.

    Args:
        bundle: from `read_bundle`.
        folder: of the repository.
        force: replace an earlier one.

    Raises:
        ConfigError: a model cannot have the name of the bundle's folder.
        DataError: the folder is there already, or is something else.
        BundleError: a file of the bundle is damaged.
    """
    check_repository_folder(folder, bundle.folder, force=force)
    bundle.check_files()
    engines = [file for file in bundle.artefacts if file.engine and file.engine.library == "tensorrt"]
    names = []
    with replacing(folder) as made:
        for name, engine, instances, source in _models(bundle, engines):
            _write_model(bundle, made / name, engine, instances, source)
            names.append(name)
        facts = {"bundle": names[0], "sha256": bundle.onnx().sha256, "models": names}
        (made / MARKER).write_text(json.dumps(facts, indent=2) + "\n")
    return Repository(folder=folder, models=tuple(names))


def _models(bundle: Bundle, engines: list[Artefact]) -> Iterator[tuple[str, str, str, dict[str, str | Path]]]:
    """Yield name, engine, instances, and the files of the version: name → path in the bundle, or a path."""
    base = model_name(bundle.folder)
    onnx: dict[str, str | Path] = {"model.onnx": bundle.onnx().path}
    backend = 'backend: "onnxruntime"\ndefault_model_filename: "model.onnx"'
    yield base, backend, f"{_ON_CPU}\n{_ONE_THREAD}", onnx
    name = f"{base}_tensorrt"
    if engines:
        plans = {
            capability: (f"model-{capability}.plan", engine.path)
            for engine in engines
            if engine.engine
            for capability in engine.engine.compute_capabilities
        }
        named = "\n".join(
            f'cc_model_filenames {{ key: "{capability}" value: "{file}" }}'
            for capability, (file, _) in plans.items()
        )
        yield name, f'platform: "tensorrt_plan"\n{named}', _ON_GPU, dict(plans.values())
    else:
        yield name, backend, f"{_ON_GPU}\n{_BY_TENSORRT}", onnx
    model = Path(str(files("spoter_toolkit.serving").joinpath("triton_model.py")))
    # Triton's Python looks beside the model for modules, and ignores PYTHONPATH.
    runtime = Path(str(files("spoter_runtime")))
    inside: dict[str, str | Path] = {
        "model.py": model,
        "model.spoter": bundle.folder,
        runtime.name: runtime,
    }
    yield f"{base}_python", 'backend: "python"', _ON_CPU, inside


def _write_model(
    bundle: Bundle, folder: Path, engine: str, instances: str, version: dict[str, str | Path]
) -> None:
    contract = bundle.contract
    python = "python" in engine
    goldens = bundle.goldens()
    warm_up = folder / "warmup"
    for parent in (folder / "1", warm_up):
        parent.mkdir(parents=True)
    for name, source in version.items():
        path = source if isinstance(source, Path) else bundle.folder / source
        if path.is_dir():
            leave_out = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, folder / "1" / name, copy_function=link_or_copy, ignore=leave_out)
        else:
            link_or_copy(path, folder / "1" / name)
    config = _CONFIG.format(
        name=folder.name,
        engine=engine,
        max_batch=contract.max_batch,
        features=NUM_FEATURES,
        classes=contract.num_classes,
        ragged=" allow_ragged_batch: true" if python else "",
        scalar="" if python else " reshape { shape: [ ] }",  # the graph's lengths are (batch,)
        batch=min(MOST_CLIPS, contract.max_batch),
        delay=_DELAY_US,
        queue=_QUEUE,
        instances=instances,
    )
    seen = [n for n, poses_TD in enumerate(goldens.poses_NTD) if detected(poses_TD.reshape(-1, 2)).any()]
    for number in seen[:_WARM_UP]:
        lengths = goldens.lengths_N[number : number + 1]
        length = int(lengths[0])
        poses_TD = goldens.poses_NTD[number, :length]
        (warm_up / f"golden-{number}-poses").write_bytes(poses_TD.astype("<f4").tobytes())
        (warm_up / f"golden-{number}-lengths").write_bytes(lengths.astype("<i4").tobytes())
        config += _WARM.format(number=number, frames=length, features=NUM_FEATURES)
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    labels = "".join(f"{label.name}\n" for label in contract.labels)
    (folder / "labels.txt").write_text(labels, encoding="utf-8")
