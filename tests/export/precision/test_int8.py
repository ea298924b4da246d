"""The int8 graph takes and gives the same, its sums are exact on any CPU, and a broken one is found."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

import spoter_export
import spoter_runtime
from spoter_export.bundle.files import read_proofs
from spoter_export.bundle.writer import export_bundle
from spoter_export.parity.compare import invariance_of, run_parity
from spoter_export.parity.policy import policy_of
from spoter_export.passes.pipeline import lowered, passes_for
from spoter_export.precision.int8 import EXACT_WEIGHT, bounded_products, check_exact, int8_from_fp32
from spoter_export.probes import generated_clips
from spoter_export.to_onnx import check_graph
from spoter_runtime.bundle.goldens import threshold
from spoter_runtime.contract import LENGTHS, METADATA_KEY, POSES
from spoter_runtime.errors import ExportError
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.runner import pad_clips
from spoter_runtime.verify import verify_bundle


@pytest.fixture(scope="module")
def fp32(small_graph):
    """The small model's graph as it is when int8 is made of it, not to be changed."""
    return lowered(small_graph, passes_for("onnx", "int8"))


@pytest.fixture(scope="module")
def int8(fp32):
    """The same, lowered."""
    return int8_from_fp32(fp32)


@pytest.fixture
def copy_of():
    """Return copy_of(model): one that may be changed."""

    def copy_of(model):
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        return copied

    return copy_of


def bytes_of(model):
    return model.SerializeToString(deterministic=True)


def products_of(model):
    return [node for node in model.graph.node if node.op_type == "MatMulInteger"]


def arrays_of(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def on_this_cpu(model, names, feeds):
    """Run a graph on ONNX Runtime and return tensors from inside of it."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = onnxruntime.InferenceSession(bytes_of(watched), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.fixture
def product_alone(onnx_model):
    """Return product_alone(weight): one MatMulInteger; its bytes and their zero point come from outside."""
    return lambda weight: onnx_model(
        [helper.make_node("MatMulInteger", ["bytes", "weight", "zero_point"], ["sums"])],
        {"bytes": (TensorProto.UINT8, [None, len(weight)]), "zero_point": (TensorProto.UINT8, [])},
        {"sums": (TensorProto.INT32, [None, weight.shape[1]])},
        {"weight": weight},
    )


def test_the_contract_still_holds(int8, contract):
    check_graph(int8, contract)
    assert [entry.key for entry in int8.metadata_props] == [METADATA_KEY]
    assert json.loads(int8.metadata_props[0].value) == json.loads(json.dumps(contract.as_json()))


def test_nothing_of_the_quantiser_is_left_in_the_file(fp32, int8):
    assert (int8.producer_name, int8.producer_version) == (fp32.producer_name, fp32.producer_version)
    assert [len(int8.graph.value_info), int8.doc_string, int8.graph.doc_string] == [0, "", ""]
    assert [entry.domain for entry in int8.opset_import] == [""]


def test_the_graph_that_was_given_is_left_as_it_is(fp32):
    before = bytes_of(fp32)
    int8_from_fp32(fp32)
    assert bytes_of(fp32) == before


_BYTES_AGAIN = """
import hashlib, sys
import onnx
from spoter_export.precision.int8 import int8_from_fp32

lowered = int8_from_fp32(onnx.load(sys.argv[1]))
print(hashlib.sha256(lowered.SerializeToString(deterministic=True)).hexdigest())
"""


def test_the_bytes_are_the_same_in_another_process(python, fp32, tmp_path):
    onnx.save(fp32, tmp_path / "fp32.onnx")
    ours = [Path(package.__file__).parents[1] for package in (spoter_export, spoter_runtime)]
    done = [
        python("-c", _BYTES_AGAIN, tmp_path / "fp32.onnx", path=ours, env={"PYTHONHASHSEED": seed})
        for seed in "12"
    ]
    assert [one.stderr for one in done] == ["", ""]
    assert len(done[0].stdout) == 65
    assert done[0].stdout == done[1].stdout


def test_the_root_logger_is_left_alone(fp32):
    root = logging.getLogger()
    before = root.handlers[:]
    int8_from_fp32(fp32)
    assert root.handlers == before


def test_products_behind_a_layer_norm_are_in_8_bits_and_those_before_it_are_not(fp32, int8):
    # Two layers: of the first the feed-forward block alone, of the second all six; then the class token's
    # attention.
    # Of the first layer the feed-forward block; of the second queries, keys and values, and the output too.
    assert len(products_of(int8)) == len(bounded_products(fp32.graph)) == 2 + 4
    kept = arrays_of(int8)
    before = [node for node in fp32.graph.node if node.op_type == "MatMul" and node.input[1] in kept]
    assert len(before) == 3  # the projection of the landmarks, and the first layer's attention
    assert not kept.keys() & {node.input[1] for node in bounded_products(fp32.graph)}  # not stored twice


def test_keeping_a_node_by_name_keeps_that_node_only(fp32, int8):
    first = bounded_products(fp32.graph)[0]
    kept = int8_from_fp32(fp32, keep_fp32={first.name})
    assert len(products_of(kept)) == len(products_of(int8)) - 1
    assert arrays_of(kept)[first.input[1]].dtype == np.float32


def test_a_name_that_is_not_in_the_graph_is_refused(fp32):
    with pytest.raises(ExportError, match=r"keep_fp32: no node of the graph is called 'MatMul_0'"):
        int8_from_fp32(fp32, keep_fp32={"MatMul_0"})


def test_a_graph_with_nothing_to_do_is_refused(average_graph, fp32, int8):
    message = (
        r"no product with a weight comes behind a LayerNormalization: int8 has nothing to do here\. Fix: "
    )
    with pytest.raises(ExportError, match=message):
        int8_from_fp32(average_graph)
    with pytest.raises(ExportError, match=message):
        int8_from_fp32(fp32, keep_fp32={node.name for node in bounded_products(fp32.graph)})


def test_every_sum_of_real_activations_is_the_exact_whole_number(int8, contract):
    arrays, products = arrays_of(int8), products_of(int8)
    inside = {name for node in products for name in (node.input[0], node.input[2], node.output[0])}
    seen = 0
    for clip in generated_clips(contract, 0).clips:
        poses, lengths = pad_clips([clip])
        values = arrays | on_this_cpu(int8, sorted(inside), {POSES: poses, LENGTHS: lengths})
        for node in products:
            left, right, zero, _ = (values[name].astype(np.int64) for name in node.input)
            np.testing.assert_array_equal(values[node.output[0]], (left - zero) @ right)
            seen += 1
    assert seen == len(products) * len(generated_clips(contract, 0).clips)


def test_every_sum_of_the_worst_activations_is_the_exact_whole_number(int8, product_alone):
    arrays = arrays_of(int8)
    for node in products_of(int8):
        weight = arrays[node.input[1]]
        # For each column the bytes that make its sums as large, and as small, as they can be.
        worst = np.concatenate([np.where(weight.T > 0, 255, 0), np.where(weight.T < 0, 255, 0)])
        worst = np.concatenate([worst, np.full((1, len(weight)), 255)]).astype(np.uint8)
        for zero_point in (0, 117, 255):
            feeds = {"bytes": worst, "zero_point": np.array(zero_point, np.uint8)}
            (sums,) = on_this_cpu(product_alone(weight), ["sums"], feeds).values()
            expected = (worst.astype(np.int64) - zero_point) @ weight.astype(np.int64)
            np.testing.assert_array_equal(sums, expected)


def test_the_largest_weight_that_cannot_be_cut_off_is_used(int8):
    largest = [np.abs(arrays_of(int8)[node.input[1]].astype(int)).max(axis=0) for node in products_of(int8)]
    assert {int(value) for column in largest for value in column} == {EXACT_WEIGHT}


def test_the_answers_are_those_of_exact_arithmetic(int8, contract, runner_of):
    # Another order of a float sum may round a value to the neighbouring step, never further.
    exact = ReferenceEvaluator(int8)
    runner = runner_of(int8)
    for clip in generated_clips(contract, 0).clips[2:8]:
        poses, lengths = pad_clips([clip])
        with np.errstate(over="ignore"):  # a size that is not there counts as the largest float
            (expected,) = exact.run(None, {POSES: poses, LENGTHS: lengths})
        assert np.abs(runner.infer(poses, lengths) - expected).max() < 5e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: (weight * 1.9).astype(np.int8), r"int8 up to 12\d"),
        (lambda weight: (weight.astype(int) + 128).astype(np.uint8), r"uint8 up to 192"),
    ],
)
def test_weights_that_a_cpu_could_cut_off_are_refused(int8, copy_of, change, message):
    model = copy_of(int8)
    name = products_of(model)[3].input[1]
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    with pytest.raises(
        ExportError, match=rf"{name}, read by '\S+': expected int8 within -64\.\..*, got {message}"
    ):
        check_exact(model)


def test_a_graph_without_products_in_8_bits_is_not_called_exact(fp32):
    with pytest.raises(ExportError, match="no product in 8 bits in the graph"):
        check_exact(fp32)


def test_the_answers_are_those_of_fp32_within_what_int8_holds(fp32, int8, runner_of):
    facts = run_parity(runner_of(fp32), runner_of(int8))
    assert (
        1e-4 < facts.max_logit_diff < policy_of("int8").max_logit_diff
    )  # neither the same, nor another model
    assert all(point.error is None for point in facts.grid)


def test_what_padding_holds_does_not_matter_at_all(int8, contract, runner_of):
    moved = {
        fact.change: fact.max_logit_diff
        for fact in invariance_of(runner_of(int8), generated_clips(contract, 0).clips, seed=0)
    }
    by_padding = {moved[f"padding {fill}"] for fill in ("zeros", "noise", "nan", "huge", "infinity")}
    assert len(by_padding) == 1  # only how long it is
    assert max(moved.values()) < policy_of("int8").max_invariance_diff


def test_a_clip_far_outside_the_picture_does_not_blur_its_company(int8, make_clip, runner_of):
    runner = runner_of(int8)
    clip, wild = make_clip(1, 30), make_clip(2, 30) * np.float32(1000)
    alone = runner.infer(*pad_clips([clip]))
    beside = runner.infer(*pad_clips([clip, wild]))[:1]
    assert np.abs(beside - alone).max() < policy_of("int8").max_invariance_diff


@pytest.fixture(scope="module")
def exported_int8(made_once, traced_once, small_model, contract, provenance):
    """The small model as a bundle with an int8 file, not to be changed."""

    def make(folder):
        place = folder / "small.spoter"
        with traced_once():
            return export_bundle(small_model, contract, place, provenance=provenance, precisions=("int8",))

    return made_once("int8-bundle", make)


def test_a_bundle_holds_the_int8_file_with_a_proof_of_its_own(exported_int8):
    bundle = exported_int8.bundle
    paths = ["model.onnx", "model.ort.onnx", "model.int8.onnx", "model.int8.ort.onnx"]
    assert [artefact.path for artefact in bundle.artefacts] == paths
    assert [proof.artefact for proof in exported_int8.proofs] == paths
    for proof in exported_int8.proofs[2:]:
        assert proof.precision == "int8"
        assert proof.policy == policy_of("int8")
        assert proof.verdict.passed
    assert read_proofs(bundle) == exported_int8.proofs
    assert bundle.onnx("int8").max_logit_diff == policy_of("int8").max_logit_diff


def test_the_model_card_lists_it_and_states_its_proof(exported_int8):
    card = (exported_int8.bundle.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| `model.int8.onnx` | int8 | " in card
    proof = card.partition("## Proof of `model.int8.onnx`: ort-cpu against torch\n")[2]
    assert f"| {threshold(policy_of('int8').max_logit_diff)} |" in proof


def test_the_device_verifies_and_runs_it_by_its_precision(exported_int8, make_clip):
    folder = exported_int8.bundle.folder
    report = verify_bundle(folder, "ort-cpu", precision="int8")
    assert (report.artefact, report.passed) == ("model.int8.onnx", True)
    logits = {
        precision: Recognizer.load(folder, "ort-cpu", precision=precision).predict(make_clip()).logits_C
        for precision in ("fp32", "int8")
    }
    difference = np.abs(logits["fp32"] - logits["int8"]).max()
    assert 0 < difference < policy_of("int8").max_logit_diff
    lone = Recognizer.load(folder / "model.int8.onnx").predict(make_clip())
    np.testing.assert_array_equal(lone.logits_C, logits["int8"])


class Lopsided(nn.Module):
    """Each column has one huge weight, for a value that is always 0: 8 bits leave nothing of the rest."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(108)
        self.layer = nn.Linear(108, 16)
        self.head = nn.Linear(16, 3)
        with torch.no_grad():
            self.norm.weight[0] = 0.0
            self.layer.weight[:, 0] = 1000.0

    def forward(self, poses, lengths):
        real = (torch.arange(poses.shape[1]) < lengths[:, None])[:, :, None]
        seen = torch.where(real & ~poses.isnan(), poses, 0.0)
        frames = torch.where(real, self.layer(self.norm(seen)), 0.0)
        return self.head(frames.sum(1) / lengths[:, None])


def test_int8_that_fails_its_proof_writes_nothing(three_labels, tmp_path):
    with pytest.raises(
        ExportError, match=r"model\.int8\.onnx in int8 is not the model .* nothing was written"
    ):
        export_bundle(Lopsided(), three_labels, tmp_path / "a.spoter", provenance={}, precisions=("int8",))
    assert list(tmp_path.iterdir()) == []


def test_a_module_without_anything_to_quantise_writes_nothing(average, three_labels, tmp_path):
    with pytest.raises(ExportError, match="int8 has nothing to do here"):
        export_bundle(average(), three_labels, tmp_path / "a.spoter", provenance={}, precisions=("int8",))
    assert list(tmp_path.iterdir()) == []
