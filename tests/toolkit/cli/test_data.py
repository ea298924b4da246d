"""The `data` verbs, as a user types them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from in_process import spoter_kit
from spoter_runtime.errors import DataError
from spoter_toolkit.data.dataset import read_dataset
from spoter_toolkit.evaluation import clips_to_evaluate
from spoter_toolkit.training.start import clips_to_train


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run `spoter-kit …` in an empty folder; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        done = spoter_kit(tmp_path, *arguments)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def source(tmp_path):
    """Three signers, two words, three clips each; a word that only ann signs."""
    rng = np.random.default_rng(0)
    for signer in ("ann", "bob", "cid"):
        for label in ("tea", "milk", *(["jam"] if signer == "ann" else [])):
            folder = tmp_path / "clips" / label / signer
            folder.mkdir(parents=True)
            for i in range(3):
                np.save(folder / f"{i}.npy", rng.uniform(0.1, 0.9, (6 + i, 54, 2)).astype(np.float32))
    return tmp_path / "clips"


def test_import_split_show_without_naming_the_dataset(run, source):
    code, out, err = run("data", "import", "npy", source)
    assert code == 0
    assert out.startswith("datasets/clips: 21 clips of 3 labels by 3 signers, 0.1 minutes")
    assert "\nlabels: " in out  # a source one level too deep shows its signers here
    assert err.endswith("next: spoter-kit data split datasets/clips\n")
    code, out, err = run("data", "split", "--test", "bob")
    assert code == 0
    assert out.startswith("datasets/clips: by signer: test bob; train the other 2\n")
    assert err.endswith("next: spoter-kit train datasets/clips\n")
    code, out, err = run("data", "show", "-v")
    assert code == 0
    for words in ("split: by signer: test bob", "left hand", "p50", "ann", "milk"):
        assert words in out
    assert "next: spoter-kit data show datasets/clips --clip jam/ann/0 -o clip.png" in err


@pytest.mark.parametrize(
    ("clips", "pasted"),
    [
        ({"tea/ann": 1, "milk/ann": 1}, "--train-all"),
        ({"tea/ann": 5, "milk/ann": 5}, "--by clip"),
        ({"tea": 1, "milk": 1}, "--train-all"),  # nobody said who signs
        ({"tea": 5, "milk": 1}, "--by clip"),
        ({"tea/ann": 1, "milk/ann": 1, "tea/bob": 1, "milk/bob": 1}, ""),
        ({"tea/ann": 5, "milk/ann": 5, "tea/bob": 5}, ""),
        ({"tea/ann": 1, "milk/bob": 1}, "--train-all"),
        ({"tea/ann": 5, "milk/bob": 5}, "--by clip"),
        ({"tea/ann": 5, "milk/ann": 5, "tea": 5, "milk": 5}, "--by clip"),
    ],
)
def test_any_clips_reach_a_training_by_pasting_the_command_that_is_printed(run, tmp_path, clips, pasted):
    rng = np.random.default_rng(0)
    for place, count in clips.items():
        (tmp_path / "my clips" / place).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            np.save(tmp_path / "my clips" / place / f"{i}.npy", rng.random((6, 54, 2), dtype=np.float32))
    code, out, err = run("data", "import", "npy", "my clips", "-o", "data/my set")
    assert code == 0
    assert ("s, no signer is named, " in out) == (not any("/" in place for place in clips))
    assert ("by 1 signer and unknown ones, " in out) == (clips.keys() > {"tea", "tea/ann"})
    command = err.rpartition("next: ")[2].strip()
    code, _, err = run("train", "data/my set")
    assert (code, err.rpartition("Fix: ")[2].strip()) == (1, command)  # both know what the data allow
    fix = shlex.split(command)
    assert fix[:4] == ["spoter-kit", "data", "split", "data/my set"]
    assert " ".join(fix[4:]) == pasted
    code, out, err = run(*fix[1:])
    assert code == 0
    assert ("all clips are for train" in out) == (pasted == "--train-all")
    assert any("/" in place for place in clips) or re.search(r"labels? +no signer is named\n", out)
    assert 'the model will not be able to say "no sign"\nnext: spoter-kit train ' in err
    assert clips_to_train(read_dataset("data/my set"))
    if pasted == "--train-all":
        with pytest.raises(DataError, match=r"of train had a part .*\. Fix: spoter-kit eval --split train$"):
            clips_to_evaluate(read_dataset("data/my set"), "test")


@pytest.mark.parametrize("kept", [0, 1])
def test_an_extract_that_is_stopped_says_what_is_kept_and_how_it_goes_on(run, tmp_path, monkeypatch, kept):
    (tmp_path / "videos" / "tea").mkdir(parents=True)
    (tmp_path / "videos" / "tea" / "a b.mp4").touch()

    def stopped(*arguments, **options):
        for number in range(kept):
            (tmp_path / "datasets" / ".videos.extract").mkdir(parents=True)
            (tmp_path / "datasets" / ".videos.extract" / f"{number}.npz").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("spoter_toolkit.data.extract.extract.extract", stopped)
    code, _, err = run("data", "extract", "videos", "--backend", "mediapipe", "--signer", "ann lee")
    stays = "1 clip is kept" if kept else "no clip was done yet"
    command = "spoter-kit data extract videos --backend mediapipe --signer 'ann lee'"
    assert (code, err) == (130, f"interrupted; {stays}; go on with: {command}\n")


def test_json_is_all_there_is_on_stdout(run, source):
    code, out, err = run("data", "import", "npy", source, "-o", "d", "--json")
    assert (code, err) == (0, "")
    made = json.loads(out)
    assert (made["dataset"], made["clips"], made["frames"], made["split"]) == ("d", 21, 147, "")
    code, out, err = run("data", "split", "d", "--json", "--test", "bob")
    assert (code, err) == (0, "")
    assert json.loads(out)["split"] == "by signer: test bob; train the other 2"
    code, out, err = run("data", "show", "d", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert [part["name"] for part in facts["splits"]] == ["train", "test"]
    assert facts["sha256"] == read_dataset("d").sha256
    code, out, _ = run("data", "show", "d", "--clip", "tea/bob/1", "--json")
    assert (code, json.loads(out)["frames"], json.loads(out)["split"]) == (0, 7, "test")


def test_a_clip_is_shown_and_drawn(run, source, tmp_path):
    run("data", "import", "npy", source)
    code, out, err = run("data", "show", "--clip", "tea/bob/1", "-o", "clip.png")
    assert code == 0
    assert "frames  7 (0.23 s at 30 a second)" in out
    assert "picture: clip.png" in err
    assert (tmp_path / "clip.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = run("data", "show", "-o", "clip.png")
    assert (code, err.startswith("error: clip.png: exists already")) == (1, True)
    code, _, _ = run("data", "show", "-o", "clip.png", "--force")
    assert code == 0


def test_choices_reach_the_importer(run, source):
    chosen = ("--labels", "tea,jam", "--signers", "ann, bob", "--shared-labels", "--fps", "10")
    code, out, _ = run("data", "import", "npy", source, *chosen, "--json")
    made = json.loads(out)
    assert (code, made["clips_of_label"], made["clips_of_signer"]) == (0, {"tea": 6}, {"ann": 3, "bob": 3})
    assert made["duration_s"] == pytest.approx(2 * (6 + 7 + 8) / 10)
    assert made["origin"]["skipped"]["of labels that not every signer has"] == 3


def test_long_clips_and_bad_clips(run, source):
    np.save(source / "tea" / "bob" / "long.npy", np.full((400, 54, 2), 0.5, np.float32))
    (source / "tea" / "bob" / "bad.npy").write_bytes(b"")
    code, out, err = run("data", "import", "npy", source)
    assert (code, out) == (1, "")
    assert "error: 2 of 23 clips cannot be used; nothing was written" in err
    assert "400 frames, the models take 1..299\n" in err
    assert re.search(r"400 frames, the models take 1\.\.299\n    Fix: --long resample, or --long cut\n", err)
    assert re.search(r"bad\.npy.*\n    Fix: ", err)  # each has its own
    assert err.endswith("\nFix: correct them, or leave them out with --skip-bad\n")
    code, out, _ = run("data", "import", "npy", source, "--long", "cut", "--skip-bad")
    assert code == 0
    assert "left out: 1 clip that cannot be used\n" in out
    assert "note: 1 clip: cut after 299 frames\n" in out


def test_nothing_is_replaced_without_force(run, source):
    run("data", "import", "npy", source)
    code, _, err = run("data", "import", "npy", source)
    assert (code, "datasets/clips: exists already. Fix:" in err) == (1, True)
    assert run("data", "import", "npy", source, "--force")[0] == 0
    assert run("data", "split", "--test", "bob")[0] == 0
    code, _, err = run("data", "split", "--by", "clip")
    assert (code, "is split already (by signer: test bob; train the other 2)" in err) == (1, True)
    code, out, _ = run("data", "split", "--by", "clip", "--force")
    assert (code, "by clip, signers are shared" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("split", "--test", "bobby"), 1, "no signer 'bobby' there; did you mean bob"),
        (
            ("split", "--test", "ann"),
            1,
            "train never has these labels of test, so no model can learn them: jam",
        ),
        (("split", "--by", "bdslw60"), 1, "signers U1 … U18; this dataset also has ann, bob, cid"),
        (("split", "--by", "bdslw60", "--test", "ann"), 2, "has its test signers"),
        (("split", "--by", "clip", "--test", "ann"), 2, "--by clip mixes them"),
        (("split", "--by", "mood"), 2, "mood"),
        (
            ("split", "nowhere"),
            1,
            "nowhere: no such folder. Fix: spoter-kit data import or spoter-kit data synth",
        ),
        (("show", "--clip", "tea/bob/9"), 1, "no clip 'tea/bob/9' there; did you mean tea/bob/"),
        (("show", "-o", "x.jpeg"), 1, "a picture's name ends in"),
        (("import", "npy", "nowhere"), 1, "nowhere: no such folder"),
        (("import", "mp3", "clips"), 2, "mp3"),
        (
            ("import", "npy", "clips", "--fps", "0", "-o", "x"),
            2,
            "fps must be 0.1..1000 frames a second, got 0.0. Fix: --fps 30",
        ),
        (("import", "npy", "clips", "-o", "file/x"), 1, "file"),
        (("synth", "--signs", "0", "-o", "x"), 2, "signs is 0"),
    ],
)
def test_errors_are_one_message_and_leave_everything_as_it_was(
    run, source, tmp_path, arguments, code, message
):
    run("data", "import", "npy", source)
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    result, out, err = run("data", *arguments)
    assert (result, out) == (code, "")
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before
    assert read_dataset(tmp_path / "datasets" / "clips").split == ""


def test_without_any_dataset_the_error_says_what_makes_one(run):
    code, _, err = run("data", "show")
    assert (code, err) == (1, "error: datasets/: no dataset there. Fix: spoter-kit data synth, or name one\n")


def test_synth_makes_a_split_dataset_that_says_it_is_synthetic(run):
    code, out, err = run("data", "synth", "--signs", "2", "--signers", "3", "--clips-per-sign", "3")
    assert code == 0
    assert out.startswith("datasets/synthetic: 6 clips of 2 labels by 3 signers")
    assert "nobody signed this" in out
    assert err.endswith("next: spoter-kit train datasets/synthetic\n")
    assert read_dataset("datasets/synthetic").origin.synthetic


def test_the_options_of_synth_tell_the_generators_defaults(run):
    from spoter_toolkit.data.synth.generate import SynthSettings

    _, out, _ = run("data", "synth", "--help")
    words, settings = " ".join(out.replace("│", " ").split()), SynthSettings()
    for name in ("signs", "signers", "clips_per_sign"):
        after = words[words.index(f"--{name.replace('_', '-')} ") :]
        assert f"default: {getattr(settings, name)}." in after[: after.index(".") + 1]


@pytest.mark.parametrize("verb", ["import", "synth", "split", "show"])
def test_help_imports_no_heavy_module(verb):
    code = (
        "import sys\nsys.argv = ['spoter-kit', 'data', sys.argv[1], '--help']\n"
        "from spoter_toolkit.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "heavy = {'torch', 'matplotlib', 'onnx', 'onnxruntime', 'accelerate'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, verb], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout


def test_a_test_split_that_lacks_labels_is_told(run, tmp_path):
    rng = np.random.default_rng(0)
    for label, signer in (("tea", "ann"), ("milk", "ann"), ("tea", "bob"), ("milk", "bob"), ("tea", "cy")):
        (tmp_path / "few" / label / signer).mkdir(parents=True)
        np.save(tmp_path / "few" / label / signer / "1.npy", rng.random((5, 54, 2)))
    code, _, err = run("data", "import", "npy", tmp_path / "few", "-o", "datasets/few")
    assert code == 0, err
    code, _, err = run("data", "split", "datasets/few", "--test", "cy")
    assert code == 0
    said, _, fix = err.splitlines()[0].partition(" Fix: spoter-kit ")
    assert said == "test has 1 of 2 labels: its score says nothing about the others."
    code, _, err = run(*fix.split())
    assert (code, "its score says nothing" in err) == (0, False)
