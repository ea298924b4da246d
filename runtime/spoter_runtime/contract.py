"""The graph contract: the inputs, outputs and labels of every artefact, on any engine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from spoter_runtime.errors import BundleError
from spoter_runtime.landmarks import NUM_FEATURES
from spoter_runtime.strict import expect, shown

POSES: Final = "poses"  # float32 [batch, frames, 108], raw landmarks
LENGTHS: Final = "lengths"  # int32 [batch], real frames; the rest is padding
LOGITS: Final = "logits"  # float32 [batch, classes]
METADATA_KEY: Final = "spoter_kit.contract"  # where an ONNX file carries its own contract
MOST_FRAMES: Final = 100_000  # that any contract may claim, so that no reader takes all memory
MOST_BATCH: Final = 100_000
REQUIRES_KEY: Final = "spoter_kit.requires"  # where it says which ONNX Runtime it needs: ">=1.25"


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One class. `name` is unique, and predictions and files use it; the other fields are for display."""

    name: str
    gloss: str = ""
    bengali: str = ""
    romanised: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphContract:
    """The shapes, ranges and labels that an artefact claims and parity proves.

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
            ranges = expect(value, dict[str, Any], "contract").get("ranges")
            ranges = expect(ranges, dict[str, tuple[int, int]], "contract.ranges")
            contract = cls(
                labels=expect(value.get("labels"), tuple[Label, ...], "contract.labels"),
                max_frames=ranges["frames"][1],
                max_batch=ranges["batch"][1],
            )
            contract.check()
            for name, claim in contract.as_json().items():  # tensors and smallest shapes are the same in all
                if value.get(name) != claim and name != "labels":
                    raise ValueError(f"contract.{name}: {shown(value.get(name))}, expected {shown(claim)}")
        except KeyError as error:
            raise BundleError(f"{where}: contract.ranges has no {error}") from error
        except ValueError as error:
            raise BundleError(f"{where}: {error}") from error
        return contract

    def check(self) -> None:
        """Check the ranges and the names of the labels.

        Raises:
            ValueError: a limit is out of range, there is no label, or a name is empty or there twice.
        """
        for name, value, most in (
            ("frames", self.max_frames, MOST_FRAMES),
            ("batch", self.max_batch, MOST_BATCH),
        ):
            if not 1 <= value <= most:
                raise ValueError(f"contract.ranges.{name}: up to {value}, expected 1..{most}")
        names = [label.name for label in self.labels]
        if not names or "" in names or len(set(names)) < len(names):
            raise ValueError("contract.labels: expected at least one, each with a name of its own")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One optimisation profile of an engine: the shapes it takes, and the shape it is tuned for.

    Attributes:
        batch: clips: least, tuned for, most.
        frames: frames: least, tuned for, most.
    """

    batch: tuple[int, int, int]
    frames: tuple[int, int, int]

    def takes(self, batch: int, frames: int) -> bool:
        """Return True if a batch of this shape fits."""
        return self.batch[0] <= batch <= self.batch[2] and self.frames[0] <= frames <= self.frames[2]

    def __str__(self) -> str:
        """Return ``1..32 (16) × 1..299 (60)``: range and tuned value of batch and frames."""
        return " × ".join(f"{low}..{high} ({opt})" for low, opt, high in (self.batch, self.frames))


def uncovered(profiles: tuple[Profile, ...], contract: GraphContract) -> str | None:
    """Return a shape of the contract that no profile takes, ``"32 clips × 299 frames"``; None if all fit.

    Profiles are boxes, and so is the contract: a hole has a corner at the contract's edge or at a profile's.
    """
    batches = _corners([profile.batch for profile in profiles], contract.max_batch)
    frame_counts = _corners([profile.frames for profile in profiles], contract.max_frames)
    for batch in batches:
        for frames in frame_counts:
            if not any(profile.takes(batch, frames) for profile in profiles):
                return f"{batch} clips × {frames} frames"
    return None


def _corners(ranges: list[tuple[int, int, int]], most: int) -> list[int]:
    """Return the sizes to test: 1, `most`, and one below and above each range, where within 1..most."""
    outside = {low - 1 for low, _, _ in ranges} | {high + 1 for _, _, high in ranges}
    return sorted({1, most} | {value for value in outside if 1 <= value <= most})
