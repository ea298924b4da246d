"""A face is one file; parity compares it like a backend, and the model card gets a column for it."""

from __future__ import annotations

import numpy as np
import pytest

import spoter_toolkit.faces
from spoter_export.bundle.engines import keep_proofs
from spoter_export.bundle.files import read_proofs
from spoter_export.torch_runner import TorchRunner
from spoter_runtime.bundle.manifest import MODEL_CARD, read_bundle
from spoter_runtime.errors import ConfigError, ExportError
from spoter_toolkit.backends import backends_of
from spoter_toolkit.faces.face import face_names
from spoter_toolkit.parity.prove import check_candidates, prove_backends

# Answers each clip with ONNX Runtime; a wrong one takes the logits of the first two labels for each other.
_FACE = """
import numpy as np
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.runner import pad_clips
from spoter_toolkit.faces.face import Face

class Other(Face):
    def __init__(self, bundle, precision):
        artefact = bundle.onnx(precision)
        super().__init__(NAME, bundle.contract, artefact)
        self.runner = OrtRunner(bundle.folder / artefact.path)

    def predict(self, clips):
        assert all(clip.ndim == 3 and clip.shape[1:] == (54, 2) for clip in clips)
        logits = np.concatenate([self.runner.infer(*pad_clips([clip])) for clip in clips])
        return logits[:, ORDER]

def open_face(bundle, precision):
    return Other(bundle, precision)
"""


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """Put the faces ``same`` and ``swapped`` beside those of the toolkit."""
    for name, order in (("same", [0, 1, 2, 3, 4]), ("swapped", [1, 0, 2, 3, 4])):
        (tmp_path / f"{name}.py").write_text(f"NAME, ORDER = {name!r}, {order}\n{_FACE}", encoding="utf-8")
    monkeypatch.setattr(spoter_toolkit.faces, "__path__", [*spoter_toolkit.faces.__path__, str(tmp_path)])


@pytest.fixture
def proven(faces, exported, small_model, contract):
    """The proofs of both."""
    names = ["face-same", "face-swapped"]
    return prove_backends(exported.bundle, TorchRunner(small_model, contract), None, names)[0]


def test_a_file_in_the_folder_is_a_face_and_no_backend_that_parity_runs_unasked(faces, exported):
    assert {"same", "swapped"} <= set(face_names())
    check_candidates(["face-same", "face-same:fp16"])
    with pytest.raises(ConfigError, match="unknown face 'sane'; did you mean 'same'"):
        check_candidates(["face-sane"])
    assert not [name for name in backends_of(exported.bundle) if "face" in name]


def test_parity_compares_a_face_and_the_model_card_gets_its_column(proven, bundle_copy, bundle_folder):
    same, swapped = proven
    assert same.verdict.passed
    assert (same.face, same.on_gpu) == ("same", False)
    assert same.facts.max_logit_diff < 1e-4
    assert not swapped.verdict.passed
    before = len(read_proofs(read_bundle(bundle_copy)))
    keep_proofs(bundle_copy, [same])
    keep_proofs(bundle_copy, [same])  # it replaces the older one
    bundle = read_bundle(bundle_copy)
    bundle.check_files()
    assert [proof.face for proof in read_proofs(bundle)] == [""] * before + ["same"]
    (row,) = [
        line for line in bundle.read(MODEL_CARD).decode().splitlines() if line.startswith("| `model.onnx`")
    ]
    assert row.endswith(f"holds: {same.facts.max_logit_diff:.1e} |")
    assert "in the face same" in bundle.read(MODEL_CARD).decode()
    assert "in the face" not in (bundle_folder / MODEL_CARD).read_text(encoding="utf-8")


def test_a_proof_of_a_file_that_was_replaced_is_not_kept(exported, bundle_copy, plant):
    plant(bundle_copy, b"another file")
    with pytest.raises(ExportError, match="was replaced since it was proven"):
        keep_proofs(bundle_copy, exported.proofs[:1])


def test_a_faces_answers_are_in_the_order_of_the_clips(faces, exported, make_clip):
    from spoter_toolkit.backends import open_backend

    runner = open_backend("face-same", exported.bundle).runner
    clips = [make_clip(frames=frames) for frames in (3, 9)]
    poses = np.full((2, 9, 108), np.inf, np.float32)  # nothing of the padding reaches a face
    for row, clip in zip(poses, clips, strict=True):
        row[: len(clip)] = np.asarray(clip, np.float32).reshape(len(clip), 108)
    together = runner.infer(poses, np.array([3, 9], np.int32))
    alone = [runner.infer(poses[i : i + 1, :n], np.array([n], np.int32))[0] for i, n in enumerate((3, 9))]
    np.testing.assert_allclose(together, alone, atol=1e-6)
