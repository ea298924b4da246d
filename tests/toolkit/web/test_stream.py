"""The stream in a real browser: the same log gives the same events as in Python."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from signers import signing, write_log
from spoter_runtime import Recognizer, SignStream
from spoter_runtime.decision import Abstention
from spoter_runtime.live.log import read_frames, read_header, replay
from spoter_runtime.live.settings import StreamSettings

pytestmark = pytest.mark.slow

REPLAY = """(async (text, calls, bundle = "/bundle/") => {
  const spoter = await import("/spoter.js");
  globalThis.loaded ??= {};
  if (!loaded[bundle]) {
    const { packed, engine: { hashes } } = await (await fetch("/site.json")).json();
    loaded[bundle] = await spoter.Recognizer.load(bundle, { packed, hashes });
  }
  const recognizer = globalThis.recognizer = loaded[bundle];
  const log = spoter.logFromText(text);
  const stream = new spoter.SignStream(recognizer, log.gate, { settings: log.settings });
  const events = [];
  for (const [n, { landmarks, t_ms, dropped, persons }] of log.frames.entries()) {
    if (calls[n] !== undefined) await stream.push(calls[n]);
    await stream.accept(landmarks, t_ms, { dropped, persons });
    events.push(...stream.events());
  }
  await stream.flush();
  return [...events, ...stream.events()];
})"""

TWO = [(1000.0, 1700.0), (2700.0, 3500.0)]


def two_signs(**values):
    return signing(TWO, end_ms=5200, **values)


def wrong_times():
    times, frames = two_signs()
    times[20], times[40] = times[19], times[39] - 5
    times[100:] = [t - 2600 for t in times[100:]]  # back by more than a gap: another clock
    return times, frames


def with_a_gap():
    times, frames = two_signs()
    return times[:40] + times[70:], np.concatenate([frames[:40], frames[70:]])


def lost():
    times, frames = two_signs()
    frames = frames.copy()
    frames[60:70], frames[44] = np.nan, 0
    frames[36:40] = frames[85:90] = frames[100:] = np.nan  # inside both signs, and from then on
    frames[91, 3] = 2e4
    return times, frames


def in_seconds():
    times, frames = two_signs()
    return [t / 1000 for t in times], frames


def in_microseconds():
    times, frames = two_signs()
    return [1000 * t for t in times], frames


CASES = {
    "rest": (two_signs, "rest", {}),
    "60 frames a second": (lambda: two_signs(fps=60.0), "rest", {}),
    "12 frames a second": (lambda: two_signs(fps=12.5), "rest", {"pad_start_ms": 30.0}),
    "times in microseconds": (in_microseconds, "rest", {}),
    "times in seconds": (in_seconds, "rest", {}),
    "250 frames a second": (lambda: two_signs(fps=250.0), "rest", {}),
    "motion": (two_signs, "rest", {"rest_by": "motion", "partial_ms": 0.0}),
    "too long": (two_signs, "rest", {"longest_ms": 500.0}),
    "unsure": (two_signs, "rest", {"least_probability": 0.9999}),
    "no hands": (two_signs, "rest", {"least_hands": 0.9999}),
    "wrong times": (wrong_times, "rest", {}),
    "a gap": (with_a_gap, "rest", {}),
    "lost": (lost, "rest", {}),
    "lost, motion": (lost, "rest", {"rest_by": "motion"}),
    "lost, window": (lost, "window", {}),
    "lost, push": (lost, "push", {}),
    "window": (lambda: signing([(800.0, 4200.0)], end_ms=5200, shape=lambda t: int(t // 900)), "window", {}),
    "window, valleys": (two_signs, "window", {"valley": 0.0001, "hold_ms": 60.0}),
    "push": (two_signs, "push", {"longest_ms": 900.0}),
}
PUSHED = {30: True, 50: False, 60: True, 120: False}


def same(found, expected):
    """Compare events; scores come from another engine."""
    assert [one["type"] for one in found] == [one["type"] for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name, value in other.items():
            if name == "backend":
                continue
            if name == "best":
                assert [row["label"] for row in one[name]] == [row["label"] for row in value]
            elif name in ("score", "margin") and value is not None:
                assert one[name] == pytest.approx(value, abs=1e-4), (name, other)
            else:
                assert one[name] == value, (name, other)


def events_of_python(recognizer, path, calls):
    gate, settings = read_header(path)
    stream = SignStream(recognizer, gate, settings=settings)
    if not calls:
        return [event.as_json() for event in replay(stream, read_frames(path))]
    events = []
    for n, frame in enumerate(read_frames(path)):
        if n in calls:
            stream.push(calls[n])
        stream.accept(frame.landmarks_LD, frame.t_ms, dropped=frame.dropped, persons=frame.persons)
        events += stream.events()
    stream.flush()
    return [event.as_json() for event in events + stream.events()]


def test_a_log_gives_the_events_of_python(page, bundle_folder, tmp_path):
    recognizer = Recognizer.load(bundle_folder, "ort-cpu", threads=1, tuned=False)
    kinds = set()
    for made, gate, settings in CASES.values():
        calls = PUSHED if gate == "push" else {}
        log = write_log(
            tmp_path / "log.jsonl",
            *made(),
            gate=gate,
            settings=StreamSettings(**settings),
            dropped=lambda n: n % 40 // 39,
        )
        log.write_text(log.read_text().replace('"dropped": 1', '"dropped": 1, "persons": 2') + "\n")
        expected = events_of_python(recognizer, log, calls)
        found = page.evaluate(f"{REPLAY}({json.dumps(log.read_text())}, {json.dumps(calls)})")
        same(found, expected)
        kinds |= {(one["type"], one.get("code")) for one in expected}
    assert {kind for kind, _ in kinds} == {
        *("ready", "tracking", "sign_start", "partial", "sign", "abstain", "dropped", "fault")
    }
    assert {("abstain", code) for code in ("long", "gap", "unsure", "tracking")} <= kinds


def test_a_label_for_no_sign_cuts_no_sign_as_in_python(page, bundle_at, reseal, tmp_path):
    folder, url = bundle_at("background")
    labels = [label.name for label in Recognizer.load(folder).labels]
    rule = Abstention(
        temperature=0.7,
        min_probability=0.1,
        min_margin=0.0,
        min_hand_share=0.0,
        target=0.05,
        background=tuple(labels[:3]),
    )
    reseal(folder, lambda manifest: manifest.update(abstention=rule.as_json()))
    times, frames = signing([(800.0, 4200.0)], end_ms=5200, shape=lambda t: int(t // 700))
    log = write_log(tmp_path / "log.jsonl", times, frames, gate="window")
    expected = events_of_python(Recognizer.load(folder, "ort-cpu", threads=1, tuned=False), log, {})
    found = page.evaluate(f"{REPLAY}({json.dumps(log.read_text())}, {{}}, {json.dumps(url)})")
    assert [list(one) for one in found] == [list(one) for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert [one.get(key) for key in ("type", "t_ms", "start_ms", "end_ms", "label", "code")] == [
            other.get(key) for key in ("type", "t_ms", "start_ms", "end_ms", "label", "code")
        ]
    assert "sign" in [one["type"] for one in found]


def test_wrong_settings_gates_and_frames_are_refused(page):
    page.evaluate(f"{REPLAY}('{{\"landmark_log\": 1}}\\n', {{}})")
    page.evaluate("import('/spoter.js').then((made) => { globalThis.spoter = made; })")

    def refused(doing):
        return page.evaluate(
            f"(async () => {{ try {{ {doing} }} catch (error) {{ return [error.name, error.reason]; }} }})()"
        )

    assert refused("new spoter.SignStream(recognizer, 'wave')") == [
        *("ConfigError", "gate 'wave': expected rest, window, push")
    ]
    for settings, reason in (
        ({"rset_ms": 1}, "no setting 'rset_ms'; there are fps"),
        ({"fps": 0}, "fps=0.0: expected 0.1..1000"),
        ({"rise": "high"}, 'rise: expected a number, got "high"'),
        ({"fall": 0.9}, "fall=0.9, rise=0.7: expected 0 < fall < rise"),
        ({"least_probability": 90}, "least_probability=90.0: expected 0..1"),
        ({"gap_ms": 1e300}, "gap_ms=1e+300: expected 1..60000"),
        ({"pad_end_ms": -1e9}, "pad_end_ms=-1000000000.0: expected -60000..60000"),
    ):
        made = refused(f"new spoter.SignStream(recognizer, 'rest', {{ settings: {json.dumps(settings)} }})")
        assert made[0] == "ConfigError"
        assert made[1].startswith(reason)
    for frame, reason in (
        ("[1, 2]", "frame: expected 54 points or 108 numbers, got 2 values"),
        ("7", "frame: exp"),
    ):
        made = refused(f"await new spoter.SignStream(recognizer).accept({frame}, 0)")
        assert made[1].startswith(reason)
    assert refused("await new spoter.SignStream(recognizer).push(true)")[0] == "ConfigError"
    made = refused("await new spoter.SignStream(recognizer).accept(new ImageData(4, 4), 0)")
    assert made == ["InputError", "frame: a picture needs a landmarker"]
    assert len(dataclasses.fields(StreamSettings)) == len(
        page.evaluate("Object.keys(spoter.STREAM_SETTINGS)")
    )
