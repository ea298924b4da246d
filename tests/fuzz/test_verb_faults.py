"""A full disk, a broken one, a kill while a verb writes: a sample here, every point in `make faults`."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    from verb_faults import prepare

    folder = tmp_path_factory.mktemp("faults")
    forks, trace = prepare(folder / "work", ("train", "export", "bench", "eval"))
    yield forks, trace
    forks.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "export", "bench", "eval"])
def test_a_fault_in_a_verb_leaves_the_old_one_or_the_new_one_and_the_next_run_succeeds(forks, name):
    from verb_faults import ERRORS, VERBS, Tried

    tried = Tried(VERBS[name], *forks)
    assert tried.points > 10
    dice = random.Random(name)
    # An export takes seconds, so it is given one fault.
    for code in dice.sample(ERRORS, 1 if name == "export" else 2):
        tried.fail(dice.randrange(1, tried.points + 1), code)
    tried.go_back()
