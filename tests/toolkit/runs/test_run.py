from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from spoter_runtime.errors import CheckpointError, DataError, SpoterError
from spoter_toolkit.model.config import ModelConfig
from spoter_toolkit.model.spoter import model_from_config
from spoter_toolkit.runs.labels import read_labels
from spoter_toolkit.runs.notebook import import_checkpoint, model_from_notebook
from spoter_toolkit.runs.run import RUN_JSON, read_run
from spoter_toolkit.workspace import RUN_WEIGHTS, newest_dataset


def notebook_checkpoint(path: Path, **changes: object) -> Path:
    """Write what the notebook's torch.save would, for a small BdSL_SPOTER with its unused second head."""
    torch.manual_seed(0)
    config = ModelConfig(d_model=36, num_encoder_layers=1, d_ff=40, num_classes=5, landmark_weights="planar")
    weights = model_from_config(config).state_dict()
    weights["classifier.0.weight"] = torch.ones(36)
    weights["classifier.2.weight"] = torch.ones(18, 36)
    declared = {
        "input_dim": 108,
        "d_model": 36,
        "num_heads": 9,
        "num_encoder_layers": 1,
        "d_ff": 40,
        "num_classes": 5,
    }
    torch.save({"model_state_dict": weights, "model_config": declared} | changes, path)
    return path


def test_an_imported_checkpoint_is_a_run_that_says_what_was_dropped(tmp_path: Path) -> None:
    path = notebook_checkpoint(tmp_path / "notebook.pth")
    run, imported = import_checkpoint(path, tmp_path / "run", None)
    assert imported.dropped == ("classifier.0.weight", "classifier.2.weight")
    assert imported.dropped_parameters == 36 + 18 * 36
    assert run.config.normalize == "none"
    assert run.config.landmark_weights == "planar"
    assert run.info["status"] == "imported"
    assert run.data is None
    assert [label.name for label in run.labels] == [f"class-0{i}" for i in range(5)]
    loaded, original = run.load_model().state_dict(), imported.model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in original.items())


def test_the_golden_checkpoints_drop_the_unused_head(shared: Path) -> None:
    bdsl = model_from_notebook(shared / "golden" / "phase3_bdsl_spoter.pth")
    assert bdsl.dropped_parameters == 9_402
    assert all(name.startswith("classifier.") for name in bdsl.dropped)
    assert model_from_notebook(shared / "golden" / "phase3_spoter.pth").dropped == ()


def test_labels_come_from_the_word_table_a_file_or_a_dataset(tmp_path: Path, tiny: object) -> None:
    assert len(read_labels("bdslw60")) == 60
    (tmp_path / "labels.txt").write_text("ma\nbon\n\nbhai\n", encoding="utf-8")
    assert [label.name for label in read_labels(str(tmp_path / "labels.txt"))] == ["ma", "bon", "bhai"]
    assert len(read_labels(str(tiny.folder))) == 4  # type: ignore[attr-defined]
    (tmp_path / "twice.txt").write_text("ma\nbon\nma\n", encoding="utf-8")
    with pytest.raises(SpoterError, match="the label 'ma' is there twice"):
        read_labels(str(tmp_path / "twice.txt"))
    with pytest.raises(SpoterError, match="name bdslw60, a DATASET, or a text file"):
        read_labels("no-such-file")


def test_a_wrong_number_of_labels_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = notebook_checkpoint(tmp_path / "notebook.pth")
    with pytest.raises(CheckpointError, match="5 classes, but 60 labels were given"):
        import_checkpoint(path, tmp_path / "run", read_labels("bdslw60"))
    assert [p.name for p in tmp_path.iterdir()] == ["notebook.pth"]


def test_an_existing_run_is_only_replaced_by_force(tmp_path: Path) -> None:
    path = notebook_checkpoint(tmp_path / "notebook.pth")
    import_checkpoint(path, tmp_path / "run", None)
    with pytest.raises(CheckpointError, match=r"replace it with --force$"):
        import_checkpoint(path, tmp_path / "run", None)
    import_checkpoint(path, tmp_path / "run", None, force=True)


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("this must never run",))


def write_bad(kind: str, path: Path) -> None:
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("epoch,loss\n1,0.5\n")
    elif kind == "truncated":
        notebook_checkpoint(path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(_Evil()))
    elif kind == "pickle in torch":
        torch.save({"model_state_dict": _Evil()}, path)
    elif kind == "tensor":
        torch.save(torch.ones(3), path)
    elif kind == "other dict":
        torch.save({"epoch": 3, "loss": 0.5}, path)
    elif kind == "other weights":
        torch.save({"model_state_dict": {"fc.weight": torch.ones(3)}, "model_config": {"num_heads": 9}}, path)
    elif kind == "no config":
        notebook_checkpoint(path, model_config=None)
    elif kind == "no heads":
        notebook_checkpoint(path, model_config={"d_model": 36})
    elif kind == "other sizes":
        notebook_checkpoint(path, model_config={"num_heads": 9, "d_model": 108})
    elif kind == "heads that do not divide":
        notebook_checkpoint(path, model_config={"num_heads": 7})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("empty", "not a readable PyTorch checkpoint"),
        ("text", "not a checkpoint of plain tensors|not a readable PyTorch checkpoint"),
        ("truncated", "not a readable PyTorch checkpoint"),
        ("pickle", "not a checkpoint of plain tensors"),
        ("pickle in torch", "would run code from the file, so it is refused"),
        ("tensor", "expected a dict with 'model_state_dict', got Tensor"),
        ("other dict", "no 'model_state_dict' of tensors; it holds 'epoch', 'loss'"),
        ("other weights", "not a SPOTER state dict: 'input_projection.weight' is missing"),
        ("no config", "no 'model_config'"),
        ("no heads", "its 'model_config' does not state num_heads"),
        ("other sizes", "model_config says d_model = 108, the tensors say 36"),
        ("heads that do not divide", "36 does not divide by num_heads 7"),
    ],
)
def test_a_file_that_is_no_checkpoint_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, message: str
) -> None:
    path = tmp_path / "file.pth"
    write_bad(kind, path)
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(path, tmp_path / "run", None)
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_a_checkpoint_with_a_tensor_of_another_shape_names_it(tmp_path: Path) -> None:
    path = notebook_checkpoint(tmp_path / "notebook.pth")
    content = torch.load(path, weights_only=True)
    content["model_state_dict"]["bdsl_classifier.4.weight"] = torch.ones(3, 3)
    torch.save(content, path)
    with pytest.raises(
        CheckpointError, match=r"bdsl_classifier\.4\.weight is \(3, 3\), the model has \(18, 36\)"
    ):
        model_from_notebook(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no run.json", "not a run: it has no run.json"),
        ("half a run.json", "cannot be read as JSON"),
        ("newer schema", "schema version 2, this spoter-kit reads 1"),
        ("unknown setting", "a field is missing or wrong"),
        ("no weights", r"no model\.safetensors: no epoch of its training has ended"),
        ("half the weights", "not readable as safetensors"),
        ("other weights", "not the weights of this model"),
    ],
)
def test_a_damaged_run_says_what_is_wrong(tmp_path: Path, damage: str, message: str) -> None:
    import_checkpoint(notebook_checkpoint(tmp_path / "notebook.pth"), tmp_path / "run", None)
    info, weights = tmp_path / "run" / RUN_JSON, tmp_path / "run" / RUN_WEIGHTS
    content = json.loads(info.read_text())
    if damage == "no run.json":
        info.unlink()
    elif damage == "half a run.json":
        info.write_text(info.read_text()[:100])
    elif damage == "newer schema":
        info.write_text(json.dumps(content | {"schema_version": 2}))
    elif damage == "unknown setting":
        info.write_text(json.dumps(content | {"model": content["model"] | {"heads": 3}}))
    elif damage == "no weights":
        weights.unlink()
    elif damage == "half the weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "other weights":
        info.write_text(json.dumps(content | {"model": content["model"] | {"architecture": "spoter"}}))
    with pytest.raises(CheckpointError, match=message):
        read_run(tmp_path / "run").load_model()


def test_what_a_kill_has_left_is_never_the_newest(tmp_path: Path) -> None:
    for name in ("mine", ".mine.0a1b2c3d.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").touch()
    assert newest_dataset(tmp_path) == tmp_path / "mine"


def test_pipes_are_refused_at_once(tmp_path: Path, put_a_pipe: Callable[[Path], Path]) -> None:
    path = put_a_pipe(tmp_path / "notebook.pth")
    with pytest.raises(CheckpointError, match=r"notebook\.pth: cannot be read: not a file"):
        import_checkpoint(path, tmp_path / "run", None)
    path.unlink()
    run, _ = import_checkpoint(notebook_checkpoint(path), tmp_path / "run", None)
    labels = put_a_pipe(tmp_path / "labels.txt")
    with pytest.raises(DataError, match=r"labels .*labels\.txt.*not a file"):
        read_labels(str(labels))
    put_a_pipe(run.folder / RUN_WEIGHTS)
    with pytest.raises(CheckpointError, match=f"no {RUN_WEIGHTS}"):
        run.load_model()
    put_a_pipe(run.folder / RUN_JSON)
    with pytest.raises(CheckpointError, match=r"run\.json: cannot be read as JSON: .*not a file"):
        read_run(run.folder)
