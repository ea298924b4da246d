"""The exported graph is what its contract says, and nothing else is in the file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import Message
from onnx import TensorProto

import spoter_toolkit
from spoter_export.to_onnx import check_graph, onnx_from_module
from spoter_runtime.contract import METADATA_KEY, GraphContract
from spoter_runtime.errors import ExportError
from spoter_runtime.ort.runner import OrtRunner


@pytest.fixture
def model(bundle_folder):
    """The exported graph, to be changed."""
    return onnx.load(bundle_folder / "model.onnx")


def messages_in(message: Message):
    """Yield a protobuf message and every message inside it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type:
            for child in (value,) if isinstance(value, Message) else value:
                yield from messages_in(child)


def test_names_types_and_axes_are_the_contracts(model):
    found = {
        value.name: (
            TensorProto.DataType.Name(value.type.tensor_type.elem_type),
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in (*model.graph.input, *model.graph.output)
    }
    assert found == {
        "poses": ("FLOAT", ["batch", "frames", 108]),
        "lengths": ("INT32", ["batch"]),
        "logits": ("FLOAT", ["batch", 5]),
    }
    assert [value.name for value in model.graph.output] == ["logits"]


def test_only_standard_operators_of_opset_20_are_used(model):
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert {node.domain for node in model.graph.node} == {""}
    assert len(model.functions) == 0


def test_the_weights_are_inside(model):
    assert len(model.graph.initializer) > 20
    for tensor in model.graph.initializer:
        assert tensor.data_location == TensorProto.DEFAULT
        assert not tensor.external_data
    onnx.checker.check_model(model, full_check=True)


def test_no_doc_string_and_no_metadata_but_the_contract_is_left_anywhere(model):
    remarks = [m.doc_string for m in messages_in(model) if getattr(m, "doc_string", "")]
    notes = [entry.key for m in messages_in(model) for entry in getattr(m, "metadata_props", ())]
    assert remarks == []
    assert notes == [METADATA_KEY]


def test_no_path_and_no_stack_trace_is_in_the_bytes(bundle_folder):
    content = (bundle_folder / "model.onnx").read_bytes()
    for trace in (
        "Traceback",
        'File "',
        ".py",
        "site-packages",
        "spoter_toolkit",
        sys.prefix,
        str(Path.home()),
    ):
        assert trace.encode() not in content, trace
    assert str(Path(spoter_toolkit.__file__).parents[2]).encode() not in content


def test_the_metadata_holds_the_contract_bengali_and_all(model, contract):
    value = json.loads(model.metadata_props[0].value)
    assert GraphContract.from_json(value, where="model") == contract
    assert "চা" in model.metadata_props[0].value  # readable in the file, not as \u09..
    assert value["inputs"]["poses"] == {"dtype": "float32", "shape": ["batch", "frames", 108]}
    assert value["outputs"]["logits"]["shape"] == ["batch", 5]
    assert value["ranges"] == {"batch": [1, 8], "frames": [1, 99]}


def test_the_honest_graph_passes_its_check(model, contract):
    check_graph(model, contract)


def _freeze_batch(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3


def _freeze_frames(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 37


def _read_instead(model, old, new):
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def _rename_input(model):
    model.graph.input[0].name = "x"
    _read_instead(model, "poses", "x")


def _add_output(model):
    model.graph.output.append(onnx.helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]))


def _use_foreign_domain(model):
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    model.graph.node[-1].domain = "com.microsoft"


def _use_other_opset(model):
    model.opset_import[0].version = 21


def _leave_out_a_node(model):
    del model.graph.node[3]


def _lengths_as_int64(model):
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
    _read_instead(model, "lengths", "narrow")
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["lengths"], ["narrow"], to=TensorProto.INT32))


DAMAGES = {
    _freeze_batch: r"poses: expected FLOAT .*, got FLOAT \[3, 'frames', 108\]: the export froze batch$",
    _freeze_frames: r"poses: .* got FLOAT \['batch', 37, 108\]: the export froze frames$",
    _rename_input: r"inputs and outputs: expected \[\['poses', .*, got \[\['x', 'lengths'\], \['logits'\]\]",
    _add_output: r"inputs and outputs: .*got \[\['poses', 'lengths'\], \['logits', 'lengths'\]\]",
    _use_foreign_domain: r"expected standard operators of opset 20, got .*com.microsoft",
    _use_other_opset: r"expected standard operators of opset 20, got \{'': 21\}",
    _leave_out_a_node: r"the graph is not valid ONNX",
    _lengths_as_int64: r"lengths: expected INT32 \['batch'\], got INT64 \['batch'\]$",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.items(), ids=[damage.__name__ for damage in DAMAGES])
def test_a_graph_that_is_not_the_contracts_is_refused(model, contract, damage, message):
    damage(model)
    with pytest.raises(ExportError, match=message):
        check_graph(model, contract)


def test_weights_outside_the_file_are_refused(model, contract, tmp_path, monkeypatch):
    tensor = next(t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) == 2)
    (tmp_path / "weights.bin").write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match=f"weights outside the file: {tensor.name}"):
        check_graph(model, contract)


def test_a_contract_of_other_labels_does_not_fit(model, contract):
    four = GraphContract(labels=contract.labels[:4])
    with pytest.raises(
        ExportError, match=r"logits: expected FLOAT \['batch', 4\], got FLOAT \['batch', 5\]$"
    ):
        check_graph(model, four)


def test_a_module_that_torch_cannot_export_is_one_line(average, three_labels):
    class Branches(average):
        def forward(self, poses, lengths):
            return self.head(poses.sum(1)) if poses.sum() > 0 else self.head(poses.mean(1))

    with pytest.raises(
        ExportError, match=r"^torch \S+ cannot export the module: \w+: .*data-dependent"
    ) as raised:
        onnx_from_module(Branches(), three_labels)
    assert "\n" not in str(raised.value)


def test_a_module_that_knows_its_example_is_refused(average, three_labels):
    class Frozen(average):
        def forward(self, poses, lengths):
            return self.head(poses.view(3, 37, 108).mean(1))

    with pytest.raises(ExportError, match=r"froze batch"):
        onnx_from_module(Frozen(), three_labels)


@pytest.mark.parametrize("max_batch", [1, 2])
def test_a_contract_of_fewer_clips_than_the_example_can_be_exported(average, three_labels, max_batch):
    contract = GraphContract(labels=three_labels.labels, max_frames=2, max_batch=max_batch)
    module = average()
    runner = OrtRunner(onnx_from_module(module, contract).SerializeToString())
    poses = np.random.default_rng(0).random((max_batch, 2, 108), np.float32)
    expected = poses.mean(1) @ module.head.weight.detach().numpy().T + module.head.bias.detach().numpy()
    np.testing.assert_allclose(runner.infer(poses), expected, atol=1e-5)
    assert runner.infer(poses[:, :1]).shape == (max_batch, 3)


def test_a_contract_of_one_frame_is_refused(average, three_labels):
    contract = GraphContract(labels=three_labels.labels, max_frames=1)
    with pytest.raises(ExportError, match="an example of one frame would freeze the frames axis"):
        onnx_from_module(average(), contract)


def test_ctrl_c_in_torchs_imports_is_no_error_of_the_export(average, three_labels, monkeypatch):
    def half_imported(*arguments, **options):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise AttributeError("module 'torch._dynamo' has no attribute 'exc'")  # noqa: B904

    monkeypatch.setattr("torch.onnx.export", half_imported)
    with pytest.raises(KeyboardInterrupt):
        onnx_from_module(average(), three_labels)
