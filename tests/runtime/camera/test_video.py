"""Videos of drawn pictures, made here by PyAV."""

from __future__ import annotations

import errno
import resource
import struct
import subprocess
import sys

import numpy as np
import pytest

from spoter_runtime.camera.video import camera_frames, network_frames, video_frames
from spoter_runtime.errors import DataError, MissingExtraError

SIGNER = "bdsl_W1_baba_father.gif"

av = pytest.importorskip("av", reason="PyAV reads and writes videos")


def picture(n, width=64, height=48):
    """A red square at the upper left that grows, on blue."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[..., 2] = 200
    frame[: 8 + n, : 8 + n] = [220, 20, 20]
    return frame


def write(path, pictures, *, codec="libx264", pix_fmt="yuv420p", fps=25, pts=None, sound=False, **options):
    with av.open(str(path), "w", **options) as container:
        if pictures is not None:
            stream = container.add_stream(codec, rate=fps)
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = pix_fmt
            for n, rgb in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                if pts is not None:
                    frame.pts = pts[n]
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        if sound:
            stream = container.add_stream("aac", rate=44100)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44100
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


def is_red(pixel):
    return pixel[0] > 150 > pixel[2]


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mp4", "libx265", "yuv420p"),
        ("a.mp4", "libx264", "yuv420p10le"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.mkv", "ffv1", "bgra"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.gif", "gif", "rgb8"),
    ],
)
def test_frames_come_in_order_as_rgb(tmp_path, name, codec, pix_fmt):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = write(tmp_path / name, [picture(n) for n in range(0, 30, 3)], codec=codec, pix_fmt=pix_fmt)
    frames = list(video_frames(path))
    assert len(frames) == 10
    assert [frame.t_ms for frame in frames] == pytest.approx([40 * n for n in range(10)], abs=1)
    for frame in frames:
        assert frame.rgb.shape == (48, 64, 3)
        assert frame.rgb.dtype == np.uint8
        assert is_red(frame.rgb[3, 3])
        assert not is_red(frame.rgb[-3, -3])
    grown = [sum(is_red(pixel) for pixel in frame.rgb[2]) for frame in frames]
    assert grown == sorted(grown)
    assert grown[-1] > grown[0] + 20


def test_grey_frames_have_three_equal_channels(tmp_path):
    path = write(tmp_path / "grey.mkv", [picture(n) for n in range(4)], codec="ffv1", pix_fmt="gray")
    (first, *_) = video_frames(path)
    assert (first.rgb == first.rgb[..., :1]).all()


def turned(path, a, b, c, d):
    """Write a video of a letter F, red on blue, that shows its pixel (x, y) at (ax + cy, bx + dy)."""
    letter = np.full((48, 64, 3), [0, 0, 200], np.uint8)
    for y, x in ((slice(0, 48), slice(0, 16)), (slice(0, 16), slice(0, 64)), (slice(24, 32), slice(0, 32))):
        letter[y, x] = [220, 20, 20]
    content = bytearray(write(path, [letter] * 3).read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # version, times, id, duration, layer, group, volume
    numbers = [round(n * (1 << 16)) for n in (a, b, c, d)]
    a, b, c, d = numbers
    content[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return letter


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),  # clockwise
        ((-1, 0, 0, -1), lambda f: np.rot90(f, 2)),
        ((0, -1, 1, 0), lambda f: np.rot90(f, 1)),
        ((-1, 0, 0, 1), lambda f: f[:, ::-1]),
        ((1, 0, 0, -1), lambda f: f[::-1]),
        ((0, 1, 1, 0), lambda f: f.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda f: np.rot90(f, 2).transpose(1, 0, 2)),
        ((2, 0, 0, 2), lambda f: f),
        ((0, 0, 0, 0), lambda f: f),
    ],
)
def test_the_display_matrix_is_heeded_where_it_turns_and_where_it_mirrors(tmp_path, matrix, shown):
    expected = shown(turned(tmp_path / "turned.mp4", *matrix)).astype(int)
    for frame in video_frames(tmp_path / "turned.mp4"):
        assert frame.rgb.shape == expected.shape
        assert frame.rgb.flags.c_contiguous
        assert np.median(abs(frame.rgb - expected)) < 12
        assert (abs(frame.rgb - expected) > 60).mean() < 0.03


def test_a_picture_that_is_turned_by_no_quarter_is_refused(tmp_path):
    turned(tmp_path / "turned.mp4", 0.7071, 0.7071, -0.7071, 0.7071)
    fix = r"Fix: ffmpeg -i \S+/turned\.mp4 \S+/turned\.turned\.mp4$"
    with pytest.raises(DataError, match=rf"is turned by 45 degrees, expected 0, 90, 180 or 270.* {fix}"):
        list(video_frames(tmp_path / "turned.mp4"))


def test_a_variable_frame_rate_keeps_its_times(tmp_path):
    pts = [0, 1, 2, 10, 11, 30]
    path = write(tmp_path / "variable.mkv", [picture(n) for n in range(6)], pts=pts)
    assert [frame.t_ms for frame in video_frames(path)] == pytest.approx([40 * n for n in pts], abs=1)


def test_times_begin_at_0_and_grow_though_the_file_s_do_not(tmp_path):
    late = write(tmp_path / "late.mkv", [picture(n) for n in range(4)], pts=[50, 51, 52, 53])
    assert [frame.t_ms for frame in video_frames(late)] == pytest.approx([0, 40, 80, 120], abs=1)


def test_a_video_of_one_frame(tmp_path):
    (frame,) = video_frames(write(tmp_path / "one.mp4", [picture(0)]))
    assert frame.t_ms == 0


@pytest.mark.parametrize("suffix", ["h264", "ts"])
def test_the_size_may_change_in_a_video(tmp_path, suffix):
    """Two H.264 streams in one file, one after the other, as a video call records them."""
    small = write(tmp_path / f"a.{suffix}", [picture(n) for n in range(3)])
    large = write(tmp_path / f"b.{suffix}", [picture(n, 128, 96) for n in range(3)])
    both = tmp_path / f"both.{suffix}"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    frames = list(video_frames(both))
    assert [frame.rgb.shape[:2] for frame in frames] == [(48, 64)] * 3 + [(96, 128)] * 3
    times = [frame.t_ms for frame in frames]
    assert times == sorted(set(times))


def test_what_is_no_video_is_an_error_that_says_so(tmp_path):
    with pytest.raises(DataError, match=r"none.mp4: no such file"):
        list(video_frames(tmp_path / "none.mp4"))
    with pytest.raises(DataError, match="is not a file"):
        list(video_frames(tmp_path))
    (tmp_path / "text.mp4").write_text("this is no video at all, but a text " * 30)
    with pytest.raises(DataError, match=r"text.mp4: cannot be opened as a video"):
        list(video_frames(tmp_path / "text.mp4"))
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(DataError, match=r"empty.mp4: cannot be opened as a video"):
        list(video_frames(tmp_path / "empty.mp4"))


def test_sound_alone_is_no_video(tmp_path):
    with pytest.raises(DataError, match="has no video in it, only sound"):
        list(video_frames(write(tmp_path / "sound.mp4", None, sound=True)))


def test_a_truncated_file_gives_its_frames_and_then_an_error(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(20)]
    path = write(tmp_path / "cut.mp4", pictures, options={"movflags": "faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    frames = []
    mended = r"Fix: copy .*: ffmpeg -i \S+/cut\.mp4 \S+/cut\.whole\.mp4$"
    with pytest.raises(DataError, match=rf"cut.mp4: is damaged after frame \d+ \(\d.*{mended}"):
        frames.extend(video_frames(path))
    assert 3 < len(frames) < 20
    path = write(tmp_path / "end.mp4", pictures)  # its table of frames stands at the end
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(DataError, match=r"end.mp4: cannot be opened as a video"):
        list(video_frames(path))


KINDS = {
    "a.mp4": ("libx264", "yuv420p"),
    "a.mkv": ("libx264", "yuv420p"),
    "a.webm": ("libvpx", "yuv420p"),
    "a.avi": ("mpeg4", "yuv420p"),
    "a.gif": ("gif", "rgb8"),
}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Videos of 100 frames, so full of noise that every part of the file counts."""
    pictures = list(np.random.default_rng(0).integers(0, 256, (100, 48, 64, 3), dtype=np.uint8))
    folder = tmp_path_factory.mktemp("noisy")
    return {
        name: write(folder / name, pictures, codec=codec, pix_fmt=pix_fmt).read_bytes()
        for name, (codec, pix_fmt) in KINDS.items()
    }


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("damage", ["cut in half", "cut near the end", "a hole in the middle"])
def test_a_file_that_is_cut_or_has_a_hole_never_passes_as_whole(noisy, tmp_path, name, damage):
    if (name, damage) == ("a.gif", "a hole in the middle"):
        pytest.skip("a GIF has no length in it, and FFmpeg takes what follows a hole for one frame")
    content, path = noisy[name], tmp_path / name
    path.write_bytes(content)
    assert sum(1 for _ in video_frames(path)) == 100
    size = len(content)
    damaged = {
        "cut in half": content[: size // 2],
        "cut near the end": content[: size * 94 // 100],
        "a hole in the middle": content[: size // 2] + bytes(size // 20) + content[size // 2 + size // 20 :],
    }[damage]
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=rf"{name}: (is damaged after frame \d+ \(|cannot be opened)"):
        list(video_frames(path))


def test_a_live_recording_states_no_length_and_is_whole(tmp_path):
    pictures = [picture(n) for n in range(10)]
    path = write(tmp_path / "live.webm", pictures, codec="libvpx", options={"live": "1"})
    assert len(list(video_frames(path))) == 10


def test_a_file_whose_frames_are_all_damaged_is_an_error(tmp_path):
    path = write(tmp_path / "bad.avi", [picture(n) for n in range(5)], codec="mjpeg", pix_fmt="yuvj420p")
    content = path.read_bytes()
    start = content.index(b"movi")
    path.write_bytes(content[: start + 40] + bytes(len(content) - start - 40))
    with pytest.raises(DataError, match=r"damaged|no frame that can be decoded"):
        list(video_frames(path))


def test_memory_does_not_grow_with_the_length(tmp_path):
    pictures = [picture(n % 30, 640, 480) for n in range(2)]
    path = write(tmp_path / "long.mkv", pictures * 150, codec="mpeg4")
    frames = video_frames(path)
    for _ in range(20):
        next(frames)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in frames) == 280
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB; all frames are 270 MB


WATCHED = """
import sys
from pathlib import Path
from spoter_runtime.camera.clips import ClipFrames
from spoter_runtime.camera.landmarker import Landmarker
from spoter_runtime.camera.video import video_frames

def peak_mb():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024

clip = ClipFrames(Landmarker.load(sys.argv[1]))
for frame in video_frames(sys.argv[2]):
    clip.add(frame)
    if len(clip) == 30:
        print(peak_mb())
print(peak_mb(), len(clip))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_finding_landmarks_in_1080p_takes_at_most_400_mb_however_long(
    tmp_path, landmarker_folder, signing_video
):
    signer = [frame.rgb.repeat(3, 0).repeat(3, 1) for frame in video_frames(signing_video(SIGNER))]
    pictures = [np.pad(rgb, ((60, 60), (480, 480), (0, 0))) for rgb in signer]
    path = write(tmp_path / "long.mkv", pictures * 5, codec="mpeg4")
    words = [sys.executable, "-c", WATCHED, str(landmarker_folder), str(path)]
    early, late, frames = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert int(frames) == 150
    assert float(late) < 400
    assert float(late) - float(early) < 40  # 120 frames are 750 MB


def test_a_camera_that_is_not_there_is_named():
    with pytest.raises(DataError, match=r"/dev/video99: no such camera"):
        next(camera_frames(99, input_format="v4l2"))


def test_what_is_no_camera_no_address_and_no_path_is_told_as_that():
    with pytest.raises(DataError, match=r"rtsp://x: is an address, not a camera. Fix: network_frames\('rtsp"):
        next(camera_frames("rtsp://x"))
    with pytest.raises(DataError, match="camera -1: cameras are counted from 0"):
        next(camera_frames(-1))
    with pytest.raises(DataError, match=r"clip\.mp4: is no address"):
        next(network_frames("clip.mp4"))
    for value in (3, None, b"a.mp4"):
        with pytest.raises(DataError, match=f"a video is the path of a file, got {value!r}"):
            next(video_frames(value))


def test_a_missing_pyav_is_told_before_a_missing_file(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    for frames in (video_frames(tmp_path / "none.mp4"), camera_frames(99, input_format="v4l2")):
        with pytest.raises(MissingExtraError, match="'av', which is not installed"):
            next(frames)


def test_a_camera_gives_frames_until_the_caller_stops():
    if "lavfi" not in av.formats_available:
        pytest.skip("this PyAV has no test pictures to stand for a camera")
    frames = camera_frames("testsrc=size=160x120:rate=10", input_format="lavfi")
    first = [next(frames) for _ in range(5)]
    frames.close()
    assert {frame.rgb.shape for frame in first} == {(120, 160, 3)}
    assert [frame.t_ms for frame in first] == pytest.approx([0, 100, 200, 300, 400])


def test_a_frame_of_8k_is_read(tmp_path):
    (frame,) = video_frames(
        write(tmp_path / "8k.mkv", [picture(12, 7680, 4320)], codec="mjpeg", pix_fmt="yuvj420p")
    )
    assert frame.rgb.shape == (4320, 7680, 3)
    assert is_red(frame.rgb[3, 3])


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EBUSY, "another program uses this camera"),
        (errno.ENODEV, "the camera was unplugged"),
        (errno.EACCES, "permission denied"),
    ],
)
def test_a_camera_that_cannot_be_used_says_why(code, said, monkeypatch):
    """The errors that the system gives for it, where no camera is at hand to take away."""

    def refused(*arguments, **options):
        av.error.err_check(-code)

    monkeypatch.setattr(av, "open", refused)
    with pytest.raises(DataError, match=said):
        next(camera_frames("testsrc", input_format="lavfi"))


def test_a_camera_that_is_unplugged_while_it_runs_is_said():
    class Gone:
        """A container that gives one frame and then what the system says of a camera that has left."""

        streams = type("S", (), {"video": [type("V", (), {"average_rate": 30, "thread_count": 1})()]})()

        def decode(self, stream):
            frame = av.VideoFrame.from_ndarray(picture(0), format="rgb24")
            frame.pts = 0
            yield frame
            raise OSError(errno.ENODEV, "No such device")

        def close(self):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(av, "open", lambda *_, **__: Gone())
        frames = camera_frames("testsrc", input_format="lavfi")
        next(frames)
        with pytest.raises(DataError, match="the camera was unplugged"):
            next(frames)
