"""The sizes and choices of a model; importing it imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from spoter_runtime.errors import ConfigError

Mode = Literal["signing-space", "none"]
Architecture = Literal["spoter", "bdsl-spoter"]


MOST_PARAMETERS: Final = 100_000_000  # of a model: 400 MB, two hundred times the default's
_MOST: Final = {  # of each size; a typing error would otherwise take all memory
    "num_classes": 100_000,
    "d_model": 4096,
    "num_heads": 256,
    "cultural_heads": 256,
    "num_encoder_layers": 64,
    "d_ff": 65_536,
    "max_seq_length": 10_000,
    "temporal_frames": 999,
}

LandmarkWeights = Literal["interleaved", "planar"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes and choices of a model; the defaults are the notebook's."""

    architecture: Architecture = "bdsl-spoter"
    num_classes: int = 60
    d_model: int = 108
    num_heads: int = 9
    cultural_heads: int = 3
    num_encoder_layers: int = 6
    d_ff: int = 512
    max_seq_length: int = 300  # rows of the position table; one is the class token's
    dropout: float = 0.1
    normalize: Mode = "signing-space"
    # how the 54 weights of `BdslSpoter` meet x0 y0 x1 y1 …: "interleaved" gives each landmark its own;
    # "planar" is the notebook's w0…w53 w0…w53, kept for its checkpoints
    landmark_weights: LandmarkWeights = "interleaved"
    # the hands' landmarks a second time, placed and scaled by the shoulders: a hand in its own box does not
    # tell where it is, and its wrist on the body only roughly
    hand_place: bool = False
    # frames that a depthwise convolution over time sees before the encoder, an odd number; 0: none
    temporal_frames: int = 0

    def __post_init__(self) -> None:
        choices = {
            "architecture": ("spoter", "bdsl-spoter"),
            "normalize": ("signing-space", "none"),
            "landmark_weights": ("interleaved", "planar"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"model.{name}: {getattr(self, name)!r}, expected one of {allowed}")
        for name in ("num_classes", "d_model", "num_heads", "cultural_heads", "num_encoder_layers", "d_ff"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}: {getattr(self, name)}, expected at least 1")
        for name, most in _MOST.items():
            if getattr(self, name) > most:
                raise ConfigError(f"model.{name}: {getattr(self, name)}, expected at most {most}")
        layer = self.d_model * (4 * self.d_model + 2 * self.d_ff)
        ends = self.d_model * (self.max_seq_length + self.num_classes)
        if (about := self.num_encoder_layers * layer + ends) > MOST_PARAMETERS:
            raise ConfigError(
                f"model: about {about:.1e} parameters, expected at most {MOST_PARAMETERS:.0e}",
                fix="smaller d_model, d_ff or num_encoder_layers",
            )
        for name in ("num_heads", "cultural_heads"):
            if self.d_model % getattr(self, name):
                raise ConfigError(
                    f"model.d_model: {self.d_model} does not divide by {name} {getattr(self, name)}"
                )
        if self.d_model % 2:
            raise ConfigError(f"model.d_model: {self.d_model} is odd; sines and cosines come in pairs")
        if self.hand_place and self.normalize == "none":
            raise ConfigError("model.hand_place: needs normalize = 'signing-space', which places the hands")
        if self.temporal_frames and (self.temporal_frames < 3 or self.temporal_frames % 2 == 0):
            raise ConfigError(f"model.temporal_frames: {self.temporal_frames}, expected 0, 3, 5, 7, …")
        if self.max_seq_length < 2:
            raise ConfigError(f"model.max_seq_length: {self.max_seq_length}, expected at least 2")
        if not 0 <= self.dropout <= 0.6:  # the head of BdSL_SPOTER takes one and a half times as much
            raise ConfigError(f"model.dropout: {self.dropout}, expected 0..0.6")

    @property
    def max_frames(self) -> int:
        """The longest clip that the position table allows."""
        return self.max_seq_length - 1

    def as_json(self) -> dict[str, Any]:
        """Return the config as plain JSON values."""
        return asdict(self)
