"""Every page shows its verdict, then a chart; it needs nothing from anywhere and runs nobody's script."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from in_process import spoter_kit
from spoter_export.bundle.files import read_proofs
from spoter_export.diagnose.chain import Link
from spoter_runtime import statistics
from spoter_runtime.bundle.goldens import Differing
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import DataError, MissingExtraError
from spoter_runtime.verify import verify_bundle
from spoter_toolkit.bench.analysis.result import analyse
from spoter_toolkit.bench.records import BenchRecords, Failure, Memory, Start, Timing
from spoter_toolkit.bench.report.charts import headline_chart, tail_chart
from spoter_toolkit.bench.report.folder import write_report
from spoter_toolkit.bench.report.html import html_from_result
from spoter_toolkit.bench.report.summary import headline_case, summary_of
from spoter_toolkit.bench.report.tables import tables
from spoter_toolkit.bench.settings import BenchSettings, Case
from spoter_toolkit.calibration.figures import Bin, Figures, KindFigures
from spoter_toolkit.cli.app import app
from spoter_toolkit.evaluation import Evaluation, scores_from_logits
from spoter_toolkit.parity.page import html_from_report
from spoter_toolkit.parity.report import ParityReport
from spoter_toolkit.parity.verify_page import html_from_verified
from spoter_toolkit.report.charts import Bar, BarChart, Confusion, Line, LineChart, ticks_between
from spoter_toolkit.report.html import Page, Section, cells_of, html_from_page, is_figures
from spoter_toolkit.report.skeleton import skeleton_of
from spoter_toolkit.report.table import Table
from spoter_toolkit.story import Recognised, Story, html_from_story
from spoter_toolkit.training.page import html_from_evaluation, html_from_run

VOID = {"meta", "link", "br", "hr", "img", "input", "col"}
HOSTILE = "<script>alert('x')</script> \" onload=y & <b>"
BENGALI = "চা/আব্বা"
CASES = (
    Case(batch=1, frames=60, threads=1),
    Case(batch=1, frames=9, threads=1),
    Case(batch=16, frames=100, threads=2),
)


class Parsed(HTMLParser):
    """What a page is made of: every element with its attributes, the text in it, and that all are closed."""

    def __init__(self, html):
        super().__init__()
        self.elements = []
        self.open = []
        self.text = ""
        self.said = []  # (the open elements, text)
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
            if data.strip():
                self.said.append((tuple(self.open), data.strip()))

    def all(self, tag):
        return [attrs for name, attrs, _ in self.elements if name == tag]


def timing(backend, case, scale, *, rounds=10, calls=20):
    rng = np.random.default_rng(case.frames)
    samples = (rng.normal(1e6, 2e4, (rounds, calls)) * scale * case.batch).astype(int)
    return Timing(backend=backend, case=case, rounds_ns=tuple(tuple(map(int, row)) for row in samples))


def bench_result(**changes):
    """A run of two backends; the second takes half the time of the first."""
    scales = {"torch": 2.0, "ort-cpu": 1.0}
    start = {
        name: Start(total_ns=int(4e8 * s), import_ns=1, load_ns=1, first_ns=1) for name, s in scales.items()
    }
    records = BenchRecords(
        bundle="tiny",
        model_sha256="0" * 64,
        month="2026-11",
        settings=BenchSettings(backends=("torch", "ort-cpu"), threads=(1, 2)),
        contract=GraphContract(labels=(Label(name="a"), Label(name="b"))),
        environment={"cpu": "a processor", "usable_cores": 2, "ram_bytes": 8e9, "packages": {"numpy": "2"}},
        model_bytes={"torch": 5_000_000, "ort-cpu": 4_000_000},
        timings=tuple(timing(name, case, scale) for case in CASES for name, scale in scales.items()),
        starts={name: (value,) * 8 for name, value in start.items()},
        start_frames=60,
        memory=tuple(
            Memory(backend=name, threads=2, at_start=1, imported=2, loaded=3, after_runs=int(1e8 * scale))
            for name, scale in scales.items()
        ),
        skipped={},
    )
    return analyse(replace(records, **changes))


@pytest.fixture(scope="module")
def page(exported):
    return html_from_result(
        bench_result(skipped={"trt": "no driver", "torch-cuda": "no CUDA"}), exported.bundle
    )


def check_sound(html):
    """Check what every page must be: complete, alone, readable by a machine that reads aloud."""
    parsed = Parsed(html)
    for tag, attrs, _ in parsed.elements:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            if name in attrs:
                # A link may lead to a page beside this one; nothing is loaded.
                beside = tag == "a" and re.fullmatch(r"[\w/-]+\.html", attrs[name])
                assert beside or attrs[name].startswith("#") or attrs[name] == "data:,", (tag, attrs)
        assert tag not in ("script", "iframe", "object", "embed", "form", "base"), tag
        assert tag != "link" or attrs["href"] == "data:,"
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        for target in re.findall(r"url\((.*?)\)", " ".join(value or "" for value in attrs.values())):
            assert target.startswith("#")
        assert tag != "img"  # charts are drawn in the page
        assert attrs.get("role") != "img" or attrs["aria-label"]
    assert "@import" not in html
    assert "url(" not in html.partition("</style>")[0]
    ids = Counter(attrs["id"] for _, attrs, _ in parsed.elements if "id" in attrs)
    assert [name for name, count in ids.items() if count > 1] == []
    for _, attrs, _ in parsed.elements:
        pointed = re.findall(r"url\(#(.*?)\)", " ".join(value or "" for value in attrs.values()))
        pointed += [attrs["href"][1:]] if attrs.get("href", "").startswith("#") else []
        pointed += attrs.get("aria-labelledby", "").split()
        assert set(pointed) <= set(ids), attrs
    tags = Counter(tag for tag, _, place in parsed.elements if "svg" not in place)
    assert tags["h1"] == tags["title"] == 1
    assert tags["table"] == tags["caption"]
    assert all(attrs.get("scope") in ("row", "col") for attrs in parsed.all("th"))
    assert parsed.all("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in parsed.all("meta")
    assert any(meta.get("name") == "viewport" for meta in parsed.all("meta"))
    (policy,) = [meta["content"] for meta in parsed.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'")
    check_pictures_first(parsed)
    return parsed


def check_pictures_first(parsed):
    """Check that the verdict comes first, then a chart, and that tables and caveats are folded."""
    visible = [(place, text) for place, text in parsed.said if "body" in place]
    assert "h1" in visible[0][0]
    for name, attrs, place in parsed.elements:
        if name == "table" and attrs.get("class") != "verdicts":
            assert "details" in place
        assert name != "details" or "open" not in attrs


def sentences_of(parsed):
    """Return every sentence that a reader sees without opening anything; charts and links have none."""
    skipped = {"details", "table", "svg", "nav", "footer", "ul"}
    blocks = {}
    for place, text in parsed.said:
        block = next((tag for tag in place if tag in ("h1", "h2", "p", "figcaption")), None)
        if block and not skipped & set(place):
            blocks.setdefault((block, len(blocks) if block != "p" else text), []).append(text)
    return [s for texts in blocks.values() for s in re.split(r"(?<=[.!?:])\s+", " ".join(texts)) if s]


def check_reads_easily(html):
    """Check a page of plain names: a chart before the first section, sentences of at most 15 words."""
    parsed = check_sound(html)
    shown = [name for name, _, _ in parsed.elements]
    assert shown.index("figure") < shown.index("section")
    found = sentences_of(parsed)
    assert len(found) > 3
    assert [sentence for sentence in found if len(sentence.split()) > 15] == []
    return parsed


def figures_of(html, kind):
    return re.findall(rf'<figure class="{kind}-figure">.*?</figure>', html, re.DOTALL)


def test_the_page_of_a_bench_needs_nothing_and_shows_who_is_faster_first(page):
    parsed = check_reads_easily(page)
    assert "http" not in page.replace("http-equiv", "")
    assert parsed.said[1][1] == "Fastest here: ort-cpu, 1.00 ms"  # behind the title of the tab
    headline, memory, start = figures_of(page, "bars")
    assert headline.index("ort-cpu") < headline.index("torch")
    assert "2.01× as fast (2.00–2.03)" in headline or "2.00× as fast (2.00–2.00)" in headline
    assert "<b>2.01 ms</b> <span>1.00×</span>" in headline
    assert "<b>200 MB</b>" in memory
    assert "<b>800 ms</b>" in start
    assert len(figures_of(page, "lines")) == 2  # two lengths on one thread, the slowest calls


def test_the_intervals_of_the_bars_are_the_middle_half_of_the_calls(page):
    fastest, _ = headline_chart(bench_result()).bars
    samples_ms = np.array(timing("ort-cpu", CASES[0], 1.0).samples_ns) / 1e6
    assert (fastest.low, fastest.value, fastest.high) == pytest.approx(
        np.percentile(samples_ms, (25, 50, 75))
    )


def test_a_slower_backend_and_one_without_a_sure_difference_say_so():
    scales = {"torch": 1.0, "ort-cpu": 1.0, "trt": 2.0}
    timings = tuple(timing(name, CASES[0], scale) for name, scale in scales.items())
    settings = BenchSettings(backends=tuple(scales), threads=(1, 2))
    notes = {b.name: b.note for b in headline_chart(bench_result(timings=timings, settings=settings)).bars}
    assert notes["torch"] == "1.00×"
    assert notes["ort-cpu"].startswith("no difference detectable (")
    assert notes["trt"].startswith("0.50× as fast (")


def test_the_page_has_every_table_of_the_report_cell_by_cell(page):
    shown = Parsed(page).text
    for table in tables(bench_result()):
        assert table.title in shown
        for row in table.rows:
            assert all(cell in shown for cell in row)


def test_each_pair_is_resampled_once_for_all_that_a_run_shows(exported, tmp_path, monkeypatch):
    drawn = []
    resample = statistics.resampled_medians
    monkeypatch.setattr(statistics, "resampled_medians", lambda *of: drawn.append(of) or resample(*of))
    result = bench_result()
    assert len(drawn) == len(result.comparisons) == len(CASES) + 1
    assert tables(result)
    write_report(result, tmp_path / "bench", page_of=exported.bundle)
    assert {file.name for file in (tmp_path / "bench").iterdir()} >= {"bench.json", "bench.md", "bench.html"}
    assert len(drawn) == len(result.comparisons)


def test_a_curve_along_the_batches_is_drawn_and_told_in_words(exported):
    along = tuple(
        timing(name, Case(batch=batch, frames=60, threads=1), scale)
        for batch in (2, 4)
        for name, scale in (("torch", 2.0), ("ort-cpu", 1.0))
    )
    curved = bench_result(timings=(*bench_result().records.timings, *along))
    html = html_from_result(curved, exported.bundle)
    check_reads_easily(html)
    chart = figures_of(html, "lines")[1]
    assert "Clips a second against clips a call: 60 frames a clip. torch: " in chart
    assert [f">{batch}</text>" in chart for batch in (1, 2, 4, 8)] == [True, True, True, False]


def test_a_run_without_latency_or_starts_has_a_page_too(exported):
    html = html_from_result(bench_result(timings=(), starts={}), exported.bundle)
    text = check_sound(html).text
    assert "Peak memory of the process" in text
    assert "its targets" not in text  # the notebook's case was not run


def test_the_findings_name_the_ratio_with_its_interval():
    first, second, start, memory = summary_of(bench_result())
    assert headline_case(bench_result()) == CASES[0]
    assert first == (
        "1 clip of 60 frames on 1 thread, median of a call: torch 2.01 ms, ort-cpu 1.00 ms. ort-cpu "
        "against torch: 2.00× as fast (2.00–2.00)."
    )
    assert second.startswith("16 clips of 100 frames on 2 threads, median of a call: torch 32.")
    assert start.startswith(
        "Fresh process to its first answer: torch 800 ms, ort-cpu 400 ms. ort-cpu against torch: 2.00×"
    )
    assert memory == "Peak memory of the process, 2 threads: torch 200 MB, ort-cpu 100 MB."


def test_no_difference_is_claimed_where_the_interval_holds_1():
    same = tuple(timing(name, CASES[0], 1.0) for name in ("torch", "ort-cpu"))
    assert "ort-cpu against torch: no difference detectable (" in (summary_of(bench_result(timings=same))[0])


def test_too_few_calls_and_rounds_are_told_and_claim_nothing(exported):
    few = tuple(timing(name, CASES[0], 1.0, rounds=2, calls=3) for name in ("torch", "ort-cpu"))
    result = bench_result(timings=few, memory=())
    assert summary_of(result)[0].startswith(
        "1 clip of 60 frames on 1 thread, median of a call: torch too few calls"
    )
    assert "ort-cpu against torch: not enough rounds." in summary_of(result)[0]
    assert {bar.shown for bar in headline_chart(result).bars} == {"too few calls"}
    text = check_sound(html_from_result(result, exported.bundle)).text
    assert "too few samples (6)" in text
    assert "not enough rounds: with fewer than 8 that agree nothing is claimed." in text


def test_one_backend_has_nothing_to_be_compared_with(exported):
    alone = bench_result(
        timings=tuple(timing("ort-cpu", case, 1.0) for case in CASES),
        starts={"ort-cpu": bench_result().records.starts["ort-cpu"]},
        memory=(),
    )
    text = check_sound(html_from_result(alone, exported.bundle)).text
    assert "as fast" not in text


def test_the_matrix_shows_the_stored_proof_and_what_was_not_executed(page):
    text = Parsed(page).text
    assert "Parity holds for ort-cpu fp32: largest logit difference" in text
    assert "Not executed, so without a proof: trt fp32." in text  # torch on a GPU is no backend of a device
    assert "no driver" in text
    rows = re.findall(r'<th scope="row"[^>]*>trt</th>(.*?)</tr>', page, re.DOTALL)
    assert any("not executed" in row and 'colspan="6"' in row for row in rows)


def test_a_bundle_whose_proof_cannot_be_read_still_gets_its_page(bundle_copy):
    from spoter_runtime.bundle.manifest import read_bundle

    bundle = read_bundle(bundle_copy)
    (bundle_copy / "parity.json").unlink()
    html = html_from_result(bench_result(skipped={"trt": "no driver"}), bundle)
    assert "proofs cannot be read" in check_sound(html).text
    assert str(bundle_copy.parent) not in html


def test_losses_and_caveats_open_from_one_line_above_the_sections(exported):
    failure = Failure(backend="ort-cpu", threads=2, doing="round 2", reason="was ended by SIGKILL")
    html = html_from_result(
        replace(bench_result(failures=(failure,)), caveats=("the machine was busy",)), exported.bundle
    )
    parsed = check_sound(html)
    said = [text for place, text in parsed.said if "details" in place and "section" not in place]
    assert said == [
        "2 caveats: read before you compare",
        "1 worker lost on the way: ort-cpu, 2 threads: was ended by SIGKILL.",
        "the machine was busy.",
    ]


def test_text_from_outside_runs_nothing(exported):
    failure = Failure(backend="ort-cpu", threads=2, doing=HOSTILE, reason=HOSTILE)
    result = bench_result(
        bundle=HOSTILE,
        failures=(failure,),
        skipped={"trt": HOSTILE},
        environment=bench_result().records.environment | {"cpu": HOSTILE},
    )
    parsed = check_sound(html_from_result(replace(result, caveats=(HOSTILE,)), exported.bundle))
    assert parsed.text.count(HOSTILE) >= 6


def test_bengali_survives_and_says_that_it_is_bengali(exported):
    html = html_from_result(bench_result(bundle=f"model {BENGALI} 2"), exported.bundle)
    assert f'model <span lang="bn">{BENGALI}</span> 2' in html
    assert f"model {BENGALI} 2" in check_sound(html).text


def test_the_same_result_gives_the_same_page(exported, page):
    again = bench_result(skipped={"trt": "no driver", "torch-cuda": "no CUDA"})
    assert html_from_result(again, exported.bundle) == page


@pytest.mark.parametrize("ends", [(0.97, 1.03), (0.001, 0.9), (1, 1.0001), (3, 3), (0.2, 40_000)])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_every_axis_has_few_and_round_ticks_between_its_ends(ends, scale):
    """Of a quick run all calls of one backend may lie within a few per cent."""
    ticks = ticks_between(*ends, scale)
    assert 1 <= len(ticks) <= 7
    assert len(set(ticks)) == len(ticks)
    assert all(ends[0] * 0.999 <= tick <= ends[1] * 1.001 for tick in ticks)
    assert len(ticks) > 1 or ends[0] == ends[1]


def test_a_line_chart_keeps_its_points_within_its_frame():
    points = ((1, 0.2), (8, 7.0), (299, 40.0))
    chart = LineChart(
        caption="c",
        alt="a",
        lines=[Line(name="n", points=points, place=0)],
        x="x",
        y="y",
        x_scale="log",
        y_scale="log",
    )
    placed = chart.placed(chart.lines[0])
    frame = chart.frame
    assert all(
        frame["left"] <= x <= frame["right"] and frame["top"] <= y <= frame["bottom"] for x, y in placed
    )
    assert [x for x, _ in placed] == sorted(x for x, _ in placed)
    assert [y for _, y in placed] == sorted((y for _, y in placed), reverse=True)


def test_bars_are_shares_of_the_longest_one_with_its_thin_line():
    bars = [Bar(name="a", value=1.0, low=0.5, high=4.0, shown="1"), Bar(name="b", value=2.0, shown="2")]
    chart = BarChart(caption="c", bars=bars)
    assert [chart.percent(value) for value in (1.0, 2.0, 4.0)] == ["25.00%", "50.00%", "100.00%"]
    assert BarChart(caption="c", bars=[Bar(name="a", value=0.0, shown="0")]).percent(0.0) == "0.00%"


def test_the_labels_of_a_confusion_are_text_that_the_browser_shapes():
    chart = Confusion(caption="c", labels=[BENGALI, HOSTILE], counts=[[3, 1], [0, 2]])
    section = Section(name="a", title="b", charts=[chart])
    html = html_from_page(Page(verdict="v", title="t", sections=(section,)))
    parsed = check_sound(html)
    drawn = [text for place, text in parsed.said if place[-2:] == ("svg", "text")]
    assert drawn.count(BENGALI) == 2
    assert f"{BENGALI}, recognised as {HOSTILE}: 1" in parsed.text
    assert [cell[:3] for cell in chart.cells] == [(0, 0, 3), (0, 1, 1), (1, 1, 2)]


def test_a_moving_skeleton_stands_still_for_who_asked_for_that_and_on_paper():
    poses = np.random.default_rng(0).random((60, 54, 2)).astype(np.float32)
    poses[0] = np.nan
    moving = skeleton_of(poses, caption="c", alt="a clip", fps=30, moving=True)
    assert len(moving.frames) == 40
    assert moving.seconds == 2.0
    assert moving.frames[0].paths == {}
    html = html_from_page(Page(verdict="v", title="t", lead=[moving]))
    check_sound(html)
    assert html.count("animation-delay:") == 40
    assert "animation-delay:1.95s" in html
    assert "--seconds:2.0s" in html
    for condition in ("(prefers-reduced-motion: reduce)", "print"):
        rules = html.partition(f"@media {condition} {{")[2].partition("@media")[0]
        assert ".reel > g { animation: none }" in rules
        assert ".reel > g:nth-child(20) { visibility: visible }" in rules


@pytest.mark.parametrize("seen", [(), (0,), (0, 1), tuple(range(54))])
def test_a_skeleton_is_drawn_of_whatever_was_detected_and_stays_inside(seen):
    poses = np.full((9, 54, 2), np.nan, np.float32)
    poses[:, list(seen)] = 100 * np.random.default_rng(1).random((9, len(seen), 2))
    still = skeleton_of(poses, caption="c", alt="a")
    assert len(still.frames) == 8
    numbers = [
        float(n) for f in still.frames for path in f.paths.values() for n in re.findall(r"[\d.-]+", path)
    ]
    assert all(0 <= number <= still.side for number in numbers)
    assert bool(numbers) == (len(seen) > 1)
    heads = [frame.head for frame in still.frames if frame.head]
    assert all(y - radius >= 0 for _, y, radius in heads)
    check_sound(html_from_page(Page(verdict="v", title="t", lead=[still])))


def test_a_row_of_empty_cells_gives_its_room_to_the_reason():
    columns = ("a", "b", "c", "d")
    table = Table(
        title="t", columns=columns, rows=(("1", "", "", "why"), ("1", "2", "", "x")), sentences=True
    )
    assert cells_of(table, table.rows[0]) == [(3, "why", 3)]
    assert cells_of(table, table.rows[1]) == [(1, "2", 1), (3, "x", 2)]
    figures = Table(title="t", columns=columns, rows=table.rows)
    assert len(cells_of(figures, table.rows[0])) == 3
    assert [is_figures(figures, column) for column in range(4)] == [False, True, False, False]


def test_the_tail_ends_at_the_slowest_call_of_all():
    result = bench_result()
    lines = tail_chart(result, CASES[0]).lines
    assert len(lines) == 2
    for line, timed in zip(lines, result.records.timings, strict=False):
        assert line.points[-1] == (max(timed.samples_ns) / 1e6, 1 / len(timed.samples_ns))
        assert line.points[0][1] == 1


def test_a_page_without_sections_is_sound():
    check_sound(html_from_page(Page(verdict="v", title="t", sections=(Section(name="a", title="b"),))))


# --- parity


def report_of(*proofs, **more):
    return ParityReport(name="small", bundle=None, proofs=proofs, **more)


def test_the_page_of_a_parity_run_has_facts_flips_and_failures(exported):
    proof, _ = read_proofs(exported.bundle)
    group = proof.facts.clips[0]
    flip = replace(group.clips[0], name=HOSTILE, candidate=BENGALI, reference_margin=0.3, label="cha")
    facts = replace(proof.facts, clips=(replace(group, clips=(flip, *group.clips[1:])),))
    failing = replace(proof, facts=facts).judged_by(proof.policy)
    html = html_from_report(report_of(failing, not_run={"trt": HOSTILE}))
    parsed = check_sound(html)
    assert [text for place, text in parsed.said if "h1" in place] == ["✗", "Same model: no"]
    (grid,) = figures_of(html, "grid")
    assert (
        '<td class="no"><span class="symbol" aria-hidden="true">✗</span><span class="heard">no</span>' in grid
    )
    assert '<td class="none"><span class="symbol" aria-hidden="true">–</span>' in grid
    assert f"{HOSTILE}, signed cha: torch says" in parsed.text  # the worst clip is the one with another label
    assert "Parity FAILS (2 failures) for ort-cpu fp32" in parsed.text
    assert failing.verdict.failures[1] in parsed.text
    assert parsed.text.count(HOSTILE) == 4  # the failure, the worst clip, its row, the reason
    assert "Not executed, so without a proof: trt fp32." in parsed.text
    holding = check_reads_easily(html_from_report(report_of(proof)))
    assert [text for place, text in holding.said if "h1" in place] == ["✓", "Same model: yes"]
    assert "Parity holds." in holding.text


def test_the_step_that_breaks_is_named_with_its_chain(exported):
    step = {"max_padding_diff": 1e-7, "error": None}
    chain = (
        Link(step="torch, eager", before=None, max_logit_diff=None, holds=True, **step),
        Link(step="model.onnx", before="torch, eager", max_logit_diff=0.5, holds=False, **step),
    )
    chains = {"ort-cpu": chain, "ort-cpu:fp16": chain[:1]}
    text = check_sound(html_from_report(report_of(*read_proofs(exported.bundle), chains=chains))).text
    assert f"ort-cpu: it breaks at {chain[1]}." in text
    assert "ort-cpu:fp16: no step breaks on the clips that were tried." in text


def test_parity_writes_a_page_of_stored_facts(bundle_folder, tmp_path):
    page = tmp_path / "parity.html"
    command = [
        "parity",
        str(bundle_folder),
        "--judge",
        str(bundle_folder / "parity.json"),
        "--html",
        str(page),
    ]
    assert CliRunner().invoke(app, command).exit_code == 0
    html = page.read_text(encoding="utf-8")
    assert "Parity holds for ort-cpu fp32" in check_reads_easily(html).text
    assert len(figures_of(html, "skeleton")) == 1  # the worst clip, a golden or a generated one
    assert str(bundle_folder.parent) not in html
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, DataError)
    assert "exists already. Fix: choose another" in str(again.exception)
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0


# --- training, evaluation, the demo


@pytest.fixture(scope="module")
def evaluation(tiny):
    """Answers to the test clips, of which one is wrong."""
    clips = tiny.clips_in("test")
    names = [label.name for label in tiny.labels]
    logits = np.array([[4.0 * (clip.label == name) for name in names] for clip in clips], np.float32)
    logits[0] = np.roll(logits[0], 1)
    return Evaluation(
        source=tiny.folder / "run",
        backend="torch",
        dataset=tiny,
        split="test",
        scores=scores_from_logits(logits, clips, tiny.labels),
        passed_over={},
    )


METRICS = [
    {"epoch": epoch, "train_loss": 2 / epoch, "train_accuracy": 1 - 0.5 / epoch, "seconds": 1.0}
    | ({"val_loss": 3 / epoch, "val_accuracy": 1 - 0.7 / epoch} if epoch > 1 else {})
    for epoch in (1, 2, 3)
]


def test_the_page_of_an_evaluation_shows_who_is_confused_and_the_worst_clips(evaluation):
    scores, count = evaluation.scores, len(evaluation.dataset.clips_in("test"))
    html = html_from_evaluation(evaluation)
    parsed = check_reads_easily(html)
    assert parsed.said[1][1].startswith(f"{count - 1} of {count} clips recognised (")
    assert "nobody signed them" in parsed.text
    (confusion,) = figures_of(html, "confusion")
    assert confusion.count('class="wrong"') == 1
    wrong, *others = scores.worst
    assert wrong.clip.label != wrong.answer
    assert wrong.own_score < 0.1
    assert all(one.clip.label == one.answer for one in others)
    strips = figures_of(html, "skeleton")
    assert len(strips) == len(scores.worst)
    assert f"{wrong.clip.id}: {wrong.clip.label}, recognised as {wrong.answer}" in strips[0]
    assert "worst" not in scores.summary()  # the JSON stays as it was


def test_the_page_of_an_evaluation_has_a_reliability_diagram_where_it_was_measured(evaluation):
    assert figures_of(html_from_evaluation(evaluation), "lines") == []
    kind = KindFigures(
        kind="clips of rests",
        recorded=True,
        clips=60,
        same_sign=0,
        auroc=0.987,
        false_at_95=0.05,
        false_answers=0.033,
    )
    found = Figures(
        signs=8,
        top1=0.875,
        calibration_error=0.0125,
        softmax_error=0.08,
        bins=(Bin(3, 0.6, 2 / 3), Bin(5, 0.99, 1.0)),
        kept=0.95,
        kinds=(kind,),
    )
    html = html_from_evaluation(replace(evaluation, calibration=found, calibrated=True))
    parsed = check_reads_easily(html)
    (diagram,) = figures_of(html, "lines")
    assert diagram.count("<polyline") == 2
    assert (
        "Calibration error 0.0125 in 15 bins, of the plain softmax 0.0800. It keeps 95.0% of" in parsed.text
    )
    for cell in ("0.990", "66.7%", "clips of rests", "0.987", "5.0%", "3.3%"):
        assert cell in parsed.text
    raw = replace(found, kept=None, kinds=(replace(kind, false_answers=None),))
    assert "not calibrated" in html_from_evaluation(replace(evaluation, calibration=raw))


def test_the_page_of_a_training_has_its_curves_with_and_without_validation(evaluation):
    html = html_from_run("mine", evaluation.dataset, METRICS, evaluation.scores)
    check_reads_easily(html)
    accuracy, loss = figures_of(html, "lines")
    assert accuracy.count("<polyline") == loss.count("<polyline") == 2
    alone = [{name: value for name, value in row.items() if "val" not in name} for row in METRICS]
    html = html_from_run("mine", evaluation.dataset, alone, None)
    assert "Trained for 3 epochs" in check_sound(html).text
    assert [chart.count("<polyline") for chart in figures_of(html, "lines")] == [1, 1]
    check_sound(html_from_run("mine", evaluation.dataset, [], None))


def test_a_bengali_word_stands_beside_its_label(evaluation):
    first, *others = evaluation.dataset.labels
    dataset = replace(evaluation.dataset, labels=(replace(first, bengali=BENGALI), *others))
    html = html_from_evaluation(replace(evaluation, dataset=dataset))
    assert f">{first.name} {BENGALI}</text>" in html


def test_the_story_of_the_demo_goes_from_the_signs_to_the_device(evaluation, exported):
    clip = evaluation.dataset.clips_in("test")[0]
    report = ParityReport(name="small", bundle=exported.bundle, proofs=read_proofs(exported.bundle))
    scores = {clip.label: 0.9, "another": 0.1}
    story = Story(
        evaluation=evaluation,
        metrics=METRICS,
        parity=report,
        bench=bench_result(),
        recognised=Recognised(clip=clip, scores=scores, files=7, goldens=31, verified=True),
        pages={"the speed": "bench/bench.html"},
    )
    html = html_from_story(story)
    parsed = check_reads_easily(html)
    films = figures_of(html, "skeleton")
    assert len(films) == 1 + len(evaluation.dataset.labels)
    assert all('class="reel"' in film for film in films)
    assert f"Recognised as {clip.label}, score 0.90." in films[0]
    assert "All clips are generated: nobody signed them." in parsed.text
    assert "replayed 31 stored clips: the same answers." in parsed.text
    order = [
        html.index(f'<section id="{name}"') for name in ("signs", "training", "parity", "speed", "device")
    ]
    assert order == sorted(order)
    assert {"href": "bench/bench.html"} in parsed.all("a")
    differs = replace(story, recognised=replace(story.recognised, verified=False))
    assert "31 stored clips: OTHER ANSWERS." in check_sound(html_from_story(differs)).text


# --- the command


def bench_command(bundle, *options):
    settings = ("--quick", "--backend", "ort-cpu", "--frames", 4, "--threads", 1, "--seconds-per-case", 0.05)
    return [*map(str, ("bench", bundle, *settings, *options))]


def test_bench_adds_the_page_to_its_report_only_when_asked(bundle_folder, tmp_path):
    few = ("--scenario", "latency", "--no-floor")
    for options, expected in ((few, False), (("--html", "--force"), True), ((*few, "--force"), False)):
        done = spoter_kit(tmp_path, *bench_command(bundle_folder, "-o", "out", *options))
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out" / "bench.html").exists() == expected
        assert (tmp_path / "out" / "bench.json").exists()
        if expected:
            check_sound((tmp_path / "out" / "bench.html").read_text(encoding="utf-8"))


def test_without_jinja_nothing_is_measured_first(bundle_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)  # as where it is not installed
    out = tmp_path / "out"
    ran = CliRunner().invoke(app, bench_command(bundle_folder, "-o", out, "--html"))
    assert isinstance(ran.exception, MissingExtraError)
    assert "needs the Python module 'jinja2'" in str(ran.exception)
    assert not out.exists()
    parity = ["parity", str(bundle_folder), "--html", str(tmp_path / "page.html")]
    assert isinstance(CliRunner().invoke(app, parity).exception, MissingExtraError)


# --- in a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def seen_in_a_browser(page, folder, width, expression):
    """Return what a JavaScript expression over `d`, the page's root, gives in a frame of a width.

    A frame, because a headless window is never narrower than about 500.
    """
    (folder / "page.html").write_text(page.replace("default-src 'none'", "default-src 'unsafe-inline'"))
    (folder / "frame.html").write_text(
        f'<iframe src="page.html" width="{width}" height="800" style="border:0"></iframe><p></p><script>'
        "onload = () => { const d = frames[0].document.documentElement;"
        f"document.querySelector('p').textContent = JSON.stringify({expression}) }}</script>"
    )
    done = subprocess.run(
        [
            *(CHROMIUM, *FLAGS, "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}"),
            *("--virtual-time-budget=5000", "--dump-dom", (folder / "frame.html").as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(re.search(r"<p>(.*?)</p>", done.stdout)[1])


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look at the page with")
@pytest.mark.parametrize("width", [360, 412, 1280])
def test_nothing_overflows_the_page_sideways(page, tmp_path, width):
    needed, given = seen_in_a_browser(page, tmp_path, width, "[d.scrollWidth, d.clientWidth]")
    assert given <= width
    assert needed <= given


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look at the page with")
def test_a_verdict_stays_in_sight_on_a_phone_where_its_table_is_wider(page, tmp_path):
    table = "d.querySelector('.verdict-last')"
    wide, name, verdict = seen_in_a_browser(
        page,
        tmp_path,
        360,
        f"[{table}.parentElement.scrollWidth, ...['th', 'td:last-child'].map(cell => "
        f"{table}.querySelector('tbody ' + cell).getBoundingClientRect()).flatMap(r => [[r.left, r.right]])]",
    )
    assert wide > 360
    assert 0 <= name[0] < name[1] < verdict[0] < verdict[1] <= 360


def test_the_page_of_verify_says_whether_this_machine_gives_the_stored_answers(exported):
    report = verify_bundle(exported.bundle.folder, "ort-cpu")
    assert "Same answers on this machine: yes" in check_reads_easily(html_from_verified([report])).text
    differing = (Differing(golden=3, frames=41, max_logit_diff=0.5, label_agrees=False),)
    replay = replace(report.replay, labels_agree=4, max_logit_diff=0.5, differing=differing)
    wrong = replace(report, precision="int8", replay=replay, passed_over={"trt": "/home/ann/x/a.plan: gone"})
    html = html_from_verified([report, wrong])
    text = check_sound(html).text
    assert "Same answers on this machine: no" in text
    assert f"4 of {report.replay.clips} agree; differs by 5.0e-01 of" in text
    assert "Answers that differ, ort-cpu in int8" in text
    assert "/home/ann" not in html
