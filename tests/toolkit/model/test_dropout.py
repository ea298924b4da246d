from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spoter_toolkit.model.dropout import Dropout, dropout


def drawn(seed: int, probability: float = 0.1, count: int = 400_000) -> Tensor:
    torch.manual_seed(seed)
    return dropout(torch.ones(count), probability)


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.15, 0.5, 0.9])
def test_as_many_values_are_dropped_as_asked_and_the_mean_is_kept(probability: float) -> None:
    values = drawn(0, probability)
    share = float((values == 0).float().mean())
    assert share == pytest.approx(probability, abs=4 * (probability * (1 - probability) / len(values)) ** 0.5)
    kept = values[values != 0]
    assert (kept == kept[0]).all()
    assert float(kept[0]) == pytest.approx(1 / (1 - probability), rel=1e-3)


def test_neighbours_are_dropped_independently() -> None:
    dropped = (drawn(0) == 0).float()
    for distance in (1, 2, 3, 4, 5, 108, 512):
        pairs = torch.corrcoef(torch.stack((dropped[:-distance], dropped[distance:])))
        assert abs(float(pairs[0, 1])) < 0.008, distance


def test_torchs_seed_decides_and_each_call_draws_anew() -> None:
    torch.manual_seed(3)
    first, second = dropout(torch.ones(99), 0.5), dropout(torch.ones(99), 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(torch.ones(99), 0.5))
    assert not torch.equal(first, second)


def test_gradients_pass_where_values_passed() -> None:
    values = torch.linspace(1, 2, 1000, requires_grad=True)
    output = dropout(values, 0.3)
    output.sum().backward()
    assert values.grad is not None
    assert torch.allclose(values.grad * values.detach(), output.detach())
    assert (values.grad == 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (3, 5, 7), (2, 0), ()])
def test_shape_and_type_stay(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    values = torch.ones(shape, dtype=dtype)
    output = dropout(values.transpose(0, -1) if shape else values, 0.5)
    assert (output.shape, output.dtype) == (tuple(reversed(shape)), dtype)


def test_nothing_is_dropped_in_eval_mode_or_at_0() -> None:
    values = torch.rand(50)
    assert torch.equal(Dropout(0.5).eval()(values), values)
    assert torch.equal(Dropout(0.0).train()(values), values)
    assert not torch.equal(Dropout(0.5).train()(values), values)
