"""The C library refuses what Python refuses, in the same words."""

from __future__ import annotations

import ctypes
import io
import json
import os
import re
import struct
import threading
import time
import zipfile

import numpy as np
import pytest

from other_tensors import other_tensors
from spoter_runtime import errors
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.errors import BackendError, InputError, SpoterError
from spoter_runtime.files import sha256_of
from spoter_runtime.model_file.check import OPERATORS
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.verify import verify_bundle
from spoter_toolkit.faces._clibrary import load_library
from spoter_toolkit.faces.c import CRecognizer, verify


@pytest.fixture(autouse=True)
def _library(c_library, monkeypatch):
    """Each test here runs the library, which does not know where Python's package was installed from."""
    monkeypatch.setattr(errors, "_installed_from", dict)


def said(call, *arguments, **options):
    """Return the class and the words of an error, or None."""
    try:
        call(*arguments, **options)
    except SpoterError as error:
        return type(error), str(error)
    return None


def same_words(bundle, python=Recognizer.load, ours=CRecognizer):
    """Check that Python and C refuse a bundle alike; return the words."""
    expected = said(python, bundle)
    assert expected is not None
    assert said(ours, bundle) == expected
    return expected[1]


MANIFESTS = [
    *(
        b"",
        b"not JSON",
        b'{"schema_version": 1',
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'"bundle"',
        b'{"name": "foreign"}',
    ),
    *(b'{"schema_version": 1}', b'{"schema_version": 1, "name": "\\ud800"}', b'{"schema_version": true}'),
    *(b'{"schema_version": 2}', b'{"schema_version": "2"}', b'{"schema_version": 1.5}', b'{"a": 1, "a": 2}'),
    *(
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-1e999",
        b"[1e-999]",
        b"9" * 5000,
        b"[" * 63 + b"]" * 63,
        b"01",
        b"-",
        b"1.",
    ),
    *(
        b'{"a" 1}',
        b"{1: 2}",
        b"[1 2]",
        b"[1,]",
        b'["\\x"]',
        b'["\\u12"]',
        b'["a',
        b'["a\x01"]',
        b"\xef\xbb\xbf{}",
    ),
    *(
        b"tru",
        b'{"a": {"b": [1, {"c": 2, "d": }]}}',
        b'{\n  "a": 1,\n  "\xe0\xa6\x9a": x}',
        b"[] []",
        b'"\\ud83d\\ude00" 1',
    ),
]


def test_a_manifest_that_is_none(tmp_path):
    for content in MANIFESTS:
        (tmp_path / "bundle.json").write_bytes(content)
        same_words(tmp_path)


def test_too_deep_a_manifest(tmp_path):
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        (tmp_path / "bundle.json").write_bytes(opening * 100_000 + b"1" + closing * 100_000)
        assert "more than 64 levels" in same_words(tmp_path)


def of_first(**change):
    return lambda manifest: manifest["artefacts"][0].update(change)


def of_contract(**change):
    return lambda manifest: manifest["contract"].update(change)


def of_ranges(**change):
    return lambda manifest: manifest["contract"]["ranges"].update(change)


def calibrated(**change):
    rule = {
        "temperature": 1.0,
        "min_probability": 0.5,
        "min_margin": 0.1,
        "min_hand_share": 0.2,
        "target": 0.05,
    }
    return lambda manifest: manifest.update(abstention=rule | change)


def with_engine(**change):
    profile = {"batch": [1, 2, 4], "frames": [1, 60, 99]}
    engine = {
        **{"library": "tensorrt", "version": "10.3", "compute_capabilities": ["8.6"], "system": "Linux"},
        **{
            "machine": "x86_64",
            "profiles": [profile],
            "buckets": [60, 99],
            "onnx_sha256": "0" * 64,
            "built": {},
        },
    }
    return of_first(kind="engine", engine=engine | change)


EDITS = [
    *(lambda m, name=name: m.pop(name) for name in ("name", "contract", "artefacts", "files", "provenance")),
    *(lambda m, value=value: m.update(value) for value in ({"name": 5}, {"files": None}, {"provenance": []})),
    *(
        lambda m, name=name: m.update(name=name)
        for name in ("", ".x", "a/b", "a\\b", "x" * 151, "a\nb", "a\0b", "চ" * 51)
    ),
    *(lambda m, digest=digest: m["files"].update({"goldens.npz": digest}) for digest in (5, "5", "G" * 64)),
    lambda m: m["files"].update({"more\u0000": "0" * 64}),
    lambda m: m["files"].update({"model.onnx": "0" * 64}),
    *(
        lambda m, path=path: m["files"].update({path: "0" * 64})
        for path in ("", "nowhere", "..", "/etc/passwd", "a\\b")
    ),
    *(of_first(path=path) for path in (5, "\0", "\ud800", "", ".", "../x", "nowhere.onnx", "x" * 300)),
    *(of_first(kind=kind) for kind in ("a script", "engine", "", "x" * 21)),
    *(of_first(precision=precision) for precision in ("../fp8", "FP32", 32)),
    *(of_first(size_bytes=size) for size in (True, -1, 1.5, "1")),
    *(of_first(max_logit_diff=most) for most in (-1, -1e-7, "1e-4", None, True)),
    *(
        of_first(requires=needs)
        for needs in ({"onnxruntime": 1}, {"onnxruntime": "9" * 99}, {"": "1"}, {"a;b": "1"}, [])
    ),
    *(of_first(sha256=digest) for digest in ("", "0" * 63, None)),
    of_first(colour="red", aspect=1),
    lambda m: m["artefacts"][0].pop("sha256"),
    lambda m: m.update(artefacts=[5]),
    lambda m: m.update(artefacts=[]),
    *(
        lambda m, name=name: m["contract"].pop(name)
        for name in ("labels", "ranges", "missing", "inputs", "outputs")
    ),
    *(
        of_contract(labels=labels)
        for labels in ([], [{"word": "tea"}], [{}], [{"name": ""}], [{"name": "a"}, {"name": "a"}])
    ),
    *(
        of_contract(labels=labels)
        for labels in ("tea", [5], [{"name": "a", "bengali": 1}], [{"name": "only"}])
    ),
    *(of_contract(missing=value) for value in ("?", None, 5)),
    *(of_contract(ranges=value) for value in (None, [], {}, {"frames": [1, 99]}, {"batch": [1, 8]})),
    *(
        of_ranges(frames=value)
        for value in ([1, 10**15], [1, 0], [1, -5], [1], ["1", "2"], [1, 2.5], [2, 99], 5, [1, 100_001])
    ),
    *(of_ranges(batch=value) for value in (["1"], [2, 4], [True, 8])),
    of_ranges(more=[1, 2]),
    *(calibrated(temperature=value) for value in (0, -0.5, "1", None, 1e-320)),
    *(calibrated(min_margin=value) for value in (-0.1, 1.5, 2, True)),
    *(calibrated(background=value) for value in ("none", [5], {})),
    *(calibrated(min_likeness=value) for value in (-1.1, 1.1, "1", None)),
    *(
        calibrated(typical_logits=value)
        for value in ("1", [1], ["1 2"], ["1 2", "3 4"], ["1.5"], ["-"], [""], ["1 "], ["1234567"], [" 1"])
    ),
    lambda m: m.update(abstention=5),
    lambda m: m.update(abstention={"temperature": 1.0}),
    *(with_engine(library=value) for value in ("tensorrt_lean", "tensorflow", 5)),
    *(with_engine(profiles=value) for value in ([{}], [5], [{"batch": [1, 2], "frames": [1, 2, 3]}])),
    with_engine(profiles=[{"batch": [4, 2, 8], "frames": [1, 2, 3]}]),
    *(with_engine(buckets=value) for value in ([60, 60], [0], [99, 60], [1, 100_001], ["1"])),
    *(with_engine(**{name: 5}) for name in ("version", "built", "executed", "host_code", "more")),
    of_first(kind="engine", engine=5),
    of_first(engine={}),
    lambda m: m.update(schema_version=2),
]


def test_a_sealed_manifest_with_wrong_fields(bundle_copy, reseal):
    path = bundle_copy / "bundle.json"
    original, refused = path.read_text(encoding="utf-8"), 0
    for number, edit in enumerate(EDITS):
        path.write_text(original, encoding="utf-8")
        try:
            reseal(bundle_copy, edit)
        except UnicodeEncodeError:  # half a letter: the seal's hash takes its bytes as they are
            continue
        python, ours = said(Recognizer.load, bundle_copy), said(CRecognizer, bundle_copy)
        assert ours == python, (number, path.read_text())
        refused += python is not None
    assert refused > 100


def test_any_flipped_bit_in_the_manifest(bundle_copy):
    path = bundle_copy / "bundle.json"
    content = path.read_bytes()
    for position in range(0, len(content), 11):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        python, ours = said(read_bundle, bundle_copy), said(CRecognizer, bundle_copy)
        assert None not in (python, ours), position
        if b"codec" not in python[1].encode():  # Python names three kinds of bad UTF-8
            assert ours == python


def test_the_seal_is_of_the_values_whatever_numbers_texts_and_spaces(bundle_copy, reseal):
    values = [
        0.1,
        1e22,
        1e16,
        123456789012345.678,
        1e-5,
        0.0001,
        -0.0,
        5e-324,
        1.7976931348623157e308,
        100.0,
        -1,
        0,
    ]
    values += [
        10**18,
        '\u2028 \u007f \b\f\n\r\t"\\/',
        "চা 😀",
        [True, None, {}, [], {"b": 1, "a": {"é": 2}}],
        1e15,
        2.5e-7,
    ]
    rng = np.random.default_rng(0)
    values += (rng.normal(size=300) * 10.0 ** rng.integers(-300, 300, 300)).tolist()
    reseal(bundle_copy, lambda manifest: manifest["provenance"].update(values=values))
    CRecognizer(bundle_copy).close()
    path = bundle_copy / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3, ensure_ascii=False), encoding="utf-8")
    CRecognizer(bundle_copy).close()


@pytest.mark.parametrize(
    "name", ["MODEL_CARD.md", "goldens.npz", "model.onnx", "model.ort.onnx", "parity.json"]
)
def test_a_damaged_or_a_missing_file(bundle_copy, name):
    content = (bundle_copy / name).read_bytes()
    for damaged in (content[:-1], b"", bytes([content[0] ^ 1]) + content[1:]):
        (bundle_copy / name).write_bytes(damaged)
        assert re.search(
            f"{name}: sha256 is .* changed or damaged", same_words(bundle_copy, verify_bundle, verify)
        )
    (bundle_copy / name).unlink()
    same_words(bundle_copy)
    (bundle_copy / name).mkdir()
    same_words(bundle_copy)


@pytest.mark.parametrize("name", ["MODEL_CARD.md", "goldens.npz", "model.onnx", "model.ort.onnx"])
def test_a_file_of_a_gigabyte_is_refused_before_it_is_hashed(bundle_copy, name):
    with (bundle_copy / name).open("r+b") as file:
        file.truncate(1 << 30)  # sparse: it takes no space
    begin = time.process_time()
    words = same_words(bundle_copy, verify_bundle, verify)
    assert time.process_time() - begin < 0.5  # to hash it takes longer
    assert f"{name}: listed in bundle.json but cannot be read (1073741824 bytes, expected at most" in words


def test_a_model_has_no_more_bytes_than_are_stated_and_a_lone_one_no_more_than_any(bundle_copy, tmp_path):
    model = bundle_copy / "model.onnx"
    size = model.stat().st_size
    with model.open("ab") as file:
        file.write(b"x")
    assert f"({size + 1} bytes, expected at most {size})" in same_words(bundle_copy, verify_bundle, verify)
    lone = tmp_path / "large.onnx"
    with lone.open("wb") as file:
        file.truncate(1 << 40)
    assert "1099511627776 bytes, expected at most 2147483648" in same_words(lone)


def test_a_file_that_grows_is_read_no_further_than_the_size_that_was_looked_at(bundle_copy, reseal, watch):
    large = bundle_copy / "large.bin"
    with large.open("wb") as file:
        file.truncate(1 << 26)
    digest = sha256_of(large)
    reseal(bundle_copy, lambda manifest: manifest["files"].update({"large.bin": digest}))
    events = watch(large)

    def append():
        while not any(event & 0x1 for _, event, _, _ in struct.iter_unpack("iIII", os.read(events, 4096))):
            pass  # it was opened; then its size is looked at, and then it is read
        with large.open("ab") as file:
            file.write(b"x")

    appending = threading.Thread(target=append, daemon=True)
    appending.start()
    assert verify(bundle_copy).passed
    appending.join(10)
    assert "(67108865 bytes, expected at most 67108864)" in same_words(bundle_copy, verify_bundle, verify)


def test_a_place_that_is_no_bundle(bundle_copy, tmp_path, at_once):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").mkdir()
    for place in ("nowhere", "empty", "file", "loop", "file/more", "x" * 300):
        same_words(tmp_path / place)
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "folder.onnx").mkdir()
    for place in ("pipe.onnx", "folder.onnx", "nowhere.onnx"):
        same_words(tmp_path / place)
    manifest = bundle_copy / "bundle.json"
    manifest.unlink()
    os.mkfifo(manifest)
    same_words(bundle_copy)
    manifest.unlink()
    manifest.mkdir()
    same_words(bundle_copy)
    manifest.rmdir()
    with manifest.open("wb") as file:
        file.truncate(1 << 40)
    assert "1099511627776 bytes" in same_words(bundle_copy)


@pytest.mark.parametrize("kind", ["symlink", "linked folder"])
def test_a_path_out_of_the_bundle(bundle_copy, tmp_path, kind, reseal):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "model.onnx").write_bytes((bundle_copy / "model.onnx").read_bytes())
    listed = "link.onnx" if kind == "symlink" else "engines/model.onnx"
    link, target = (listed, "model.onnx") if kind == "symlink" else ("engines", ".")
    (bundle_copy / link).symlink_to(tmp_path / "outside" / target)
    reseal(bundle_copy, of_first(path=listed))
    assert "points outside the bundle; refused" in same_words(bundle_copy)


def archive(kind=zipfile.ZIP_DEFLATED, **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as zipped:
        for name, content in members.items():
            array = io.BytesIO()
            np.save(array, content)
            zipped.writestr(f"{name}.npy", array.getvalue())
    return file.getvalue()


def goldens(frames=2, clips=1, classes=5, lengths=1, kind=np.float32):
    return {
        "poses": np.zeros((clips, frames, 108), kind),
        "lengths": np.full(clips, lengths, np.int32),
        "logits": np.zeros((clips, classes), np.float32),
    }


GOLDENS = {
    "no archive": b"not a zip archive",
    "one array": archive(poses=np.zeros((1, 2, 108), np.float32)),
    "other classes": archive(**goldens(classes=4)),
    "no clip": archive(**goldens(clips=0)),
    "doubles": archive(**goldens(kind=np.float64)),
    "too long": archive(**goldens(lengths=3)),
    "no frames": archive(**goldens(lengths=0)),
    "one row more": archive(**goldens(clips=2) | {"lengths": np.ones(1, np.int32)}),
    "objects": archive(**goldens() | {"poses": np.ones((1, 2), "U3")}),
    "cut off": archive(**goldens())[:-30],
}


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens_that_are_none(bundle_copy, name, replace_file):
    replace_file(bundle_copy, "goldens.npz", GOLDENS[name])
    python, ours = said(verify_bundle, bundle_copy), said(verify, bundle_copy)
    assert ours[0] is python[0]  # of a binary format the words differ
    for words in (python[1], ours[1]):
        assert re.match(f"{re.escape(str(bundle_copy))}/goldens.npz: cannot be read: ", words)


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_goldens_stored_or_deflated_are_read_and_a_wrong_answer_is_found(bundle_copy, kind, replace_file):
    rng = np.random.default_rng(1)
    several = goldens(clips=3, frames=40, lengths=9)
    several["poses"][:] = rng.uniform(
        0, 1, several["poses"].shape
    )  # hardly packs: stored blocks inside deflate
    replace_file(bundle_copy, "goldens.npz", archive(kind, **several))
    python, ours = verify_bundle(bundle_copy), verify(bundle_copy)
    assert (bool(ours.passed), python.passed) == (False, False)
    assert (ours.clips, ours.labels_agree) == (3, python.replay.labels_agree)
    assert ours.max_logit_diff == pytest.approx(python.replay.max_logit_diff, abs=1e-5)


def clip_with(value):
    clip = np.full((5, 54, 2), 0.5, np.float32)
    clip[4, 53, 1] = value
    return clip


CLIPS = [
    np.zeros((0, 54, 2), np.float32),
    np.full((100, 54, 2), 0.5, np.float32),
    *(clip_with(value) for value in (np.inf, -np.inf, 1e6, -10001, 3e38, 10000.002)),
    np.full((5, 54, 2), np.nan, np.float32),
    np.zeros((5, 54, 2), np.float32),
    np.stack((np.full((5, 54), np.nan), np.full((5, 54), 0.5)), axis=2).astype(np.float32),
]


def test_a_bad_clip(bundle_folder, make_clip):
    python, ours = Recognizer.load(bundle_folder), CRecognizer(bundle_folder)
    for clip in CLIPS:
        expected = said(python.predict_many, [make_clip(), clip], names=["a", "U4W1_3"])
        found = said(ours.predict_many, [make_clip(), clip], ["a", "U4W1_3"])
        message = [words.partition(" Fix: cut the clip")[0] for _, words in (expected, found)]
        assert message[0] == message[1]
        assert found[0] is InputError
    assert said(ours.predict_many, [make_clip(), CLIPS[0]])[1].startswith("clip 1: 0 frames")
    assert said(ours.predict_many, [CLIPS[0]])[1].startswith("clip: 0 frames")


def test_a_bad_batch(bundle_folder):
    python, ours = Recognizer.load(bundle_folder).runner, CRecognizer(bundle_folder)
    good = np.full((2, 9, 108), 0.5, np.float32)
    bad = good.copy()
    bad[1, 3, 7] = np.inf
    cases = [
        (np.full((9, 9, 108), 0.5, np.float32), None),
        (np.full((1, 100, 108), 0.5, np.float32), None),
        (good, np.array([0, 9], np.int32)),
        (good, np.array([1, 10], np.int32)),
        (good, np.array([1, -3], np.int32)),
        (bad, None),
        (bad, np.array([9, 4], np.int32)),
    ]
    for poses, lengths in cases:
        assert said(ours.infer, poses, lengths, 5) == said(python.infer, poses, lengths)
    only_padding_is_bad = np.array([9, 3], np.int32)
    np.testing.assert_allclose(
        ours.infer(bad, only_padding_is_bad, 5), python.infer(bad, only_padding_is_bad), atol=1e-6
    )


def test_wrong_options(bundle_folder):
    assert said(CRecognizer, bundle_folder, precision="fp64") == said(
        Recognizer.load, bundle_folder, precision="fp64"
    )
    for threads in (-1, 257):
        assert said(CRecognizer, bundle_folder, threads=threads) == said(
            Recognizer.load, bundle_folder, threads=threads
        )
    assert said(CRecognizer, bundle_folder, threads=256) == said(Recognizer.load, bundle_folder, threads=256)
    assert said(CRecognizer, bundle_folder, backend="tpu") == (
        BackendError,
        "unknown backend 'tpu'; there are ort-cpu-fused, ort-cpu",
    )


def test_a_pointer_that_is_null_is_named(bundle_folder, make_clip):
    library, handle = load_library(), ctypes.c_void_p()
    path, answer = os.fsencode(bundle_folder), ctypes.create_string_buffer(400)
    small = ctypes.create_string_buffer(b"\x08", 64)  # options of another version: their size is 8
    calls = {
        "recognizer is NULL": lambda: library.spoter_recognizer_create(path, None, None),
        "path is NULL": lambda: library.spoter_recognizer_create(None, None, ctypes.byref(handle)),
        "options: size 8, expected 40": lambda: library.spoter_verify(path, small, answer),
        "replay is NULL": lambda: library.spoter_verify(path, None, None),
        "recognizer is NULL ": lambda: library.spoter_predict_many(None, answer, 1, answer, None),
        " recognizer is NULL": lambda: library.spoter_infer(None, answer, None, 1, 1, answer),
    }
    for words, call in calls.items():
        assert call() == 1
        assert library.spoter_error_message().decode() == words.strip()
    ours = CRecognizer(bundle_folder)
    given = ours.handle
    assert library.spoter_predict_many(given, None, 1, answer, None) == 1
    assert library.spoter_predict_many(given, None, 0, None, None) == 0
    assert library.spoter_infer(given, None, None, 1, 1, answer) == 1
    assert library.spoter_error_message() == b"poses is NULL"
    assert library.spoter_predict_many(given, bytes(24), 1, answer, None) == 1
    assert library.spoter_error_message().startswith(b"clip: 0 frames")
    assert library.spoter_recognizer_label(given, 99).name == b""
    library.spoter_recognizer_destroy(None)
    assert library.spoter_recognizer_max_frames(None) == 0


def test_a_file_that_spoter_kit_does_not_write(bundle_copy, plant):
    import onnx

    model = onnx.load_from_string((bundle_copy / "model.onnx").read_bytes())
    node = onnx.helper.make_node("Loop", ["rounds", ""], [])
    contents = [b"\x00", b"no model", b"\x08" * 50, b""]
    for change in ("Loop", "domain", "function", "training", "outside", "large", "no contract"):
        changed = onnx.ModelProto.FromString(model.SerializeToString())
        tensor = changed.graph.initializer[0]
        if change == "Loop":
            changed.graph.node.insert(0, node)
        elif change == "domain":
            changed.graph.node[0].domain = "org.example"
        elif change == "function":
            changed.functions.add(name="Twice")
        elif change == "training":
            changed.training_info.add()
        elif change == "outside":
            tensor.data_location = onnx.TensorProto.EXTERNAL
        elif change == "large":
            tensor.dims[:] = [1 << 40, 1 << 40]
        else:
            del changed.metadata_props[:]
        contents.append(changed.SerializeToString())
    # Field 7, a graph, with what another reader would take differently; the sizes are of one byte.
    loop, add = b"\x22\x04Loop", b"\x22\x03Add"
    for graph in (
        b"\x0a\x0b" + loop + b"\x25Relu",  # the operator again, of another wire type
        b"\x0a\x0b" + loop + add,
        b"\x8a\x80\x80\x80\x10\x06" + loop,  # a key above 32 bits
        b"\x8a\x80\x80\x80\x80\x00\x05" + add,  # and one of six bytes
        b"\x02\x00",  # field 0
        b"\x9a\x06\x00",  # field 99
        b"\x2a\x0b\x08" + b"\xff" * 9 + b"\x02",  # a number of 65 bits
        b"\x0a\x09" + add + b"\x2a\x02\x32\x00",  # a graph within a node
        b"\x0a\x0a" + add + b"\x2a\x03\xb2\x01\x00",  # sparse values
        b"\x0a\x0b" + add + b"\x2a\x04\x2a\x02\x6a\x00",  # weights in another file
        b"\x0a\x0b" + add + b"\x2a\x04\x2a\x02\x08\x7f",  # a tensor larger than its values
    ):
        contents.append(bytes([7 << 3 | 2, len(graph)]) + graph)
    for content in contents:
        plant(bundle_copy, content)
        python = said(Recognizer.load, bundle_copy, "ort-cpu")
        assert python is not None
        assert said(CRecognizer, bundle_copy, backend="ort-cpu") == python


def test_a_model_with_other_inputs_or_outputs(bundle_copy, plant, contract):
    for name, (model, words) in other_tensors(contract).items():
        plant(bundle_copy, model.SerializeToString())
        python = said(Recognizer.load, bundle_copy, "ort-cpu")
        assert (python is None) == (not words)
        assert said(CRecognizer, bundle_copy, backend="ort-cpu") == python, name


def test_the_known_operators_are_those_of_python(c_sources):
    source = (c_sources / "src" / "onnx_file.cpp").read_text(encoding="utf-8")
    for name, domain in (("standard", ""), ("microsoft", "com.microsoft")):
        text = source.partition(f"{name} =")[2].partition(";")[0]
        assert set(" ".join(re.findall('"(.*)"', text)).split()) == OPERATORS[domain]
