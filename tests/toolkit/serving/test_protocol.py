"""Requests are read strictly: what is refused, and with which reason."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spoter_runtime.errors import InputError, SpoterError
from spoter_runtime.landmarks import check_clip
from spoter_toolkit.serving.client import body_of, logits_from
from spoter_toolkit.serving.protocol import HEADER_LENGTH, Request, read_request, write_answer


def read(asked, contract, *, binary=b"", length=None, most=4):
    head = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    length = str(len(head)) if binary and length is None else length
    return read_request(head + binary, length, contract, None, most=most)


def tensor(name="poses", datatype="FP32", shape=(1, 2, 108), data=None, **more):
    return {"name": name, "datatype": datatype, "shape": list(shape)} | (
        {"data": [0.5] * 216 if data is None else data} | more if "parameters" not in more else more
    )


def lengths(*values, **more):
    return tensor("lengths", "INT32", [len(values)], list(values), **more)


BINARY = {"parameters": {"binary_data_size": 864}}
WRONG = {
    "no JSON": (b"{", {}, "is no JSON"),
    "not UTF-8": (b'{"id": "\xff"}', {}, "is not UTF-8"),
    "deep": (b"[" * 100_000, {}, "too deep"),
    "a list": ([], {}, "expected a table"),
    "no inputs": ({}, {}, "inputs: "),
    "an unknown input": ({"inputs": [tensor("pose")]}, {}, "input 'pose': did you mean 'poses'"),
    "twice": ({"inputs": [tensor(), tensor()]}, {}, "is there twice"),
    "float64": ({"inputs": [tensor(datatype="FP64")]}, {}, "expected datatype FP32, got 'FP64'"),
    "no poses": ({"inputs": [lengths(1)]}, {}, "input 'poses' is missing"),
    "a negative size": ({"inputs": [tensor(shape=[-1, 2, 108])]}, {}, "expected no negative size"),
    "a huge shape": ({"inputs": [tensor(shape=[10**9, 10**9, 108])]}, {}, "216 values, its shape"),
    "a size that is no number": ({"inputs": [tensor(shape=["1", 2, 108])]}, {}, "a whole number"),
    "rank 2": ({"inputs": [tensor(shape=[2, 108])]}, {}, r"expected \(batch, frames, 108\), got \(2, 108\)"),
    "other features": ({"inputs": [tensor(shape=[1, 4, 54])]}, {}, r"got \(1, 4, 54\)"),
    "no clips": (
        {"inputs": [tensor(shape=[0, 2, 108], data=[])]},
        {},
        r"batch of 0, this server takes 1\.\.4",
    ),
    "too many clips": ({"inputs": [tensor(shape=[108, 2, 1])]}, {}, "expected"),
    "five clips": ({"inputs": [tensor(shape=[5, 1, 108], data=[0.5] * 540)]}, {}, "batch of 5"),
    "ragged rows": ({"inputs": [tensor(data=[[1.0], [1.0, 2.0]])]}, {}, "no numbers"),
    "texts": ({"inputs": [tensor(data=["1"] * 216)]}, {}, "no numbers of type float32"),
    "truths": ({"inputs": [tensor(data=[True] * 216)]}, {}, "no numbers of type float32"),
    "no data": ({"inputs": [tensor(data=5)]}, {}, "poses.data: 5, expected a list"),
    "a fraction of a frame": ({"inputs": [tensor(), lengths(1.5)]}, {}, "no numbers of type int32"),
    "a length of 2**40": ({"inputs": [tensor(), lengths(2**40)]}, {}, "do not fit into int32"),
    "a length of 2**80": ({"inputs": [tensor(), lengths(2**80)]}, {}, "int32"),
    "length 0": ({"inputs": [tensor(), lengths(0)]}, {}, r"lengths: expected 1\.\.2"),
    "length 3 of 2": ({"inputs": [tensor(), lengths(3)]}, {}, r"lengths: expected 1\.\.2"),
    "two lengths": ({"inputs": [tensor(), lengths(1, 1)]}, {}, r"lengths: expected \(1,\)"),
    "an unknown output": (
        {"inputs": [tensor()], "outputs": [{"name": "labels"}]},
        {},
        "did you mean 'label'",
    ),
    "classification": (
        {"inputs": [tensor()], "outputs": [{"name": "logits", "parameters": {"classification": 3}}]},
        {},
        "ask for the output 'label'",
    ),
    "an id of 5": ({"inputs": [tensor()], "id": 5}, {}, "id: 5"),
    "header length": ({"inputs": [tensor()]}, {"length": "-1"}, f"{HEADER_LENGTH}: '-1'"),
    "header length beyond": ({"inputs": [tensor()]}, {"length": "99999999"}, "but the body has"),
    "too few bytes": ({"inputs": [tensor(**BINARY)]}, {"binary": b"1234"}, "of 4 bytes that are left"),
    "too many bytes": ({"inputs": [tensor(**BINARY)]}, {"binary": bytes(868)}, "4 bytes are left behind"),
    "half a number": (
        {"inputs": [tensor(parameters={"binary_data_size": 3})]},
        {"binary": bytes(3)},
        "binary_data_size 3",
    ),
    "less than nothing": (
        {"inputs": [tensor(parameters={"binary_data_size": -4})]},
        {"binary": bytes(4)},
        "binary_data_size -4",
    ),
    "data in two places": (
        {"inputs": [tensor() | BINARY]},
        {"binary": bytes(864)},
        "poses: has data and a binary_data_size",
    ),
    "an output twice": (
        {"inputs": [tensor()], "outputs": [{"name": "label"}, {"name": "label"}]},
        {},
        "output 'label': is there twice",
    ),
    "another size": (
        {"inputs": [tensor(shape=[1, 3, 108], **BINARY)]},
        {"binary": bytes(864)},
        "216 values, its shape",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_refused_with_its_reason(name, contract):
    asked, options, message = WRONG[name]
    with pytest.raises(SpoterError, match=message) as found:
        read(asked, contract, **options)
    assert isinstance(found.value, InputError) or found.value.status == 400


BAD_CLIPS = {
    "nothing detected": np.full((3, 54, 2), np.nan),
    "an infinity": np.full((3, 54, 2), np.inf),
    "beyond the limit": np.full((3, 54, 2), 1e9),
    "too many frames": np.full((100, 54, 2), 0.5),
    "no frames": np.zeros((0, 54, 2)),
}


@pytest.mark.parametrize("name", BAD_CLIPS)
def test_a_clip_that_python_refuses_is_refused_with_the_same_words(name, contract):
    clip = BAD_CLIPS[name].astype(np.float32)
    with pytest.raises(InputError) as in_python:
        check_clip(clip, max_frames=contract.max_frames, where="clip 0")
    asked = {"inputs": [tensor(shape=[1, len(clip), 108], parameters={"binary_data_size": clip.nbytes})]}
    with pytest.raises(InputError) as served:
        read(asked, contract, binary=clip.tobytes(), length=str(len(json.dumps(asked))))
    assert str(served.value) == str(in_python.value)


def test_clips_arrive_as_they_were_sent_in_json_and_in_binary(contract, make_clip):
    clips = [make_clip(seed, frames).astype(np.float32) for seed, frames in ((1, 7), (2, 5))]
    clips[0][0, :5] = np.nan
    body, headers = body_of(clips)
    for found in (
        read_request(body, headers[HEADER_LENGTH], contract, None, most=4).clips,
        _as_json(clips, contract),
    ):
        assert [len(one) for one in found] == [7, 5]
        for one, clip in zip(found, clips, strict=True):
            np.testing.assert_array_equal(one, clip)


def _as_json(clips, contract):
    padded = np.zeros((2, 7, 108), np.float32)
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip.reshape(len(clip), 108)
    data = [None if np.isnan(value) else float(value) for value in padded.ravel()]
    return read({"inputs": [tensor(shape=padded.shape, data=data), lengths(7, 5)]}, contract).clips


def test_a_clip_without_landmarks_is_taken_where_the_client_says_so(contract):
    empty = [np.full((3, 54, 2), np.nan, np.float32)]
    body, headers = body_of(empty, allow_empty=True)
    assert len(read_request(body, headers[HEADER_LENGTH], contract, None, most=4).clips) == 1


def test_an_answer_has_what_a_prediction_says(contract, make_clip):
    logits = np.array([[0, 3, 1, 0, 0]], np.float32)
    request = Request(id="", clips=[make_clip()], outputs={"logits": True, "label": True, "score": False})
    body, headers = write_answer({"model_name": "m"}, request, logits, contract, None)
    length = int(headers[HEADER_LENGTH])
    outputs = json.loads(body[:length])["outputs"]
    assert [one["datatype"] for one in outputs] == ["FP32", "BYTES", "FP32"]
    assert body[length:] == logits.tobytes() + b"\x04\0\0\0dudh"
    assert outputs[2]["data"] == [pytest.approx(0.778, abs=1e-3)]
    only = Request(id="", clips=[make_clip()], outputs={"logits": True})
    body, headers = write_answer({"model_name": "m"}, only, logits, contract, None)
    np.testing.assert_array_equal(logits_from(body, headers[HEADER_LENGTH]), logits)
