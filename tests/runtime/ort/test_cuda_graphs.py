"""What is recorded for a shape answers every batch of it; a CPU records nothing, the rest is the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest

from spoter_runtime.errors import BackendError
from spoter_runtime.ort.cuda_graphs import GraphedSession, padded_frames
from spoter_runtime.ort.gpu_session import check_driver, check_installed, records_graphs
from spoter_runtime.ort.runner import OrtRunner
from spoter_runtime.runner import pad_clips


@pytest.fixture(scope="module")
def plain(bundle_folder):
    return OrtRunner(bundle_folder / "model.onnx", threads=1)


@pytest.fixture
def graphed(plain):
    return GraphedSession(ort, plain._session, plain.contract, most=3, device="cpu")


def batch_of(make_clip, *lengths, seed=0):
    return pad_clips([make_clip(seed + i, frames) for i, frames in enumerate(lengths)])


def test_frames_are_padded_to_few_lengths_and_never_beyond_the_models():
    assert [padded_frames(frames, 99) for frames in (1, 16, 17, 96, 97, 99)] == [16, 16, 32, 96, 99, 99]
    assert {padded_frames(frames, 299) for frames in range(1, 300)} == {*range(16, 299, 16), 299}
    assert padded_frames(5, 9) == 9


def test_a_recorded_shape_answers_every_batch_of_it(graphed, plain, make_clip):
    kept = []
    for seed, lengths in enumerate(([20, 3], [17, 32], [32, 1], [20, 3])):
        poses, lengths_N = batch_of(make_clip, *lengths, seed=seed)
        np.testing.assert_allclose(graphed.run(poses, lengths_N), plain.infer(poses, lengths_N), atol=2e-6)
        kept.append((graphed.run(poses, lengths_N), plain.infer(poses, lengths_N)))
    assert [*graphed._several] == [(2, 32)]
    for ours, theirs in kept:  # a later batch has not written over them
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_padding_of_the_batch_before_does_not_come_back(graphed, plain, make_clip):
    graphed.run(*batch_of(make_clip, 30))
    poses, lengths_N = batch_of(make_clip, 18, seed=1)
    graphed.run(np.full((1, 31, 108), np.nan, np.float32), lengths_N)
    np.testing.assert_allclose(graphed.run(poses, lengths_N), plain.infer(poses, lengths_N), atol=2e-6)
    assert (graphed._staged[18 * 108 : 32 * 108] == 0).all()


def test_shapes_beyond_the_limit_run_without_a_graph(graphed, plain, make_clip):
    for frames in (5, 20, 40, 60, 99, 5):
        for lengths in ([frames, 3], [frames], [frames, 2]):
            batch = batch_of(make_clip, *lengths)
            np.testing.assert_allclose(graphed.run(*batch), plain.infer(*batch), atol=2e-6)
    assert sorted(graphed._alone) == [(1, 16), (1, 32), (1, 48), (1, 64), (1, 99)]
    assert sorted(graphed._several) == [(2, 16), (2, 32), (2, 48)]


def test_several_clips_are_recorded_when_their_shape_comes_again(graphed, make_clip):
    graphed.run(*batch_of(make_clip, 20, 3))
    assert not graphed._several
    graphed.run(*batch_of(make_clip, 31, 1))
    assert [*graphed._several] == [(2, 32)]


def test_a_large_batch_keeps_no_buffers(graphed, plain, make_clip, monkeypatch):
    monkeypatch.setattr("spoter_runtime.ort.cuda_graphs.MOST_FRAMES", 100)
    batch = batch_of(make_clip, 60, 50)
    for _ in range(3):
        np.testing.assert_allclose(graphed.run(*batch), plain.infer(*batch), atol=2e-6)
    assert not graphed._several


def test_a_first_call_that_was_interrupted_leaves_its_number_for_good(plain, make_clip):
    """The graph may be there already, and would be replayed with buffers that are gone."""
    numbers = []

    class Interrupted:
        io_binding = plain._session.io_binding

        def run_with_iobinding(self, binding, options):
            numbers.append(options.get_run_config_entry("gpu_graph_id"))
            plain._session.run_with_iobinding(binding, options)
            if len(numbers) == 1:
                raise KeyboardInterrupt

    graphed = GraphedSession(ort, Interrupted(), plain.contract, most=3, device="cpu")
    batch = batch_of(make_clip, 20)
    with pytest.raises(KeyboardInterrupt):
        graphed.run(*batch)
    for other in (batch, batch_of(make_clip, 60), batch):
        np.testing.assert_allclose(graphed.run(*other), plain.infer(*other), atol=2e-6)
    assert numbers == ["1", "2", "3", "2"]


def test_a_shape_that_cannot_be_recorded_is_answered_all_the_same(plain, make_clip, caplog):
    graphed = GraphedSession(ort, plain._session, plain.contract, most=3, device="no such device")
    poses, lengths_N = batch_of(make_clip, 20)
    for _ in range(2):
        np.testing.assert_allclose(graphed.run(poses, lengths_N), plain.infer(poses, lengths_N), atol=2e-6)
    assert caplog.text.count("1 clips of 32 frames run without a CUDA graph: ") == 1


def test_a_batch_that_the_engine_refuses_is_its_error(plain):
    longer = replace(plain.contract, max_frames=500)
    graphed = GraphedSession(ort, plain._session, longer, most=3, device="cpu")
    with pytest.raises(Exception, match="Non-zero status code"):
        graphed.run(np.ones((1, 400, 108), np.float32), np.array([400], np.int32))


def test_several_threads_get_their_own_answers(graphed, plain, make_clip):
    batches = [batch_of(make_clip, frames, seed=frames) for frames in (3, 9, 15, 20, 31, 70)] * 5
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda batch: graphed.run(*batch), batches))
    for answer, batch in zip(answers, batches, strict=True):
        np.testing.assert_allclose(answer, plain.infer(*batch), atol=2e-6)


def test_a_session_on_the_cpu_records_none(plain):
    assert not records_graphs(plain._session)
    assert plain._graphed is None


@pytest.fixture
def on_cuda(bundle_folder):
    """Return what opens the bundle's model on CUDA; skipped where that is not here."""
    try:
        check_installed(ort, "cuda")
        check_driver("cuda")
    except BackendError as error:
        pytest.skip(str(error))
    return lambda **options: OrtRunner(bundle_folder / "model.onnx", provider="cuda", **options)


@pytest.mark.gpu
def test_cuda_replays_what_it_recorded_with_other_landmarks_and_lengths(on_cuda, plain, make_clip):
    runner = on_cuda(graphs=2)
    assert records_graphs(runner._session)
    for seed, lengths in enumerate(
        ([20], [31], [17], [20, 3], [5] * 8, [99, 1, 50], [60], [70], [20], [32, 32])
    ):
        batch = batch_of(make_clip, *lengths, seed=seed)
        for _ in range(3):
            np.testing.assert_allclose(runner.infer(*batch), plain.infer(*batch), atol=1e-4)
    several = runner._graphed._several
    assert len(several) == 2
    assert None not in [several.get(shape) for shape in several]


@pytest.mark.gpu
def test_cuda_without_graphs_gives_the_same_answers(on_cuda, plain, make_clip):
    runner = on_cuda(graphs=0)
    assert runner._graphed is None
    assert not records_graphs(runner._session)
    batch = batch_of(make_clip, 20, 3)
    np.testing.assert_allclose(runner.infer(*batch), plain.infer(*batch), atol=1e-4)


@pytest.mark.gpu
def test_several_threads_share_cudas_graphs(on_cuda, plain, make_clip):
    runner = on_cuda(graphs=3)
    batches = [batch_of(make_clip, frames, seed=frames) for frames in (3, 9, 20, 40, 70, 99)] * 5
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda batch: runner.infer(*batch), batches))
    for answer, batch in zip(answers, batches, strict=True):
        np.testing.assert_allclose(answer, plain.infer(*batch), atol=1e-4)
