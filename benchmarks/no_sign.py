"""Measure "no sign" on a person never seen: thresholds alone beside a trained background label.

    python benchmarks/no_sign.py PATH/asl33 [--work FOLDER] [--seeds 0,1,2] [--methods thresholds,made]

Train on one signer of the 14 words that two signers share, test on the other, both ways. Everything is fitted
on the training signer's validation batches. Negatives of the test: the other signer's clips of ``none``, and
the 19 words that the model does not know.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from no_sign_clips import NONE, write_data
from result_files import RESULTS, spoter_kit, stored, write_result

from spoter_export.torch_runner import TorchRunner
from spoter_toolkit.calibration.calibrate import calibrate, calibration_clips
from spoter_toolkit.calibration.negatives import recorded_negatives
from spoter_toolkit.data.dataset import read_dataset
from spoter_toolkit.evaluation import calibration_figures, logits_of
from spoter_toolkit.report.table import markdown_table
from spoter_toolkit.runs.run import read_run

METHODS = {
    "thresholds": "thresholds alone",
    "recorded": "background label, recorded clips",
    "made": "background label, made clips",
}
UNKNOWN = "words that the model does not know"
COLUMNS = (
    *("method", "train → test", "seed", "top-1", "calibration error: softmax", "calibrated", "signs kept"),
    *("`none`: AUROC", "false answers at 95 % kept", "by thresholds"),
    *("unknown words: AUROC", "false answers at 95 % kept", "by thresholds"),
)


def measured(source: Path, work: Path, method: str, train: str, test: str, seed: int) -> dict[str, Any]:
    """Train on one signer, calibrate on that signer's val clips, and return the figures on the other."""
    write_data(source, work, test)
    data, run = work / f"{method}-test-{test}", work / f"{method}-{train}-to-{test}-{seed}"
    if not (run / "report.html").exists():
        spoter_kit("train", data, "-o", run, "--seed", seed, "--force")
    everything = work / "all"
    if not everything.exists():
        spoter_kit("data", "import", "asl33", source, "-o", everything, "--skip-bad")
    dataset, found, nothing = read_dataset(data), read_run(run), work / f"{NONE}-test-{test}"
    runner = TorchRunner(found.load_model(), found.contract())
    background = () if method == "thresholds" else (NONE,)
    own = (
        nothing if method == "thresholds" else None
    )  # the others learned from clips of it, or from made ones
    clips = calibration_clips(dataset, runner.contract, negatives=own, background=background)
    rule = calibrate(runner, clips, background=background)
    test_clips, logits_NC = logits_of(runner, dataset, "test")
    signs = [i for i, clip in enumerate(test_clips) if clip.label != NONE]
    known = {label.name for label in runner.contract.labels} | {NONE}
    whole, rests = read_dataset(everything), read_dataset(nothing)
    unknown = [clip for clip in whole.clips if clip.label not in known]
    negatives = [
        *recorded_negatives(rests, rests.clips_in("test"), NONE, most=len(rests.clips)),
        *recorded_negatives(whole, unknown, UNKNOWN, most=len(unknown)),
    ]
    figures = calibration_figures(
        runner, dataset, [test_clips[i] for i in signs], logits_NC[signs], rule, negatives
    )
    assert figures is not None
    return {"rule": rule.as_json(), "test": figures.as_json()}


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return one model as the cells of the page's table."""
    figures = row["test"]
    kinds = {kind["kind"]: kind for kind in figures["kinds"]}
    shown = [METHODS[row["method"]], f"{row['train']} → {row['test_signer']}", str(row["seed"])]
    shown.append(f"{figures['top1']:.4f}")
    shown += [f"{figures[name]:.4f}" for name in ("softmax_error", "calibration_error")]
    shown.append(f"{figures['kept']:.1%}")
    for name in (NONE, UNKNOWN):
        kind = kinds[name]
        shown += [f"{kind['auroc']:.3f}", f"{kind['false_at_95']:.1%}", f"{kind['false_answers']:.1%}"]
    return tuple(shown)


def mean_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over the seeds of one method and direction, as if it were one model."""
    tests = [row["test"] for row in rows]
    named = ("top1", "softmax_error", "calibration_error", "kept")
    figures = {name: float(np.mean([test[name] for test in tests])) for name in named}
    kinds = [
        {"kind": kind["kind"]}
        | {
            name: float(np.mean([test["kinds"][number][name] for test in tests]))
            for name in ("auroc", "false_at_95", "false_answers")
        }
        for number, kind in enumerate(tests[0]["kinds"])
    ]
    return rows[0] | {"seed": "mean", "test": figures | {"kinds": kinds}}


def lines_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the page's table, and how to read it."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["train"]), []).append(row)
    shown = [one for group in groups.values() for one in (mean_of(group), *group)]
    return [
        markdown_table(COLUMNS, [cells(row) for row in shown]),
        "",
        "Signs kept and the columns *by thresholds* use the thresholds fitted on the training signer. *At "
        "95 % kept* sets the threshold of the score where 95 % of the test signs stay: 100 % where more than "
        "5 % of signs are taken for the background label. The score is the likeness to the label's typical "
        "logits, or the probability where a calibration has none; a clip without hands has the least.",
        "",
        f"In signer A's `{NONE}` a hand moves about near the camera, or there is no hand. In signer B's, no "
        "hand is seen. So only A → B had recorded clips with hands to fit on, and a background label of B's "
        "recorded clips has never seen a hand that does not sign. Made clips put the hands of one clip on "
        "the changed path of another.",
    ]


def main() -> None:
    """Measure every method both ways, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--work", type=Path, default=Path("no-sign"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for method, train, seed in itertools.product(given.methods.split(","), "AB", given.seeds.split(",")):
        test = {"A": "B", "B": "A"}[train]
        one = (given.source, given.work, method, train, test, int(seed))
        file = given.work / f"{method}-{train}-to-{test}-{seed}.json"
        found = stored(file, lambda one=one: measured(*one))  # type: ignore[misc]
        rows.append({"method": method, "train": train, "test_signer": test, "seed": int(seed), **found})
        print(json.dumps(rows[-1]["test"]["kinds"]), flush=True)
    write_result(
        "no-sign",
        "No sign: a person whom the model has never seen",
        "Recipe `strong`. A row with a seed is one training.",
        lines_of(rows),
        {"rows": rows},
        folder=given.results,
    )


if __name__ == "__main__":
    main()
