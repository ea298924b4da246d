"""The chain from the module to what ran is split, and the first link that breaks is named."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from spoter_export.diagnose.chain import (
    ProgramRunner,
    Step,
    first_broken,
    first_module_moved_by_padding,
    links_of,
)
from spoter_export.parity.policy import Policy
from spoter_export.probes import generated_clips
from spoter_export.to_onnx import trace_module
from spoter_export.torch_runner import TorchRunner
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import BackendError
from spoter_runtime.runner import Runner

CONTRACT = GraphContract(labels=tuple(Label(name=name) for name in "abc"), max_frames=40, max_batch=16)
CLIPS = generated_clips(CONTRACT, seed=0).clips


class Off(Runner):
    """Answers with the number of real frames, `by` too much, and more where there is padding."""

    def __init__(self, by=0.0, padding=0.0):
        self.name = "off"
        self.contract = CONTRACT
        self.by = by
        self.padding = padding

    def _infer(self, poses_NTD, lengths_N):
        padded = poses_NTD.shape[1] > lengths_N
        logits = np.zeros((len(poses_NTD), 3), np.float32)
        logits[:, 0] = 1 + self.by + self.padding * padded
        return logits


def refuse():
    raise BackendError("no such engine here")


def step(name, by=0.0, padding=0.0):
    return Step(name=name, open=lambda: Off(by, padding), policy=Policy())


def test_the_first_link_that_breaks_is_named_with_what_came_before_it():
    links = links_of([step("torch"), step("onnx"), step("engine", by=0.5), step("fp16", by=0.5)], CLIPS)
    assert [link.holds for link in links] == [True, True, False, True]
    broken = first_broken(links)
    assert (broken.step, broken.before) == ("engine", "onnx")
    assert str(broken) == "engine: differs from onnx by 5.0e-01, padding moves it by 0.0e+00"
    assert first_broken(links[:2]) is None


def test_a_reference_that_attends_to_padding_is_to_blame_itself():
    links = links_of([step("torch", padding=0.25), step("onnx", padding=0.25)], CLIPS)
    assert str(first_broken(links)) == "torch: padding moves it by 2.5e-01"


def test_a_step_that_gives_no_answer_is_named_and_the_next_is_compared_with_the_one_before():
    missing = Step(name="engine", open=refuse, policy=Policy())
    links = links_of([step("torch"), missing, step("fp16", by=0.5)], CLIPS)
    assert str(first_broken(links)) == "engine gives no answer: no such engine here"
    assert (links[2].before, links[2].holds) == ("torch", False)


def test_a_looser_step_may_be_further_off():
    loose = Step(name="fp16", open=lambda: Off(0.01), policy=Policy(max_logit_diff=0.02))
    assert first_broken(links_of([step("torch"), loose], CLIPS)) is None


@pytest.mark.slow
def test_the_exported_program_answers_as_the_module(small_model, contract):
    program, module = (
        ProgramRunner(trace_module(small_model, contract).program, contract),
        TorchRunner(small_model, contract),
    )
    poses = np.random.default_rng(0).random((2, 11, 108), np.float32)
    lengths = np.array([11, 4])
    np.testing.assert_allclose(program.infer(poses, lengths), module.infer(poses, lengths), atol=1e-6)


def test_the_first_module_that_reads_padding_is_named(small_model, make_clip):
    assert first_module_moved_by_padding(small_model, make_clip(frames=20), 40) is None
    faulty = copy.deepcopy(small_model)
    attention = faulty.encoder_layers[1].self_attention
    honest = attention.forward
    # The mask is forgotten.
    attention.forward = lambda asking, tokens, mask: honest(asking, tokens, torch.zeros_like(mask))
    path = first_module_moved_by_padding(faulty, make_clip(frames=20), 40)
    assert path == "encoder_layers.1.self_attention.W_o"
