from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spoter_runtime.errors import UsageError
from spoter_toolkit.data.dataset import Dataset
from spoter_toolkit.runs.run import read_run
from spoter_toolkit.training import forecast, loop, threads
from spoter_toolkit.training.config import TrainConfig
from spoter_toolkit.training.epochs import Loop
from spoter_toolkit.training.forecast import Forecast, Pace
from spoter_toolkit.training.length import (
    LEAST_DECAY,
    LEAST_STEPS,
    Schedule,
    check_minutes,
    enough_minutes,
    is_learned,
    longer,
    most_steps,
    schedule_of,
    soonest_end,
)
from spoter_toolkit.training.loop import steps_until, train
from spoter_toolkit.training.recipes import config_from_mapping

AUTOMATIC = TrainConfig(epochs=0, warmup_steps=10, max_steps=4000)


def rows(*, accuracy: float = 0.1, losses: list[float]) -> list[dict[str, Any]]:
    return [{"train_accuracy": accuracy, "train_loss": loss} for loss in losses]


def falling(epochs: int) -> list[float]:
    return [4 * 0.9**i for i in range(epochs)]


def test_a_fixed_length_warms_up_and_ends_at_zero() -> None:
    factor = schedule_of(TrainConfig(epochs=11, warmup_steps=10), 10)
    values = [factor(step) for step in range(111)]
    assert values[0] == pytest.approx(1 / 11)
    assert np.argmax(values) == 10
    assert values[10] == 1.0
    assert values[110] == 0.0
    short = schedule_of(TrainConfig(epochs=5, warmup_steps=1000), 10)
    assert max(short(step) for step in range(50)) == 1.0


def test_an_automatic_length_keeps_its_rate_until_the_end_is_decided() -> None:
    factor = schedule_of(AUTOMATIC, 50)
    assert {factor(step) for step in range(10, 4000)} == {1.0}
    factor.begin_decay(1000, 50)
    assert factor.end == 1600
    assert [factor(step) for step in (999, 1000, 1300, 1600)] == [1.0, 1.0, 0.5, 0.0]


@pytest.mark.parametrize("bound", [4000, 700, 200, 30, 3])
def test_the_rate_falls_to_zero_within_the_bound_on_clips_that_are_never_learned(bound: int) -> None:
    epoch_steps = min(50, max(1, bound // 8))
    length = Schedule(warmup=1, decay_from=bound, end=bound)
    step, losses = 0, falling(1000)
    while step < length.end:
        step += epoch_steps
        seen = rows(losses=losses[: step // epoch_steps])
        if length.decay_from == bound and is_learned(seen, step, bound, 60):
            length.begin_decay(step, epoch_steps)
    assert length(step) == 0.0
    assert bound - epoch_steps < step <= bound


def test_the_rate_falls_once_the_clips_are_learned_or_the_loss_has_stopped_falling() -> None:
    learned = rows(accuracy=0.85, losses=falling(8))
    assert is_learned(learned, LEAST_STEPS, 4000, 60)
    assert not is_learned(learned, LEAST_STEPS - 50, 4000, 60)
    assert not is_learned(rows(losses=falling(20)), 1000, 4000, 60)
    assert is_learned(rows(losses=falling(15) + [0.8] * 10), 1000, 4000, 60)
    at_chance = [math.log(300)] * 20  # many labels begin so
    assert not is_learned(rows(losses=at_chance), 1000, 4000, 300)


def test_the_bound_follows_clips_and_labels() -> None:
    def bound(clips: int, labels: int) -> int:
        return most_steps(replace(AUTOMATIC, max_steps=0, batch_size=32), clips, labels)

    assert bound(40, 2) == bound(400, 50) == 4000
    assert bound(5000, 5000) == 40_000
    assert bound(320_000, 60) == 200_000
    assert most_steps(AUTOMATIC, 320_000, 60) == 4000  # the setting


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"epochs": 20, "max_steps": 0}, "--set epochs=80"),
        ({"epochs": 1, "max_steps": 0}, "--set epochs=14"),
        ({"max_steps": 100}, "--set max_steps=700"),
        ({"max_steps": 4000}, "--set max_steps=8000"),
    ],
)
def test_a_training_that_ended_too_early_gets_more_of_what_bounded_it(
    settings: dict[str, int], expected: str
) -> None:
    assert longer(replace(AUTOMATIC, **settings), 50) == expected
    assert longer(replace(AUTOMATIC, **settings), 50, minutes=3) == "--minutes 3, or none"


def test_a_bound_that_is_too_small_names_one_that_is_enough() -> None:
    assert enough_minutes(3, left_s=150, step_s=1) == 15  # 700 steps take 12 of them
    assert enough_minutes(20, left_s=1190, step_s=0.05) == 41  # it had many steps, and has not learned


def test_minutes_bound_the_steps_and_the_plan_says_so(tiny: Dataset, tmp_path: Path) -> None:
    small = replace(AUTOMATIC.model, d_model=36, num_encoder_layers=1, d_ff=40)
    config = replace(AUTOMATIC, model=small, max_steps=0, batch_size=4)
    plans: list[Forecast] = []
    run = train(config, tiny, tmp_path / "run", minutes=0.005, on_plan=plans.append)
    (plan,) = plans
    assert (plan.clips, plan.labels) == (len(tiny.clips_in("train")), 4)
    assert plan.most_steps == run.info["train"]["max_steps"] < 700
    assert plan.is_short
    assert re.fullmatch(r"--minutes [1-9], or none", plan.longer)
    plan = replace(plan, least_steps=9, most_steps=9)
    assert str(plan).startswith(f"plan: {plan.clips} clips, 4 labels; 9 steps; about 0.1 min")
    bounded = replace(plan, within_minutes=2)
    assert str(bounded).endswith("9 steps; within 2 minutes here")
    fixed = replace(config, epochs=10_000)
    run = train(fixed, tiny, tmp_path / "fixed", minutes=0.005, on_plan=plans.append)
    assert 1 <= run.info["metrics"]["epochs"] < 300


@pytest.mark.parametrize("epochs", [0, 10_000])
def test_minutes_hold_on_a_machine_that_is_slower_than_planned(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    monkeypatch.setattr(threads, "seconds_a_step", lambda _: 1e-5)
    small = replace(AUTOMATIC.model, d_model=36, num_encoder_layers=1, d_ff=40)
    config = replace(AUTOMATIC, model=small, epochs=epochs, max_steps=0, batch_size=4)
    run = train(config, tiny, tmp_path / "run", minutes=0.01)
    assert run.info["status"] == "done"
    assert 1 <= run.info["metrics"]["epochs"] < (epochs or run.info["train"]["max_steps"])
    resumed = train(config_from_mapping(run.info["train"], where=""), tiny, run.folder, resume=True)
    assert resumed.info["metrics"]["epochs"] == run.info["metrics"]["epochs"]


@pytest.mark.parametrize(("on_one", "chosen"), [(0.1, 1), (0.9, None)])
def test_a_bounded_training_takes_one_thread_where_that_is_surely_faster_and_resumes_on_it(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_one: float, chosen: int | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "seconds_a_step", lambda _: on_one if torch.get_num_threads() == 1 else 1.0)
    small = replace(AUTOMATIC.model, d_model=36, num_encoder_layers=1, d_ff=40)
    config = replace(AUTOMATIC, model=small, max_steps=4, batch_size=4)
    used, plans, step = [], list[Forecast](), Loop.step

    def stop_after_two(self: Loop, batch: Any) -> Any:
        used.append(torch.get_num_threads())
        if len(used) == 2:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Loop, "step", stop_after_two)
    with threads.threads_kept():
        torch.set_num_threads(3)
        with pytest.raises(KeyboardInterrupt):
            train(config, tiny, tmp_path / "run", minutes=9, on_plan=plans.append)
        begun = read_run(tmp_path / "run")
        config = config_from_mapping(begun.info["train"] or {}, where="")
        done = train(config, tiny, tmp_path / "run", resume=True)
        assert torch.get_num_threads() == 3
    assert set(used) == {chosen or 3}
    assert [run.info["data"].get("threads") for run in (begun, done)] == [chosen, chosen]
    assert ("on one thread" in str(plans[0])) == bool(chosen)


def test_a_training_ends_where_the_next_epoch_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.time, "monotonic", lambda: 100.0)
    epoch: dict[str, Any] = {"begun": 90.0, "epoch_steps": 50, "bound": 1000}
    assert steps_until(math.inf, 200, **epoch) == 1000
    assert steps_until(260.0, 200, **epoch) == 1000  # 16 epochs of ten seconds are left
    assert steps_until(259.0, 200, **epoch) == 950
    assert steps_until(109.0, 200, **epoch) == steps_until(90.0, 200, **epoch) == 200


def test_a_plan_of_an_open_length_names_both_ends() -> None:
    plan = Forecast(clips=1234, labels=50, least_steps=700, most_steps=4000, seconds_a_step=0.1)
    assert str(plan) == (
        "plan: 1,234 clips, 50 labels; 700 to 4,000 steps, until the clips are learned; "
        "about 1.2 to 6.7 minutes here"
    )
    assert not plan.is_short
    assert plan.least_steps == LEAST_STEPS + LEAST_DECAY
    one = replace(plan, least_steps=1, most_steps=1)
    assert str(one) == "plan: 1,234 clips, 50 labels; 1 step; about 0.1 minutes here"


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_that_are_none_are_refused(minutes: float) -> None:
    with pytest.raises(UsageError, match=r"--minutes .*: expected more than 0\. Fix: --minutes 5"):
        check_minutes(minutes)


@pytest.mark.parametrize("bound", [80, 600, 4000])
@pytest.mark.parametrize("epoch_steps", [7, 50])
def test_the_end_that_is_shown_is_where_a_training_ends_if_it_has_learned(
    bound: int, epoch_steps: int
) -> None:
    for begun in range(0, bound, epoch_steps):
        schedule, step = Schedule(warmup=1, decay_from=bound, end=bound), begun
        if is_learned(rows(losses=[1.0]), begun, bound, 4):
            break  # the bound has decided it
        while schedule.decay_from == bound and step < bound:
            step += epoch_steps
            if step < bound and is_learned(rows(accuracy=1.0, losses=[1.0]), step, bound, 4):
                schedule.begin_decay(step, epoch_steps)
        shown = soonest_end(begun, epoch_steps, bound)
        assert shown - epoch_steps <= schedule.end <= max(shown, begun + epoch_steps), begun


def test_a_plan_is_said_again_where_steps_take_longer_than_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(forecast.time, "monotonic", lambda: now)
    said: list[Forecast] = []
    plan = Forecast(clips=30, labels=5, least_steps=700, most_steps=4000, seconds_a_step=0.04)
    pace = Pace(plan, said.append)
    for step in range(1, 701):
        now += 0.06 if step <= 350 else 1.2  # at first nearly as planned, then the machine becomes busy
        pace.after(step, 700, 4000)
    assert [str(one) for one in said] == [
        "plan now: a step takes 16.2 times as long as said; 334 to 3,634 more steps, until the clips are "
        "learned; about 3.6 to 39 minutes here"
    ]
    for step in range(701, 2000):  # idle again
        now += 0.04
        pace.after(step, 2000, 4000)
    assert (len(said), said[-1].times_as_long < 0.5) == (2, True)
