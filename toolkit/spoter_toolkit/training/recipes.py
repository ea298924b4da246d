"""Recipes: named TOML files of training settings, read with every key checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from spoter_runtime.errors import ConfigError, nearest_known
from spoter_runtime.files import read_text
from spoter_runtime.strict import shown
from spoter_toolkit.input_files import toml_of

if TYPE_CHECKING:
    from spoter_toolkit.training.config import TrainConfig

_MOST_BYTES: Final = 1 << 20  # of a recipe
_MOST_LETTERS: Final = 500  # of a setting on the command line
_FOLDER: Final = Path(__file__).parent / "recipes"
DEFAULT: Final = "strong"
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
}


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def read_recipe(name: str, settings: Sequence[str] = ()) -> TrainConfig:
    """Return the training config of a recipe.

    Args:
        name: one of `recipe_names`, or a path that ends in ``.toml``.
        settings: ``key=value`` changes on top, for example ``"epochs=10"`` or ``"model.dropout=0.2"``.

    Raises:
        ConfigError: no such recipe, not TOML, an unknown key (the nearest valid one is named), or a value out
            of range.
    """
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(
            f"no recipe {name!r}; there are {', '.join(recipe_names())}, or give a path that ends in .toml"
        )
    try:
        content = toml_of(read_text(path, most_bytes=_MOST_BYTES))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    for setting in settings:
        _apply(content, setting)
    return config_from_mapping(content, where=str(path) if name.endswith(".toml") else f"recipe {name}")


def _apply(content: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals:
        raise ConfigError(f"setting {setting!r}: expected key=value, for example epochs=10")
    *tables, last = key.strip().split(".")
    if len(tables) > 1 or len(setting) > _MOST_LETTERS:
        raise ConfigError(f"setting {shown(setting)}: expected key=value or table.key=value")
    try:
        value = toml_of(f"value = {text}")["value"]
    except ValueError:
        value = text  # a bare word is a string: loss=focal
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise ConfigError(f"setting {setting!r}: {table} is no table of settings")
    content[last] = value


def config_from_mapping(content: Mapping[str, Any], *, where: str) -> TrainConfig:
    """Build a `TrainConfig` from nested plain values, as in a recipe or a run.json.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value out of range; `where` names the source.
    """
    from spoter_toolkit.model.config import ModelConfig
    from spoter_toolkit.training.config import AugmentConfig, TrainConfig

    tables = {"model": ModelConfig, "augment": AugmentConfig}
    values = dict(content)
    try:
        for name, kind in tables.items():
            values[name] = _checked(kind, values.get(name, {}), f"{where}: {name}.")
        return _checked(TrainConfig, values, f"{where}: ")  # type: ignore[no-any-return]
    except ConfigError as error:
        raise error if str(error).startswith(where) else ConfigError(f"{where}: {error}") from error


def _checked(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where.rstrip('.')}: expected a table of settings, got {shown(values)}")
    known = {field.name: field.type for field in fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{where}{key}: no such setting; {nearest_known(key, [*known])}")
        expected = _TYPES.get(str(known[key]))
        if expected and (
            not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected)
        ):
            raise ConfigError(f"{where}{key}: expected {known[key]}, got {shown(value)}")
    return kind(**values)
