"""The page of `learning.py`: its rows as tables of means with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from result_files import write_result

from spoter_toolkit.crossval.result import spread_of
from spoter_toolkit.report.table import markdown_table

COLUMNS = (
    *("case", "settings", "trainings", "top-1", "95 % interval", "top-5"),
    *("training clips right", "epochs", "minutes of one core"),
)
METHOD = (
    "The trainings: `--signers DATASET --words DATASET --folds folds.csv` in the place of `--page`. "
    "Recipe `strong` without a validation split, so the last epoch's weights; one thread; a busy machine. "
    "“A → B, 4”: trained on four clips a label of signer A, tested on all of B's. “words”: five folds by "
    "clip, signers unknown and shared. “made 60 × 10”: 60 generated signs, ten clips each, tested on two "
    "other generated signers. Settings “before”: the recipe until November 2026; “from”: "
    "begun from a run on the words that the two signers do not share, or for “words” on all of theirs; "
    "“placed”: `--tag placed --set model.hand_place=true`; “slow from”: all but the last layer at a "
    "tenth of the rate, on a changed copy of the package."
)
INTERVALS = (
    "The interval is Student's over the trainings: folds, draws, directions, seeds. One training has none. "
    "The recipe was chosen while looking at these data sets, so the figures flatter it."
)
Group = tuple[str, str]


def write_page(rows: list[dict[str, Any]], *, folder: Path) -> None:
    """Write the page and its JSON."""
    groups: dict[Group, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        for case in names_of(row["case"]):
            groups[case, row["arm"]].append(row)
    lines = [markdown_table(COLUMNS, [cells(group, found) for group, found in sorted(groups.items())]), ""]
    if pairs := list(differences(groups)):
        columns = ("case", "settings", "pairs", "top-1 gained", "95 % interval")
        lines += ["The same clips with other settings, training by training:", ""]
        lines += [markdown_table(columns, pairs), ""]
    write_result(
        "learning",
        "Learning: few and many clips, on people and clips never seen",
        METHOD,
        [*lines, INTERVALS],
        {"rows": rows},
        folder=folder,
    )


def names_of(case: str) -> tuple[str, ...]:
    """Return the rows of the table that a training counts in: of few clips, its direction and both."""
    direction, comma, few = case.partition(", ")
    return (case, f"both ways, {few}") if comma else (direction,)


def cells(group: Group, rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Return a line of the table."""

    def mean(name: str) -> float:
        return float(sum(row[name] for row in rows)) / len(rows)

    return (
        *group,
        str(len(rows)),
        f"{mean('top1'):.3f}",
        interval([row["top1"] for row in rows]),
        f"{mean('top5'):.3f}",
        f"{mean('train_top1'):.3f}",
        f"{mean('epochs'):.0f}",
        f"{mean('cpu_seconds') / 60:.1f}",
    )


def interval(values: Sequence[float], *, signed: bool = False) -> str:
    """Return the interval of a mean, or a dash for one value."""
    if len(values) < 2:
        return "–"
    found = spread_of(values, bounds=(-1.0, 1.0) if signed else (0.0, 1.0))
    return f"{found.low:+.3f} to {found.high:+.3f}" if signed else f"{found.low:.3f} to {found.high:.3f}"


def differences(groups: dict[Group, list[dict[str, Any]]]) -> Iterator[tuple[str, ...]]:
    """Yield the lines of what other settings gain over the default's, on the same draw and seed."""
    for (case, arm), rows in sorted(groups.items()):
        base = {(r["case"], r["draw"], r["seed"]): r["top1"] for r in groups.get((case, "default"), ())}
        gained = [
            row["top1"] - base[key]
            for row in rows
            if (key := (row["case"], row["draw"], row["seed"])) in base
        ]
        if arm != "default" and gained:
            mean = sum(gained) / len(gained)
            yield case, arm, str(len(gained)), f"{mean:+.3f}", interval(gained, signed=True)
