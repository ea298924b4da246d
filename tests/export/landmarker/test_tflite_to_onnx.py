from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from spoter_export.landmarker import graphs, proof
from spoter_export.landmarker.tflite_to_onnx import onnx_from_tflite
from spoter_runtime.errors import ExportError

NAMES = list(graphs.NETWORKS)


@pytest.mark.parametrize("name", NAMES)
def test_a_converted_network_computes_what_litert_does(originals, name):
    pytest.importorskip("ai_edge_litert", reason="LiteRT runs the originals")
    network = graphs.network(name, originals[name])
    onnx.checker.check_model(network, full_check=True)
    assert proof.check_network(name, originals[name], network) < 5e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_answers_are_litert_s(originals, name):
    pytest.importorskip("ai_edge_litert", reason="LiteRT runs the originals")
    now = proof.litert_answers(name, originals[name])
    for output, stored in proof._stored(name).items():
        np.testing.assert_allclose(proof._sampled(now[output]), stored, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("litert", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_weight_that_is_a_little_wrong_fails_the_proof(originals, monkeypatch, name, litert):
    if litert:
        pytest.importorskip("ai_edge_litert", reason="LiteRT runs the originals")
    monkeypatch.setattr(proof, "is_installed", lambda module: litert)
    network = graphs.network(name, originals[name])
    weight = next(w for w in network.graph.initializer if w.name.endswith("_weights"))
    values = numpy_helper.to_array(weight).copy()
    values[0] *= 1.05
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    with pytest.raises(ExportError, match=f"{name}: the converted network differs from the original by"):
        proof.check_network(name, originals[name], network)


def test_pictures_of_a_batch_do_not_meet(originals):
    network = graphs.network("hand", originals["hand"])
    session = onnxruntime.InferenceSession(network.SerializeToString())
    pictures = proof.pictures("hand")
    together = session.run(None, {"image": pictures})
    for n, picture in enumerate(pictures):
        for whole, alone in zip(together, session.run(None, {"image": picture[None]}), strict=True):
            np.testing.assert_allclose(whole[n], alone[0], atol=1e-4)


def test_only_what_the_wanted_outputs_need_is_kept(originals):
    wanted = graphs.NETWORKS["pose"]
    without = onnx_from_tflite(originals["pose"], wanted, name="pose")
    with_mask = onnx_from_tflite(originals["pose"], {**wanted, "Identity_2": "mask"}, name="pose")
    assert len(without.graph.node) < len(with_mask.graph.node)
    assert len(without.graph.initializer) < len(with_mask.graph.initializer)
    assert [value.name for value in without.graph.output] == list(wanted.values())


def test_an_unknown_output_or_operator_is_named(originals, monkeypatch):
    with pytest.raises(ExportError, match="one of the outputs Nothing is not known"):
        onnx_from_tflite(originals["hand"], {"Nothing": "n"}, name="hand")
    from spoter_export.landmarker import tflite_to_onnx

    monkeypatch.delattr(tflite_to_onnx._Conversion, "_on_mean")
    with pytest.raises(
        ExportError, match="hand: cannot be converted to ONNX: the operator MEAN is not known"
    ):
        graphs.network("hand", originals["hand"])
