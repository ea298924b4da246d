"""What the tests share is made by one of them, and what a failure left is swept away."""

from __future__ import annotations

import pytest


def test_it_is_made_once_and_made_again_after_a_failure(made_once):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "half").touch(exist_ok=False)
        if len(made) == 1:
            raise OSError("the disk is full")
        return folder / "half"

    with pytest.raises(OSError, match="full"):
        made_once("a-test", make)
    first, second = made_once("a-test", make), made_once("a-test", make)
    assert first == second == made[0] / "half"
    assert first.exists()
    assert len(made) == 2
