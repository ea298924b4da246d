"""Inputs that people have: each is refused by name, with a fix that works when it is pasted."""

from __future__ import annotations

import re
import warnings
from array import array
from collections import namedtuple

import numpy
import numpy as np
import pytest
import torch

from spoter_runtime.errors import InputError
from spoter_runtime.landmarks import landmarks_from_mediapipe
from spoter_runtime.recognizer import Recognizer
from spoter_runtime.runner import check_batch

FRAMES = 6


@pytest.fixture(scope="module", params=["error", "resample"])
def recognizer(request, bundle_folder):
    return Recognizer.load(bundle_folder, long=request.param, tuned=False)


def floats(frames=FRAMES):
    return np.random.default_rng(0).random((frames, 54, 2), np.float32)


def array_of(objects):
    made = np.empty(len(objects), object)
    for i, one in enumerate(objects):
        made[i] = one
    return made


def ragged(*sizes):
    return array_of([None if size is None else floats(1)[0][:size] for size in sizes])


def masked(dtype="float32"):
    clip = np.ma.array((100 * floats()).astype(dtype))
    clip[0, :3] = np.ma.masked
    return clip


def with_none(clip):
    values = clip.astype(object)
    values[0, 0] = None
    return values


class CupyLike:
    """What CuPy does: its own way to the CPU, and no other."""

    device = "<CUDA Device 0>"

    def get(self):
        return floats()

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")


class Broken:
    def __array__(self, dtype=None, copy=None):
        raise BufferError("memory of something that is gone")


def gradient():
    return torch.from_numpy(floats()).requires_grad_()


def quietly(make, *args):
    """Make a tensor of a kind that PyTorch warns about: it may change, or go."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*args)


Landmark = namedtuple("Landmark", "x y z")

# What people have → what makes it. Each fix is pasted, and then the clip is recognised.
FIXABLE = {
    "a tensor with a gradient": gradient,
    "a tensor in bfloat16": lambda: torch.from_numpy(floats()).bfloat16(),
    "a tensor with a gradient in bfloat16": lambda: gradient().bfloat16(),
    "a tensor of whole numbers": lambda: torch.ones((FRAMES, 54, 2), dtype=torch.int32),
    "a list of tensors with gradients": lambda: list(gradient()),
    "a list of tensors in bfloat16": lambda: list(torch.from_numpy(floats()).bfloat16()),
    "an array of tensors": lambda: array_of(list(gradient())),
    "masked values": masked,
    "masked whole numbers": lambda: masked("int64"),
    "a list of masked frames": lambda: list(masked()),
    "CuPy": CupyLike,
    "whole numbers": lambda: (1000 * floats()).astype(int),
    "a list of whole numbers": lambda: np.ones((FRAMES, 54, 2), int).tolist(),
    "truth values": lambda: floats() > 0.5,
    "texts of numbers": lambda: floats().astype(str),
    "bytes of numbers": lambda: floats().astype("S"),
    "objects": lambda: floats().astype(object),
    "None for a landmark": lambda: with_none(floats()),
    "None for a landmark, in a list": lambda: with_none(floats()).tolist(),
    "None for a frame": lambda: [None, *floats()],
    "None for a frame, in an array": lambda: ragged(54, None, 54),
    "a generator": lambda: (frame for frame in floats()),
    "a map": lambda: map(np.asarray, floats()),
    "complex numbers": lambda: floats() + 0j,
    "a sparse tensor": lambda: torch.from_numpy(floats()).to_sparse(),
    "complex numbers of torch": lambda: (torch.from_numpy(floats()) + 0j).conj(),
    "quantised numbers": lambda: quietly(
        torch.quantize_per_tensor, gradient().detach(), 0.01, 0, torch.qint8
    ),
    "frames of one size, in an array of objects": lambda: array_of(list(floats())),
    "masked frames, in an array of objects": lambda: array_of(list(masked())),
}


@pytest.mark.parametrize("kind", FIXABLE)
def test_a_fix_that_is_pasted_works(recognizer, kind):
    landmarks = FIXABLE[kind]()
    for call in (lambda clip: recognizer.predict(clip, name="U4"), lambda clip: many(recognizer, clip)):
        with pytest.raises(InputError, match=r"U4: .*Fix: ") as raised:
            call(landmarks)
        fix = re.search(r"Fix: ([^;]*?)(, with NaN .*|, of the frames|; .*)?$", str(raised.value))[1]
        fixed = eval(fix, {"landmarks": landmarks, "numpy": numpy})
        assert call(fixed).label
        landmarks = FIXABLE[kind]()  # a generator has been used up


CLIP = r"Fix: give the landmarks of a clip, \(frames, 54, 2\) floats"
STACK = r"Fix: numpy\.stack\(frames\)"

# What no expression makes right: the fix says what to give.
REFUSED = {
    "a tensor without values": (lambda: torch.empty((FRAMES, 54, 2), device="meta"), CLIP),
    "a nested tensor": (
        lambda: quietly(torch.nested.nested_tensor, [torch.ones(3, 2), torch.ones(4, 2)]),
        CLIP,
    ),
    "a masked constant": (lambda: np.ma.masked, rf"has masked values\. {CLIP}"),
    "a frame too small": (lambda: ragged(54, 53, 54), "Fix: give each frame as many numbers as the others"),
    "a frame too small, in a list": (
        lambda: [frame.tolist() for frame in ragged(54, 53)],
        "rows of different sizes do not make an array: .*Fix: give each frame as many numbers",
    ),
    "only None": (lambda: [None, None, None], r"got dtype object\. Fix: \[numpy\.full"),
    "no frames": (list, r"expected \(frames, 54, 2\).*got \(0,\)"),
    "nothing": (lambda: None, f"got dtype object. {CLIP}"),
    "a number": (lambda: 0.5, rf"got \(\)\. {STACK}"),
    "a number of numpy": (lambda: np.float32(0.5), rf"got \(\)\. {STACK}"),
    "an array without axes": (lambda: np.array(0.5), rf"got \(\)\. {STACK}"),
    "an empty tensor": (lambda: torch.tensor(0.5), rf"got \(\)\. {STACK}"),
    "an object in an array without axes": (lambda: np.array(None, object), f"got dtype object. {CLIP}"),
    "numbers beyond any float": (lambda: np.full((3, 54, 2), 10**400, object), CLIP),
    "a name of a file": (lambda: "clip.npy", r"got dtype <U8\. Fix: numpy\.load\(path\)"),
    "bytes": (lambda: b"clip", r"got dtype \|S4\. Fix: numpy\.load\(path\)"),
    "a dict": (lambda: {"pose": floats()}, f"got dtype object. {CLIP}"),
    "a set": (lambda: {1.0, 2.0}, f"got dtype object. {CLIP}"),
    "an object": (object, f"got dtype object. {CLIP}"),
    "a class": (lambda: np.ndarray, f"got dtype object. {CLIP}"),
    "objects of landmarks": (lambda: [[object()] * 54] * 3, f"got dtype object. {CLIP}"),
    "named tuples": (lambda: [[Landmark(0.1, 0.2, 0.3)] * 54] * 3, r"Fix: keep x and y only"),
    "records": (lambda: np.zeros((3, 54), [("x", "f4"), ("y", "f4")]), "got dtype .*Fix: "),
    "dates": (lambda: np.zeros((3, 54, 2), "M8[s]"), r"got dtype datetime64\[s\]\. Fix: "),
    "a library's own error": (
        Broken,
        "a Broken does not make an array: memory of something that is gone. Fix: ",
    ),
    "one axis": (lambda: array("f", [0.5] * 108), r"got \(108,\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_clip_is_refused_with_a_fix(recognizer, kind):
    make, message = REFUSED[kind]
    with pytest.raises(InputError, match=rf"U4: .*{message}"):
        recognizer.predict(make(), name="U4")
    with pytest.raises(InputError, match=rf"U4: .*{message}"):
        many(recognizer, make())


def many(recognizer, clip):
    """Return what becomes of a clip in the middle of others."""
    return recognizer.predict_many([floats(), clip, floats(3)], names=["first", "U4", "last"])[1]


@pytest.mark.parametrize("make", [floats, lambda: floats().tolist(), lambda: torch.from_numpy(floats())])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_is_a_clip_is_taken(recognizer, make, dtype):
    expected = recognizer.predict(np.asarray(floats(), dtype)).logits_C
    clip = make()
    clip = clip.to(getattr(torch, dtype)) if hasattr(clip, "to") else np.asarray(clip, dtype)
    np.testing.assert_array_equal(recognizer.predict(clip).logits_C, expected)
    np.testing.assert_array_equal(recognizer.predict(np.ma.array(clip)).logits_C, expected)  # none masked


def test_a_frame_of_pandas_is_a_clip(recognizer):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    clip = floats()
    frame = pandas.DataFrame(clip.reshape(FRAMES, 108))
    np.testing.assert_array_equal(recognizer.predict(frame).logits_C, recognizer.predict(clip).logits_C)


@pytest.mark.parametrize("clips", [None, 5, np.array(0.5), object()])
def test_what_is_not_several_clips_is_refused(recognizer, clips):
    with pytest.raises(InputError, match=r"clips: expected several, got .*\. Fix: predict\(clip\) for one"):
        recognizer.predict_many(clips)
    with pytest.raises(InputError, match="clips: expected several"):
        list(recognizer.stream(clips))


def test_an_error_of_the_source_itself_stays_its_own(recognizer):
    def source():
        yield floats()
        raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError, match="the camera is gone"):
        recognizer.predict_many(source())


def test_runners_and_mediapipe_refuse_the_same(contract):
    for batch in (gradient()[:, None], masked()[None], [None], "clip.npy", CupyLike()):
        with pytest.raises(InputError, match=r"poses: .*"):
            check_batch(batch, None, contract)
    with pytest.raises(InputError, match=r"lengths: a .* does not make an array: .*Fix: landmarks\.detach"):
        check_batch(np.ones((1, 2, 108), np.float32), torch.ones(1, requires_grad=True), contract)
    pose = np.zeros((3, 33, 2), object)
    for wrong in (
        torch.ones((3, 33, 2), requires_grad=True),
        np.ma.masked_all((3, 33, 2)),
        pose,
        pose.astype(str),
    ):
        with pytest.raises(InputError, match=r"pose landmarks: .*Fix: "):
            landmarks_from_mediapipe(wrong, None, None)
