"""The recognizer in a real browser: the answers of Python, and its refusals with the same reasons."""

from __future__ import annotations

import gzip
import json
import re
import shutil

import numpy as np
import pytest

from bad_bundles import FOREIGN, SEALED
from other_tensors import other_tensors
from spoter_export.probes import generated_poses
from spoter_runtime import Recognizer
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.decision import Abstention
from spoter_runtime.errors import InputError, SpoterError
from spoter_toolkit.web.engine import WASM

pytestmark = pytest.mark.slow

LOAD = """(async () => {
  globalThis.spoter = await import("/spoter.js");
  const { packed, engine: { hashes } } = await (await fetch("/site.json")).json();
  globalThis.load = (url, options = {}) => spoter.Recognizer.load(url, { packed, hashes, ...options });
  globalThis.plain = (found) => JSON.parse(JSON.stringify({ ...found, logits: Array.from(found.logits) }));
  globalThis.refusal = async (doing) => {
    try {
      await doing();
    } catch (error) {
      return [error.name, error.reason ?? error.message];
    }
    return null;
  };
})()"""


@pytest.fixture
def asked(page):
    """A page with `load`, `plain` and `refusal`."""
    page.evaluate(LOAD)
    return page


def as_js(clip):
    """Return a clip as nested lists; null: not detected."""
    return json.dumps([[None if np.isnan(p).any() else p for p in frame] for frame in clip.tolist()])


def test_predictions_and_goldens_are_those_of_python(asked, bundle_folder, make_clip):
    python = Recognizer.load(bundle_folder, "ort-cpu", tuned=False)
    replay = asked.evaluate(
        "load('/bundle/').then(async (r) => { globalThis.recognizer = r; return r.verify(); })"
    )
    assert (replay["passed"], replay["labels_agree"]) == (True, replay["clips"])
    assert replay["max_logit_diff"] <= 1e-4
    assert asked.evaluate("[recognizer.name, recognizer.backend, recognizer.file, recognizer.contract]") == [
        *("small", "wasm", "model.ort.onnx"),
        {
            "labels": [
                {"name": one.name, "gloss": one.gloss, "bengali": one.bengali, "romanised": one.romanised}
                for one in python.labels
            ],
            "max_frames": 99,
            "max_batch": 8,
        },
    ]
    for seed, frames in enumerate((1, 2, 17, 99)):
        clip = make_clip(seed, frames)
        expected = python.predict(clip)
        found = asked.evaluate(f"recognizer.predict({as_js(clip)}).then(plain)")
        np.testing.assert_allclose(found["logits"], expected.logits_C, atol=1e-4)
        assert (found["label"], found["sign"]["bengali"]) == (expected.label, expected.sign.bengali)
        assert [one["label"] for one in found["best"]] == [label for label, _ in expected.top(5)]
        assert found["score"] == pytest.approx(expected.score, abs=1e-5)
        assert (found["probability"], found["is_sign"], found["reason"]) == (None, None, expected.reason)


TYPICAL = ("9 -1 0 2 1", "0 9 3 -2 1", "0 0 0 0 0", "1 2 3 9 4", "-5 0 1 2 9")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"min_probability": 0.999},
        {"min_margin": 0.9},
        {"min_hand_share": 0.9},
        {"min_likeness": 0.9, "typical_logits": TYPICAL},
    ],
)
def test_it_says_no_sign_where_python_does(asked, bundle_at, reseal, make_clip, change):
    # A name of its own: the service worker of the same site keeps the files that it has seen.
    folder, url = bundle_at("-".join(["calibrated", *change]))
    good = {
        "temperature": 1.3,
        "min_probability": 0.0,
        "min_margin": 0.0,
        "min_hand_share": 0.0,
        "target": 0.05,
    }
    rule = Abstention(**good | change, background=("bon",))
    reseal(folder, lambda manifest: manifest.update(abstention=rule.as_json()))
    python = Recognizer.load(folder, "ort-cpu", tuned=False)
    clips = [make_clip(seed, 20) for seed in range(8)]
    for clip in clips:
        clip[::3, 12:] = np.nan
    found = asked.evaluate(
        f"load('{url}').then(async (r) => {{ const made = []; for (const clip of "
        f"[{','.join(map(as_js, clips))}]) made.push(plain(await r.predict(clip))); return made; }})"
    )
    reasons = set()
    for one, expected in zip(found, map(python.predict, clips), strict=True):
        assert (one["is_sign"], one["reason"]) == (expected.is_sign, expected.reason)
        assert one["probability"] == pytest.approx(expected.probability, abs=1e-5)
        reasons.add(expected.reason.partition(" ")[0])
    assert len(reasons) > 1


def python_refuses(folder):
    with pytest.raises(SpoterError) as raised:
        read_bundle(folder)
    return [type(raised.value).__name__, raised.value.message]


def detail_left_out(reason):
    """What follows is each JSON reader's own word."""
    own = r"(cannot be read as JSON: )(?!a number|Infinity|more than|'\w+' is there twice).*"
    return re.sub(own, r"\1…", reason)


def test_bundles_that_python_refuses_are_refused_with_the_same_reason(asked, bundle_at, reseal):
    urls, expected = [], {}
    for number, (name, edit) in enumerate((SEALED | FOREIGN).items()):
        folder, url = bundle_at(f"bad-{number}")
        if name in SEALED:
            reseal(folder, edit)
        else:
            (folder / "bundle.json").write_bytes(edit)
        kind, message = python_refuses(folder)
        urls.append(url)
        expected[name] = [kind, detail_left_out(message.replace(f"{folder}/", url).replace(str(folder), url))]
    found = asked.evaluate(
        f"(async () => {{ const made = []; for (const url of {json.dumps(urls)}) "
        "made.push(await refusal(() => load(url))); return made; })()"
    )
    found = {
        name: one and [one[0], detail_left_out(one[1])] for name, one in zip(expected, found, strict=True)
    }
    # The number that the page reads is the page's own.
    expected["newer"][1] = expected["newer"][1].replace("this spoter_runtime", "this page")
    assert found == expected


@pytest.fixture
def plant_alone(plant, reseal):
    """Return plant_alone(folder, content): put other bytes in the place of the only ONNX file."""

    def plant_alone(folder, content):
        plant(folder, content)
        reseal(folder, lambda manifest: manifest.update(artefacts=manifest["artefacts"][:1]))

    return plant_alone


def test_damaged_and_strange_files_are_refused(asked, bundle_at, plant, plant_alone, onnx_model):
    from onnx import TensorProto, helper

    def refused(url, then="load(url)"):
        return asked.evaluate(f"((url) => refusal(async () => {then}))('{url}')")

    flipped, url = bundle_at("flipped")
    content = bytearray((flipped / "model.ort.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (flipped / "model.ort.onnx").write_bytes(content)
    kind, reason = refused(url)
    assert kind == "BundleError"
    assert re.search(r"model\.ort\.onnx: sha256 is .*, so the file was changed or damaged", reason)
    missing, url = bundle_at("missing")
    (missing / "model.ort.onnx").unlink()
    assert refused(url) == ["BundleError", f"{url}: model.ort.onnx is listed in bundle.json but is not there"]
    goldens, url = bundle_at("no-goldens")
    (goldens / "goldens.npz").write_bytes(b"another file")
    assert "goldens.npz: sha256 is" in refused(url, "(await load(url)).verify()")[1]
    assert refused(f"{url}nowhere/") == ["BundleError", f"{url}nowhere/: not a bundle: it has no bundle.json"]
    assert refused(url, "load(url, { precision: 'int8' })")[1] == f"{url}: has no int8 ONNX file, only fp32"
    loop = onnx_model(
        [helper.make_node("NonZero", ["poses"], ["logits"])],
        {"poses": (TensorProto.FLOAT, [1, 2, 108])},
        {"logits": (TensorProto.INT64, None)},
    )
    for name, content, message in (
        ("operator", loop.SerializeToString(), "has an operator 'NonZero', which spoter-kit"),
        ("text", b"no model at all", "refused: "),
        ("empty", b"", "refused: it is empty"),
    ):
        folder, url = bundle_at(name)
        plant_alone(folder, content)
        assert f"model.onnx: {message}" in refused(url)[1]
        with pytest.raises(SpoterError, match=f"model.onnx: {message}"):
            Recognizer.load(folder, "ort-cpu", tuned=False)
    folder, url = bundle_at("optimised by another")  # as in Python, the plain file is taken
    plant(folder, loop.SerializeToString(), kind="ort")
    assert asked.evaluate(f"load('{url}').then((r) => r.file)") == "model.onnx"
    assert Recognizer.load(folder, tuned=False).runner.name == "ort-cpu"


# A worker to which a server sends a model without an end, and does not say how long it is.
ENDLESS = """
const fetched = self.fetch;
self.fetch = (address, options) => {
  if (!String(address).endsWith("model.ort.onnx")) return fetched(address, options);
  let sent = 0;
  return Promise.resolve(new Response(new ReadableStream({
    pull(body) {
      sent += 1 << 20;
      body.enqueue(new Uint8Array(1 << 20));
      if (sent > 1e8) body.close();
    },
    cancel: () => new BroadcastChannel("cut off").postMessage(sent),
  })));
};
"""


def test_a_file_with_more_bytes_than_are_stated_is_cut_off(asked, bundle_at, bundle):
    folder, url = bundle_at("longer")
    size = next(one.size_bytes for one in bundle.artefacts if one.path == "model.ort.onnx")
    with (folder / "model.ort.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(SpoterError) as raised:
        Recognizer.load(folder, "ort-cpu-fused", tuned=False)
    assert f"({size + 1} bytes, expected at most {size})" in raised.value.message
    expected = ["BundleError", raised.value.message.replace(f"{folder}/", url)]
    assert asked.evaluate(f"refusal(() => load('{url}'))") == expected
    (folder / "endless.js").write_text(ENDLESS)
    (folder / "worker.js").write_text("import './endless.js'; import '/worker.js';")
    said = "new Promise((said) => (new BroadcastChannel('cut off').onmessage = ({ data }) => said(data)))"
    refused = f"refusal(() => load('{url}', {{ worker: '{url}worker.js' }}))"
    (kind, reason), sent = asked.evaluate(f"Promise.all([{refused}, {said}])")
    assert kind == "BundleError"
    assert re.search(rf"cannot be read \(\d+ bytes, expected at most {size}\)$", reason)
    assert sent <= size + (4 << 20)  # what waits between the two is thrown away


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(bytes(1 << 27), 1), r"\d+ bytes, expected at most 67108864"),
        (gzip.compress(b"engine")[:-9], ".*ompress.*"),
    ],
    ids=["bomb", "cut"],
)
def test_a_packed_file_that_unpacks_to_too_much_or_is_damaged_is_refused(
    asked, bundle_at, site, content, said
):
    folder, url = bundle_at(f"engine-{len(content)}")
    for file in (site / "engine").iterdir():
        shutil.copyfile(file, folder / file.name)
    (folder / f"{WASM}.gz").write_bytes(content)
    kind, reason = asked.evaluate(f"refusal(() => load('/bundle/', {{ engine: '{url}' }}))")
    assert kind == "BackendError"
    assert re.search(
        rf"^{url}: the engine cannot be loaded: {url}{WASM}.gz: cannot be read \({said}\)$", reason
    )


def test_models_with_other_inputs_or_outputs_are_refused_with_the_same_reason(
    asked, bundle_at, plant_alone, contract
):
    for name, (other, said) in other_tensors(contract).items():
        folder, url = bundle_at(f"other-{name}")
        plant_alone(folder, other.SerializeToString())
        found = asked.evaluate(f"refusal(() => load('{url}'))")
        if not said:
            assert found is None
            continue
        with pytest.raises(SpoterError) as raised:
            Recognizer.load(folder, "ort-cpu", tuned=False)
        assert raised.value.message.endswith(said)
        assert found == ["BackendError", raised.value.message.replace(f"{folder}/", url)], name


def bad_clips():
    clip = generated_poses(np.random.default_rng(0), 1, 3)[0].reshape(3, 54, 2)
    far, infinite = clip.copy(), clip.copy()
    far[1, 2, 1], infinite[2, 0, 0] = 12345.678, -np.inf
    return {
        "none": np.zeros((0, 54, 2), np.float32),
        "long": np.repeat(clip, 40, 0),
        "nothing": np.full((4, 54, 2), np.nan, np.float32),
        "zeros": np.zeros((4, 54, 2), np.float32),
        "far": far,
        "infinite": infinite,
    }


def test_clips_that_python_refuses_are_refused_with_the_same_reason(asked, bundle_folder):
    python = Recognizer.load(bundle_folder, "ort-cpu", tuned=False)
    asked.evaluate("load('/bundle/').then((r) => { globalThis.recognizer = r; })")
    for name, clip in bad_clips().items():
        with pytest.raises(InputError) as raised:
            python.predict(clip, name="the clip")
        numbers = (
            json.dumps([repr(x) for x in clip.ravel().tolist()])
            .replace("inf", "Infinity")
            .replace("nan", "NaN")
        )
        found = asked.evaluate(
            f"refusal(() => recognizer.predict(Float32Array.from({numbers}, Number), 'the clip'))"
        )
        assert found == ["InputError", raised.value.message], name
    for wrong, reason in (
        ("Int32Array.of(1)", "clip: expected floating-point landmarks, got Int32Array"),
        ("Float32Array.of(1)", "clip: expected (frames, 54, 2) or (frames, 108), got (1,)"),
        ("'text'", "clip: expected (frames, 54, 2) or (frames, 108), got string"),
        ("[[1, 2]]", "clip: frame 0: expected 54 points or 108 numbers, got 2 values"),
        ("[Array(54).fill([1, 2, 3])]", "clip: frame 0: expected 54×2 values a frame, got a point of 3"),
    ):
        assert asked.evaluate(f"refusal(() => recognizer.predict({wrong}))") == ["InputError", reason]
    assert asked.evaluate("refusal(() => load('/bundle/', { long: 'cut' }))")[0] == "ConfigError"
    resampled = asked.evaluate(
        "load('/bundle/', { long: 'resample' }).then((r) => r.predict("
        f"{as_js(bad_clips()['long'])})).then(plain)"
    )
    other = Recognizer.load(bundle_folder, "ort-cpu", tuned=False, long="resample").predict(
        bad_clips()["long"]
    )
    np.testing.assert_allclose(resampled["logits"], other.logits_C, atol=1e-4)
