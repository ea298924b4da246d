"""`spoter-kit demo`: the whole story on generated signing, in a few minutes on two CPU cores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from spoter_toolkit.cli.console import ForceOption, say

# The same bar as for all 60 signs; the exit code says whether it was reached.
_TOP1: Final = 0.90
_MARK: Final = ".made-by-spoter-kit-demo"  # what --force may replace
_RUN: Final = "run"


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for everything it makes.")] = Path("demo"),
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed of the generated signing and of the training.")
    ] = 0,
    force: ForceOption = False,
) -> None:
    """Run all verbs on generated signing. Exit 3 if top-1 on unseen signers is below 0.90."""
    import time
    from contextlib import nullcontext

    from spoter_runtime.errors import ConfigError
    from spoter_runtime.files import check_replaceable, replacing
    from spoter_toolkit.cli.console import ANSWER_IS_NO, verbs_in_a_row
    from spoter_toolkit.workspace import folder_lock, point_last_at, without_link

    out = without_link(out)
    check_replaceable(out, _MARK, force=force, foreign="was not made by the demo", error=ConfigError)
    replaces = (out / _MARK).exists()
    begin = time.perf_counter()
    with folder_lock(out), replacing(out) if replaces else nullcontext(out) as folder, verbs_in_a_row():
        if replaces:
            say(f"the new demo is in {folder} until it is complete; then it replaces {out}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARK).touch()
        top1 = _tell(folder, seed, begin)
        _rename_in_files(folder, out)
    point_last_at(out / _RUN)
    say(
        f"\ndone in {time.perf_counter() - begin:.0f} s; everything is in {out}/\n\nWhat you would type next:"
    )
    for command in (
        "spoter-kit data import --help           # your own landmarks: four formats",
        "spoter-kit train                        # 60 generated signs, or train YOUR_DATASET",
        "spoter-kit export --onnx                # a proven bundle of the last run",
        "spoter-kit bench                        # figures of this machine",
        "spoter-kit predict CLIP.npy             # labels, with the newest bundle",
    ):
        print(f"  {command}")
    if top1 < _TOP1:
        say(f"top-1 on unseen signers is {top1:.3f}, expected at least {_TOP1}")
        raise typer.Exit(ANSWER_IS_NO)


def _tell(folder: Path, seed: int, begin: float) -> float:
    """Make everything in a folder; return top-1 on the signers that the model has never seen."""
    import time

    from spoter_toolkit.cli import bench, data, eval, export, parity, train, verify
    from spoter_toolkit.data.synth.generate import SynthSettings, synthesize

    dataset, run, bundle = folder / "synthetic-12", folder / _RUN, folder / "demo.spoter"

    def step(number: int, what: str) -> None:
        say(f"\n── {number} of 8, at {time.perf_counter() - begin:.0f} s: {what}")

    step(1, "generate 12 signs by 12 signers (nobody signed them)")
    synthesize(dataset, settings=SynthSettings(signs=12, seed=seed))
    data.show(dataset)
    step(2, "train a small BdSL_SPOTER on 9 of the signers")
    train.train(dataset, recipe="demo", seed=seed, out=run)
    step(3, "evaluate it on 2 signers it has never seen")
    top1 = eval.eval_(run)
    step(4, "export it to ONNX with dynamic batch and frames")
    export.export(run, out=bundle)
    step(5, "prove it: ONNX Runtime against torch, on every clip of the test split")
    parity.parity(bundle, run=run, backend=["ort-cpu"])
    step(6, "measure it")
    bench.bench(bundle, run=run, quick=True, out=folder / "bench")
    step(7, "replay the proof as a device would")
    verify.verify(bundle)
    step(8, "recognise a clip with the runtime alone: no torch in the process")
    _recognise(dataset, bundle, folder / "clip.npy")
    return top1


def _rename_in_files(folder: Path, out: Path) -> None:
    """Let the run, and the fixes in the bench's report, name the demo's folder as it will be called."""
    for name in (f"{_RUN}/run.json", "bench/bench.json", "bench/bench.md"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace(folder.name, out.name), encoding="utf-8")


def _recognise(dataset: Path, bundle: Path, clip: Path) -> None:
    """Save one test clip and let the runtime's own command recognise it, in a process of its own."""
    import subprocess
    import sys

    import numpy as np

    from spoter_toolkit.data.dataset import read_dataset

    opened = read_dataset(dataset)
    chosen = opened.clips_in("test")[0]
    np.save(clip, opened.poses_of(chosen))
    say(f"the clip is {chosen.id}: {chosen.label} by signer {chosen.signer}")
    command = [sys.executable, "-m", "spoter_runtime", "predict", str(bundle), str(clip), "--top", "3"]
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
