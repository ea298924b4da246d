from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from forks import Forks
from spoter_runtime.contract import Label
from spoter_runtime.errors import CheckpointError, ConfigError, DataError
from spoter_toolkit.data.dataset import Dataset, Origin
from spoter_toolkit.data.dataset_writer import NewClip, write_dataset
from spoter_toolkit.model.config import ModelConfig
from spoter_toolkit.runs.run import mark_status, read_run
from spoter_toolkit.training import length
from spoter_toolkit.training.batches import longest, plan_epoch, read_batch
from spoter_toolkit.training.config import AugmentConfig, TrainConfig
from spoter_toolkit.training.cuda_graphs import make_recordable
from spoter_toolkit.training.epochs import Loop, loss_of
from spoter_toolkit.training.loop import train
from spoter_toolkit.training.recipes import config_from_mapping
from spoter_toolkit.training.record import LAST, read_metrics
from spoter_toolkit.training.start import begun_from
from spoter_toolkit.workspace import RUN_WEIGHTS, folder_lock, new_run_folder

CONFIG = TrainConfig(
    model=ModelConfig(d_model=36, num_encoder_layers=1, d_ff=40),
    augment=AugmentConfig(time_scale=0.2, rotation_deg=10, hand_dropout=0.2, mirror=0.5),
    epochs=3,
    batch_size=4,
    learning_rate=1e-3,
    warmup_steps=2,
)
AUTOMATIC = replace(CONFIG, epochs=0, max_steps=80)


class _Stop(Exception):
    pass


def stop_at(step: int):  # type: ignore[no-untyped-def]
    def on_progress(done: int, total: int, what: str) -> None:
        if done == step:
            raise _Stop

    return on_progress


def resumed_config(folder: Path) -> TrainConfig:
    """Return the settings as `train --resume` takes them from run.json."""
    return config_from_mapping(read_run(folder).info["train"], where="run.json")


def weights(folder: Path) -> bytes:
    return (folder / RUN_WEIGHTS).read_bytes()


def test_a_run_holds_weights_metrics_pictures_and_where_they_come_from(tiny: Dataset, tmp_path: Path) -> None:
    seen = []
    run = train(CONFIG, tiny, tmp_path / "run", on_progress=lambda *step: seen.append(step))
    names = {path.name for path in run.folder.iterdir()}
    assert names == {
        "model.safetensors",
        "run.json",
        "metrics.jsonl",
        "learned.txt",
        "last.pt",
        "curves.png",
        "confusion.png",
        "report.html",
        "accuracy.png",
    }
    assert [row["epoch"] for row in read_metrics(run.folder)] == [1, 2, 3]
    assert all({"train_loss", "val_loss", "val_accuracy"} <= row.keys() for row in read_metrics(run.folder))
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "<title>Training of run</title>" in page
    assert run.info["status"] == "done"
    assert run.info["data"] == {
        "folder": str(tiny.folder),
        "sha256": tiny.sha256,
        "kind": "synthetic",
        "synthetic": True,
        "split": tiny.split,
        "coordinates": "image",
        "landmarker": "",
        "processes": 1,
        "leak_allowed": False,
    }
    assert run.info["train"]["seed"] == 0
    assert run.info["versions"]["torch"] == torch.__version__
    assert seen[-1][0] == seen[-1][1]  # the last step of as many as announced
    assert re.match(r"steps  val \d\.\d{3}  accuracy \d\.\d{3}  loss ", seen[-1][2])
    torch.load(run.folder / LAST, weights_only=True)
    best = max(read_metrics(run.folder), key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert run.info["metrics"]["best_epoch"] == best["epoch"]
    assert run.info["metrics"]["val"]["top1"] == pytest.approx(best["val_accuracy"])


@pytest.mark.parametrize(
    ("config", "step"),
    [(CONFIG, 1), (CONFIG, 5), (CONFIG, 8), (AUTOMATIC, 7), (AUTOMATIC, 31), (AUTOMATIC, 47)],
)
def test_a_run_that_was_stopped_resumes_to_the_same_weights(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: TrainConfig, step: int
) -> None:
    for name, value in {"LEAST_STEPS": 10, "LEAST_DECAY": 15, "LEARNED": 0.4}.items():
        monkeypatch.setattr(length, name, value)  # so that the end is decided at the second of five epochs
    train(config, tiny, tmp_path / "whole")
    with pytest.raises(_Stop):
        train(config, tiny, tmp_path / "broken", on_progress=stop_at(step))
    assert read_run(tmp_path / "broken").info["status"] == "stopped"
    train(resumed_config(tmp_path / "broken"), tiny, tmp_path / "broken", resume=True)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    rows = [
        [{k: v for k, v in row.items() if "second" not in k} for row in read_metrics(tmp_path / name)]
        for name in ("whole", "broken")
    ]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_run_that_was_killed_five_times_ends_with_the_same_weights(tiny: Dataset, tmp_path: Path) -> None:
    settings = ["epochs=60", "patience=60", "model.d_model=36", "model.num_encoder_layers=1", "model.d_ff=40"]
    begin = ["train", tiny.folder, "--recipe", "demo", *(part for s in settings for part in ("--set", s))]
    forks, run = Forks(tmp_path), tmp_path / "runs" / "killed"
    try:
        whole = forks.run(*begin, "-o", "runs/whole", here=True)
        assert whole["code"] == 0, whole["said"]
        moments = random.Random(0)
        for kill in range(5):
            arguments = [*begin, "-o", run] if kill == 0 else ["train", "--resume", "-o", run]
            known = len(read_metrics(run))
            killed = forks.run(*arguments, kill_at=moments.randint(40, 70))
            assert killed["code"] == -signal.SIGKILL, "the run ended before it could be killed"
            assert known < len(read_metrics(run)) < 60
        done = forks.run("train", "--resume", "-o", run)
        assert done["code"] == 0, done["said"]
    finally:
        forks.close()
    assert weights(run) == weights(tmp_path / "runs" / "whole")
    assert [row["epoch"] for row in read_metrics(run)] == list(range(1, 61))


def body(folder: Path) -> dict[str, Tensor]:
    model = read_run(folder).load_model()
    return {n: v for n, v in model.state_dict().items() if not n.startswith(model.last_layer)}


def test_a_run_begins_from_the_weights_of_another_one_with_a_new_last_layer(
    tiny: Dataset, tmp_path: Path
) -> None:
    source = train(CONFIG, tiny, tmp_path / "source")
    still = replace(CONFIG, learning_rate=1e-12, seed=5)
    known = train(begun_from(still, source, tiny), tiny, tmp_path / "known", begin_from=source)
    for name, value in body(source.folder).items():
        assert torch.allclose(value, body(known.folder)[name], atol=1e-6), name
    assert weights(known.folder) != weights(source.folder)
    assert known.info["data"]["from"]["name"] == "source"
    wider = replace(CONFIG, model=replace(CONFIG.model, d_model=72))
    with pytest.raises(CheckpointError, match=r"source, to begin from: \S+ is \("):
        train(wider, tiny, tmp_path / "wider", begin_from=source)


@pytest.mark.parametrize("step", [1, 7])
def test_a_run_that_began_from_another_one_resumes_to_the_same_weights(
    tiny: Dataset, tmp_path: Path, step: int
) -> None:
    source = train(replace(CONFIG, seed=3), tiny, tmp_path / "source")
    whole = train(CONFIG, tiny, tmp_path / "whole", begin_from=source)
    with pytest.raises(_Stop):
        train(CONFIG, tiny, tmp_path / "broken", begin_from=source, on_progress=stop_at(step))
    (tmp_path / "source").rename(tmp_path / "moved")
    broken = train(CONFIG, tiny, tmp_path / "broken", resume=True)
    assert weights(broken.folder) == weights(whole.folder)
    assert broken.info["data"] == whole.info["data"]


def test_a_second_training_of_the_same_run_is_refused(tiny: Dataset, tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path / "run"),
        pytest.raises(CheckpointError, match="run: another process is writing it"),
    ):
        train(CONFIG, tiny, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stopped_training_with_force_is_resumed_beside_the_old_run(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train(replace(CONFIG, epochs=1), tiny, Path("runs/r"))
    Path("last").symlink_to("runs/r")
    before = weights(Path("runs/r"))
    with pytest.raises(_Stop):  # a link: the run that it points at is replaced, not the link
        train(CONFIG, tiny, Path("last"), force=True, on_progress=stop_at(5))
    assert weights(Path("runs/r")) == before
    unfinished = r"exists already \(a run that was to replace it is unfinished\)\. Fix: .*--resume"
    with pytest.raises(CheckpointError, match=unfinished):
        new_run_folder(Path("runs/r"), "r")
    run = train(CONFIG, tiny, Path("last"), resume=True)
    assert (run.name, run.info["metrics"]["epochs"]) == ("r", 3)
    assert weights(Path("runs/r")) != before
    assert Path("last").is_symlink()
    assert [path.name for path in Path("runs").iterdir()] == ["r"]


def test_a_run_says_whether_its_training_goes_on_or_was_killed(tiny: Dataset, tmp_path: Path) -> None:
    said: list[str] = []

    def look(done: int, total: int, what: str) -> None:
        if done == 2:
            said.append(str(read_run(tmp_path / "run").unfinished()))

    run = train(replace(CONFIG, epochs=1), tiny, tmp_path / "run", on_progress=look)
    assert re.search(r"its training goes on\. Fix: wait until it ends$", said[0])
    assert run.unfinished() is None
    mark_status(run.folder, "running")  # as SIGKILL leaves it
    killed = str(read_run(run.folder).unfinished())
    assert re.search(r"its training was interrupted\. Fix: spoter-kit train --resume -o \S+run$", killed)


def test_a_seed_decides_the_weights(tiny: Dataset, tmp_path: Path) -> None:
    short = replace(CONFIG, epochs=1)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(replace(short, seed=seed), tiny, tmp_path / name)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


def test_a_model_learns_what_it_is_shown(tiny: Dataset, tmp_path: Path) -> None:
    longer = replace(CONFIG, epochs=25, augment=AugmentConfig(), learning_rate=3e-3)
    train(longer, tiny, tmp_path / "run")
    rows = read_metrics(tmp_path / "run")
    assert rows[-1]["train_accuracy"] > 0.9
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]


def test_without_a_val_split_the_last_epoch_is_kept_and_the_test_split_is_not_touched(
    tiny: Dataset, tmp_path: Path
) -> None:
    clips = [replace(clip, split="" if clip.split == "val" else clip.split) for clip in tiny.clips]
    train(CONFIG, tiny.with_clips(clips, tiny.split), tmp_path / "with-test")
    no_test = [clip for clip in clips if clip.split != "test"]
    train(CONFIG, tiny.with_clips(no_test, tiny.split), tmp_path / "without-test")
    assert weights(tmp_path / "with-test") == weights(tmp_path / "without-test")
    assert "val" not in read_run(tmp_path / "with-test").info["metrics"]
    assert not (tmp_path / "with-test" / "confusion.png").exists()


def test_early_stopping_ends_after_patience_evaluations_without_a_better_one(
    tiny: Dataset, tmp_path: Path
) -> None:
    stuck = replace(CONFIG, epochs=20, learning_rate=1e-12, patience=2)
    run = train(stuck, tiny, tmp_path / "run")
    epochs = run.info["metrics"]["epochs"]
    assert epochs - run.info["metrics"]["best_epoch"] == 2
    assert epochs < 20


def test_minutes_end_a_resumed_run(tiny: Dataset, tmp_path: Path) -> None:
    long = replace(CONFIG, epochs=500)
    with pytest.raises(_Stop):
        train(long, tiny, tmp_path / "run", on_progress=stop_at(1))
    run = train(long, tiny, tmp_path / "run", resume=True, minutes=0.02)
    assert run.is_finished
    assert 1 <= run.info["metrics"]["epochs"] < 500


def test_resuming_with_other_settings_or_other_data_is_refused(tiny: Dataset, tmp_path: Path) -> None:
    train(replace(CONFIG, epochs=1), tiny, tmp_path / "run")
    with pytest.raises(CheckpointError, match="begun with other settings: epochs, learning_rate"):
        train(replace(CONFIG, epochs=2, learning_rate=0.5), tiny, tmp_path / "run", resume=True)
    other = replace(tiny, sha256="0" * 64)
    with pytest.raises(CheckpointError, match="begun on other data"):
        train(replace(CONFIG, epochs=1), other, tmp_path / "run", resume=True)


def test_settings_that_an_older_run_does_not_state_were_the_defaults(tiny: Dataset, tmp_path: Path) -> None:
    train(replace(CONFIG, epochs=1), tiny, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    info = json.loads(path.read_text())
    del info["train"]["cuda_graphs"]
    path.write_text(json.dumps(info))
    train(replace(CONFIG, epochs=1), tiny, tmp_path / "run", resume=True)
    del info["train"]["learning_rate"]
    path.write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match=r"begun with other settings: learning_rate$"):
        train(replace(CONFIG, epochs=1), tiny, tmp_path / "run", resume=True)


def test_a_damaged_last_pt_says_so(tiny: Dataset, tmp_path: Path) -> None:
    train(replace(CONFIG, epochs=1), tiny, tmp_path / "run")
    last = tmp_path / "run" / LAST
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"last\.pt: cannot be read"):
        train(replace(CONFIG, epochs=1), tiny, tmp_path / "run", resume=True)


def test_a_label_that_a_split_dropped_is_none_of_the_models(tiny: Dataset, tmp_path: Path) -> None:
    dropped = tiny.clips[0].label
    clips = [replace(clip, split="" if clip.label == dropped else clip.split) for clip in tiny.clips]
    run = train(replace(CONFIG, epochs=1), tiny.with_clips(clips, tiny.split), tmp_path / "run")
    assert [label.name for label in run.labels] == [
        label.name for label in tiny.labels if label.name != dropped
    ]
    assert run.config.num_classes == len(tiny.labels) - 1


def test_no_train_split_and_a_leak_are_refused(tiny: Dataset, tmp_path: Path) -> None:
    nobody = tiny.with_clips([replace(clip, split="") for clip in tiny.clips], "")
    with pytest.raises(DataError, match=r"no clip is in the train split\. Fix: spoter-kit data split"):
        train(CONFIG, nobody, tmp_path / "run")
    alone = nobody.with_clips([replace(clip, signer="unknown") for clip in nobody.clips], "")
    with pytest.raises(DataError, match=r"no clip is in the train split\. Fix: .* --by clip"):
        train(CONFIG, alone, tmp_path / "run")
    leak = [replace(clip, split="test" if i % 3 else "train") for i, clip in enumerate(tiny.clips)]
    with pytest.raises(DataError, match="a leak: signer s01"):
        train(CONFIG, tiny.with_clips(leak, "by hand"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("loss", ["cross-entropy", "focal"])
def test_the_losses_are_their_formulas(loss: str) -> None:
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 0.0, 3.0]])
    labels = torch.tensor([0, 1])
    p = torch.softmax(logits.double(), 1)[torch.arange(2), labels].numpy()
    expected = -np.log(p) * ((1 - p) ** 2 if loss == "focal" else 1)
    got = loss_of(logits, labels, TrainConfig(loss=loss))  # type: ignore[arg-type]
    assert got.item() == pytest.approx(expected.mean(), rel=1e-6)


def test_a_diverged_training_stops_and_keeps_the_last_good_epoch(tiny: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the loss is nan: training has diverged.*smaller learning_rate"):
        train(replace(CONFIG, learning_rate=1e30, gradient_clip=1e30), tiny, tmp_path / "run")
    assert not (tmp_path / "run" / RUN_WEIGHTS).exists()


def test_force_replaces_a_run_once_all_is_checked_and_never_anything_else(
    tiny: Dataset, tmp_path: Path
) -> None:
    short = replace(CONFIG, epochs=1)
    train(short, tiny, tmp_path / "run")
    before = weights(tmp_path / "run")
    unsplit = tiny.with_clips([replace(clip, split="") for clip in tiny.clips], "")
    with pytest.raises(DataError, match="no clip is in the train split"):
        train(short, unsplit, tmp_path / "run", force=True)
    assert weights(tmp_path / "run") == before
    train(replace(short, seed=1), tiny, tmp_path / "run", force=True)
    assert weights(tmp_path / "run") != before
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "thesis.txt").write_text("three years of work")
    with pytest.raises(CheckpointError, match="exists already and is no run"):
        train(short, tiny, tmp_path / "docs", force=True)
    assert (tmp_path / "docs" / "thesis.txt").exists()


def test_a_full_disk_is_an_os_error_and_the_last_epoch_stays(tiny: Dataset, tmp_path: Path) -> None:
    """A file-size limit of the process stands in for a disk with no room for last.pt."""
    train(replace(CONFIG, epochs=1), tiny, tmp_path / "run")
    code = (
        "import resource, signal; from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from spoter_toolkit.training.record import Progress, save_last; import torch\n"
        "model = torch.nn.Linear(300, 300); optimizer = torch.optim.AdamW(model.parameters())\n"
        "schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n    save_last(Path('run'), model, optimizer, schedule, Progress())\n"
        "except OSError as error:\n    print('OSError', error.strerror)\n"
    )
    before = (tmp_path / "run" / LAST).read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "OSError File too large", done.stderr
    assert (tmp_path / "run" / LAST).read_bytes() == before
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", -1),
        ("max_steps", -1),
        ("learning_rate", 0.0),
        ("label_smoothing", 1.5),
        ("loss", "hinge"),
        ("seed", -1),
    ],
)
def test_settings_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{field}: "):
        TrainConfig(**{field: value})  # type: ignore[arg-type]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
def test_no_step_waits_for_the_gpu(tiny: Dataset) -> None:
    from accelerate import Accelerator

    loop = Loop.begin(CONFIG, tiny, tiny.clips_in("train"), Accelerator()).prepared()
    loop.model.train()
    for step, takes in enumerate(plan_epoch(loop.clips, CONFIG, 0)):
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first step sets things up
        try:
            loop.update(read_batch(tiny, takes, loop.accelerator.device))
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_gpu
def test_recorded_steps_do_what_steps_kernel_by_kernel_do(tiny: Dataset) -> None:
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    def steps(*, cuda_graphs: bool) -> tuple[Loop, Tensor]:
        set_seed(0)
        config = replace(CONFIG, cuda_graphs=cuda_graphs)
        loop = Loop.begin(config, tiny, tiny.clips_in("train"), Accelerator()).prepared()
        loop.generator.manual_seed(1)
        loop.model.train()
        device = loop.accelerator.device
        seen = [
            loop.step(read_batch(tiny, takes, device, frames=-(-longest(takes) // 32) * 32))
            for epoch in range(4)
            for takes in plan_epoch(loop.clips, config, epoch)
        ]
        return loop, torch.stack(seen).cpu()

    recorded, in_recordings = steps(cuda_graphs=True)
    launched, kernel_by_kernel = steps(cuda_graphs=False)
    assert recorded.graphs is not None
    assert recorded.graphs._recordings
    assert launched.graphs is None
    torch.testing.assert_close(in_recordings, kernel_by_kernel, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("here", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
def test_an_optimiser_is_recordable_where_it_has_to_be_and_nowhere_else(here: str) -> None:
    device = torch.device(here)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3, device=device))], lr=0.5, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    optimizer.step()  # without gradients
    make_recordable(optimizer, device, recordable=True)
    state = optimizer.state_dict()
    rate = optimizer.param_groups[0]["lr"]
    schedule.step()
    assert rate is optimizer.param_groups[0]["lr"]  # where a recording reads it
    assert rate.item() == 0.25
    make_recordable(optimizer, device, recordable=False)  # as after a resume on a CPU
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["capturable"]) == (0.25, False)
    optimizer.load_state_dict(state)
    make_recordable(optimizer, device, recordable=False)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3, device=device)
    optimizer.step()


def test_tensorboard_receives_the_epochs(tiny: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the tensorboard extra is not installed")
    code = (
        "import sys; from pathlib import Path\n"
        "from spoter_toolkit.data.dataset import read_dataset\n"
        "from spoter_toolkit.training.recipes import read_recipe\n"
        "from spoter_toolkit.training.loop import train\n"
        "config = read_recipe('demo', ['epochs=2', 'model.num_encoder_layers=1'])\n"
        f"train(config, read_dataset({str(tiny.folder)!r}), Path('run'), trackers=('tensorboard',))\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "folder = next(Path('run').rglob('events.*')).parent\n"
        "events = EventAccumulator(str(folder)); events.Reload()\n"
        "print([round(e.step) for e in events.Scalars('train_loss')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[1, 2]", done.stderr


@pytest.mark.slow
def test_two_processes_train_together(tiny: Dataset, tmp_path: Path) -> None:
    """Two CPU processes share the batches and end with one run; gradients meet through gloo."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("-m", "spoter_toolkit", "train", str(tiny.folder), "--recipe", "demo", "-o", "run"),
        *("--set", "epochs=2", "--set", "model.num_encoder_layers=1", "--json"),
        "--tensorboard",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"]["processes"] == 2  # one object: only the first process speaks
    rows = read_metrics(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert read_run(tmp_path / "run").load_model()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "done"


@pytest.mark.slow
def test_five_thousand_labels_of_one_clip_each_are_trained_and_named_in_one_line(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = [f"w{i}" for i in range(5000)]
    parts = [*((name, "a", "train") for name in names), *((name, "b", "val") for name in names[:50])]
    dataset = write_dataset(
        tmp_path / "data",
        [
            NewClip(
                id=str(i),
                label=label,
                signer=signer,
                fps=30,
                poses_TLD=random.random((3, 54, 2)),
                split=split,
            )
            for i, (label, signer, split) in enumerate(parts)
        ],
        labels=[Label(name=name) for name in names],
        coordinates="image",
        origin=Origin(kind="npy"),
        split="by signer: val b",
    )
    run = train(replace(AUTOMATIC, max_steps=8, batch_size=32), dataset, tmp_path / "run")
    found = [one["what"] for one in run.info["metrics"]["findings"]]
    assert found[0].startswith("not converged: training accuracy ends at ")
    assert found[-1].startswith("5000 of 5000 labels have fewer than 4 clips to learn from: w0, w1, w10, ")
    assert max(map(len, found)) < 200
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert f"{found[0]}. Fix: --set max_steps=700" in page
