"""The page of a training benchmark: speeds as tables, what is learned epoch by epoch."""

from __future__ import annotations

import json
from typing import Any

NOTEBOOK, OURS, KERNELS = "the notebook's loop", "ours", "kernel by kernel"

CPU_WAYS = (
    "Ours; our loop on shuffled batches, padded to their longest clip; and the loop before: windows of 16 "
    "batches, speeds drawn late, torch's attention and dropout."
)
GPU_WAYS = (
    "Ours, whose steps are recorded as CUDA graphs, in batches padded to a multiple of 16 frames; and the "
    "same with every kernel launched by itself, in batches as long as their longest clip. Dropout's numbers "
    "differ with the padding."
)


def speed_markdown(speed: dict[str, Any]) -> list[str]:
    """Return the measured cases as tables."""
    least, mean, most = speed["frames"]

    def span(values: list[float | None]) -> str:
        estimate, low, high = values
        return f"{estimate:.2f}" + ("" if low is None else f" ({low:.2f}–{high:.2f})")

    def table(rows: list[dict[str, Any]]) -> list[str]:
        return [
            "| | clips/s, median | time, of ours | the notebook's time, of this | first round |",
            "|---|---|---|---|---|",
            *(
                f"| {r['what'].partition(': ')[2] or r['what']} | {r['clips_per_second']} | "
                f"{span(r['time_of_ours'])} | {span(r['faster_than_notebook'])} | {r['first_s']} s |"
                for r in rows
            ),
            "",
        ]

    on_gpu = speed["device"] != "cpu"
    first = speed["runs"][0]
    rows = first["rows"]
    lines = [
        f"A round is {speed['clips_a_round']} of {speed['clips']} clips of {least} to {most} frames, mean "
        f"{mean:.1f} ({speed['source']}), in batches of {speed['batch']}; {first['rounds']} rounds in turn"
        f"{'' if on_gpu else ', on a machine that others used too'}; recipe `{speed['recipe']}`, "
        f"{speed['device']}. Parameters: "
        f"{speed['parameters'][NOTEBOOK]:,} in the notebook's model, {speed['parameters'][OURS]:,} in ours, "
        "which leaves out the head that is never read.",
        "",
    ]
    for run in speed["runs"]:
        lines += [
            f"## Threads: {run['threads']}",
            "",
            *table(run["rows"][:2]),
        ]
    return [
        *lines,
        f"## Ours without one lever: what stands in its place (threads: {first['threads']})",
        "",
        *table([r for r in rows if r["what"].startswith("without: ")]),
        f"## Tried, and not taken (threads: {first['threads']})",
        "",
        *table([r for r in rows if r["what"].startswith("tried: ")]),
    ]


def curves_markdown(found: dict[str, Any]) -> list[str]:
    """Return one dataset's losses and accuracies, epoch by epoch."""
    runs = found["runs"]
    heads = [f"{run['way']}, seed {run['seed']}" for run in runs]
    lines = [
        f"### {found['dataset']}: {found['split']}",
        "",
        f"{found['clips']['train']} clips to train on, {found['clips']['val']} to look at; train loss / "
        f"validation loss / validation accuracy, recipe `{found['recipe']}`.",
        "",
        f"| epoch | {' | '.join(heads)} |",
        "|---|" + "---|" * len(runs),
    ]
    for i in range(len(runs[0]["epochs"])):
        cells = [
            "{train_loss:.3f} / {val_loss:.3f} / {val_accuracy:.4f}".format(**run["epochs"][i])
            for run in runs
        ]
        lines.append(f"| {i + 1} | {' | '.join(cells)} |")
    seconds = [f"{sum(row['seconds'] for row in run['epochs']):.0f} s" for run in runs]
    return [*lines, f"| training | {' | '.join(seconds)} |", ""]


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a page."""
    on_gpu = result["speed"]["device"] != "cpu"
    return "\n".join(
        (
            "# Training: clips a second against the notebook's own loop",
            "",
            f"`{result['command']}`",
            "",
            *speed_markdown(result["speed"]),
            *([] if on_gpu else ["Not run: a GPU. `--device cuda` measures the same cases there.", ""]),
            "## What is learned",
            "",
            GPU_WAYS if on_gpu else CPU_WAYS,
            "",
            *(line for found in result["curves"] for line in curves_markdown(found)),
            "```json",
            json.dumps(result["environment"], indent=2),
            "```",
            "",
        )
    )
