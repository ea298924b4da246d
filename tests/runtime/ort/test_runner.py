"""ONNX Runtime: which files it opens, and what is said where it cannot."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from other_tensors import other_tensors
from spoter_runtime.contract import METADATA_KEY, GraphContract
from spoter_runtime.errors import BackendError, BundleError, pip_fix
from spoter_runtime.ort.installed import installed_distributions
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.runner import pad_clips


@pytest.fixture
def model(bundle_folder):
    """The exported graph, to be changed."""
    return onnx.load(bundle_folder / "model.onnx")


@pytest.fixture
def lone(tmp_path):
    """Return lone(content): the path of an .onnx file with those bytes, and nothing beside it."""

    def lone(content):
        path = tmp_path / "alone.onnx"
        path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
        return path

    return lone


def test_a_lone_file_explains_itself(bundle_folder, lone, contract, make_clip):
    recognizer = Recognizer.load(lone((bundle_folder / "model.onnx").read_bytes()))
    assert recognizer.contract == contract
    assert recognizer.why == {"ort-cpu": "a lone ONNX file"}
    clip = make_clip()
    expected = Recognizer.load(bundle_folder, "ort-cpu").predict(clip)
    assert recognizer.predict(clip).sign == expected.sign
    np.testing.assert_array_equal(recognizer.predict(clip).logits_C, expected.logits_C)


def test_a_path_and_its_bytes_are_the_same_model(bundle_folder, make_clip):
    path = bundle_folder / "model.onnx"
    batch = pad_clips([make_clip()])
    answers = [OrtRunner(model).infer(*batch) for model in (path, str(path), path.read_bytes())]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_threads_are_the_callers_choice(bundle_folder, make_clip):
    runner = OrtRunner(bundle_folder / "model.onnx", threads=1)
    assert runner._session.get_session_options().intra_op_num_threads == 1
    batch = pad_clips([make_clip()])
    np.testing.assert_allclose(
        runner.infer(*batch), OrtRunner(bundle_folder / "model.onnx").infer(*batch), atol=1e-5
    )


def test_several_threads_may_share_a_runner(bundle_folder, make_clip):
    runner = OrtRunner(bundle_folder / "model.onnx", threads=1)
    batches = [pad_clips([make_clip(seed, 10 + seed)]) for seed in range(8)]
    expected = [runner.infer(*batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(lambda batch: runner.infer(*batch), batches), expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_a_file_without_our_contract_is_foreign(model, lone):
    del model.metadata_props[:]
    with pytest.raises(
        BundleError, match=r"alone.onnx: no 'spoter_kit.contract' .*not exported by spoter-kit"
    ):
        Recognizer.load(lone(model))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "the contract in its metadata is damaged"),
        ('{"labels": [', "the contract in its metadata is damaged"),
        ('{"labels": []}', "contract.ranges: None, expected a table"),
        ("[]", r"contract: \[\], expected a table"),
    ],
)
def test_a_damaged_contract_is_named(model, lone, value, message):
    model.metadata_props[0].value = value
    with pytest.raises(BundleError, match=f"alone.onnx: {message}"):
        Recognizer.load(lone(model))


@pytest.mark.parametrize("offset", [30, 60, 500, 501, 502, 503])
def test_a_flipped_bit_in_the_metadata_is_our_error(bundle_folder, offset):
    content = bytearray((bundle_folder / "model.onnx").read_bytes())
    content[content.index(METADATA_KEY.encode()) + offset] ^= 0x80  # no longer UTF-8
    with pytest.raises((BundleError, BackendError), match="the ONNX model: "):
        OrtRunner(bytes(content))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_named_and_nothing_is_printed(bundle_folder, lone, share, capfd):
    content = (bundle_folder / "model.onnx").read_bytes()
    path = lone(content[: int(share * len(content))])
    with pytest.raises(
        (BackendError, BundleError), match=r"alone.onnx: (refused: (truncated|it is empty)|no 'spoter)"
    ):
        Recognizer.load(path)
    assert capfd.readouterr().out == ""  # results go there, an engine's remarks must not


def test_an_operator_of_unprintable_name_is_our_error_and_nothing_is_printed(bundle_folder, lone, capfd):
    # ONNX Runtime's own message is then not UTF-8: its Python side would remark on that, and try again.
    content = (
        (bundle_folder / "model.onnx").read_bytes().replace(b"LayerNormalization", b"LayerNormalizatio\xee")
    )
    with pytest.raises(BundleError, match=r"alone.onnx: refused: a name that is no text"):
        Recognizer.load(lone(content))
    assert capfd.readouterr().out == ""


def test_another_file_with_that_ending_is_refused(lone):
    with pytest.raises(BundleError, match=r"alone.onnx: refused: the model has a field 12"):
        Recognizer.load(lone(b"a picture, really"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"none.onnx: no such file"):
        OrtRunner(tmp_path / "none.onnx")
    with pytest.raises(BundleError, match=r"none.onnx: no such folder"):
        Recognizer.load(tmp_path / "none.onnx")


def test_a_contract_of_other_labels_is_found_as_it_is_loaded(model, lone):
    contract = GraphContract.from_json(json.loads(model.metadata_props[0].value), where="model")
    four = GraphContract(labels=contract.labels[:4])
    model.metadata_props[0].value = json.dumps(four.as_json())
    said = r"logits: expected output float32 \(batch, 4\), got output float32 \(batch, 5\)"
    with pytest.raises(BackendError, match=said):
        Recognizer.load(lone(model))


def test_other_inputs_and_outputs_than_the_contracts_are_refused_as_it_is_loaded(contract):
    for name, (other, said) in other_tensors(contract).items():
        if not said:
            OrtRunner(other.SerializeToString())
            continue
        with pytest.raises(BackendError) as raised:
            OrtRunner(other.SerializeToString())
        assert raised.value.message == f"the ONNX model: the model is not what its contract says: {said}", (
            name
        )


def test_an_engine_that_fails_says_on_what(model, lone, make_clip):
    # A contract that promises more frames than the position table holds: the door lets them through.
    contract = GraphContract.from_json(json.loads(model.metadata_props[0].value), where="model")
    model.metadata_props[0].value = json.dumps(GraphContract(labels=contract.labels).as_json())
    with pytest.raises(BackendError, match=r"ort-cpu: failed on poses \(1, 150, 108\)"):
        OrtRunner(lone(model)).infer(*pad_clips([make_clip(0, 150)]))


def test_the_installed_distribution_is_found():
    assert list(installed_distributions()) == ["onnxruntime"]


def _second_distribution(folder):
    """Let another distribution of ONNX Runtime look installed, as pip records it."""
    info = folder / "onnxruntime_gpu-1.99.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.99.0\n")
    return folder


def test_two_installed_runtimes_are_refused_with_the_command_that_mends_it(python, bundle_folder, tmp_path):
    second = _second_distribution(tmp_path / "second")
    done = python("-m", "spoter_runtime", "verify", bundle_folder, "--backend", "ort-cpu", path=[second])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: 2 distributions of ONNX Runtime are installed and overwrite each")
    assert "onnxruntime-gpu 1.99.0" in done.stderr
    fix = f"Fix: pip uninstall -y onnxruntime onnxruntime-gpu && {pip_fix('cpu')}\n"
    assert done.stderr.endswith(fix)
    assert done.stderr.count("\n") == 1


def test_a_runtime_whose_files_are_gone_is_named_with_the_command_that_brings_them_back(python, tmp_path):
    (tmp_path / "emptied" / "onnxruntime").mkdir(parents=True)
    (tmp_path / "emptied" / "onnxruntime" / "__init__.py").touch()
    code = "from spoter_runtime.ort.runner import import_onnxruntime; import_onnxruntime()"
    done = python("-c", code, path=[tmp_path / "emptied"])
    assert "BackendError: onnxruntime is installed, but its files are gone" in done.stderr
    assert done.stderr.endswith("Fix: pip install --force-reinstall --no-deps onnxruntime\n")


def test_no_runtime_at_all_names_the_extra(python, bundle_folder):
    done = python(
        "-m", "spoter_runtime", "verify", bundle_folder, "--backend", "ort-cpu", absent=["onnxruntime"]
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: this needs the Python module 'onnxruntime', which is not installed. Fix: {pip_fix('cpu')}\n"
    )


def test_an_unknown_provider_is_named_with_those_that_there_are(bundle_folder):
    with pytest.raises(
        BackendError, match="provider 'gpu': expected one of cpu, cuda, tensorrt, tensorrt-rtx"
    ):
        OrtRunner(bundle_folder / "model.onnx", provider="gpu")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_two_runtimes_are_refused_for_a_gpu_with_the_build_that_has_it(
    python, bundle_folder, tmp_path, provider
):
    code = f"from spoter_runtime.ort.runner import OrtRunner; OrtRunner('model.onnx', provider={provider!r})"
    done = python("-c", code, path=[_second_distribution(tmp_path / "second")])
    fix = f"Fix: pip uninstall -y onnxruntime onnxruntime-gpu && {pip_fix('gpu')}\n"
    assert done.stderr.endswith(fix)
