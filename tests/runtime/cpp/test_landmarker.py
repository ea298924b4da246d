"""The landmarker of the C library finds what Python's finds, and refuses what it refuses."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import time

import numpy as np
import pytest

from failing_networks import not_white, white
from pages import blocks_of
from spoter_runtime import errors
from spoter_runtime.camera.files import MANIFEST, copy_landmarker, read_landmarker
from spoter_runtime.camera.goldens import TOLERANCE, replay
from spoter_runtime.camera.landmarker import Landmarker
from spoter_runtime.errors import BackendError, BundleError, InputError, SpoterError
from spoter_runtime.live.stream import SignStream
from spoter_runtime.recognizer import Recognizer
from spoter_toolkit.faces._clibrary import onnxruntime_library
from spoter_toolkit.faces.c import CLandmarker, CRecognizer, CStream, verify_landmarker


@pytest.fixture(autouse=True)
def _library(c_library, monkeypatch):
    """Each test here runs the library, which does not know where Python's package was installed from."""
    monkeypatch.setattr(errors, "_installed_from", dict)


@pytest.fixture(scope="module")
def python(landmarker_folder):
    return Landmarker.load(landmarker_folder)


@pytest.fixture
def ours(landmarker_folder, _library):
    return CLandmarker(landmarker_folder)


@pytest.fixture(scope="module")
def frames(signing_video):
    pytest.importorskip("av", reason="PyAV reads the video")
    from spoter_runtime.camera.video import video_frames

    return [frame.rgb for frame in video_frames(signing_video())][:8]


@pytest.fixture
def bundle_with_landmarker(bundle_copy, landmarker_folder, reseal):
    return put_in(bundle_copy, landmarker_folder, reseal)


def put_in(bundle, landmarker, reseal):
    copy_landmarker(read_landmarker(landmarker), bundle / "landmarker")
    found = {
        f"landmarker/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
        for file in (bundle / "landmarker").iterdir()
    }
    reseal(bundle, lambda manifest: manifest["files"].update(found))
    return bundle


def noise(height=120, width=160):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def said(call, *arguments):
    with pytest.raises(SpoterError) as caught:
        call(*arguments)
    return type(caught.value), str(caught.value)


def outline(event):
    return event.type, event.t_ms, *(getattr(event, name, None) for name in ("start_ms", "end_ms", "label"))


def watched(landmarker, frames, times=None):
    landmarker.reset()
    return np.stack(
        [landmarker(frame, times[n] if times else None) for n, frame in enumerate(frames)]
    ), landmarker.persons


def test_the_goldens_agree_and_find_a_graph_that_was_changed(landmarker_folder, reseal_landmarker, python):
    expected = replay(read_landmarker(landmarker_folder))
    found = verify_landmarker(landmarker_folder)
    assert found.passed
    assert found.tolerance == TOLERANCE
    for graph, difference in expected.items():
        assert getattr(found, graph) == pytest.approx(difference, abs=1e-6)

    def spoil(folder):
        goldens = dict(np.load(folder / "goldens.npz"))
        goldens["hand/0"][0, 3] += 0.5
        np.savez(folder / "goldens.npz", **goldens)

    found = verify_landmarker(reseal_landmarker(landmarker_folder, spoil))
    assert not found.passed
    assert found.hand > TOLERANCE > found.pose


def test_nobody_is_seen_in_noise(ours, python):
    for frame in (noise(), np.zeros((64, 64, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)):
        found, persons = watched(ours, [frame])
        assert np.isnan(found).all()
        assert persons == 0
    assert ours.sha256 == python.sha256


@pytest.mark.parametrize("times", [None, [0.0, 50.0, 60.0, 400.0, 433.0, 466.0, 499.0, 500.0]])
def test_the_frames_of_a_video_give_the_landmarks_of_python(ours, python, frames, times):
    changed = [
        *frames[:5],
        *(frame[::2, ::2] for frame in frames[5:]),
    ]  # the size changes, and rows have gaps
    views = [np.ascontiguousarray(frame) for frame in changed]
    expected, persons = watched(python, views, times)
    wide = [np.pad(frame, ((0, 0), (0, 5), (0, 0)))[:, : frame.shape[1]] for frame in views]
    found, our_persons = watched(ours, wide, times)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.isfinite(expected[:, 33:]).any()
    assert our_persons == persons == 1


@pytest.mark.parametrize("size", [0.4, 0.6, 1.0])
def test_a_smaller_person_beside_the_signer_is_counted_as_in_python(ours, python, frames, size):
    one = frames[0]
    rows, columns = ((np.arange(int(n * size)) / size).astype(int) for n in one.shape[:2])
    other = np.pad(one[rows][:, columns], ((len(one) - len(rows), 0), (0, 0), (0, 0)))
    both = np.concatenate([one, other], axis=1)
    assert watched(ours, [both])[1] == watched(python, [both])[1] == 2


@pytest.mark.slow
def test_the_frames_of_a_video_give_the_events_of_python(bundle_with_landmarker, signing_video):
    pytest.importorskip("av", reason="PyAV reads the video")
    from spoter_runtime.camera.video import video_frames

    recognizer = Recognizer.load(bundle_with_landmarker, "ort-cpu-fused", threads=1, tuned=False)
    python, ours = SignStream(recognizer), CStream(CRecognizer(bundle_with_landmarker, threads=1))
    landmarker = CLandmarker(bundle_with_landmarker)
    for n, frame in enumerate(video_frames(signing_video())):
        python.accept(frame.rgb, 1000 * n / 15)
        pose = landmarker(np.ascontiguousarray(frame.rgb))
        ours.accept(pose, 1000 * n / 15, persons=landmarker.persons)
        np.testing.assert_allclose(pose, python.landmarks, atol=1e-5)
    python.flush()
    ours.flush()
    events, found = python.events(), ours.events()
    assert [outline(event) for event in found] == [outline(event) for event in events]
    assert {"ready", "tracking"} <= {event.type for event in events}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "hand.onnx").write_bytes(b"x"),
        lambda folder: (folder / MANIFEST).write_text("{"),
        lambda folder: (folder / MANIFEST).write_text("[]"),
        lambda folder: edit(folder, schema_version=2),
        lambda folder: edit(folder, schema_version="1"),
        lambda folder: edit(folder, files={}),
        lambda folder: edit(folder, files={"hand.onnx": "0"}),
        lambda folder: edit(folder, files={"../hand.onnx": "0" * 64}),
        lambda folder: edit(folder, files=[]),
        lambda folder: edit(folder, sha256="x"),
        lambda folder: edit(folder, source=None),
    ],
)
def test_a_damaged_landmarker_is_refused_in_the_words_of_python(landmarker_folder, tmp_path, spoil):
    folder = tmp_path / "landmarker"
    folder.mkdir()
    for file in landmarker_folder.iterdir():
        (folder / file.name).symlink_to(file)
    for name in (MANIFEST, "hand.onnx"):
        (folder / name).unlink()
        shutil.copyfile(landmarker_folder / name, folder / name)
    spoil(folder)
    assert said(CLandmarker, folder) == said(Landmarker.load, folder)


def edit(folder, **changes):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))


def test_a_landmarker_that_is_not_there(bundle_folder, tmp_path, landmarker_folder):
    assert said(CLandmarker, tmp_path) == said(Landmarker.load, tmp_path)
    assert said(CLandmarker, bundle_folder) == (
        BundleError,
        f"{bundle_folder}: has no landmarker. Fix: spoter-kit export --camera puts one in",
    )
    folder = shutil.copytree(landmarker_folder, tmp_path / "landmarker")
    (folder / "pose.onnx").unlink()
    words = said(CLandmarker, folder)[1]
    assert words.startswith(f"{folder}/pose.onnx: cannot be read: No such file")


@pytest.mark.parametrize("threads", [-1, 257, 256])
def test_a_wrong_number_of_threads_is_refused_in_the_words_of_python(landmarker_folder, threads):
    python = said(lambda: Landmarker.load(landmarker_folder, threads=threads))
    assert said(lambda: CLandmarker(landmarker_folder, threads=threads)) == python


def test_a_graph_that_spoter_kit_did_not_write_is_refused(landmarker_folder, reseal_landmarker):
    def spoil(folder):
        content = (folder / "hand.onnx").read_bytes()
        (folder / "hand.onnx").write_bytes(content.replace(b"\x22\x04Conv", b"\x22\x04Loop"))

    folder = reseal_landmarker(landmarker_folder, spoil)
    kind, words = said(CLandmarker, folder)
    assert "hand.onnx: has an operator 'Loop'" in words
    assert (kind, words) == said(Landmarker.load, folder)


def test_a_landmarker_in_a_bundle_is_that_which_was_exported(bundle_with_landmarker):
    assert CLandmarker(bundle_with_landmarker).persons == 0
    manifest = bundle_with_landmarker / "landmarker" / MANIFEST
    manifest.write_text(manifest.read_text() + " ")
    kind, words = said(CLandmarker, bundle_with_landmarker)
    assert kind is BundleError
    assert "landmarker.json: sha256 is" in words
    assert "copy the whole bundle again" in words


def test_the_bytes_of_a_bundled_manifest_are_used_that_were_compared_with_their_hash(
    bundle_with_landmarker, watch
):
    events = watch(bundle_with_landmarker / "landmarker" / MANIFEST)
    CLandmarker(bundle_with_landmarker)
    happened = [event for _, event, _, _ in struct.iter_unpack("iIII", os.read(events, 4096))]
    assert happened.count(0x20) == 1  # opened once: between two times it could be replaced


def test_a_network_of_a_gigabyte_is_refused_before_it_is_hashed(landmarker_folder, tmp_path):
    folder = shutil.copytree(landmarker_folder, tmp_path / "landmarker")
    with (folder / "hand.onnx").open("r+b") as file:
        file.truncate(1 << 30)  # sparse: it takes no space
    begin = time.process_time()
    words = said(CLandmarker, folder)
    assert time.process_time() - begin < 0.5
    assert words == said(Landmarker.load, folder)
    assert "hand.onnx: cannot be read: 1073741824 bytes, expected at most 67108864" in words[1]


def test_a_frame_that_fails_is_an_error_and_the_next_ones_go_on_as_in_python(failing, frames):
    python, ours = Landmarker.load(failing), CLandmarker(failing)
    first, second, third = map(not_white, frames[:3])
    small = np.ascontiguousarray(third[::2, ::2])
    for frame in (first, second, white(third), third, small, white(small), white(first), first, second):
        if frame.flat[0]:
            kind, words = said(ours, frame)
            assert kind is said(python, frame)[0] is BackendError
            assert re.match(r"pose\w*\.onnx: ONNX Runtime [\d.]+ failed: .*Gather node", words, re.S)
        else:
            np.testing.assert_allclose(ours(frame), python(frame), atol=1e-5)


def test_time_does_not_stand_still_or_go_back(ours):
    frame = np.zeros((8, 8, 3), np.uint8)
    ours(frame, 100.0)
    for t_ms in (100.0, 40.0, 100 + 1e-5):  # so small a step would give infinite speeds
        with pytest.raises(InputError, match=f"a frame of {t_ms:g} ms after one of 100 ms: times grow"):
            ours(frame, t_ms)
    with pytest.raises(InputError, match="t_ms inf: expected milliseconds, a finite number"):
        ours(frame, float("inf"))
    ours.reset()
    ours(frame, 40.0)


def test_what_is_no_frame_is_refused(ours, landmarker_folder):
    library, handle = ours._library, ours._handle
    rgb, found = ctypes.create_string_buffer(300), ctypes.create_string_buffer(432)
    calls = {
        "rgb is NULL": (handle, None, 4, 4, 0, 0.0, found),
        "landmarks is NULL": (handle, rgb, 4, 4, 0, 0.0, None),
        "landmarker is NULL": (None, rgb, 4, 4, 0, 0.0, found),
        "a frame is (height, width, 3) RGB, got (0, 4, 3)": (handle, rgb, 0, 4, 0, 0.0, found),
        "a frame is (height, width, 3) RGB, got (4, 2000000000, 3)": (
            handle,
            rgb,
            4,
            2 * 10**9,
            0,
            0.0,
            found,
        ),
        "stride 11, expected at least 3 x 4": (handle, rgb, 4, 4, 11, 0.0, found),
    }
    for words, arguments in calls.items():
        assert library.spoter_landmarker_accept(*arguments) == 1
        assert library.spoter_error_message().decode() == words
    assert library.spoter_landmarker_create(None, None, ctypes.byref(handle.__class__())) == 1
    assert library.spoter_landmarker_verify(os.fsencode(landmarker_folder), None, None) == 1
    assert library.spoter_landmarker_reset(None) == 1
    library.spoter_landmarker_destroy(None)
    assert (library.spoter_landmarker_persons(None), library.spoter_landmarker_sha256(None)) == (0, b"")


@pytest.mark.slow
def test_the_kiosk_says_the_words_of_a_video(
    bundle_with_landmarker, c_wheel, c_sources, frames, contract, tmp_path, run_tool
):
    build, readme = tmp_path / "build", tmp_path / "readme.cpp"
    environment = os.environ | {"SPOTER_ONNXRUNTIME": str(onnxruntime_library())}
    (block,) = [block for block in blocks_of(c_sources / "README.md") if block.language == "cpp"]
    readme.write_text(block.text)
    library = (f"-I{c_wheel}/include", f"-L{c_wheel}/lib", "-lspoter", f"-Wl,-rpath,{c_wheel}/lib")
    run_tool("c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", readme, *library, "-o", tmp_path / "readme")
    (tmp_path / "model.spoter").symlink_to(bundle_with_landmarker)
    height, width, _ = frames[0].shape
    wider = ((0, 480 - height), (0, 640 - width), (0, 0))
    large = np.stack([np.pad(frame, wider) for frame in frames]).repeat(3, 0)
    told = subprocess.run(
        [tmp_path / "readme"],
        cwd=tmp_path,
        env=environment,
        input=large.tobytes(),
        capture_output=True,
        check=True,
    )
    assert told.stdout.decode().strip() in [
        label.name for label in contract.labels
    ]  # the flush ends the sign
    run_tool("cmake", "-S", c_sources / "examples", "-B", build, f"-DCMAKE_PREFIX_PATH={c_wheel}")
    run_tool("cmake", "--build", build, "--target", "kiosk")
    rest = [np.zeros_like(frames[0])] * 3
    shown = [*frames, *rest, *frames]
    command = [build / "kiosk", bundle_with_landmarker, str(width), str(height), "5"]
    given = b"".join(np.ascontiguousarray(frame).tobytes() for frame in shown)
    options = {"env": environment, "capture_output": True, "check": False}
    live = subprocess.run([*command, "live"], input=given, **options)
    assert live.returncode == 0
    assert re.search(rf"^[1-9]\d* of {len(shown)} frames were left out$", live.stderr.decode(), re.M)
    done = subprocess.run(command, input=given + b"cut off", **options)
    assert done.returncode == 1
    assert done.stderr.decode().endswith(f"7 bytes were left after {len(shown)} frames of {width}x{height}\n")
    python = SignStream(Recognizer.load(bundle_with_landmarker, "ort-cpu-fused", tuned=False))
    for n, frame in enumerate(shown):
        python.accept(frame, 1000 * n / 5)
    python.flush()
    expected = [
        event.reason if event.type == "abstain" else event.label
        for event in python.events()
        if event.type in ("sign", "abstain")
    ]
    lines = done.stdout.decode().splitlines()
    assert len(lines) == len(expected)
    assert all(word in line for word, line in zip(expected, lines, strict=True))
    assert expected


@pytest.mark.slow
def test_the_kiosk_says_that_a_frame_failed_before_the_next_one_comes_and_goes_on(
    failing, bundle_copy, reseal, c_wheel, c_sources, frames, tmp_path, run_tool, at_once
):
    bundle, kiosk = put_in(bundle_copy, failing, reseal), tmp_path / "kiosk"
    library = (f"-I{c_wheel}/include", f"-L{c_wheel}/lib", "-lspoter", f"-Wl,-rpath,{c_wheel}/lib")
    source = c_sources / "examples" / "kiosk.cpp"
    run_tool("c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", source, *library, "-pthread", "-o", kiosk)
    height, width, _ = frames[0].shape
    started = subprocess.Popen(
        [kiosk, bundle, str(width), str(height), "5"],
        env=os.environ | {"SPOTER_ONNXRUNTIME": str(onnxruntime_library())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with started:
        shown = [not_white(frame).tobytes() for frame in frames]
        started.stdin.write(shown[0] + white(frames[1]).tobytes())
        started.stdin.flush()
        said = next(line for line in started.stderr if line.startswith(b"frame "))  # ONNX Runtime has its own
        assert re.match(r"frame 2: pose\.onnx: ONNX Runtime .* failed: ", said.decode())
        words, _ = started.communicate(b"".join(shown[2:]), timeout=60)
    assert started.returncode == 0
    assert words.strip()
