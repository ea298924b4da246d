"""A wrong path or option gets its message before anything heavy is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

# Every verb with a wrong path or option, and how its message begins. BUNDLE and DATA are good ones.
MISTAKES = {
    "train nowhere": "error: nowhere: no such folder",
    "train DATE": "error: DATE: no such folder; did you mean DATA? Fix: spoter-kit train DATA",
    "train DATA --set epoch=3": "error: recipe strong: epoch: no such setting; did you mean 'epochs'",
    "train UNSPLIT": "error: UNSPLIT: no clip is in the train split",
    "train DATA -o DATA": "error: DATA: exists already and is no run",
    "train DATA --recipe nobody": "error: no recipe 'nobody'",
    "train --epochs 5": "error: --epochs: is a setting, not an option. Fix: --set epochs=5",
    "train --batch-size=8": "error: --batch-size: is a setting, not an option. Fix: --set batch_size=8",
    "train --resume": "error: runs/last: no run there",
    "train --resume --seed 3": "error: a resumed run keeps its own settings",
    "import-checkpoint nowhere.pth": "error: nowhere.pth: no such file",
    "import-checkpoint nowhere.pth --labels nobody": "error: labels 'nobody': not readable",
    "eval": "error: runs/last: no run there",
    "eval nowhere --data DATA": "error: nowhere: no such folder",
    "eval BUNDLE --data nowhere": "error: nowhere: no such folder",
    "eval BUNDLE --data VIDEOS": "error: VIDEOS: the model does not know 1 of its labels: tee",
    "eval BUNDLE --split tset": "error: no split 'tset'; there are train, val, test and all. "
    "Fix: spoter-kit eval BUNDLE --split test",
    "eval BUNDLE --data UNSPLIT": "error: UNSPLIT: no clip is in the split 'test'",
    "eval BUNDLE -o picture.jpeg": "error: picture.jpeg: a picture's name ends in",
    "eval BUNDLE --data DATA -o DATA": "error: DATA: is a folder",
    "eval RUN --data DATA --backend ort-cpu": "error: RUN: a RUN runs on torch",
    "eval RUN --data DATA": "error: RUN: no model.safetensors",
    "export": "error: runs/last: no run there",
    "export nowhere": "error: nowhere: no such folder",
    "export RUN --precision fp8": "error: precision 'fp8': expected one of",
    "export RUN --data nowhere": "error: nowhere: no such folder",
    "export RUN": "error: RUN: no model.safetensors",
    "export RUN -o BUNDLE.spoter": "error: BUNDLE.spoter: exists already.",
    "export RUN -o DATA.spoter --force": "error: DATA.spoter: exists already and is no bundle",
    "export RUN -o bundle": "error: bundle: a bundle's name ends in .spoter",
    "export BUNDLE --rtx --compute-capability 1": "error: ",
    "export BUNDLE": "error: BUNDLE: is a BUNDLE already",
    "parity": "error: bundles/: no bundle there",
    "parity BUNDLE --run nowhere": "error: BUNDLE: does not say which run it was made from",
    "parity BUNDLE --backend tpu": "error: unknown backend 'tpu'",
    "parity BUNDLE --policy nowhere.toml": "error: nowhere.toml: no such file",
    "parity BUNDLE --html DATA": "error: DATA: is a folder",
    "parity --judge nowhere.json": "error: nowhere.json: no such file",
    "bench nowhere": "error: nowhere: no such folder",
    "bench BUNDLE --frames many": "error: --frames: expected whole numbers",
    "bench BUNDLE -o DATA": "error: DATA: is there already",
    "bench BUNDLE --backend tpu": "error: unknown backend 'tpu'",
    "sign nowhere --key none.key": "error: nowhere: no such folder",
    "sign nowhere --key new.key --new-key": "error: nowhere: no such folder",
    "sign BUNDLE --key new.key": "error: new.key: no such key",
    "sign BUNDLE --key none.key": "error: none.key: no such key",
    "sign BUNDLE --key k --expires soon": "error: --expires 'soon': ",
    "verify BUNDLE --trust none.pub": "error: trust: none.pub: cannot be read",
    "tune nowhere": "error: nowhere: no such folder",
    "tune BUNDLE --seconds -1": "error: ",
    "predict nowhere.npy --bundle BUNDLE": "error: nowhere.npy: cannot be read",
    "predict nowhere.npy --bundle nowhere": "error: nowhere.npy: cannot be read",
    "predict BUNDLE": "error: BUNDLE: is a BUNDLE, expected clips after it",
    "predict clip.npy --bundle nowhere": "error: nowhere: no such folder",
    "predict RUN clip.npy": "error: RUN: is a RUN, expected a BUNDLE before the clips. "
    "Fix: spoter-kit export RUN",
    "predict clip.npy --bundle RUN": "error: RUN: is a RUN, expected a BUNDLE. Fix: spoter-kit export RUN",
    "verify RUN": "error: RUN: is a RUN, expected a BUNDLE. Fix: spoter-kit export RUN",
    "verify nowhere": "error: nowhere: no such folder",
    "verify BUNDLE --backend tpu": "error: unknown backend 'tpu'",
    "verify BUNDLE --backend=ort-cp:fp16": "error: unknown backend 'ort-cp'; did you mean 'ort-cpu'? "
    "Fix: spoter-kit verify BUNDLE --backend=ort-cpu:fp16",
    "doctor --nothing": "error: spoter-kit doctor has no option --nothing",
    "data import npy nowhere": "error: nowhere: no such folder",
    "data import npy DATA -o RUN": "error: RUN: exists already and is no dataset",
    "data synth -o DATA": "error: DATA: exists already.",
    "data synth --signs 0": "error: generated signing: signs is 0",
    "data split ./DATE/ --seed 3": "error: DATE: no such folder; did you mean DATA? "
    "Fix: spoter-kit data split DATA --seed 3",
    "data split DATA --force --test ann,s03": "error: DATA: no signer 'ann' there; there are s01, s02, s03. "
    "Fix: spoter-kit data split DATA --force --test s01,s03",
    "data split DATA --force --test S01": "error: DATA: no signer 'S01' there; did you mean s01? "
    "Fix: spoter-kit data split DATA --force --test s01",
    "data split DATA --force --test s01 --val s01,s02": "error: signer s01 is named twice; each belongs to "
    "one split. Fix: --test s01 --val s02",
    "data split DATA --train-all --by clip": "error: --train-all leaves nothing to choose; leave the other "
    "options out. Fix: spoter-kit data split DATA --train-all",
    "data background DATA --share -1": "error: share -1: expected more than 0, and at most 10. Fix: --share",
    "data extract VIDEOS --workers 0": "error: --workers 0: expected at least 1. Fix: --workers ",
    "data split nowhere": "error: nowhere: no such folder",
    "data split DATA --by clip --test s01": "error: --test, --val and --drop-unseen name signers",
    "data show nowhere": "error: nowhere: no such folder",
    "data show DATA -o picture.jpeg": "error: picture.jpeg: a picture's name ends in",
    "data show DATA --clip nobody": "error: DATA: no clip 'nobody' there",
    "demo --seed -1": "error: spoter-kit demo: --seed: expected ",
    "demo -o DATA": "error: DATA: exists already and was not made by the demo",
}
HEAVY = ("torch", "onnx", "onnxruntime", "onnxscript", "matplotlib", "accelerate", "safetensors", "jinja2")

_RUN_ALL = """
import contextlib, io, json, sys

sys.argv[0] = "spoter-kit"
from spoter_toolkit.__main__ import main

found = {}
for words in json.loads(sys.stdin.read()):
    sys.argv[1:] = words
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code
    found[" ".join(words)] = [code, said.getvalue().strip(), [name for name in HEAVY if name in sys.modules]]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(
    bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[int, str, list[str]]]:
    """Exit code, message and heavy modules of each mistake, all made in one process, one after the other."""
    from spoter_toolkit.data.dataset_writer import rewrite_split
    from spoter_toolkit.data.synth.generate import SynthSettings, synthesize
    from spoter_toolkit.runs.run import write_run_json
    from spoter_toolkit.training.config import TrainConfig

    home = tmp_path_factory.mktemp("home")
    (home / "BUNDLE").symlink_to(bundle_folder)
    data = synthesize(home / "DATA", settings=SynthSettings(signs=1, signers=3, clips_per_sign=3))
    np.save(home / "clip.npy", data.poses_of(data.clips[0]))
    unsplit = synthesize(home / "UNSPLIT", settings=SynthSettings(signs=1, signers=3, clips_per_sign=3))
    rewrite_split(unsplit.with_clips([replace(clip, split="") for clip in unsplit.clips], ""))
    (home / "VIDEOS" / "tee").mkdir(parents=True)
    (home / "VIDEOS" / "tee" / "1.mp4").touch()
    (home / "BUNDLE.spoter").symlink_to(bundle_folder)
    (home / "DATA.spoter").symlink_to(data.folder)
    (home / "RUN").mkdir()
    write_run_json(
        home / "RUN",
        name="RUN",
        config=TrainConfig().model,
        labels=data.labels,
        status="running",
        train=None,
        data=None,
        metrics={},
        origin="a test",
    )
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {HEAVY!r}\n{_RUN_ALL}"],
        input=json.dumps([mistake.split() for mistake in MISTAKES]),
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
    )
    answers: dict[str, tuple[int, str, list[str]]] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_before_anything_heavy_is_imported(
    found: dict[str, tuple[int, str, list[str]]], mistake: str
) -> None:
    code, said, heavy = found[mistake]
    assert code in (1, 2), said
    assert said.startswith(MISTAKES[mistake]), said
    assert heavy == [], f"imported by this mistake, or by one before: {said}"
