from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spoter_runtime.camera.clips import clip_from_video
from spoter_runtime.errors import DataError, InputError
from spoter_toolkit.data.extract.landmarks import find_landmarks, without_still_ends
from spoter_toolkit.data.extract.videos import VideoPart

av = pytest.importorskip("av", reason="PyAV reads and writes videos")


class Counting:
    """A landmarker whose every landmark is (brightness of the left half, frames since its reset)."""

    sha256 = "counting"
    persons = 1

    def __init__(self):
        self.reset()

    def reset(self):
        self.count = 0

    def another(self):
        return Counting()

    def __call__(self, frame_rgb, t_ms=None):
        self.count += 1
        left = frame_rgb[:, : frame_rgb.shape[1] // 2].mean()
        return np.full((54, 2), [left, self.count], np.float32)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Fifty frames, 25 a second; the left half of frame n has brightness 4 n, the right half is black."""
    path = tmp_path_factory.mktemp("video") / "grows.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "bgr0"
        for n in range(50):
            picture = np.zeros((16, 32, 3), np.uint8)
            picture[:, :16] = 4 * n
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def part(path, start=0.0, end=float("inf"), unit="s"):
    return VideoPart(
        path=path, id=f"{start:g}-{end:g}", label="tea", signer="ann", start=start, end=end, unit=unit
    )


def found(parts, **options):
    return dict((part.id, clip) for part, clip in find_landmarks(parts, Counting(), **options))


def test_parts_are_cut_by_seconds_or_frames_and_tracked_by_themselves(video):
    clips = found(
        [part(video, 1, 1.2), part(video), part(video, 10, 13, "frames"), part(video, 12, 14, "frames")]
    )
    frames = {id: (clip.poses_TLD[:, 0, 0] / 4).round().astype(int).tolist() for id, clip in clips.items()}
    assert frames == {
        "10-13": [10, 11, 12],
        "12-14": [12, 13],
        "1-1.2": [25, 26, 27, 28, 29],
        "0-inf": [*range(50)],
    }
    for clip in clips.values():
        assert clip.poses_TLD[:, 0, 1].tolist() == [*range(1, len(clip.poses_TLD) + 1)]
        assert clip.fps == pytest.approx(25)


def test_a_mirrored_video_is_turned_before_it_is_looked_at(video):
    (clip,) = found([part(video)], mirror=True).values()
    assert (clip.poses_TLD[:, 0, 0] == 0).all()
    assert (clip_from_video(video, Counting(), mirror=True).poses_TLD == clip.poses_TLD).all()


def test_a_part_behind_the_end_is_an_error_and_the_others_are_found(video):
    clips = found([part(video, 1, 99), part(video, 3, 4)])
    assert len(clips["1-99"].poses_TLD) == 25
    assert isinstance(clips["3-4"], DataError)
    assert "ends at frame 49, 1.96 s, before the clip '3-4' begins (3 s)" in str(clips["3-4"])


def test_a_damaged_video_fails_the_parts_that_were_not_complete(video, tmp_path):
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(video.read_bytes()[:-3000])
    clips = found([part(Path(cut), 0, 3, "frames"), part(Path(cut), 0, 50, "frames")])
    assert len(clips["0-3"].poses_TLD) == 3
    assert isinstance(clips["0-50"], DataError)


def test_a_clip_that_will_be_refused_is_left_when_it_is_too_long(video):
    seen = []
    parts = [part(video), part(video, 0, 20, "frames"), part(video, 30, 40, "frames")]
    clips = found(parts, most_frames=20, on_frame=lambda: seen.append(1))
    assert len(seen) == 20 + 20 + 10
    assert [len(clips[id].poses_TLD) for id in ("0-20", "30-40")] == [20, 10]
    with pytest.raises(
        InputError, match=r"grows\.mkv, clip '0-inf': has more than 20 frames.*Fix: --long res"
    ):
        raise clips["0-inf"]


def test_a_video_that_is_too_long_is_refused_before_its_end(video):
    seen = []
    with pytest.raises(InputError, match=r"has more than 20 frames, the model takes 1\.\.20"):
        clip_from_video(video, Counting(), max_frames=20, on_frame=lambda: seen.append(1))
    assert len(seen) == 20
    whole = clip_from_video(video, Counting(), max_frames=50)
    assert (len(whole.poses_TLD), whole.landmarker) == (50, "counting")
    assert whole.decode_ms > 0
    assert whole.landmarks_ms > 0


def resting_then_moving(still, moving, fps=30):
    poses = np.tile(np.linspace(0.2, 0.8, 108, dtype=np.float32).reshape(54, 2), (2 * still + moving, 1, 1))
    poses[still : still + moving, 10:12, 1] += 0.3 * np.sin(np.arange(moving) * 9 / fps)[:, None]
    return poses


def test_still_ends_are_cut_and_a_margin_is_kept():
    poses = resting_then_moving(30, 40)
    cut = without_still_ends(poses, 30)
    assert 40 <= len(cut) <= 40 + 2 * 8
    first = np.flatnonzero((poses == cut[0]).all(axis=(1, 2)))
    assert len(first)
    assert without_still_ends(resting_then_moving(30, 0), 30).shape[0] == 60  # nothing moves: all is kept
    missing = poses.copy()
    missing[:, 10:12] = np.nan
    assert len(without_still_ends(missing, 30)) == 100
    assert len(without_still_ends(poses[:2], 30)) == 2
