"""The thresholds for facts of a parity run: a policy for each precision, changeable by a TOML file."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from spoter_runtime.errors import ConfigError, nearest_known


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Thresholds for the facts of one precision; the defaults are those of fp32.

    Attributes:
        max_logit_diff: largest difference from torch. Measured on trained models: 3e-6 on clips of people and
            over the grid, 4e-5 on a clip of one still point. 1e-4 allows for other processors' order of
            summation.
        max_invariance_diff: largest effect of padding, batch composition and order. Measured on trained
            models: 6e-6, in torch and ONNX Runtime, on CPUs and on an H200.
        min_label_agreement: share of clips with equal best labels; below 1 it applies to clips of people
            only.
        min_clips: fewest clips of people for a claim on labels; 0 for no minimum.
    """

    max_logit_diff: float = 1e-4
    max_invariance_diff: float = 1e-5
    min_label_agreement: float = 1.0
    min_clips: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            whole, most = name == "min_clips", 1 if name == "min_label_agreement" else sys.float_info.max
            number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= most:
                kind = "a whole number" if whole else "a number"
                expected = f"{kind} in 0..{most}" if most == 1 else f"{kind} of 0 or more"
                raise ConfigError(f"{name}: expected {expected}, got {value!r}")


# fp16, measured with every tensor rounded: a trained model stays within 7.9e-3 of fp32 over the grid and
# within 7.5e-3 on people's clips, changed ones too, padding and batch composition move it by at most 2.2e-3,
# 256 of 256 labels agree. With two fifths of the roundings missing: 3,133 of 3,133 labels; where a model does
# not know the words and its logits lie close, 0.5 % of the labels turn.
# int8, measured on a CPU with AVX2 (benchmarks/results/int8-amd-epyc-2026-11.md) and over twenty seeds by
# benchmarks/no_false_alarm.py: a trained model stays within 3.6e-2 of fp32 on people's clips and within
# 1.1e-1 over the grids, where generated clips of one frame are furthest; padding, batch composition and order
# move it by at most 6.1e-2, because they share the steps that values are rounded to; 1,303 of 1,303 labels
# agree.
POLICIES: Final = {
    "fp32": Policy(),
    "fp16": Policy(max_logit_diff=2e-2, max_invariance_diff=5e-3, min_label_agreement=0.99),
    "int8": Policy(max_logit_diff=1.5e-1, max_invariance_diff=1e-1, min_label_agreement=0.995),
}


# The largest error of a trained model's logits on clips of people, times 1.5.
ERROR_ON_PEOPLE: Final = {"fp32": 1e-4, "fp16": 1.2e-2, "int8": 6e-2}


def policy_of(precision: str) -> Policy:
    """Return the thresholds of a precision; raise a ConfigError if there are none."""
    if precision not in POLICIES:
        raise ConfigError(f"precision {precision!r}: expected one of {', '.join(POLICIES)}")
    return POLICIES[precision]


def policies_from_table(table: dict[str, Any], *, where: str) -> dict[str, Policy]:
    """Return precision → thresholds from a parsed TOML file with one table per precision: ``[fp16]``.

    Thresholds that a table lacks keep their defaults.

    Raises:
        ConfigError: an unknown precision or key, or a value that is not a threshold.
    """
    keys = [field.name for field in fields(Policy)]
    policies = dict(POLICIES)
    for precision, values in table.items():
        if precision in keys:
            raise ConfigError(f"{where}: {precision}: of which precision?", fix="a line [fp32] before it")
        check_known(precision, list(POLICIES), f"{where}: precision")
        if not isinstance(values, dict):
            raise ConfigError(
                f"{where}: {precision}: expected a table", fix=f"a line [{precision}] before it"
            )
        for key in values:
            check_known(key, keys, f"{where}: [{precision}]")
        try:
            policies[precision] = Policy(**(asdict(policies[precision]) | values))
        except ConfigError as error:
            raise ConfigError(f"{where}: [{precision}]: {error}") from error
    return policies


def check_known(name: str, known: list[str], where: str) -> None:
    """Raise a ConfigError with the nearest known name if a name is unknown."""
    if name not in known:
        raise ConfigError(f"{where}: unknown {name!r}; {nearest_known(name, known, cutoff=0.5)}")
