"""The signed-rank test is the exact one, counted by hand."""

from __future__ import annotations

from itertools import product

import pytest

from spoter_runtime.statistics import CLAIM_P, signed_rank_p


def test_the_signed_rank_p_is_that_of_all_signs_counted_one_by_one():
    values = [0.3, -0.1, 0.25, 0.7, -0.2, 0.05, 0.4]
    ranks = {value: rank for rank, value in enumerate(sorted(values, key=abs), 1)}
    total = sum(ranks.values())
    seen = sum(rank for value, rank in ranks.items() if value > 0)
    extreme = min(seen, total - seen)
    sums = [
        sum(r for r, sign in zip(ranks.values(), signs, strict=True) if sign)
        for signs in product((0, 1), repeat=len(values))
    ]
    share = sum(min(s, total - s) <= extreme for s in sums) / len(sums)
    assert signed_rank_p(values) == pytest.approx(share)
    assert signed_rank_p([0.1] * 8) == pytest.approx(2 / 2**8)
    assert signed_rank_p([0.1] * 8) <= CLAIM_P < signed_rank_p([0.1] * 7)
    assert signed_rank_p([0.0, 0.0]) == 1.0
