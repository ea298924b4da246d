"""Many clips: little padding, order kept, every core at work, memory that does not grow."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from spoter_runtime.batching import MOST_PADDING, batches_of, infer_many
from spoter_runtime.errors import BackendError, InputError
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.recognizer import STREAM_CLIPS, Recognizer
from spoter_runtime.runner import Runner


def clips_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.random((frames, 54, 2), np.float32) for frames in lengths]


@pytest.mark.parametrize("most", [1, 4, 16])
def test_every_clip_is_in_one_batch_with_others_of_its_length_and_long_ones_come_first(most):
    lengths = np.random.default_rng(0).integers(1, 300, 200).tolist()
    batches = batches_of(lengths, most)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(200))
    longest = [max(lengths[place] for place in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    for batch in batches:
        frames = [lengths[place] for place in batch]
        assert len(batch) <= most
        assert len(batch) * max(frames) - sum(frames) <= MOST_PADDING * len(batch) * max(frames)


def test_batches_are_full_where_lengths_allow_it():
    assert [len(batch) for batch in batches_of([20] * 20, 8)] == [8, 8, 4]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_answers_are_those_of_each_clip_alone_in_the_order_given(bundle_folder, workers):
    runner = OrtRunner(bundle_folder / "model.onnx")
    clips = clips_of([5, 99, 1, 40, 41, 39, 7, 7, 7, 60, 2, 98])
    answers = infer_many(runner, clips, workers=workers, most_clips=4)
    for clip, answer in zip(clips, answers, strict=True):
        alone = runner.infer(clip.reshape(1, len(clip), 108))[0]
        np.testing.assert_allclose(answer.logits_C, alone, atol=1e-5)
        assert answer.latency_ms > 0


class Waiting(Runner):
    """Each call waits until so many are running at the same time."""

    name = "waiting"

    def __init__(self, contract, at_once):
        self.contract = contract
        self._barrier = threading.Barrier(at_once, timeout=20)

    def _infer(self, poses_NTD, lengths_N):
        self._barrier.wait()
        return np.zeros((len(poses_NTD), self.contract.num_classes), np.float32)


def test_workers_call_at_the_same_time(contract):
    assert len(infer_many(Waiting(contract, 3), clips_of([4] * 6), workers=3, most_clips=1)) == 6


def test_an_engine_that_fails_is_not_silent(contract):
    class Failing(Waiting):
        def _infer(self, poses_NTD, lengths_N):
            raise BackendError("waiting: out of memory")

    with pytest.raises(BackendError, match=r"waiting: out of memory"):
        infer_many(Failing(contract, 1), clips_of([4] * 9), workers=3, most_clips=1)


def test_where_no_thread_can_be_started_this_one_answers_all(contract, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert len(infer_many(Waiting(contract, 1), clips_of([4] * 9), workers=3, most_clips=1)) == 9


def test_what_an_engine_raises_comes_out_of_whatever_thread(contract):
    class Failing(Waiting):
        def infer_checked(self, poses_NTD, lengths_N):
            raise IndexError(threading.current_thread().name)

    with pytest.raises(IndexError, match=r"MainThread|spoter"):
        infer_many(Failing(contract, 1), clips_of([4] * 9), workers=3, most_clips=1)


def test_a_stream_has_no_end_and_takes_no_more_than_it_needs(bundle_folder):
    recognizer = Recognizer.load(bundle_folder, tuned=False)
    taken = 0

    def endless():
        nonlocal taken
        for clip in itertools.cycle(clips_of([9, 3, 20])):
            taken += 1
            yield clip

    first = list(itertools.islice(recognizer.stream(endless()), 7))
    assert taken == STREAM_CLIPS
    expected = recognizer.predict_many(itertools.islice(itertools.cycle(clips_of([9, 3, 20])), 7))
    assert [one.label for one in first] == [one.label for one in expected]


def test_a_stream_ends_with_its_source_and_names_what_it_cannot_use(bundle_folder):
    recognizer = Recognizer.load(bundle_folder, tuned=False)
    assert list(recognizer.stream([])) == []
    assert len(list(recognizer.stream(clips_of([4] * 3)))) == 3
    clips = [*clips_of([2] * STREAM_CLIPS), np.zeros((4, 53, 2), np.float32)]
    answers = recognizer.stream(clips)
    assert len(list(itertools.islice(answers, STREAM_CLIPS))) == STREAM_CLIPS
    with pytest.raises(InputError, match=rf"clip {STREAM_CLIPS}: "):
        next(answers)


def test_more_threads_than_cores_are_refused(bundle_folder, monkeypatch):
    monkeypatch.setattr("spoter_runtime.recognizer.usable_cores", lambda: 2)
    with pytest.raises(BackendError, match=r"threads=3: this process may use 2\. Fix: threads=2"):
        Recognizer.load(bundle_folder, threads=3)
