"""A bundle is read as it was written, or not at all."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from spoter_runtime.bundle.manifest import MANIFEST, Bundle, read_bundle
from spoter_runtime.errors import BackendError, BundleError, upgrade_fix
from spoter_runtime.files import sha256_of
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.verify import verify_bundle

FILES = ("MODEL_CARD.md", "bundle.json", "goldens.npz", "model.onnx", "model.ort.onnx", "parity.json")


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def goldens_of(clips, classes, poses=None):
    return npz(
        poses=np.zeros((clips if poses is None else poses, 2, 108), np.float32),
        lengths=np.ones(clips, np.int32),
        logits=np.zeros((clips, classes), np.float32),
    )


def test_a_bundle_says_what_is_in_it(bundle_folder, contract):
    bundle = read_bundle(bundle_folder)
    assert sorted(path.name for path in bundle_folder.iterdir()) == sorted(FILES)
    assert bundle.name == "small"
    assert bundle.contract == contract
    assert bundle.contract.labels[0].bengali == "চা"
    model, fused = bundle.artefacts
    assert (model.path, model.kind, model.precision) == ("model.onnx", "onnx", "fp32")
    assert (fused.path, fused.kind, fused.precision) == ("model.ort.onnx", "ort", "fp32")
    assert bundle.by_precision("onnx") == {"fp32": model}
    assert model.size_bytes == (bundle_folder / "model.onnx").stat().st_size
    assert bundle.check_files() == len(FILES) - 1


def test_goldens_are_clips_with_the_references_logits(bundle_folder):
    goldens = read_bundle(bundle_folder).goldens()
    count, frames, features = goldens.poses_NTD.shape
    assert (goldens.poses_NTD.dtype, features) == (np.float32, 108)
    assert (goldens.lengths_N.dtype, goldens.lengths_N.shape) == (np.int32, (count,))
    assert goldens.logits_NC.shape == (count, 5)
    assert {1, 2, frames} <= set(goldens.lengths_N.tolist())
    shows_nothing = ~np.nan_to_num(goldens.poses_NTD).any(axis=(1, 2))
    assert shows_nothing.any()


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_any_file_is_found(bundle_copy, name, where):
    content = bytearray((bundle_copy / name).read_bytes())
    position = {"first": 0, "middle": len(content) // 2, "last": len(content) - 1}[where]
    content[position] ^= 1
    (bundle_copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}: .*Fix: copy the whole bundle again"):
        read_bundle(bundle_copy).check_files()
    with pytest.raises(BundleError, match=name):
        verify_bundle(bundle_copy)
    if name in ("bundle.json", "model.onnx", "model.ort.onnx"):  # what a prediction rests on
        with pytest.raises(BundleError, match=name):
            Recognizer.load(bundle_copy, "ort-cpu" if name == "model.onnx" else None)
    if name == "goldens.npz":
        with pytest.raises(BundleError, match=name):
            read_bundle(bundle_copy).goldens()


def test_a_flipped_bit_anywhere_in_the_manifest_is_found(bundle_copy):
    path = bundle_copy / "bundle.json"
    content = path.read_bytes()
    for position in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match=r"bundle\.json"):
            read_bundle(bundle_copy)


@pytest.mark.parametrize("name", [name for name in FILES if name != "bundle.json"])
def test_a_missing_file_is_named(bundle_copy, name):
    opened = read_bundle(bundle_copy)
    (bundle_copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is listed in bundle.json but is not there. Fix: copy the"):
        read_bundle(bundle_copy)
    with pytest.raises(BundleError, match=f"{name}: listed in bundle.json but cannot be read .*No such file"):
        opened.check_files()


@pytest.mark.parametrize("name", [name for name in FILES if name != "bundle.json"])
def test_a_truncated_file_is_named(bundle_copy, name):
    content = (bundle_copy / name).read_bytes()
    (bundle_copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=f"{name}: sha256 is .* changed or damaged"):
        read_bundle(bundle_copy).check_files()


def test_a_file_that_is_not_listed_is_not_read(bundle_copy):
    (bundle_copy / "more.txt").write_text("more")
    with pytest.raises(BundleError, match=r"more.txt is not listed in bundle\.json"):
        read_bundle(bundle_copy).read("more.txt")


def test_a_place_without_a_bundle_is_said_to_be_one(tmp_path):
    with pytest.raises(
        BundleError,
        match=r"nowhere.spoter: no such folder. Fix: check the path, or spoter-kit export makes one",
    ):
        read_bundle(tmp_path / "nowhere.spoter")
    with pytest.raises(
        BundleError, match=r"not a bundle: it has no bundle\.json. Fix: check the path, or spoter-kit export"
    ):
        read_bundle(tmp_path)
    for name in ("b.spoter", "a.spoter"):
        (tmp_path / "bundles" / name).mkdir(parents=True)
        (tmp_path / "bundles" / name / MANIFEST).touch()
    with pytest.raises(
        BundleError, match=r"is a folder of bundles: .*a\.spoter, .*b\.spoter\. Fix: take .*a\."
    ):
        read_bundle(tmp_path / "bundles")
    (tmp_path / "clip.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(BundleError, match=r"clip.npy: not a bundle: it has no bundle\.json"):
        Recognizer.load(tmp_path / "clip.npy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as JSON"),
        (b"not JSON", "cannot be read as JSON"),
        (b'{"schema_version": 1', "cannot be read as JSON"),
        (b"\xff\xfe\x00", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[1, 2]", "not the manifest of a spoter-kit bundle"),
        (b'"bundle"', "not the manifest of a spoter-kit bundle"),
        (b'{"name": "foreign"}', "not the manifest of a spoter-kit bundle"),
        (b'{"schema_version": 1}', "its own hash does not fit its content"),
        (b'{"schema_version": 1, "name": "\\ud800"}', "its own hash does not fit its content"),
    ],
)
def test_a_foreign_manifest_is_refused(bundle_copy, content, message):
    (bundle_copy / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=rf"bundle\.json: {message}"):
        read_bundle(bundle_copy)


def test_a_newer_schema_asks_for_an_upgrade(bundle_copy, reseal):
    reseal(bundle_copy, lambda manifest: manifest.update(schema_version=2))
    message = f"schema version 2, this spoter_runtime reads 1. Fix: {upgrade_fix()}"
    with pytest.raises(BundleError, match=re.escape(message)):
        read_bundle(bundle_copy)


@pytest.mark.parametrize("key", ["name", "labels", "max_frames", "sha256", "provenance"])
def test_an_edited_manifest_is_found(bundle_copy, key):
    path = bundle_copy / "bundle.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    if key == "labels":
        content["contract"]["labels"][0]["name"] = "coffee"
    elif key == "max_frames":
        content["contract"]["ranges"]["frames"] = [1, 300]
    elif key == "sha256":
        content["artefacts"][0]["sha256"] = "0" * 64
    else:
        content[key] = "edited"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(
        BundleError, match="its own hash does not fit its content, so it was changed or damaged"
    ):
        read_bundle(bundle_copy)


def test_other_indentation_is_the_same_manifest(bundle_copy):
    before = read_bundle(bundle_copy)
    path = bundle_copy / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    assert read_bundle(bundle_copy) == before


@pytest.mark.parametrize(
    "kind", ["absolute", "parent", "parent inside", "backslash", "symlink", "linked folder"]
)
def test_a_path_out_of_the_bundle_is_refused(bundle_copy, tmp_path, kind, reseal):
    outside = tmp_path / "outside"
    outside.mkdir()
    model = (bundle_copy / "model.onnx").read_bytes()  # the right bytes: only where they lie is wrong
    (outside / "model.onnx").write_bytes(model)
    listed = {
        "absolute": str(outside / "model.onnx"),
        "parent": "../outside/model.onnx",
        "parent inside": "engines/../model.onnx",
        "backslash": "..\\outside\\model.onnx",
        "symlink": "link.onnx",
        "linked folder": "engines/model.onnx",
    }[kind]
    if kind == "symlink":
        (bundle_copy / "link.onnx").symlink_to(outside / "model.onnx")
    if kind == "linked folder":
        (bundle_copy / "engines").symlink_to(outside, target_is_directory=True)
    reseal(bundle_copy, lambda manifest: manifest["artefacts"][0].update(path=listed))
    with pytest.raises(BundleError, match="points outside the bundle; refused"):
        Recognizer.load(bundle_copy)


def first(**change):
    return lambda manifest: manifest["artefacts"][0].update(change)


def ranges(**change):
    return lambda manifest: manifest["contract"]["ranges"].update(change)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda manifest: manifest.pop("artefacts"), "artefacts is missing"),
        (lambda manifest: manifest.update(files=None), "files: None, expected a table"),
        (
            lambda manifest: manifest["files"].update({"goldens.npz": 5}),
            "files.goldens.npz: 5, expected a text",
        ),
        (
            lambda manifest: manifest["files"].update({"goldens.npz": "5"}),
            "files.goldens.npz: '5', expected 64 hex",
        ),
        (
            lambda manifest: manifest.update(name="../escaped"),
            "name: '../escaped', expected a name of at most 150",
        ),
        (lambda manifest: manifest.update(name="x" * 200), "expected a name of at most 150 bytes"),
        (first(path=5), "artefacts[0].path: 5, expected a text"),
        (first(path="\x00"), r"artefacts[0].path: '\x00', expected a text without zero bytes"),
        (first(kind="a script"), "artefacts[0].kind: 'a script', expected a name"),
        (first(kind="engine"), "artefacts[0]: kind engine without engine"),
        (first(precision="../fp8"), "artefacts[0].precision: '../fp8', expected a name"),
        (first(size_bytes=True), "artefacts[0].size_bytes: True, expected a whole number"),
        (first(size_bytes=-1), "artefacts[0].size_bytes: -1"),
        (first(max_logit_diff=-1), "artefacts[0].max_logit_diff: -1.0, expected at least 0"),
        (first(max_logit_diff="1e-4"), "artefacts[0].max_logit_diff: '1e-4', expected a number"),
        (first(requires={"onnxruntime": 1}), "artefacts[0].requires.onnxruntime: 1, expected a text"),
        (first(requires={"onnxruntime": "9" * 99}), "artefacts[0].requires: 'onnxruntime'"),
        (lambda manifest: manifest["artefacts"][0].pop("sha256"), "artefacts[0].sha256 is missing"),
        (first(colour="red"), "artefacts[0].colour is unknown, expected path, kind"),
        (lambda manifest: manifest["contract"].pop("labels"), "contract.labels: None, expected a list"),
        (
            lambda manifest: manifest["contract"].update(labels=[{"word": "tea"}]),
            "contract.labels[0].word is unknown",
        ),
        (lambda manifest: manifest["contract"].update(labels=[]), "contract.labels: expected at least one"),
        (
            lambda manifest: manifest["contract"].update(missing="?"),
            "contract.missing: '?', expected 'NaN or (0, 0)'",
        ),
        (ranges(frames=[1, float("inf")]), "cannot be read as JSON: Infinity is no JSON"),
        (ranges(frames=[1, 10**30]), "cannot be read as JSON: a number of 31 digits"),
        (ranges(frames=[1, 10**15]), "contract.ranges.frames: up to 1000000000000000, expected 1..100000"),
        (ranges(batch=["1"]), "contract.ranges.batch: 1 values, expected 2"),
        (ranges(batch=[2, 4]), "contract.ranges: {"),
        (lambda manifest: manifest["contract"].pop("ranges"), "contract.ranges: None, expected a table"),
        (lambda manifest: manifest["contract"]["ranges"].pop("frames"), "contract.ranges has no 'frames'"),
    ],
)
def test_a_sealed_manifest_with_wrong_fields_is_refused(bundle_copy, edit, message, reseal):
    reseal(bundle_copy, edit)
    with pytest.raises(BundleError, match=re.escape(message)):
        read_bundle(bundle_copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a zip archive", "goldens.npz: cannot be read"),
        (npz(poses=np.zeros((1, 2, 108), np.float32)), "goldens.npz: cannot be read: .*lengths"),
        (
            npz(poses=np.array([None]), lengths=np.ones(1), logits=np.ones(1)),
            "holds object, expected numbers",
        ),
        (goldens_of(clips=1, classes=4), r"\(1, 4\)\]; expected one row a clip, at least one, and 5 classes"),
        (goldens_of(clips=0, classes=5), "expected one row a clip, at least one"),
        (goldens_of(clips=1, classes=5, poses=2), r"are \[\(2, 2, 108\), \(1,\), .* expected one row a clip"),
    ],
)
def test_goldens_that_are_none_are_refused(bundle_copy, content, message, replace_file):
    replace_file(bundle_copy, "goldens.npz", content)
    with pytest.raises(BundleError, match=message):
        read_bundle(bundle_copy).goldens()


def engine_that_fails():
    raise BackendError("the engine cannot load it")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode there")
def test_a_folder_whose_name_is_no_unicode(bundle_copy, make_clip):
    odd = bundle_copy.with_name(os.fsdecode(b"caf\xe9.spoter"))
    bundle_copy.rename(odd)
    for path in (odd, odd / "model.onnx"):
        assert Recognizer.load(path, "ort-cpu").predict(make_clip()).label
    assert Recognizer.load(odd, "ort-cpu-fused").predict(make_clip()).label


def test_an_engine_is_given_the_bytes_that_were_checked(bundle_copy, monkeypatch, make_clip):
    """Whatever has the file's name a moment later."""
    read = Bundle.read
    expected = Recognizer.load(bundle_copy, "ort-cpu").predict(make_clip()).top(3)

    def replaced_afterwards(self, path):
        content = read(self, path)
        (self.folder / path).write_bytes(b"another file")
        return content

    monkeypatch.setattr(Bundle, "read", replaced_afterwards)
    found = Recognizer.load(bundle_copy, "ort-cpu").predict(make_clip()).top(3)
    assert found == expected
    with pytest.raises(BundleError, match=r"model\.onnx: .*changed or damaged"):
        Recognizer.load(bundle_copy, "ort-cpu")


@pytest.mark.parametrize("path", ["model.onnx", "goldens.npz", "parity.json", "MODEL_CARD.md"])
def test_a_file_of_a_gigabyte_is_refused_before_it_is_hashed(bundle_copy, monkeypatch, path):
    bundle = read_bundle(bundle_copy)
    with (bundle_copy / path).open("r+b") as file:
        file.truncate(1 << 30)  # sparse: it takes no space

    def hashed(file):
        assert file.stat().st_size < 1 << 30, "it was hashed"
        return sha256_of(file)

    monkeypatch.setattr("spoter_runtime.checked_file.sha256_of", hashed)
    with pytest.raises(BundleError, match=rf"{path}: .*1073741824 bytes, expected at most"):
        bundle.read(path)
    with pytest.raises(BundleError, match="1073741824 bytes, expected at most"):
        bundle.check_files()


def put_a_pipe(path):
    os.mkfifo(path)


def put_a_device(path):
    path.symlink_to("/dev/zero")


def put_a_terminal(path):
    path.symlink_to("/dev/tty")


def put_a_link_to_itself(path):
    path.symlink_to(path.name)


def put_a_link_to_nothing(path):
    path.symlink_to("nowhere")


def put_a_folder(path):
    path.mkdir()


def put_a_socket(path):
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


ODD = (
    put_a_pipe,
    put_a_device,
    put_a_terminal,
    put_a_link_to_itself,
    put_a_link_to_nothing,
    put_a_folder,
    put_a_socket,
)
on_posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")


@on_posix
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("put", ODD)
def test_what_is_not_a_file_is_refused_at_once(bundle_copy, put, name, monkeypatch):
    opened = read_bundle(bundle_copy)
    monkeypatch.chdir(bundle_copy)  # a socket's name may have a hundred characters
    Path(name).unlink()
    put(Path(name))
    monkeypatch.chdir("/")
    for call in (read_bundle, Recognizer.load, verify_bundle):
        with pytest.raises(BundleError, match=rf"{name}.*(Fix: |points outside the bundle; refused)"):
            call(bundle_copy)
    if name == "bundle.json" and put is not put_a_link_to_nothing:
        with pytest.raises(BundleError, match=r"cannot be read \(.*\)\. Fix: copy the whole bundle again"):
            read_bundle(bundle_copy)
    if name != "bundle.json":  # it changed after the manifest was read
        for call in (opened.read, opened.keep):
            with pytest.raises(
                BundleError, match=rf"{name}: listed in bundle\.json but cannot be read .*Fix: "
            ):
                call(name)
        with pytest.raises(BundleError, match=rf"{name}: listed in bundle\.json but cannot be read"):
            opened.check_files()


@on_posix
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("put", ODD)
def test_a_lone_file_that_is_none_is_refused_at_once(tmp_path, put, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(Path("model.onnx"))
    for call in (Recognizer.load, OrtRunner):
        with pytest.raises(
            BundleError, match=r"model\.onnx: .*\. Fix: check the path, or spoter-kit export makes one"
        ):
            call(Path("model.onnx"))


LONG = "x" * 300


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "path", [LONG, f"{LONG}.onnx", "a\0b", "a\0b.onnx", "x/" * 3000, f"{LONG}/model.onnx"]
)
def test_a_path_that_nothing_can_have_is_refused(path):
    for call in (Recognizer.load, OrtRunner, read_bundle, verify_bundle):
        with pytest.raises(BundleError, match=r"Fix: "):
            call(path)


@pytest.mark.parametrize("listed", [LONG, "x/" * 3000 + "x"])
def test_a_listed_name_that_no_file_can_have_is_refused(bundle_copy, reseal, listed):
    reseal(bundle_copy, lambda manifest: manifest["files"].update({listed: "0" * 64}))
    with pytest.raises(BundleError, match=r"is listed in bundle\.json but is not there\. Fix: "):
        read_bundle(bundle_copy)


@on_posix
@pytest.mark.usefixtures("at_once")
def test_a_manifest_without_an_end_is_not_read_to_it(bundle_copy):
    path = bundle_copy / "bundle.json"
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a hole of a terabyte, which takes no room on the disk
    with pytest.raises(BundleError, match=r"bundle\.json: .*1099511627776 bytes, expected at most 167"):
        read_bundle(bundle_copy)


def test_a_bundle_tells_the_lengths_of_its_training_data(bundle_copy, reseal):
    assert read_bundle(bundle_copy).frame_counts() == {}
    reseal(
        bundle_copy, lambda manifest: manifest["provenance"]["data"].update(frame_counts={"9": 2, "60": 1})
    )
    assert read_bundle(bundle_copy).frame_counts() == {9: 2, 60: 1}
    reseal(bundle_copy, lambda manifest: manifest["provenance"].update(data=None))
    assert read_bundle(bundle_copy).frame_counts() == {}


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({"0": 1}, "'0' is no number of frames"),
        ({"4_4": 1}, "'4_4' is no number of frames"),
        ({"44": 1.5}, r"1\.5 clips of 44 frames"),
        ({"44": True}, "True clips of 44 frames"),
        ({"44": -1}, "-1 clips of 44 frames"),
        ({"44": 10**7, "45": 1}, "10000001 clips, expected at most 10000000"),
        ([44], "is no histogram of lengths"),
    ],
)
def test_lengths_of_training_data_that_are_no_counts_are_refused(bundle_copy, reseal, counts, reason):
    reseal(bundle_copy, lambda manifest: manifest["provenance"]["data"].update(frame_counts=counts))
    with pytest.raises(BundleError, match=f"frame_counts in its provenance: {reason}"):
        read_bundle(bundle_copy).frame_counts()
