"""The page of the training benchmark: speeds as tables, losses and accuracies epoch by epoch."""

from __future__ import annotations

from typing import Any

from spoter_runtime.statistics import Ratio
from spoter_toolkit.report.table import markdown_table

NOTEBOOK, OURS = "the notebook's loop", "ours"
SHUFFLED, KERNELS = "shuffled", "kernel by kernel"  # other ways for the curves

SPEED_COLUMNS = ("", "clips/s, median", "time, of ours", "the notebook's time, of this", "first round")
LOSSES = "{train_loss:.3f} / {val_loss:.3f} / {val_accuracy:.4f}"
CPU_WAYS = "Ours; and our loop on shuffled batches, padded to their longest clip."
GPU_WAYS = (
    "Ours, whose steps are recorded as CUDA graphs, in batches padded to a multiple of 16 frames; and the "
    "same with every kernel launched by itself, in batches as long as their longest clip. Dropout's numbers "
    "differ with the padding."
)


def method(speed: dict[str, Any]) -> str:
    """Return how the speeds were measured, in sentences."""
    least, mean, most = speed["frames"]
    return (
        f"A round is {speed['clips_a_round']} of {speed['clips']} clips of {least} to {most} frames, mean "
        f"{mean:.1f} ({speed['source']}), in batches of {speed['batch']}; {speed['runs'][0]['rounds']} "
        f"rounds in turn; recipe `{speed['recipe']}`, {speed['device']}. Parameters: "
        f"{speed['parameters'][NOTEBOOK]:,} in the notebook's model, {speed['parameters'][OURS]:,} in ours, "
        "which leaves out the head that is never read."
    )


def speed_table(rows: list[dict[str, Any]], kind: str = "") -> list[str]:
    """Return a table of the rows whose name begins with `kind`."""
    cells = [
        (
            row["what"].removeprefix(kind),
            str(row["clips_per_second"]),
            str(Ratio(**row["time_of_ours"])),
            str(Ratio(**row["faster_than_notebook"])),
            f"{row['first_s']} s",
        )
        for row in rows
        if row["what"].startswith(kind)
    ]
    return [markdown_table(SPEED_COLUMNS, cells), ""]


def speed_lines(speed: dict[str, Any]) -> list[str]:
    """Return the two loops for each number of threads, then ours without levers and with alternatives."""
    lines = []
    for run in speed["runs"]:
        lines += [f"## Threads: {run['threads']}", "", *speed_table(run["rows"][:2])]
    first = speed["runs"][0]
    return [
        *lines,
        f"## Ours, one lever replaced (threads: {first['threads']})",
        "",
        *speed_table(first["rows"], "without: "),
        f"## Ours with an alternative (threads: {first['threads']})",
        "",
        *speed_table(first["rows"], "with: "),
    ]


def curve_lines(learned: list[dict[str, Any]], *, on_gpu: bool) -> list[str]:
    """Return the losses and accuracies of each dataset, epoch by epoch."""
    lines = ["## Losses and accuracies", "", GPU_WAYS if on_gpu else CPU_WAYS, ""] if learned else []
    for found in learned:
        runs = found["runs"]
        columns = ("epoch", *(f"{run['way']}, seed {run['seed']}" for run in runs))
        rows = [
            (str(number), *(LOSSES.format(**metrics) for metrics in epoch))
            for number, epoch in enumerate(zip(*(run["epochs"] for run in runs), strict=True), 1)
        ]
        rows.append(("training", *(f"{sum(e['seconds'] for e in run['epochs']):.0f} s" for run in runs)))
        lines += [
            f"### {found['dataset']}: {found['split']}",
            "",
            f"{found['clips']['train']} clips to train on, {found['clips']['val']} to evaluate on; train "
            f"loss / validation loss / validation accuracy, recipe `{found['recipe']}`.",
            "",
            markdown_table(columns, rows),
            "",
        ]
    return lines
