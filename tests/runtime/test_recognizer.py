"""Recognizer: from a bundle and a clip to a label."""

from __future__ import annotations

import numpy as np
import pytest

from spoter_runtime.errors import BackendError, InputError
from spoter_runtime.landmarks import resample_clip
from spoter_runtime.recognizer import Prediction, Recognizer

SAME = 1e-5  # how far logits may move with what must not matter


@pytest.fixture(scope="module")
def recognizer(bundle_folder):
    return Recognizer.load(bundle_folder, threads=1)


@pytest.fixture
def prediction(contract):
    return Prediction(
        sign=contract.labels[3],
        score=0.0,
        logits_C=np.array([1.0, -2.0, 1.0, 4.0, 0.0], np.float32),
        labels=contract.labels,
        latency_ms=1.0,
    )


def test_a_prediction_has_a_label_a_score_and_a_time(recognizer, make_clip):
    prediction = recognizer.predict(make_clip())
    assert prediction.label == prediction.sign.name == recognizer.labels[prediction.logits_C.argmax()].name
    assert prediction.sign.bengali in ("চা", "দুধ", "ভাই", "বোন", "জল")
    assert 0.2 < prediction.score < 1.0
    assert prediction.latency_ms > 0
    assert (prediction.logits_C.shape, prediction.logits_C.dtype) == ((5,), np.float32)


def test_top_ranks_by_softmax_best_first_and_ties_by_column(prediction):
    names, scores = zip(*prediction.top(5), strict=True)
    assert names == ("bon", "cha", "bhai", "jol", "dudh")
    expected = np.exp([4.0, 1.0, 1.0, 0.0, -2.0])
    np.testing.assert_allclose(scores, expected / expected.sum(), rtol=1e-6)
    assert prediction.top(2) == prediction.top(5)[:2]
    assert prediction.top(100) == prediction.top(5)


@pytest.mark.parametrize("k", [0, -1])
def test_top_needs_at_least_one(prediction, k):
    with pytest.raises(InputError, match=f"top {k}: expected at least 1"):
        prediction.top(k)


def test_the_score_is_the_best_labels_softmax_however_large_the_logits(recognizer, make_clip, prediction):
    answer = recognizer.predict(make_clip())
    assert answer.top(1) == [(answer.label, answer.score)]
    assert sum(score for _, score in answer.top(5)) == pytest.approx(1)
    huge = Prediction(
        sign=prediction.sign,
        score=0,
        logits_C=1e4 * prediction.logits_C,
        labels=prediction.labels,
        latency_ms=1,
    )
    assert huge.top(1) == [("bon", 1.0)]


def test_flat_and_shaped_clips_and_lists_are_the_same_clip(recognizer, make_clip):
    clip = make_clip()
    expected = recognizer.predict(clip).logits_C
    for same in (clip.reshape(-1, 108), clip.astype(float), clip.tolist()):
        np.testing.assert_array_equal(recognizer.predict(same).logits_C, expected)


def test_many_clips_come_back_in_order_and_as_if_alone(recognizer, make_clip):
    lengths = [30, 1, 99, 12, 12, 50, 2, 70, 30, 45, 3, 99, 20]  # more than one batch, not sorted
    clips = [make_clip(seed, frames) for seed, frames in enumerate(lengths)]
    together = recognizer.predict_many(iter(clips))
    alone = [recognizer.predict(clip) for clip in clips]
    for got, want in zip(together, alone, strict=True):
        np.testing.assert_allclose(got.logits_C, want.logits_C, atol=SAME)
        assert got.label == want.label
    assert len({prediction.label for prediction in alone}) > 1


def test_no_clips_have_no_predictions(recognizer):
    assert recognizer.predict_many([]) == []


def _thrice(count):
    return np.full((count, 54, 2), 0.5, np.float32)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (_thrice(0), "U4W1_3: 0 frames, the model takes 1..99"),
        (_thrice(100), "U4W1_3: 100 frames, the model takes 1..99. Fix: cut the clip, or resample it"),
        (_thrice(350), r"350 frames.*Recognizer.load\(bundle, long='resample'\)"),
        (np.zeros((5, 54, 3)), "U4W1_3: expected 54×2 values a frame, got 54×3"),
        (_thrice(5)[0], r"U4W1_3: expected \(frames, 54, 2\) or \(frames, 108\), got \(54, 2\)"),
        (np.full((5, 54, 2), np.inf), r"U4W1_3: value inf at index \(0, 0, 0\)"),
        (np.full((5, 54, 2), np.nan), "U4W1_3: no landmark is detected in any of its 5 frames"),
        (np.ones((5, 54, 2), int), "U4W1_3: expected floating-point landmarks, got dtype int64"),
    ],
)
def test_a_bad_clip_is_refused_by_name(recognizer, clip, message):
    with pytest.raises(InputError, match=message):
        recognizer.predict(clip, name="U4W1_3")


def test_of_many_clips_the_bad_one_is_named_and_nothing_is_predicted(recognizer, make_clip, monkeypatch):
    clips = [make_clip(), make_clip(1), np.full((4, 54, 2), np.nan)]
    batches = []
    monkeypatch.setattr(recognizer.runner, "infer", batches.append)
    with pytest.raises(InputError, match="clip 2: no landmark is detected"):
        recognizer.predict_many(clips)
    with pytest.raises(InputError, match="third: no landmark is detected"):
        recognizer.predict_many(clips, names=["first", "second", "third"])
    assert batches == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["one"], "names: more clips than names, of which there are 1. Fix: give each clip one name"),
        ([], "names: more clips than names, of which there are 0"),
        (iter("abc"), "names: more names than clips, of which there are 2"),
        (5, "names: expected one for each clip, got int"),
    ],
)
def test_names_must_be_as_many_as_clips(recognizer, make_clip, names, message):
    with pytest.raises(InputError, match=message):
        recognizer.predict_many([make_clip(), make_clip()], names=names)
    if not hasattr(names, "__next__"):
        with pytest.raises(InputError, match=message):
            list(recognizer.stream([make_clip(), make_clip()], names=names))


@pytest.mark.parametrize("threads", [np.int64(1), np.uint8(1), np.array(1)])
def test_whole_numbers_of_numpy_are_numbers_of_threads(bundle_folder, make_clip, threads):
    for path in (bundle_folder, bundle_folder / "model.onnx"):
        assert Recognizer.load(path, threads=threads).predict(make_clip()).label


@pytest.mark.parametrize("threads", [True, 1.0, np.float32(1), "1", 0, np.int64(-1), np.bool_(True)])
def test_other_things_are_no_numbers_of_threads(bundle_folder, threads):
    for path in (bundle_folder, bundle_folder / "model.onnx"):
        with pytest.raises(BackendError, match=r"threads=.*: expected a whole number, 1\.\."):
            Recognizer.load(path, threads=threads)


def test_long_clips_are_resampled_where_asked(bundle_folder, recognizer, make_clip):
    resampling = Recognizer.load(bundle_folder, long="resample", threads=1)
    long, short = make_clip(0, 400), make_clip(1, 30)
    expected = recognizer.predict(resample_clip(long, 99))
    np.testing.assert_array_equal(resampling.predict(long).logits_C, expected.logits_C)
    np.testing.assert_array_equal(resampling.predict(short).logits_C, recognizer.predict(short).logits_C)
    with pytest.raises(InputError, match="0 frames"):
        resampling.predict(long[:0])


def test_why_says_how_the_backend_was_chosen(bundle_folder):
    why = Recognizer.load(bundle_folder).why
    assert list(why) == [
        *("trt", "trt-lean", "trt-rtx", "ort-tensorrt", "ort-tensorrt-rtx", "ort-cuda", "ort-cpu-fused"),
    ]
    assert why["ort-cpu-fused"] == "the best that loads on this machine"
    assert why["ort-tensorrt"] == "not tried: it builds an engine while it loads; name it to use it"
    assert "has no fp32 engine for tensorrt" in why["trt"]
    assert Recognizer.load(bundle_folder, "ort-cpu").why == {"ort-cpu": "asked for"}


def test_an_unknown_backend_is_refused_with_those_there_are(bundle_folder):
    with pytest.raises(BackendError, match=r"unknown backend 'tpu'; there are trt, .*, ort-cpu"):
        Recognizer.load(bundle_folder, "tpu")
    with pytest.raises(BackendError, match="a lone ONNX file runs on ort-cpu, not on tpu"):
        Recognizer.load(bundle_folder / "model.onnx", "tpu")
