from __future__ import annotations

from pathlib import Path

import pytest

from in_process import spoter_kit


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "data extract tow",
            "error: tow: no such folder; did you mean town? Fix: spoter-kit data extract town",
        ),
        (
            "data import asl33 asl3",
            "asl3: no such folder; did you mean asl33? Fix: spoter-kit data import asl33",
        ),
        (
            "data import asl33 town",
            "has videos, expected a folder with a data.npz. Fix: spoter-kit data extract",
        ),
        ("data import npy asl33", "asl33: has a data.npz, expected a folder of <label>"),
        ("data import npy asl33", "Fix: spoter-kit data import asl33 asl33"),
        ("data extract empty", "found none. Fix: spoter-kit data extract FOLDER names another"),
        ("data import npy lms", "lms: no such folder; did you mean lm? Fix: spoter-kit data import npy lm"),
        ("data import spoter-csv lms", "did you mean lm? Fix: spoter-kit data import spoter-csv lm"),
        ("data extract lm", "error: lm: has .npy files, expected a folder with videos"),
        ("data extract lm", "Fix: spoter-kit data import npy lm"),
        ("data import npy town", "error: town: has videos, expected a folder of <label>"),
        ("data import notebook-json town", "Fix: spoter-kit data extract town"),
        ("data extract lm/tea/a.npy", "is one clip of landmarks, expected a folder with videos"),
        ("data extract lm/tea/a.npy", "Fix: spoter-kit predict lm/tea/a.npy"),
        ("data import npy town/tea/a.mp4", "Fix: spoter-kit predict town/tea/a.mp4"),
        ("data extract made", "error: made/one: is a DATASET already, expected a folder with videos"),
        ("data import npy made", "made/one: is a DATASET already, expected a folder of <label>"),
        ("data import spoter-csv made/one", "Fix: spoter-kit data show made/one"),
        ("predict made/one/poses.npy", "poses.npy: holds all clips of a DATASET, expected one clip"),
        ("predict made/one/poses.npy", "Fix: spoter-kit predict made/one"),
        ("data extract notes.txt", "notes.txt: is a file, expected a folder with videos"),
    ],
)
def test_a_wrong_source_gets_the_nearest_or_the_command_that_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.setattr("spoter_toolkit.cli.landmarker.have_landmarker", lambda **_: None)
    made = ("made/one/dataset.json", "made/one/poses.npy")
    for name in ("lm/tea/a.npy", "town/tea/a.mp4", "notes.txt", "asl33/data.npz", "empty/a", *made):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    done = spoter_kit(tmp_path, *words.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
