"""Every command and every Python block of the pages is run: a page in one folder, from top to bottom.

The order matters, so a page is one test; that is why no library that makes a test of each block is used here.
Comments above a block, which no reader sees, say what the page is given and what is only illustrative.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import signers
from in_process import spoter_kit
from pages import PAGES, ROOT, RUN, blocks_of

# What makes an epoch and an export a matter of seconds. A page's own settings come later, and win.
SMALL = {
    "model.d_model": 36,
    "model.num_encoder_layers": 1,
    "model.d_ff": 40,
    "model.max_seq_length": 100,
    "epochs": 1,
}
FASTER = {
    "export": ["--no-tune", "--max-batch", "4"],
    "bench": [
        *("--rounds", "1", "--seconds-per-case", "0.02", "--no-floor", "--threads", "1"),
        *("--scenario", "latency", "--backend", "ort-cpu"),
    ],
    "parity": ["--backend", "ort-cpu"],
}
SECONDS = re.compile(r"^(export|parity|bench|tune|eval|train|crossval|import-checkpoint)$")
RUNNABLE = [
    page
    for page in PAGES
    if any(b.language in RUN and "illustrative" not in b.notes for b in blocks_of(page))
]


def _is_slow(page: Path) -> bool:
    blocks = [b for b in blocks_of(page) if "illustrative" not in b.notes]
    words = [w for b in blocks if b.language == "sh" for w in b.commands()]
    given = {name.strip() for b in blocks for name in b.notes.get("given", "").split(",")}
    verbs = {
        w[1] if w[0] == "spoter-kit" else w[3] for w in words if w[0] == "spoter-kit" or w[1:2] == ["-m"]
    }
    return bool({v for v in verbs if SECONDS.match(v)}) or bool({"workspace", "run"} & given)


class Page:
    """A page's folder, and what its blocks have made so far."""

    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self.folder = folder
        self.request = request
        self.names: dict[str, object] = {}
        self.output = ""
        self.server = ""  # host and port of the one that was given

    def run(self, block) -> None:
        for thing in filter(None, (name.strip() for name in block.notes.get("given", "").split(","))):
            self.give(thing)
        if "file" in block.notes:
            (self.folder / block.notes["file"]).write_text(block.text, encoding="utf-8")
        if "output" in block.notes:
            for line in block.text.splitlines():
                expected = re.sub(r"\d+", r"\\d+", re.escape(line.strip()))
                shown = self.output[-2000:]
                assert re.search(expected, self.output), f"{block.name}: nothing printed {line!r}:\n{shown}"
        if "illustrative" in block.notes or block.language not in RUN:
            return
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
            exec(code, self.names)
            return
        for words in block.commands():
            self.command(words, block.name)

    def command(self, words: list[str], where: str) -> None:
        match words:
            case ["spoter-kit", *arguments]:
                done = spoter_kit(self.folder, *_quicker(arguments))
            case ["python", "-m", "spoter_runtime" | "spoter_export", *_] | ["openssl", *_]:
                own = {"XDG_CACHE_HOME": str(self.folder / "cache"), "PYTHONIOENCODING": "utf-8"}
                done = subprocess.run(
                    [sys.executable if words[0] == "python" else words[0], *words[1:]],
                    cwd=self.folder,
                    env=os.environ | own,
                    capture_output=True,
                    encoding="utf-8",
                    check=False,
                )
            case ["curl", *_]:
                asked = [word.replace("127.0.0.1:8000", self.server) for word in words]
                done = subprocess.run(asked, capture_output=True, encoding="utf-8", check=False)
            case ["pip", "install", what]:
                assert re.fullmatch(r"\.\[([\w,-]+)\]", what), (
                    f"{where}: {what}"
                )  # test_pages.py knows the extras
                return
            case _:
                pytest.fail(f"{where}: no way to run {words}; say why it is illustrative")
        self.output += done.stdout + done.stderr
        assert done.returncode == 0, f"{where}: {' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"

    def give(self, thing: str) -> None:
        """Put into the folder, or among the names, what a page takes for granted."""
        give = getattr(self, f"give_{thing}", None)
        assert give, f"nobody knows how to give {thing!r}"
        give()

    def give_clips(self) -> None:
        self._copy(self.request.getfixturevalue("signing") / "my_clips", "my_clips")

    def give_clip(self) -> None:
        self.names["clip"] = self._a_clip()
        np.save(self.folder / "clip.npy", self.names["clip"])

    def give_landmark_log(self) -> None:
        signers.write_log(self.folder / "landmarks.jsonl", *signers.signing([(1000.0, 1700.0)], end_ms=2500))

    def give_clips_list(self) -> None:
        self.names["clips"] = [self._a_clip(), self._a_clip()[:9]]

    def give_mediapipe(self) -> None:
        pose, hand = np.random.default_rng(0).random((2, 12, 33, 3))
        self.names |= {"pose": pose, "left_hand": hand[:, :21], "right_hand": None}

    def give_dataset(self) -> None:
        self._copy(self.request.getfixturevalue("signing") / "mine", "datasets/mine")

    def give_split_file(self) -> None:
        rows = (self.folder / "datasets/mine/clips.csv").read_text(encoding="utf-8").splitlines()[1:]
        lines = [
            f"{row.partition(',')[0]},{('train', 'train', 'test')[i % 3]}\n" for i, row in enumerate(rows)
        ]
        (self.folder / "split.csv").write_text("id,split\n" + "".join(lines), encoding="utf-8")

    def give_bundle(self) -> None:
        self._copy(self.request.getfixturevalue("bundle_folder"), "model.spoter")

    def give_server(self) -> None:
        from running_server import Running
        from spoter_toolkit.serving.app import Application
        from spoter_toolkit.serving.models import Models, sources_from

        running = Running(Application(Models(sources=sources_from([str(self.folder / "model.spoter")]))))
        self.request.addfinalizer(running.stop)
        self.server = running.host

    def give_run(self) -> None:
        for name in ("datasets/mine", "runs/mine"):
            self._copy(self.request.getfixturevalue("workspace") / name, name)
        last = self.folder / "runs" / "last"
        last.unlink(missing_ok=True)
        last.symlink_to(self.folder / "runs" / "mine")

    def give_workspace(self) -> None:
        self.give_run()
        for name in ("bundles/mine.spoter", "model.spoter"):
            self._copy(self.request.getfixturevalue("workspace") / "bundles/mine.spoter", name)

    def give_checkpoint(self) -> None:
        _write_checkpoint(self.folder / "bdsl_spoter.pth")

    def give_runners(self) -> None:
        from spoter_runtime.ort.runner import OrtRunner

        path = self.request.getfixturevalue("bundle_folder") / "model.onnx"
        self.names |= {name: OrtRunner(path, threads=1) for name in ("reference", "candidate")}
        self.names["poses_NTD"] = self._a_clip()[None, :20].reshape(1, -1, 108)

    def _a_clip(self):
        return np.load(sorted((self.request.getfixturevalue("signing") / "my_clips").rglob("*.npy"))[0])

    def _copy(self, source: Path, name: str) -> None:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(source, self.folder / name)


def _quicker(arguments: list[str]) -> list[str]:
    verb, *rest = arguments
    if verb in ("train", "crossval") and rest:
        kept = "model." if "--from" in rest else "-"  # --from keeps the sizes of its RUN
        settings = {key: value for key, value in SMALL.items() if not key.startswith(kept)}
        small = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        return [verb, rest[0], *small, *rest[1:]]
    quick = [] if "--judge" in rest else FASTER.get(verb, [])
    if "--backend" in rest and "--backend" in quick:
        quick = quick[: quick.index("--backend")]
    return [verb, *rest, *quick]


def _write_checkpoint(path: Path) -> None:
    """Write what the notebook's torch.save would, for a small BdSL_SPOTER of 60 words."""
    import torch

    from spoter_toolkit.model.config import ModelConfig
    from spoter_toolkit.model.spoter import model_from_config

    torch.manual_seed(0)
    sizes = {"d_model": 36, "num_encoder_layers": 1, "d_ff": 40, "num_classes": 60, "max_seq_length": 100}
    model = model_from_config(ModelConfig(landmark_weights="planar", **sizes))
    declared = {"input_dim": 108, "num_heads": 9, **sizes}
    torch.save({"model_state_dict": model.state_dict(), "model_config": declared}, path)


@pytest.fixture(scope="session")
def signing(made_once):
    """A folder with my_clips/LABEL/SIGNER/CLIP.npy, of generated signing, and the dataset `mine` of it."""

    def make(folder):
        from spoter_toolkit.data.dataset import read_dataset

        size = ("--signs", "4", "--signers", "5", "--clips-per-sign", "10")
        for done in (
            spoter_kit(folder, "data", "synth", *size, "-o", "synth"),
            *_import(folder, read_dataset(folder / "synth")),
        ):
            assert done.returncode == 0, done.stderr
        return folder

    return made_once("docs-signing", make)


def _import(folder: Path, dataset):
    for clip in dataset.clips:
        path = folder / "my_clips" / clip.label / clip.signer / f"{clip.id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, dataset.poses_of(clip)[:60])
    yield spoter_kit(folder, "data", "import", "npy", "my_clips", "-o", "mine")
    yield spoter_kit(folder, "data", "split", "mine", "--test", "s05", "--val", "s04")


@pytest.fixture(scope="session")
def workspace(made_once, traced_once, signing):
    """A folder with datasets/mine, runs/mine and bundles/mine.spoter, of a model that learnt for an epoch."""

    def make(folder):
        shutil.copytree(signing / "mine", folder / "datasets" / "mine")
        for words in (
            ("train", "datasets/mine", "-o", "runs/mine"),
            ("export", "runs/mine", "--onnx", "-o", "bundles/mine.spoter"),
        ):
            with traced_once():
                done = spoter_kit(folder, *_quicker(list(words)))
            assert done.returncode == 0, done.stderr
        return folder

    return made_once("docs-workspace", make)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if _is_slow(page) else (), id=str(page.relative_to(ROOT)))
        for page in RUNNABLE
    ],
)
def test_a_page_does_what_it_says(page, tmp_path, request, monkeypatch, traced_once):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("spoter_runtime.tuning.search._ROUND_NS", 1_000_000)
    state = Page(tmp_path, request)
    with traced_once():
        for block in blocks_of(page):
            state.run(block)
