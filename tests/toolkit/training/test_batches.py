from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from spoter_runtime.landmarks import Float32Array
from spoter_toolkit.data.dataset import Clip, Dataset
from spoter_toolkit.model.config import ModelConfig
from spoter_toolkit.training.batches import Take, longest, plan_epoch, played_frames, read_batch, share_of
from spoter_toolkit.training.config import AugmentConfig, TrainConfig

CONFIG = TrainConfig(batch_size=4, augment=AugmentConfig(time_scale=0.2), seed=3)


def clips(count: int = 200) -> tuple[Clip, ...]:
    frames = np.random.default_rng(0).integers(9, 165, count)
    return tuple(
        Clip(id=str(i), label="often" if i % 10 else "rare", signer="a", start=0, frames=int(n), fps=30.0)
        for i, n in enumerate(frames)
    )


def padded_share(batches: list[list[Take]]) -> float:
    padded = sum(max(take.frames for take in batch) * len(batch) for batch in batches)
    return 1 - sum(take.frames for batch in batches for take in batch) / padded


def test_an_epoch_takes_every_clip_once_in_a_new_order_each_time() -> None:
    first, again, next_one = (plan_epoch(clips(), CONFIG, epoch) for epoch in (0, 0, 1))
    assert first == again
    assert first != next_one
    for batches in (first, next_one):
        assert Counter(take.clip.id for batch in batches for take in batch) == Counter(
            clip.id for clip in clips()
        )
        assert {len(batch) for batch in batches} == {4}


def test_takes_of_a_batch_are_of_similar_length_at_the_speed_they_are_played() -> None:
    """Drawn after the batches are made, speeds of 0.8 to 1.2 alone would pad 15 %."""
    batches = plan_epoch(clips(1600), replace(CONFIG, batch_size=16), 0)
    assert padded_share(batches) < 0.03
    ratios = np.array([take.frames / take.clip.frames for batch in batches for take in batch])
    assert ratios.std() > 0.1


def test_short_batches_do_not_come_first() -> None:
    lengths = [max(take.frames for take in batch) for batch in plan_epoch(clips(1600), CONFIG, 0)]
    assert abs(np.corrcoef(np.arange(len(lengths)), lengths)[0, 1]) < 0.2


def test_balance_draws_rare_labels_more_often() -> None:
    def rare(balance: float) -> int:
        batches = plan_epoch(clips(1600), replace(CONFIG, balance=balance), 0)
        return sum(take.clip.label == "rare" for batch in batches for take in batch)

    assert rare(0) == 160
    assert 700 < rare(1) < 900


def test_a_balanced_epoch_shows_each_clip_as_often_as_it_should_to_within_one() -> None:
    shown = Counter(
        take.clip for batch in plan_epoch(clips(1600), replace(CONFIG, balance=0.5), 0) for take in batch
    )
    weights = {clip: {"often": 1440, "rare": 160}[clip.label] ** -0.5 for clip in clips(1600)}
    total = sum(weights.values())
    assert all(abs(shown[clip] - 1600 * weight / total) < 1 for clip, weight in weights.items())
    assert shown.total() == 1600


def test_an_epoch_of_few_clips_shows_them_again_and_one_of_a_short_training_is_short() -> None:
    config = replace(CONFIG, epochs=0, batch_size=32)
    batches = plan_epoch(clips(20), config, 0)
    assert len(batches) == 50
    shown = Counter(take.clip for batch in batches for take in batch)
    assert set(shown.values()) == {80}
    assert len(plan_epoch(clips(1600), replace(config, batch_size=16), 0)) == 100
    assert len(plan_epoch(clips(1600), replace(config, batch_size=16, max_steps=80), 0)) == 10


def test_processes_share_the_batches_evenly() -> None:
    batches = plan_epoch(clips(22), CONFIG, 0)
    shares = [share_of(batches, process, 4) for process in range(4)]
    assert [len(share) for share in shares] == [1, 1, 1, 1]  # of six, four are used
    assert share_of(batches, 0, 1) == batches
    assert all(share_of(batches[:2], process, 4) for process in range(4))  # nobody waits for ever


def test_speeds_stay_within_their_range_and_within_what_the_model_takes() -> None:
    generator = np.random.default_rng(0)
    recorded = np.full(1000, 100)

    def frames(recorded: npt.NDArray[np.int64], most: int = 299, **augment: float) -> npt.NDArray[np.int64]:
        config = replace(CONFIG, augment=AugmentConfig(**augment))
        return played_frames(recorded, config, generator, max_frames=most)

    slower = frames(recorded, 115, time_scale=0.2)
    assert (slower.min(), slower.max()) == (80, 115)
    shorter = frames(recorded, time_scale=0.2, shorten=0.6)
    assert (shorter.min(), shorter.max()) == (40, 120)
    assert frames(np.ones(100, np.int64), time_scale=0.9).min() == 1
    assert np.array_equal(frames(recorded), recorded)


def test_a_clip_at_its_own_speed_is_read_as_it_is(tiny: Dataset) -> None:
    takes = [Take(clip=clip, frames=clip.frames) for clip in tiny.clips[:5]]
    batch = read_batch(tiny, takes, torch.device("cpu"))
    assert (batch.poses_NTL2.shape, batch.poses_NTL2.dtype) == ((5, longest(takes), 54, 2), torch.float32)
    assert batch.lengths_N.tolist() == [take.frames for take in takes]
    assert [tiny.labels[i].name for i in batch.labels_N.tolist()] == [take.clip.label for take in takes]
    for poses, take in zip(batch.poses_NTL2.numpy(), takes, strict=True):
        assert np.array_equal(poses[: take.frames], tiny.poses_of(take.clip), equal_nan=True)
        assert not poses[take.frames :].any()


def test_a_batch_may_be_padded_further(tiny: Dataset) -> None:
    takes = [Take(clip=clip, frames=clip.frames) for clip in tiny.clips[:2]]
    frames = longest(takes)
    alone, padded = (read_batch(tiny, takes, torch.device("cpu"), f) for f in (None, frames + 7))
    assert padded.poses_NTL2.shape[1] == frames + 7
    assert not padded.poses_NTL2[:, frames:].any()
    assert padded.poses_NTL2[:, :frames].numpy().tobytes() == alone.poses_NTL2.numpy().tobytes()


@pytest.mark.parametrize("change", [-0.2, -0.01, 0.01, 0.2])
def test_another_speed_invents_no_place_and_keeps_the_order_of_the_frames(
    tiny: Dataset, change: float
) -> None:
    clip = tiny.clips[0]
    take = Take(clip=clip, frames=round(clip.frames * (1 + change)))
    read = read_batch(tiny, [take], torch.device("cpu")).poses_NTL2[0].numpy()
    recorded = tiny.poses_of(clip)
    places = [nearest(frame, recorded) for frame in read]
    assert len(places) == take.frames
    assert places == sorted(places)
    assert (places[0], places[-1]) in {(i, clip.frames - 1 - j) for i in (0, 1) for j in (0, 1)}


def nearest(frame: Float32Array, recorded: Float32Array) -> int:
    """Return where a frame was recorded; it has to be there bit for bit."""
    (places, *_) = np.nonzero([np.array_equal(frame, other, equal_nan=True) for other in recorded])
    return int(places[0])


def test_a_take_of_one_frame_can_be_read(tiny: Dataset) -> None:
    batch = read_batch(tiny, [Take(clip=tiny.clips[0], frames=1)], torch.device("cpu"))
    assert batch.poses_NTL2.shape == (1, 1, 54, 2)


def test_a_model_of_fewer_positions_gets_no_longer_take() -> None:
    short = replace(CONFIG, model=ModelConfig(max_seq_length=101))
    takes = [take for batch in plan_epoch(clips(), short, 0) for take in batch if take.clip.frames <= 100]
    assert max(take.frames for take in takes) <= 100
