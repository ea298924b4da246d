"""Fixtures of the export layer's tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spoter_export.to_onnx import onnx_from_module
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.ort.runner import OrtRunner

CONTRACT = GraphContract(labels=tuple(Label(name=name) for name in "abc"), max_frames=40, max_batch=7)


class Average(nn.Module):
    """The smallest honest module: a linear layer on the mean of the real frames. It exports in a second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(108, 3)

    def forward(self, poses: Tensor, lengths: Tensor) -> Tensor:
        real = torch.arange(poses.shape[1]) < lengths[:, None]
        seen = torch.where(real[:, :, None] & ~poses.isnan(), poses, 0.0)
        return self.head(seen.sum(1) / lengths[:, None])


@pytest.fixture
def average():
    """Return the class, so that a test can break it in one way."""
    return Average


@pytest.fixture(scope="session")
def average_graph(made_once):
    """The graph of `average` for `three_labels`; not to be changed."""
    return made_once("average-graph", lambda folder: onnx_from_module(Average(), CONTRACT))


@pytest.fixture
def runner_of():
    """Return runner_of(model): an ONNX graph on ONNX Runtime, on one thread."""
    return lambda model: OrtRunner(model.SerializeToString(deterministic=True), threads=1)


@pytest.fixture
def three_labels():
    """A contract for `average`."""
    return CONTRACT
