"""The measuring code takes any runner, as README shows it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from spoter_export.parity.compare import run_parity
from spoter_export.parity.judge import judge
from spoter_export.parity.policy import policy_of
from spoter_runtime.contract import GraphContract, Label
from spoter_runtime.errors import BackendError
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.runner import Int32Array, Runner
from spoter_toolkit.bench.analysis.claim_words import claim_in_words
from spoter_toolkit.bench.scenarios.interleave import time_interleaved
from spoter_toolkit.bench.statistics import paired_ratio


class Sums(Runner):
    """Two logits of a clip: the sum of its real frames' first landmark, and its opposite."""

    contract = GraphContract(labels=(Label(name="yes"), Label(name="no")), max_frames=9, max_batch=4)

    def __init__(self, name: str, *, times: float = 1.0, breaks_at: int = 99, seconds: float = 0.0) -> None:
        self.name = name
        self._times, self._breaks_at, self._seconds = times, breaks_at, seconds

    def _infer(self, poses_NTD: Float32Array, lengths_N: Int32Array) -> Float32Array:
        if poses_NTD.shape[1] >= self._breaks_at:
            raise ZeroDivisionError("of a foreign engine")
        time.sleep(self._seconds)
        real_NT = np.arange(poses_NTD.shape[1]) < lengths_N[:, None]
        values_NT = np.where(real_NT & ~np.isnan(poses_NTD[..., 0]), poses_NTD[..., 0], 0)
        sums_N = (values_NT.sum(1) * self._times).astype(np.float32)
        return np.stack((sums_N, -sums_N), axis=1)


def test_two_runners_of_ones_own_are_compared_in_answers() -> None:
    facts = run_parity(Sums("reference"), Sums("candidate"))
    assert judge(facts, policy_of("fp32")).failures == ()
    other = judge(run_parity(Sums("reference"), Sums("candidate", times=-1.0)), policy_of("fp32"))
    assert any("are no rounding of fp32" in failure for failure in other.failures)


def test_what_a_foreign_engine_raises_is_a_fact() -> None:
    facts = run_parity(Sums("reference"), Sums("candidate", breaks_at=9))
    failures = judge(facts, policy_of("fp32")).failures
    assert any("candidate: failed on poses (1, 9, 108): ZeroDivisionError" in failure for failure in failures)
    with pytest.raises(BackendError, match="ZeroDivisionError: of a foreign engine"):
        Sums("candidate", breaks_at=1).infer(np.zeros((1, 1, 108), np.float32))


def test_and_in_time() -> None:
    runners = {"slow": Sums("slow", seconds=0.01), "quick": Sums("quick", seconds=0.001)}
    samples = time_interleaved(runners, np.zeros((1, 4, 108), np.float32), rounds=10, min_calls=2)
    assert [len(samples[name]) for name in runners] == [10, 10]
    ratio = paired_ratio(samples["slow"], samples["quick"], seed=0)
    assert ratio is not None
    assert "as fast" in claim_in_words(ratio)
