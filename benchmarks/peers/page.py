"""The page and the picture of a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from spoter_runtime.statistics import Ratio
from spoter_toolkit.bench.analysis.claim_words import claim_in_words, explained
from spoter_toolkit.bench.statistics import paired_ratio
from spoter_toolkit.report.table import markdown_table

# The others are compared with the first of these that was measured.
BASELINES = {
    "ort-stock": "the file that torch.onnx.export writes for the notebook's module, in ONNX Runtime's "
    "default session",
    "torch-eager": "the notebook's module in PyTorch",
}
ROOFLINE = "floor"  # its name among the samples
TITLE = "Peers: other ways to run the same model on this CPU"


def median_ms(rounds_ns: list[list[int]]) -> float:
    """Return the median of all samples."""
    return float(np.median(np.concatenate([np.asarray(taken) for taken in rounds_ns]))) / 1e6


def fastest_ms(rounds_ns: list[list[int]]) -> float:
    """Return the shortest sample: other programs disturbed it least."""
    return min(map(min, rounds_ns)) / 1e6


def baseline_of(case: dict[str, Any]) -> str:
    """Return the peer that the others of a case are compared with."""
    return next((name for name in BASELINES if case["samples_ns"].get(name)), next(iter(BASELINES)))


def times_as_fast(case: dict[str, Any], peer: str, baseline: str | None = None) -> Ratio | None:
    """Return how many times as fast as the baseline, from rounds in turn; None without either's samples."""
    samples = case["samples_ns"]
    baseline = baseline or baseline_of(case)
    if not samples.get(peer) or not samples.get(baseline):
        return None
    return paired_ratio(samples[baseline], samples[peer], seed=0)


def ratio_cells(case: dict[str, Any], peer: str, baseline: str | None = None) -> list[str]:
    """Return the ratio with its interval, and the verdict in words."""
    baseline = baseline or baseline_of(case)
    ratio = times_as_fast(case, peer, baseline)
    if peer == baseline or ratio is None:
        return ["1" if peer == baseline else "", ""]
    return [str(ratio), claim_in_words(ratio)]


def method(found: dict[str, Any]) -> str:
    """Return how it was measured, in sentences."""
    return (
        "Each peer in its own environment and process, all of them in turn: read the ratios, which are of "
        "the rounds; times change with the load of the machine. Times as fast: over "
        f"{BASELINES[baseline_of(found['cases']['one'])]}, with a 95 % interval. Every peer has the same "
        "weights and as many threads as the heading says."
    )


def page_lines(found: dict[str, Any], picture: str) -> list[str]:
    """Return the page's sections."""
    return [
        *main_section(found),
        *best_section(found),
        *answers_section(found),
        *many_section(found),
        *cold_section(found),
        *curve_section(found, picture),
        *missing_section(found),
        "## Versions",
        "",
        *(
            f"- {row['what']}: {', '.join(f'{name} {version}' for name, version in row['versions'].items())}"
            for row in found["peers"].values()
            if row["versions"]
        ),
    ]


def main_section(found: dict[str, Any]) -> list[str]:
    """Return one clip of 60 frames on one thread."""
    case = found["cases"]["one"]
    names = [name for name in (*found["peers"], ROOFLINE) if case["samples_ns"].get(name)]
    rows = [
        [
            what_of(found, peer),
            f"{median_ms(case['samples_ns'][peer]):.2f}",
            f"{fastest_ms(case['samples_ns'][peer]):.2f}",
            *ratio_cells(case, peer),
        ]
        for peer in sorted(names, key=lambda peer: -(speed_of(case, peer)))
    ]
    ratios = [times_as_fast(case, peer) for peer in names if peer != baseline_of(case)]
    verdicts = explained(ratio.claim for ratio in ratios if ratio)
    settings = f"{case['rounds']} rounds of {case['calls']} calls"
    return [
        f"## One clip of {case['frames']} frames, 1 thread ({settings})",
        "",
        markdown_table(("", "median ms", "fastest", "times as fast", ""), rows),
        "",
        *([verdicts, ""] if verdicts else []),
    ]


def best_section(found: dict[str, Any]) -> list[str]:
    """Return the fastest of ours, fp32 and int8, against PyTorch, the fastest peer and the roofline."""
    case = found["cases"]["one"]
    measured = [name for name in found["peers"] if case["samples_ns"].get(name)]
    ours = [name for name in measured if name.startswith("ours")]
    peers = [name for name in measured if not name.startswith("ours")]
    if not ours or not peers:
        return []
    fastest = max(peers, key=lambda name: speed_of(case, name))
    others = {name: found["peers"][name]["what"] for name in measured if name == "torch-eager"}
    others[fastest] = f"the fastest peer: {found['peers'][fastest]['what']}"
    others[ROOFLINE] = what_of(found, ROOFLINE)
    rows = []
    for what, names in (("fp32", [n for n in ours if "int8" not in n]), ("int8 too", ours)):
        best = max(names, key=lambda name: speed_of(case, name))
        name = f"{what}: {found['peers'][best]['what']}"
        rows += [[name, against, *ratio_cells(case, best, other)] for other, against in others.items()]
    return ["The fastest of ours:", "", markdown_table(("", "against", "times as fast", ""), rows), ""]


def speed_of(case: dict[str, Any], peer: str) -> float:
    """Return the ratio that rows are sorted by."""
    ratio = times_as_fast(case, peer)
    return ratio.estimate if ratio else 0.0


def what_of(found: dict[str, Any], peer: str) -> str:
    """Return a peer in words; ours stand out."""
    if peer == ROOFLINE:
        return "*the matrix products of model.onnx alone*"
    what = found["peers"][peer]["what"]
    return f"**{what}**" if peer.startswith("ours") else what


def answers_section(found: dict[str, Any]) -> list[str]:
    """Return how the answers differ from PyTorch's, model by model."""
    lines = []
    for name, model in found["models"].items():
        rows = []
        for peer in found["peers"]:
            facts = model["answers"].get(peer)
            if facts is None or "error" in facts:
                continue
            top1 = "" if facts["top1"] is None else f"{facts['top1']:.4f}"
            agree = f"{facts['labels_agree']} of {facts['clips']}"
            rows.append([what_of(found, peer), agree, f"{facts['max_logit_diff']:.1e}", top1])
        lines += [
            f"## Answers against PyTorch: {name}",
            "",
            f"{model['source']}; each clip alone, unpadded. Largest logit {model['largest_logit']:.1f}.",
            "",
            markdown_table(("", "labels agree", "largest logit difference", "top-1"), rows),
            "",
        ]
    return lines


def many_section(found: dict[str, Any]) -> list[str]:
    """Return many clips of many lengths."""
    case = found["cases"].get("ragged")
    if case is None:
        return []
    first = "torch-eager"
    ways = found["ways"] | {ROOFLINE: "one clip a call, as many calls at once as cores"}
    rows = [
        [
            what_of(found, peer),
            ways.get(peer, ways["ours"]),
            f"{1e3 * len(case['lengths']) / median_ms(rounds):.0f}",
            ratio_cells(case, peer, first)[0],
            *ratio_cells(case, peer),
        ]
        for peer, rounds in case["samples_ns"].items()
    ]
    lengths = case["lengths"]
    return [
        f"## {len(lengths)} clips of {min(lengths)}–{max(lengths)} frames at once, {case['threads']} cores",
        "",
        "Lengths are generated, like BdSLW60's. The notebook cuts clips longer than 100 frames, and, like "
        "the file in batches, lets padding take part in the attention: its answers are not those of the "
        "clips alone. Ours are.",
        "",
        markdown_table(("", "how", "clips/s", "× notebook", f"× {baseline_of(case)}", ""), rows),
        "",
    ]


def cold_section(found: dict[str, Any]) -> list[str]:
    """Return fresh processes to their first answer."""
    case = found["cases"].get("cold")
    if case is None:
        return []
    rows = [
        [
            what_of(found, peer),
            f"{median_ms(rounds) / 1e3:.2f}",
            *ratio_cells(case, peer, "torch-eager"),
            f"{np.median(case['peak_rss_bytes'][peer]) / 1e6:.0f}",
        ]
        for peer, rounds in case["samples_ns"].items()
        if rounds
    ]
    return [
        f"## A cold process to its first answer, 1 thread ({case['rounds']} each)",
        "",
        markdown_table(("", "seconds", "times as fast as through torch", "", "peak memory, MB"), rows),
        "",
    ]


def curve_section(found: dict[str, Any], picture: str) -> list[str]:
    """Return the picture, and its medians as a table."""
    case = found["cases"].get("curve")
    if case is None:
        return []
    frames = list(case["by_frames"])
    rows = []
    for peer in [*found["peers"], ROOFLINE]:
        medians = [case["by_frames"][f]["samples_ns"].get(peer) for f in frames]
        if any(medians):
            rows.append([what_of(found, peer), *(f"{median_ms(m):.2f}" if m else "" for m in medians)])
    return [
        "## Latency against length, 1 thread, ms",
        "",
        f"![one clip of 8 to 299 frames]({picture})",
        "",
        markdown_table(("frames", *frames), rows),
        "",
    ]


def missing_section(found: dict[str, Any]) -> list[str]:
    """Return the peers that were not measured, or not in every case, and why."""
    reasons = [(what_of(found, peer), row["error"]) for peer, row in found["peers"].items() if row["error"]]
    if not reasons:
        return []
    return ["## Not measured, and why", "", *(f"- {what}: {plain(text)}" for what, text in reasons), ""]


def plain(text: str) -> str:
    """Return an error's text as Markdown shows it unchanged."""
    return f"`{text.replace('`', chr(39))}`"


def draw_curve(found: dict[str, Any], path: Path) -> None:
    """Draw latency against length, a line a peer, named at its end."""
    from matplotlib.figure import Figure

    by_frames = found["cases"]["curve"]["by_frames"]
    figure = Figure(figsize=(10, 9), layout="constrained")
    axes = figure.subplots()
    lines = {}
    for peer in [*found["peers"], ROOFLINE]:
        points = [
            (int(frames), median_ms(case["samples_ns"][peer]))
            for frames, case in by_frames.items()
            if case["samples_ns"].get(peer)
        ]
        if points:
            (lines[peer],) = axes.plot(*zip(*points, strict=True), **line_of(peer, found))
    ends = spread([line.get_ydata()[-1] for line in lines.values()])
    for (peer, line), y in zip(lines.items(), ends, strict=True):
        name = "products alone" if peer == ROOFLINE else peer
        text = axes.annotate(name, (line.get_xdata()[-1], y), (8, 0), textcoords="offset points", va="center")
        text.set(color=line.get_color(), fontweight="bold" if peer.startswith("ours") else "normal")
    axes.set(xscale="log", yscale="log", xlim=(7.5, 299 * 1.9))
    axes.set(xlabel="frames of the clip", ylabel="ms, median", title="One clip, 1 thread")
    ticks = [int(frames) for frames in by_frames]
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=110)


def line_of(peer: str, found: dict[str, Any]) -> dict[str, Any]:
    """Return how a peer's line looks: ours are full and warm, a colour for each of the others."""
    from matplotlib import colormaps

    if peer == ROOFLINE:
        return {"linestyle": ":", "color": "black", "marker": "."}
    mine = [name for name in found["peers"] if name.startswith("ours")]
    others = [name for name in found["peers"] if name not in mine]
    if peer in mine:
        colour = colormaps["autumn"](0.7 * mine.index(peer) / len(mine))
        return {"linestyle": "-", "color": colour, "lw": 2.4, "marker": "."}
    colour = colormaps["viridis"](0.9 * others.index(peer) / len(others))
    return {"linestyle": ("--", "-.")[others.index(peer) % 2], "color": colour, "lw": 1.3, "marker": "."}


def spread(values: list[float], apart: float = 1.14) -> list[float]:
    """Return places for labels near the values, each at least `apart` times the one below."""
    places = list(values)
    below = 0.0
    for i in sorted(range(len(values)), key=values.__getitem__):
        places[i] = below = max(values[i], below * apart)
    return places
