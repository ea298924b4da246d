from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from spoter_runtime.errors import CheckpointError, ConfigError, DataError, UsageError
from spoter_toolkit.data.dataset import Dataset
from spoter_toolkit.runs.run import write_run_json
from spoter_toolkit.training.config import TrainConfig
from spoter_toolkit.training.start import begun_from, clips_to_train, plan_training


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def a_run(folder: Path, data: Dataset, config: TrainConfig | None) -> None:
    folder.mkdir(parents=True)
    write_run_json(
        folder,
        name=folder.name,
        config=TrainConfig().model,
        labels=data.labels,
        status="running",
        train=config.as_json() if config else None,
        data={"folder": str(data.folder), "sha256": data.sha256} if config else None,
        metrics={},
        origin="a test",
    )


def test_clips_of_one_label_are_refused_before_torch_is_imported(tiny: Dataset) -> None:
    """Before, the model's own check failed: "the gradient of class_token is zero"."""
    one = tiny.with_clips([clip for clip in tiny.clips if clip.label == "synthetic-01"], tiny.split)
    with pytest.raises(
        DataError, match="have the label synthetic-01: there is nothing to tell apart"
    ) as error:
        clips_to_train(one)
    assert error.value.fix == "import clips of other labels too, and split again"


def test_a_new_training_gets_the_next_free_folder_and_the_default_recipe(tiny: Dataset) -> None:
    Path("runs/tiny-bdsl-spoter-1").mkdir(parents=True)
    plan = plan_training(tiny.folder)
    assert (plan.folder, plan.place) == (Path("runs/tiny-bdsl-spoter-2"), Path("runs/tiny-bdsl-spoter-2"))
    assert (plan.dataset.sha256, plan.resume) == (tiny.sha256, False)


def test_a_run_that_is_replaced_is_made_beside_it(tiny: Dataset) -> None:
    a_run(Path("old"), tiny, TrainConfig())
    with pytest.raises(CheckpointError, match="old: exists already"):
        plan_training(tiny.folder, Path("old"))
    assert plan_training(tiny.folder, Path("old"), force=True).place == Path(".old.new-run")


def test_a_resumed_training_keeps_its_settings_and_its_data(tiny: Dataset) -> None:
    config = replace(TrainConfig(), epochs=3, seed=5)
    a_run(Path("run"), tiny, config)
    plan = plan_training(out=Path("run"), resume=True)
    assert (plan.config, plan.dataset.sha256, plan.place) == (config, tiny.sha256, Path("run"))
    with pytest.raises(ConfigError, match="a resumed run keeps its own settings"):
        plan_training(out=Path("run"), config=config, resume=True)
    a_run(Path("imported"), tiny, None)
    with pytest.raises(UsageError, match="imported was imported, not trained"):
        plan_training(out=Path("imported"), resume=True)


def test_several_processes_never_each_generate_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="would each generate the data"):
        plan_training()


def test_a_run_of_other_landmarks_is_no_beginning(tiny: Dataset) -> None:
    a_run(Path("source"), tiny, TrainConfig())
    with pytest.raises(CheckpointError, match=r"source: no model\.safetensors"):
        plan_training(tiny.folder, begin_from=Path("source"))
    (Path("source") / "model.safetensors").touch()
    plan = plan_training(tiny.folder, begin_from=Path("source"))
    assert plan.begin_from is not None
    assert plan.config.model == plan.begin_from.config  # not the recipe's
    normalised = replace(tiny, coordinates="normalised")
    with pytest.raises(ConfigError, match="source: its model normalises landmarks, and those of"):
        begun_from(plan.config, plan.begin_from, normalised)
    on_normalised = replace(plan.begin_from, config=replace(plan.begin_from.config, normalize="none"))
    with pytest.raises(ConfigError, match="source: was trained on normalised landmarks"):
        begun_from(plan.config, on_normalised, tiny)
    short = replace(plan.begin_from, config=replace(plan.begin_from.config, max_seq_length=20))
    with pytest.raises(ConfigError, match=r"source: its model takes 19 frames, a clip of .* has \d+\. Fix: "):
        begun_from(plan.config, short, tiny)
