"""The face `http`: parity through a server's process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spoter_export.torch_runner import TorchRunner
from spoter_runtime.errors import BackendError
from spoter_toolkit.faces.http import contract_told, open_face
from spoter_toolkit.parity.prove import prove_backends


@pytest.mark.slow  # it starts a server's process
def test_parity_holds_over_http(exported, small_model, contract):
    proofs, not_run = prove_backends(exported.bundle, TorchRunner(small_model, contract), None, ["face-http"])
    (proof,) = proofs
    assert not not_run
    assert proof.verdict.passed
    assert proof.face == "http"
    assert proof.facts.max_logit_diff < 1e-4


@pytest.mark.slow  # it starts a server's process
def test_a_face_ends_its_server_and_says_why_one_did_not_start(exported, bundle_copy, make_clip):
    face = open_face(exported.bundle, "fp32")
    process = face._server
    assert face.contract == exported.bundle.contract
    assert face.predict([make_clip()] * 20).shape == (20, 5)
    face.close()
    assert process.poll() is not None
    (bundle_copy / "goldens.npz").unlink()
    with pytest.raises(BackendError, match=r"the server did not start: error: .*goldens\.npz"):
        open_face(replace(exported.bundle, folder=bundle_copy), "fp32")


@pytest.mark.parametrize(
    "change", [lambda names: [*names, "more"], lambda names: names[1:], lambda names: names[::-1]]
)
def test_a_server_with_other_labels_is_no_face_of_the_bundle(contract, change):
    names = [label.name for label in contract.labels]
    told = {"labels": names, "max_frames": contract.max_frames}
    assert contract_told(told, contract) == contract
    other = contract_told(told | {"labels": change(names)}, contract)
    assert [label.name for label in other.labels] == change(names)
    assert other != contract
