"""A bundle is written when it is proven, and not before."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from spoter_export.bundle import writer as bundle_writer
from spoter_export.bundle.files import read_proofs
from spoter_export.bundle.model_card import card_from_facts
from spoter_export.bundle.writer import export_bundle, goldens_from
from spoter_export.probes import ClipSet
from spoter_export.torch_runner import TorchRunner
from spoter_runtime.decision import Abstention
from spoter_runtime.errors import ExportError
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.runner import pad_clips


def bytes_in(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def reference(small_model, contract):
    return TorchRunner(small_model, contract)


def test_an_exported_bundle_is_proven_over_its_whole_grid(exported, contract):
    grid = {(b, f, k) for b in (1, 2, 7, 8) for f in (1, 2, 37, 60, 99) for k in ("full", "ragged")}
    backends = ("ort-cpu", "ort-cpu-fused")
    for proof, backend, artefact in zip(exported.proofs, backends, exported.bundle.artefacts, strict=True):
        assert proof.verdict.passed
        assert proof.sha256 == artefact.sha256
        facts = proof.facts
        assert {(point.batch, point.frames, point.lengths) for point in facts.grid} == grid
        assert all(point.error is None for point in facts.grid)
        assert facts.max_logit_diff <= 1e-4
        assert {fact.runner for fact in facts.invariance} == {"torch", backend}


def test_the_proof_travels_in_the_bundle(exported, bundle_folder):
    proofs = json.loads((bundle_folder / "parity.json").read_text(encoding="utf-8"))["proofs"]
    assert [proof["artefact"] for proof in proofs] == ["model.onnx", "model.ort.onnx"]
    for proof in proofs:
        assert (proof["passed"], proof["failures"]) == (True, [])
        assert proof["policy"] == {
            "max_logit_diff": 1e-4,
            "max_invariance_diff": 1e-5,
            "min_label_agreement": 1.0,
            "min_clips": 0,
        }
    assert read_proofs(exported.bundle) == exported.proofs


def test_provenance_is_kept(exported, provenance):
    assert exported.bundle.provenance == provenance


def test_goldens_are_answered_by_the_exported_model(exported, bundle_folder):
    goldens = exported.bundle.goldens()
    runner = OrtRunner(bundle_folder / "model.onnx")
    for poses, length, logits in zip(goldens.poses_NTD, goldens.lengths_N, goldens.logits_NC, strict=True):
        np.testing.assert_allclose(runner.infer(poses[None, :length])[0], logits, atol=1e-4)


def test_goldens_are_the_references_answers_to_each_clip_alone(exported, reference):
    goldens = exported.bundle.goldens()
    for poses, length, logits in zip(goldens.poses_NTD, goldens.lengths_N, goldens.logits_NC, strict=True):
        np.testing.assert_allclose(reference.infer(poses[None, :length])[0], logits, atol=1e-6)


def test_clips_of_people_travel_only_where_that_is_allowed(reference, make_clip):
    clips = [make_clip(seed, 21 + seed) for seed in range(40)]
    own = {length for length in range(21, 61) if length != 44}  # a generated clip has 44 frames
    kept = goldens_from(reference, ClipSet(source="real", clips=clips))
    assert len(own & set(kept.lengths_N.tolist())) >= 15
    assert {21, 60} <= set(kept.lengths_N.tolist())
    without = goldens_from(reference)
    assert not own & set(without.lengths_N.tolist())
    assert len(without.lengths_N) > 0


_EXPORT_AGAIN = """
import json, sys
from pathlib import Path
import torch
from spoter_export.bundle.writer import export_bundle
from spoter_runtime.contract import GraphContract
from spoter_toolkit.model.spoter import BdslSpoter
from spoter_toolkit.model.config import ModelConfig

state, config, contract, provenance, folder = sys.argv[1:]
model = BdslSpoter(ModelConfig(**json.loads(config)))
model.load_state_dict(torch.load(state, weights_only=True))
export_bundle(
    model,
    GraphContract.from_json(json.loads(contract), where="test"),
    Path(folder),
    provenance=json.loads(provenance),
)
"""


@pytest.mark.slow
def test_two_bundles_of_one_model_are_byte_identical(
    python, small_model, contract, provenance, bundle_folder, tmp_path
):
    # In another process, with another hash seed: what a second `spoter-kit export` would be.
    torch.save(small_model.state_dict(), tmp_path / "state.pt")
    again = tmp_path / "small.spoter"
    values = [json.dumps(value) for value in (small_model.config.as_json(), contract.as_json(), provenance)]
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = python("-c", _EXPORT_AGAIN, tmp_path / "state.pt", *values, again, env={"PYTHONHASHSEED": seed})
    assert done.returncode == 0, done.stderr
    first, second = bytes_in(bundle_folder), bytes_in(again)
    assert first.keys() == second.keys()
    for name, content in first.items():
        assert content == second[name], name


def test_an_existing_bundle_is_not_replaced_unasked(small_model, contract, provenance, bundle_copy):
    before = bytes_in(bundle_copy)
    with pytest.raises(
        ExportError, match=r"copy.spoter: exists already. Fix: choose another -o, or .*--force"
    ):
        export_bundle(small_model, contract, bundle_copy, provenance=provenance)
    assert bytes_in(bundle_copy) == before


def test_an_unproven_model_is_not_written_and_what_was_there_stays(average, three_labels, bundle_copy):
    class IgnoresLengths(average):
        def forward(self, poses, lengths):
            return self.head(torch.where(poses.isnan(), 0.0, poses).mean(1)) + 0.0 * lengths[:, None]

    before = bytes_in(bundle_copy)
    with pytest.raises(ExportError, match="nothing was written") as raised:
        export_bundle(IgnoresLengths(), three_labels, bundle_copy, provenance={}, force=True)
    assert "ort-cpu: padding zeros moves the logits by" in str(raised.value)
    assert bytes_in(bundle_copy) == before
    assert [path.name for path in bundle_copy.parent.iterdir()] == ["copy.spoter"]


def test_an_honest_module_of_anyone_replaces_a_bundle_by_force(average, three_labels, bundle_copy):
    said = []
    made = export_bundle(
        average(),
        three_labels,
        bundle_copy,
        provenance={},
        force=True,
        on_progress=lambda *report: said.append(report),
    )
    assert made.bundle.contract == three_labels
    assert [path.name for path in bundle_copy.parent.iterdir()] == ["copy.spoter"]
    assert said[0] == (0, 0, "exporting to ONNX")
    assert said[-1][0] == said[-1][1] > 0
    card = (bundle_copy / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "- not stated\n- data: not known to spoter-kit; no score is claimed\n" in card


def test_a_place_that_cannot_be_written_loses_nothing(average, three_labels, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match="file"):
        export_bundle(average(), three_labels, tmp_path / "file" / "a.spoter", provenance={})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "precious"


def test_provenance_that_is_no_json_leaves_nothing_behind(average, three_labels, tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        export_bundle(
            average(),
            three_labels,
            tmp_path / "a.spoter",
            provenance={"loss": float("nan")},
        )
    assert list(tmp_path.iterdir()) == []


def test_the_model_card_says_synthetic_and_states_the_proof(exported, bundle_folder):
    card = (bundle_folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.startswith("# small\n")
    assert "**Trained on synthetic signing: nobody signed it" in card
    assert "- data: synthetic, sha256 `0000000000000000…`; split by signer: test s4\n" in card
    assert "validation: top-1" not in card  # none was measured
    assert "| 40 of 40 grid points" in card
    assert f"`{exported.bundle.artefacts[0].sha256[:16]}…`" in card
    assert "1 ≤ lengths ≤ frames ≤ 99; 1 ≤ batch ≤ 8." in card
    assert "| 0 | cha | tea | চা | chā |" in card
    assert card.count("\n| ") > 20


def test_the_model_card_of_real_data_does_not_say_synthetic(exported, contract, provenance):
    real = provenance | {
        "data": {"kind": "asl33", "synthetic": False, "sha256": "f" * 64, "split": "by signer: test B"},
        "metrics": {"val": {"top1": 0.5, "top5": 0.75, "macro_f1": 0.25, "clips": 8}},
    }
    card = card_from_facts("real", contract, exported.bundle.artefacts, exported.proofs, real)
    assert "ynthetic" not in card
    assert "- validation: top-1 0.500, top-5 0.750, macro F1 0.250 on 8 clips of the split above" in card


def test_the_model_card_says_when_it_says_no_sign(exported, contract, provenance):
    facts = contract, exported.bundle.artefacts, exported.proofs, provenance
    assert "Never: the bundle holds no calibration." in card_from_facts("small", *facts)
    kind = {"kind": "reversed", "recorded": False, "clips": 18, "same_sign": 2}
    evidence = {
        "clips": "npy, val split: by signer: test s4; val s3",
        "signs": 540,
        "bins": 15,
        "softmax_error": 0.0804,
        "calibration_error": 0.0034,
        "kept": 0.96,
        "kinds": [kind | {"auroc": 0.289, "false_at_95": 0.944, "false_answers": 0.5}],
    }
    rule = Abstention(
        temperature=0.607,
        min_probability=0.55,
        min_margin=0.25,
        min_hand_share=0.5,
        target=0.05,
        background=("none",),
        evidence=evidence,
    )
    card = card_from_facts("small", *facts, rule)
    for said in (
        "| probability below | 0.5500 |",
        "| the label is none | |",
        "Fitted on 540 clips of signs (npy, val split: by signer: test s4; val s3) for at most 5% false",
        "Of these signs 96.0% are kept. Calibration error in 15 bins: 0.0804 before, 0.0034 after.",
        "| reversed | made from signs | 18 | 0.289 | 94.4% | 50.0% |",
    ):
        assert said in card
    assert "likeness" not in card
    alike = replace(rule, min_likeness=0.94, typical_logits=("9 1", "1 9"))
    card = card_from_facts("small", *facts, alike)
    assert "| likeness to the label's clips below | 0.9400 |" in card


def test_the_model_cards_code_runs(bundle_folder, make_clip, monkeypatch):
    card = (bundle_folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    code = card.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(bundle_folder.parent)
    names = {"landmarks": make_clip()}
    exec(code, names)
    assert names["prediction"].label in {label.name for label in names["recognizer"].labels}


def test_torch_takes_a_read_only_clip(reference, make_clip):
    poses, lengths = pad_clips([make_clip()])
    expected = reference.infer(poses, lengths)
    poses.flags.writeable = lengths.flags.writeable = False
    np.testing.assert_array_equal(reference.infer(poses, lengths), expected)
    expected[:] = 0.0  # the caller's own


def test_an_onnx_runtime_too_old_for_attention_makes_no_file_for_it_and_says_so(
    average, three_labels, tmp_path, monkeypatch
):
    old = type("old", (), {"__version__": "1.24.4"})
    monkeypatch.setattr(bundle_writer, "import_onnxruntime", lambda: old)
    with pytest.warns(
        UserWarning, match=r"onnxruntime 1\.24\.4 is older than 1\.25: no model\.ort\.onnx is made"
    ):
        made = export_bundle(average(), three_labels, tmp_path / "a.spoter", provenance={})
    assert [artefact.path for artefact in made.bundle.artefacts] == ["model.onnx"]
