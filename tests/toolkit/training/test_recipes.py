from __future__ import annotations

from pathlib import Path

import pytest

from spoter_runtime.errors import ConfigError
from spoter_toolkit.training.config import TrainConfig
from spoter_toolkit.training.recipes import config_from_mapping, read_recipe, recipe_names


def test_there_are_the_seeds_two_recipes_a_demo_and_a_strong_one() -> None:
    assert recipe_names() == ["bdsl-spoter", "demo", "spoter", "strong"]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads(name: str) -> None:
    assert isinstance(read_recipe(name), TrainConfig)


def test_the_seeds_settings_are_the_seeds() -> None:
    spoter, bdsl = read_recipe("spoter"), read_recipe("bdsl-spoter")
    assert (spoter.loss, spoter.learning_rate, spoter.weight_decay) == ("cross-entropy", 1e-4, 1e-5)
    assert (spoter.warmup_steps, spoter.epochs, spoter.batch_size) == (1000, 50, 16)
    assert (bdsl.loss, bdsl.focal_gamma, bdsl.learning_rate) == ("focal", 2.0, 5e-5)
    assert (bdsl.weight_decay, bdsl.warmup_steps, bdsl.epochs) == (1e-4, 500, 100)
    for recipe in (spoter, bdsl):
        assert (recipe.gradient_clip, recipe.evaluate_every) == (1.0, 5)
        assert (recipe.augment.hand_noise, recipe.augment.rotation_deg) == (0.05, 15)
        assert recipe.augment.time_scale == 0.2


def test_settings_change_a_recipe() -> None:
    config = read_recipe("demo", ["epochs=3", "model.dropout=0.25", "loss=focal", "augment.mirror=0"])
    assert (config.epochs, config.model.dropout, config.loss, config.augment.mirror) == (3, 0.25, "focal", 0)


def test_a_recipe_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('epochs = 7\n[model]\narchitecture = "spoter"\n')
    config = read_recipe(str(path))
    assert (config.epochs, config.model.architecture) == (7, "spoter")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=3", "epoch: no such setting; did you mean 'epochs'"),
        ("model.droput=0.1", r"model\.droput: no such setting; did you mean 'dropout'"),
        ("zebra=1", "zebra: no such setting; there are model, augment, epochs"),
        ("epochs=many", "epochs: expected int, got 'many'"),
        ("epochs=true", "epochs: expected int, got True"),
        ("epochs=2.5", "epochs: expected int, got 2.5"),
        ("epochs", "expected key=value"),
        ("model=3", "model: expected a table of settings"),
        ("epochs=-1", "epochs: -1, expected at least 0"),
        ("model.d_model=7", "d_model: 7 does not divide"),
        ("epochs.deep=1", "epochs is no table of settings"),
        ("model.num_encoder_layers=300", r"num_encoder_layers: 300, expected at most 64"),
        ("model.d_ff=1000000000000000000", "d_ff: 1000000000000000000, expected at most 65536"),
        ("model.d_model=4000", "model: about 2.0e\\+08 parameters, expected at most 1e\\+08"),
        ("epochs=" + "9" * 400, "epochs: expected int, got '999"),
        ("epochs=" + "9" * 5000, "setting 'epochs=999.*expected key=value"),
        ("epochs=" + "[" * 200 + "]" * 200, "epochs: expected int, got"),
        (".".join("a" * 200) + "=1", "setting 'a.a.*expected key=value or table.key=value"),
        ("batch_size=2000000000", "batch_size: 2000000000, expected at most 1000000000"),
    ],
)
def test_a_wrong_setting_names_itself_and_the_recipe(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe("demo", [setting])
    assert "demo" in str(caught.value) or "setting" in str(caught.value)


def test_a_missing_or_broken_recipe_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe 'strnog'; there are bdsl-spoter, demo, spoter, strong"):
        read_recipe("strnog")
    path = tmp_path / "mine.toml"
    path.write_text("epochs = = 3")
    with pytest.raises(ConfigError, match="not TOML"):
        read_recipe(str(path))
    for text in (
        "seed = " + "9" * 5000,
        "seed = " + "[" * 100_000,
        "seed = " + "9" * 30,
        "[a" + ".a" * 70 + "]",
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"not TOML: .*(digits|level)"):
            read_recipe(str(path))
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ConfigError, match="1073741824 bytes, expected at most 1048576"):
        read_recipe(str(path))


def test_a_config_survives_json() -> None:
    import json
    from dataclasses import asdict

    config = read_recipe("strong")
    assert config_from_mapping(json.loads(json.dumps(asdict(config))), where="run.json") == config
