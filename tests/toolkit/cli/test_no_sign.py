"""From a validation split to "no sign": export, eval, parity and predict, as one types them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from in_process import spoter_kit
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.contract import Label
from spoter_runtime.recognizer import Prediction
from spoter_toolkit.calibration import calibrate
from spoter_toolkit.cli.predict import answer_cells
from spoter_toolkit.cli.proof_view import no_sign_in_words
from spoter_toolkit.data.dataset import Dataset

SIGN = Label(name="cha", gloss="tea", bengali="চা")


def prediction(**decided: object) -> Prediction:
    fields = {"logits_C": np.zeros(1, np.float32), "labels": (SIGN,), "latency_ms": 1.0}
    return Prediction(sign=SIGN, score=0.4, **fields, **decided)  # type: ignore[arg-type]


def test_no_sign_stands_in_place_of_the_label() -> None:
    assert answer_cells(prediction()) == ("cha tea চা", "0.400")
    assert answer_cells(prediction(is_sign=True, probability=0.9)) == ("cha tea চা", "0.400")
    no_sign = prediction(is_sign=False, probability=0.3, reason="score 0.30 below 0.55")
    assert answer_cells(no_sign) == ("no sign (score 0.30 below 0.55)", "")


def test_an_export_without_enough_validation_says_that_it_never_says_no_sign(made_home: Path) -> None:
    bundle = read_bundle(next((made_home / "bundles").iterdir()))
    assert bundle.abstention is None
    assert "Never: the bundle holds no calibration" in (bundle.folder / "MODEL_CARD.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("export", "BUNDLE", "--trt", "--background", "none"), 2, "is a BUNDLE, only a RUN is calibrated"),
        (("export", "--background", "nothing", "-o", "x.spoter"), 1, "the model: no label 'nothing' there"),
        (
            ("export", "--negatives", "nowhere", "-o", "x.spoter"),
            1,
            "clips of signs are in the val split, a calibration needs 20",
        ),
        (("eval", "--negatives", "nowhere"), 1, "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(
    home: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    bundle = str(next((home / "bundles").iterdir()))
    done = spoter_kit(home, *(bundle if word == "BUNDLE" else word for word in words))
    assert done.returncode == code, done.stderr
    assert message in done.stderr


def test_export_says_how_many_negatives_were_recorded() -> None:
    made = {"clips": 30, "false_answers": 0.1, "recorded": False}
    found = {"kept": 0.97, "signs": 540, "calibration_error": 0.01}
    assert "answers 10.0 % of 30 made negatives;" in no_sign_in_words(found | {"kinds": [made]})
    both = found | {"kinds": [made, made | {"recorded": True, "clips": 10}]}
    assert "answers 10.0 % of 40 negatives, 10 of them recorded;" in no_sign_in_words(both)


@pytest.mark.slow
def test_a_bundle_is_calibrated_measured_proven_and_says_no_sign(
    home: Path, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "MIN_SIGNS", 4)
    done = spoter_kit(home, "export", "--no-tune", "--max-batch", "2", "-o", "known.spoter")
    assert done.returncode == 0, done.stderr
    assert re.search("no sign: keeps .* made negatives; calibration error", done.stdout)
    assert f"no such clip was there. Fix: spoter-kit data background {tiny.folder}" in done.stderr
    rule = read_bundle(home / "known.spoter").abstention
    assert rule is not None
    assert rule.evidence["signs"] == len(tiny.clips_in("val"))
    card = (home / "known.spoter" / "MODEL_CARD.md").read_text("utf-8")
    assert f"with temperature {rule.temperature:.4f}" in card
    scored = json.loads(spoter_kit(home, "eval", "known.spoter", "--json").stdout)
    assert scored["calibrated"]
    assert scored["calibration"]["signs"] == scored["clips"]
    done = spoter_kit(home, "parity", "known.spoter", "--backend", "ort-cpu", "-o", "proof.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "calibration holds on 1 backend" in done.stdout
    (check,) = json.loads((home / "proof.json").read_text("utf-8"))["calibration"]
    assert (check["backend"], check["failures"]) == ("ort-cpu", [])
    no_hands = tiny.poses_of(tiny.clips[0]).copy()
    no_hands[:, 12:] = np.nan
    np.save(home / "rest.npy", no_hands)
    done = spoter_kit(home, "predict", "rest.npy", "--bundle", "known.spoter")
    assert "no sign (no hand in 100 % of the frames)" in done.stdout
    (found,) = json.loads(
        spoter_kit(home, "predict", "rest.npy", "--bundle", "known.spoter", "--json").stdout
    )["predictions"]
    assert (found["is_sign"], found["reason"]) == (False, "no hand in 100 % of the frames")
