"""A landmark log: read back exactly, replayed to the same events, and refused where it is damaged."""

from __future__ import annotations

import json

import numpy as np
import pytest

from signers import signing, write_log
from spoter_runtime import SignStream, StreamSettings
from spoter_runtime.errors import ConfigError, DataError
from spoter_runtime.live.log import read_frames, read_header, replay

SETTINGS = StreamSettings(fps=25.0, rest_ms=120)


@pytest.fixture
def log(tmp_path):
    times, frames = signing([(1000.0, 1700.0)], end_ms=2500)
    return write_log(tmp_path / "landmarks.jsonl", times, frames, settings=SETTINGS, dropped=lambda n: n % 3)


def test_every_value_is_read_back_as_it_was(log):
    times, frames = signing([(1000.0, 1700.0)], end_ms=2500)
    found = list(read_frames(log))
    assert read_header(log) == ("rest", SETTINGS)
    assert [frame.t_ms for frame in found] == times
    assert [frame.dropped for frame in found[:4]] == [0, 1, 2, 0]
    assert np.array_equal(np.stack([frame.landmarks_LD for frame in found]), frames, equal_nan=True)


def test_a_replayed_log_gives_the_same_events_bit_for_bit(log, recognizer, feed):
    stream = SignStream(recognizer, settings=SETTINGS)
    times, frames = signing([(1000.0, 1700.0)], end_ms=2500)
    live = [event.as_json() for event in feed(stream, times, frames)]
    replayed = [event.as_json() for event in replay(stream, read_frames(log)) if event.type != "dropped"]
    assert json.dumps(replayed) == json.dumps(live)
    assert any(event["type"] == "sign" for event in live)


def test_a_line_that_was_cut_off_ends_the_log(log):
    whole = list(read_frames(log))
    log.write_text(log.read_text()[:-40])
    assert len(list(read_frames(log))) == len(whole) - 1


def test_an_empty_line_is_no_frame(log):
    whole = list(read_frames(log))
    log.write_text(log.read_text().replace("\n", "\n\n") + "\n")
    assert [frame.t_ms for frame in read_frames(log)] == [frame.t_ms for frame in whole]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "", "is empty. Fix: record one"),
        (lambda text: text.replace('"t_ms": 0.0', "t"), "line 2: not JSON.*Fix: leave this line out"),
        (lambda text: "[]\n", "line 1: expected an object"),
        (lambda text: "{}\n", "not a landmark log of version 1"),
        (lambda text: text.replace('"t_ms": 0.0', '"t": 0.0'), "line 2: not a frame"),
        (lambda text: text.replace('"landmarks": [[', '"landmarks": [["x", [', 1), "line 2: not"),
    ],
)
def test_damage_is_named_with_its_line(log, change, said):
    log.write_text(change(log.read_text()))
    with pytest.raises(DataError, match=said):
        list(read_frames(log))


def test_settings_that_nobody_knows_are_named(log, tmp_path):
    log.write_text(log.read_text().replace("rest_ms", "rset_ms", 1))
    with pytest.raises(ConfigError, match="did you mean 'rest_ms'"):
        read_header(log)
    with pytest.raises(DataError, match="cannot be read"):
        read_header(tmp_path / "absent")
