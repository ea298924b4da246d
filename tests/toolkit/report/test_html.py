"""The pages of bench and parity need nothing from anywhere, hold every figure, and run nobody's script."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from in_process import spoter_kit
from spoter_export.bundle.files import read_proofs
from spoter_export.diagnose.chain import Link
from spoter_runtime import statistics
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import DataError, MissingExtraError
from spoter_toolkit.bench.analysis.result import analyse
from spoter_toolkit.bench.records import BenchRecords, Failure, Memory, Start, Timing
from spoter_toolkit.bench.report.folder import write_report
from spoter_toolkit.bench.report.html import html_from_result
from spoter_toolkit.bench.report.latency_plot import latency_figure
from spoter_toolkit.bench.report.percentile_plot import percentile_figure, tail_figure
from spoter_toolkit.bench.report.summary import headline_case, summary_of
from spoter_toolkit.bench.report.tables import tables
from spoter_toolkit.bench.settings import BenchSettings, Case
from spoter_toolkit.cli.app import app
from spoter_toolkit.parity.page import html_from_report
from spoter_toolkit.parity.report import ParityReport
from spoter_toolkit.report.html import Page, Section, cells_of, html_from_page, is_figures
from spoter_toolkit.report.picture import picture_from_figure
from spoter_toolkit.report.table import Table

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
                local = attrs[name].startswith(("#", "data:image/svg+xml;base64,")) or attrs[name] == "data:,"
                assert local, (tag, attrs)
        assert tag not in ("script", "iframe", "object", "embed", "form", "base"), tag
        assert tag != "link" or attrs["href"] == "data:,"
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        for target in re.findall(r"url\((.*?)\)", " ".join(value or "" for value in attrs.values())):
            assert target.startswith("#")
        assert tag != "img" or (attrs["src"].startswith("data:") and attrs["alt"])
    assert "@import" not in html
    assert "url(" not in html.partition("</style>")[0]
    ids = Counter(attrs["id"] for _, attrs, _ in parsed.elements if "id" in attrs)
    assert [name for name, count in ids.items() if count > 1] == []
    for _, attrs, _ in parsed.elements:
        pointed = re.findall(r"url\(#(.*?)\)", " ".join(value or "" for value in attrs.values()))
        pointed += [attrs["href"][1:]] if attrs.get("href", "").startswith("#") else []
        pointed += attrs.get("aria-labelledby", "").split()
        assert set(pointed) <= set(ids), attrs
    tags = Counter(tag for tag, _, _ in parsed.elements)
    assert tags["h1"] == tags["title"] == 1
    assert tags["table"] == tags["caption"]
    assert all(attrs.get("scope") in ("row", "col") for attrs in parsed.all("th"))
    assert parsed.all("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in parsed.all("meta")
    assert any(meta.get("name") == "viewport" for meta in parsed.all("meta"))
    (policy,) = [meta["content"] for meta in parsed.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'")
    return parsed


def test_the_page_of_a_bench_needs_nothing_and_is_sound(page):
    parsed = check_sound(page)
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", page).replace("http-equiv", "")
    assert len(parsed.all("img")) == 1 + 2 + 1  # the batch of two lengths, thread counts, the tail


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
    parsed = check_sound(html_from_result(curved, exported.bundle))
    assert len(parsed.all("img")) == 1 + 1 + 2 + 1
    assert "Throughput against clips a call: torch, clips of 60 frames, clips a second: " in parsed.text


def test_a_run_without_latency_or_starts_has_a_page_too(exported):
    html = html_from_result(bench_result(timings=(), starts={}), exported.bundle)
    text = check_sound(html).text
    assert "Peak memory of the process" in text
    assert "its targets" not in text  # the notebook's case was not run


def test_the_findings_name_the_ratio_with_its_interval():
    first, second, start, memory = summary_of(bench_result())
    assert headline_case(bench_result()) == CASES[0]
    assert first == (
        "1 clip of 60 frames on 1 thread, median of a call: torch 2.01 ms, ort-cpu 1.00 ms. torch takes 2.00 "
        "times as long as ort-cpu (95 % interval 2.00–2.00)."
    )
    assert second.startswith("16 clips of 100 frames on 2 threads, median of a call: torch 32.")
    assert start.startswith(
        "Fresh process to its first answer: torch 800 ms, ort-cpu 400 ms. torch takes 2.00"
    )
    assert memory == "Peak memory of the process, 2 threads: torch 200 MB, ort-cpu 100 MB."


def test_no_difference_is_claimed_where_the_interval_holds_1():
    same = tuple(timing(name, CASES[0], 1.0) for name in ("torch", "ort-cpu"))
    assert (
        "torch against ort-cpu: no difference detectable (95 % interval"
        in (summary_of(bench_result(timings=same))[0])
    )


def test_too_few_calls_and_rounds_are_told_and_claim_nothing(exported):
    few = tuple(timing(name, CASES[0], 1.0, rounds=2, calls=3) for name in ("torch", "ort-cpu"))
    result = bench_result(timings=few, memory=())
    assert summary_of(result)[0].startswith(
        "1 clip of 60 frames on 1 thread, median of a call: torch too few calls"
    )
    assert "too few rounds for an interval" in summary_of(result)[0]
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
    assert "times as long" not in text
    assert "Ratio of times" not in text


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


def test_losses_and_caveats_are_said_before_the_summary(exported):
    failure = Failure(backend="ort-cpu", threads=2, doing="round 2", reason="was ended by SIGKILL")
    html = html_from_result(
        replace(bench_result(failures=(failure,)), caveats=("the machine was busy",)), exported.bundle
    )
    before = Parsed(html).text.partition("What was found")[0].split("Bench of tiny")[2]
    assert "the machine was busy." in before
    assert "1 worker lost on the way: ort-cpu, 2 threads: was ended by SIGKILL." in before


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


def drawn_in(picture):
    """Return the SVG of a picture as XML."""
    return ElementTree.fromstring(base64.b64decode(picture.source.partition("base64,")[2]))


def test_a_backends_name_in_a_picture_is_text():
    figure = Figure()
    figure.subplots().set_title(HOSTILE)
    picture = picture_from_figure(figure, alt=HOSTILE, caption=HOSTILE)
    assert not [element for element in drawn_in(picture).iter() if element.tag.endswith("script")]
    section = Section(name="a", title="b", pictures=[picture])
    parsed = check_sound(html_from_page(Page(title="t", facts={}, summary=(), sections=(section,))))
    assert [attrs["alt"] for attrs in parsed.all("img")] == [HOSTILE]
    assert parsed.text.count(HOSTILE) == 1


def test_bengali_survives_and_says_that_it_is_bengali(exported):
    html = html_from_result(bench_result(bundle=f"model {BENGALI} 2"), exported.bundle)
    assert f'model <span lang="bn">{BENGALI}</span> 2' in html
    assert f"model {BENGALI} 2" in check_sound(html).text


def test_the_same_result_gives_the_same_page(exported, page):
    again = bench_result(skipped={"trt": "no driver", "torch-cuda": "no CUDA"})
    assert html_from_result(again, exported.bundle) == page


def test_a_picture_needs_no_other_file():
    figure = Figure()
    axes = figure.subplots()
    axes.errorbar([1, 2], [3, 4], yerr=[0.1, 0.2], fmt="-o", color="#D55E00")
    picture = picture_from_figure(figure, alt="a", caption="b")
    elements = list(drawn_in(picture).iter())
    assert elements[0].tag.endswith("svg")
    assert not [element for element in elements if element.tag.endswith("image")]
    links = [value for element in elements for name, value in element.attrib.items() if name.endswith("href")]
    assert links
    assert all(link.startswith("#") for link in links)
    assert any("#d55e00" in element.get("style", "") for element in elements)


def test_every_percentile_with_enough_calls_is_drawn_where_it_was_measured():
    result = bench_result()
    axes = percentile_figure(result, 1).axes[0]
    drawn = sorted(line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "None")
    on_one = [one.percentiles_ms for one in result.latencies if one.case.threads == 1]
    assert all(ms[90] and ms[99] is None for ms in on_one)
    assert drawn == sorted(ms[percent] for ms in on_one for percent in (50, 90))


def shown_labels(axis):
    low, high = axis.get_view_interval()
    ticks = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
    return [label for label in axis.get_major_formatter().format_ticks(ticks) if label]


@pytest.mark.parametrize("calls", [1, 20])
@pytest.mark.parametrize("scale", [0.97, 1.0, 3.3, 7.7])
def test_every_axis_of_a_picture_has_two_labels_at_least(calls, scale):
    """Of a quick run all calls of one backend may lie within a few per cent."""
    one = bench_result(timings=(timing("ort-cpu", CASES[0], scale, rounds=12, calls=calls),))
    figures = (percentile_figure(one, 1), tail_figure(one, CASES[0]), latency_figure(one, (1,)))
    logarithmic = [axes.xaxis for figure in figures[:2] for axes in figure.axes]
    logarithmic += [axes.yaxis for figure in figures[1:] for axes in figure.axes]
    assert len(logarithmic) == 4
    for axis in logarithmic:
        labels = shown_labels(axis)
        assert len(set(labels)) == len(labels) >= 2


def test_the_names_of_axes_fit_into_pictures_of_many_backends():
    names = ("ort-cpu-fused", "ort-cpu", "ort-cpu-fused:int8", "ort-cpu:int8")
    many = bench_result(timings=tuple(timing(name, case, 1.0) for case in CASES for name in names))
    for figure in (percentile_figure(many, 1), tail_figure(many, CASES[0]), latency_figure(many, (1,))):
        figure.draw_without_rendering()
        for axes in figure.axes:
            for text in (axes.xaxis.label, axes.yaxis.label):
                extent = text.get_window_extent()
                assert extent.y0 >= 0, text
                assert extent.y1 <= figure.bbox.height, text


def test_the_tail_ends_at_the_slowest_call_of_all():
    result = bench_result()
    lines = tail_figure(result, CASES[0]).axes[0].lines
    assert len(lines) == 2
    for line, timed in zip(lines, result.records.timings, strict=False):
        slowest_ms = max(timed.samples_ns) / 1e6
        assert (line.get_xdata()[0], line.get_ydata()[0]) == (slowest_ms, 1 / len(timed.samples_ns))
        assert line.get_ydata()[-1] == 1


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


def test_a_page_without_sections_is_sound():
    check_sound(
        html_from_page(Page(title="t", facts={}, summary=(), sections=(Section(name="a", title="b"),)))
    )


# --- parity


def report_of(*proofs, **more):
    return ParityReport(name="small", bundle=None, proofs=proofs, **more)


def test_the_page_of_a_parity_run_has_facts_flips_and_failures(exported):
    proof, _ = read_proofs(exported.bundle)
    group = proof.facts.clips[0]
    flip = replace(group.clips[0], name=HOSTILE, candidate=BENGALI, reference_margin=0.3, label="cha")
    facts = replace(proof.facts, clips=(replace(group, clips=(flip, *group.clips[1:])),))
    failing = replace(proof, facts=facts).judged_by(proof.policy)
    parsed = check_sound(html_from_report(report_of(failing, not_run={"trt": HOSTILE})))
    assert "Parity FAILS (2 failures) for ort-cpu fp32" in parsed.text
    assert failing.verdict.failures[1] in parsed.text
    assert parsed.text.count(HOSTILE) == 3  # the failure, the clip, the reason
    assert "Not executed, so without a proof: trt fp32." in parsed.text
    assert "Parity holds." in check_sound(html_from_report(report_of(proof))).text


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
    assert "Parity holds for ort-cpu fp32" in check_sound(html).text
    assert str(bundle_folder.parent) not in html
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, DataError)
    assert "exists already. Fix: choose another" in str(again.exception)
    assert CliRunner().invoke(app, [*command, "--force"]).exit_code == 0


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
