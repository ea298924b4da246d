"""The graph contract: what every artefact takes and gives, whatever engine runs it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from spoter_runtime.errors import BundleError
from spoter_runtime.landmarks import NUM_FEATURES

POSES: Final = "poses"  # float32 [batch, frames, 108], raw landmarks
LENGTHS: Final = "lengths"  # int32 [batch], real frames; the rest is padding
LOGITS: Final = "logits"  # float32 [batch, classes]
METADATA_KEY: Final = "spoter_kit.contract"  # where an ONNX file carries its own contract
REQUIRES_KEY: Final = "spoter_kit.requires"  # where it says which ONNX Runtime it needs: ">=1.25"


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One class. `name` is unique and is what predictions and files use; the rest is for people."""

    name: str
    gloss: str = ""
    bengali: str = ""
    romanised: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphContract:
    """Shapes, ranges and labels that an artefact claims, and that parity proves.

    Attributes:
        labels: one per column of the logits, in order.
        max_frames: 1 <= lengths <= frames <= max_frames.
        max_batch: 1 <= batch <= max_batch.
    """

    labels: tuple[Label, ...]
    max_frames: int = 299
    max_batch: int = 32

    @property
    def num_classes(self) -> int:
        """Columns of the logits."""
        return len(self.labels)

    def as_json(self) -> dict[str, Any]:
        """Return the contract as plain JSON values, names and types of the tensors included."""
        return {
            "inputs": {
                POSES: {"dtype": "float32", "shape": ["batch", "frames", NUM_FEATURES]},
                LENGTHS: {"dtype": "int32", "shape": ["batch"]},
            },
            "outputs": {LOGITS: {"dtype": "float32", "shape": ["batch", self.num_classes]}},
            "ranges": {"batch": [1, self.max_batch], "frames": [1, self.max_frames]},
            "missing": "NaN or (0, 0)",
            "labels": [asdict(label) for label in self.labels],
        }

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> GraphContract:
        """Read what `as_json` wrote.

        Raises:
            BundleError: a field is missing or of another type; `where` names the source.
        """
        try:
            return cls(
                labels=tuple(Label(**label) for label in value["labels"]),
                max_frames=int(value["ranges"]["frames"][1]),
                max_batch=int(value["ranges"]["batch"][1]),
            )
        except (KeyError, TypeError, IndexError, ValueError, OverflowError) as error:
            raise BundleError(f"{where}: the contract cannot be read: {error!r}") from error
