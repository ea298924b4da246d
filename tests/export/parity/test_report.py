"""The table of backends × precisions says what was proven, and of the rest that it was not executed."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from spoter_export.parity.facts import ClipFact, ClipFacts, GridPoint, Invariance, ParityFacts
from spoter_export.parity.judge import judge
from spoter_export.parity.policy import POLICIES
from spoter_export.parity.proof import ROUNDED, Proof
from spoter_export.parity.report import NOT_EXECUTED, PROOF_COLUMNS, fact_rows, proof_rows
from spoter_runtime.bundle.engine_spec import EngineSpec
from spoter_runtime.bundle.manifest import Artefact
from spoter_runtime.contract import Profile

GPU = {"gpu": "NVIDIA L4", "month": "2026-11", "labels_agree": 16, "clips": 16, "max_logit_diff": 1e-6}


def clip(candidate="a", margin=1.0, diff=1e-6):
    return ClipFact(
        name="c",
        frames=9,
        max_logit_diff=diff,
        reference="a",
        candidate=candidate,
        reference_margin=margin,
        candidate_margin=margin,
        top5_agree=True,
    )


GENERATED = ClipFacts(source="generated", clips=(clip(),) * 15)


def proof(
    *,
    candidate="ort-cpu",
    precision="fp32",
    artefact="model.onnx",
    grid=(1e-6,),
    clips=(GENERATED,),
    moved=1e-7,
    on_gpu=False,
):
    facts = ParityFacts(
        reference="torch",
        candidate=candidate,
        seed=0,
        grid=tuple(
            GridPoint(batch=1, frames=9, lengths="full", max_logit_diff=diff, labels_agree=1, error="no")
            for diff in grid
        ),
        clips=clips,
        invariance=(
            Invariance(runner="torch", change="padding nan", clips=3, max_logit_diff=5e-6),
            Invariance(runner=candidate, change="padding nan", clips=3, max_logit_diff=moved),
        ),
    )
    policy = POLICIES[precision]
    return Proof(
        artefact=artefact,
        precision=precision,
        sha256="0" * 64,
        on_gpu=on_gpu,
        facts=facts,
        policy=policy,
        verdict=judge(facts, policy, precision),
    )


def engine(*, executed=None, precision="fp32", path="engines/a.engine"):
    spec = EngineSpec(
        library="tensorrt",
        version="10.3.0",
        compute_capabilities=("8.9",),
        system="Linux",
        machine="x86_64",
        profiles=(Profile(batch=(1, 1, 8), frames=(1, 60, 99)),),
        buckets=(99,),
        onnx_sha256="0" * 64,
        built={"month": "2026-11"},
        executed=executed,
    )
    return Artefact(
        path=path,
        kind="engine",
        precision=precision,
        sha256="1" * 64,
        size_bytes=1,
        max_logit_diff=1e-4,
        engine=spec,
    )


def rows_of(*arguments):
    return [dict(zip(PROOF_COLUMNS, row.cells, strict=True)) for row in proof_rows(*arguments)]


def test_a_proof_is_a_row_of_its_facts():
    people = ClipFacts(source="real, test clips", clips=(clip(),) * 99 + (clip("b", margin=1e-5, diff=2e-6),))
    (row,) = rows_of([proof(clips=(GENERATED, people))])
    assert row == {
        "backend": "ort-cpu",
        "precision": "fp32",
        "verdict": "FAILS (1 failure)",  # one label of a hundred differs, none may
        "largest logit difference": "2.0e-06",
        "allowed": "1e-04",
        "labels agree": "99 of 100 (94.6% to 99.8%)",
        "unexplained flips": "0 of 1 flips",
        "padding, batch composition, order": "1.0e-07",  # its own, not that of torch
        "where, or why not": "CPU",
    }


def test_a_flip_that_rounding_does_not_explain_is_counted():
    people = ClipFacts(source="real", clips=(clip(), clip("b", margin=0.3), clip("b", margin=1e-5)))
    (row,) = rows_of([proof(clips=(people,))])
    assert row["unexplained flips"] == "1 of 2 flips"
    assert row["verdict"] == "FAILS (2 failures)"


def test_generated_clips_claim_nothing_about_labels_of_people():
    (row,) = rows_of([proof()])
    assert row["labels agree"] == "15 of 15, generated; none of people"
    assert row["verdict"] == "holds"


def test_a_shape_without_an_answer_and_a_nan_are_not_hidden_by_the_others():
    assert rows_of([proof(grid=(1e-6, None))])[0]["largest logit difference"] == (
        "1.0e-06; 1 of 3 gave no answer"
    )
    for grid in ((math.nan, 1e-6), (1e-6, math.nan)):
        assert rows_of([proof(grid=grid)])[0]["largest logit difference"] == "not a number"
    assert rows_of([proof(moved=None)])[0]["padding, batch composition, order"] == "no answer"


def test_an_engine_names_the_gpu_that_it_ran_on_and_one_only_built_says_so():
    run = engine(executed=GPU)
    (row,) = rows_of([proof(candidate="trt", artefact=run.path, on_gpu=True)], [run])
    assert row["where, or why not"] == "NVIDIA L4, 2026-11"
    assert rows_of([proof(on_gpu=True)])[0]["where, or why not"] == "a GPU"
    (built,) = rows_of([], [engine(precision="fp16")])
    assert (built["backend"], built["precision"], built["verdict"]) == ("trt", "fp16", NOT_EXECUTED)
    assert built["where, or why not"] == "built by tensorrt 10.3.0, never run"
    (replayed,) = rows_of([], [run])
    assert "only the goldens, on NVIDIA L4" in replayed["where, or why not"]


def test_what_was_not_run_says_why_where_it_is_known():
    why = {"trt": "no driver", "ort-cuda:fp16": "", "ort-cpu": "cannot be: it has a proof"}
    rows = rows_of([proof()], [engine()], why)
    assert [(row["backend"], row["precision"], row["where, or why not"]) for row in rows] == [
        ("ort-cpu", "fp32", "CPU"),
        ("trt", "fp32", "no driver"),
        ("ort-cuda", "fp16", "no proof is stored"),
    ]
    assert [row["verdict"] for row in rows] == ["holds", NOT_EXECUTED, NOT_EXECUTED]


def test_a_proof_names_its_backend_as_the_command_takes_it():
    assert proof().backend == "ort-cpu"
    assert proof(candidate=ROUNDED, precision="fp16").backend == "ort-cpu:fp16"
    assert proof(candidate="ort-cpu-fused", precision="int8").backend == "ort-cpu-fused:int8"


def test_nothing_stored_is_no_row():
    assert rows_of([]) == []


def test_the_facts_of_one_proof_say_what_did_not_answer():
    rows = fact_rows(proof(grid=(1e-6, None), moved=None))
    assert rows[0][1:] == ("1.0e-06", "1 of 2 points")
    assert rows[-1] == ("padding nan, ort-cpu", "no answer", "3 clips")


@pytest.mark.parametrize("module", ["torch", "onnx"])
def test_it_needs_no_exporter(module):
    program = f"import sys, spoter_export.parity.report; sys.exit({module!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
