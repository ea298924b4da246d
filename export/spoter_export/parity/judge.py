"""judge: the verdict of a policy on the facts of a parity run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from spoter_export.parity.facts import ClipFact, ClipFacts, ParityFacts, kind_of_clips
from spoter_export.parity.policy import ERROR_ON_PEOPLE, Policy, policy_of
from spoter_runtime.bundle.goldens import threshold

Z_95: Final = 1.959964  # 95 % of a normal distribution lie within so many standard deviations
_SHOWN: Final = 3  # flips named in a failure
_ROUNDED: Final = 0.501  # steps between a weight and its rounded value, with room for float32's own rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A policy's judgement of some facts."""

    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """True if there are no failures."""
        return not self.failures


def judge(facts: ParityFacts, policy: Policy, precision: str = "fp32") -> Verdict:
    """Return the verdict of a policy on facts; each failure says what, where, and by how much.

    Args:
        facts: from `run_parity`.
        policy: the thresholds.
        precision: precision of the candidate; it decides which flips rounding explains, whatever the policy.
    """
    failures = [*grid_failures(facts, policy, precision)]
    for clips in facts.clips:
        failures += clip_failures(clips, policy, precision)
    for fact in facts.invariance:
        if fact.max_logit_diff is None:
            failures.append(f"{fact.runner}: {fact.change}: no answer: {fact.error}")
        elif not fact.max_logit_diff <= policy.max_invariance_diff:
            failures.append(
                f"{fact.runner}: {fact.change} moves the logits by {fact.max_logit_diff:.1e}, "
                f"allowed {threshold(policy.max_invariance_diff)}"
            )
    if off := [fact for fact in facts.weights if not fact.steps <= _ROUNDED]:
        worst = max(off, key=lambda fact: fact.steps)
        failures.append(
            f"weight {worst.name}: wrong scale or wrong values: {worst.steps:.3g} quantisation steps from "
            f"fp32, rounding allows 0.5; {len(off)} of {len(facts.weights)} weights"
        )
    real = [group for group in facts.clips if group.is_of_people and not group.change]
    if (count := sum(len(group.clips) for group in real)) < policy.min_clips:
        found = f"{count} {kind_of_clips(real)}"
        failures.append(f"{found}, {policy.min_clips} are needed to say anything about labels")
    return Verdict(failures=tuple(failures))


def grid_failures(facts: ParityFacts, policy: Policy, precision: str) -> Iterator[str]:
    """Yield up to three failures: shapes without an answer, the worst difference, flipped labels.

    Flipped labels with a logit difference beyond the precision's rounding fail under any policy.
    """
    total, explained = len(facts.grid), policy_of(precision).max_logit_diff
    if silent := [point for point in facts.grid if point.max_logit_diff is None]:
        reason = f"{facts.candidate} cannot run it: {silent[0].error}"
        yield f"{silent[0].where}: {reason}; {len(silent)} of {total} shapes"
    # A NaN is beyond every threshold, and worse than any number.
    answered = [
        (math.inf if math.isnan(d) else d, p) for p in facts.grid if (d := p.max_logit_diff) is not None
    ]
    if beyond := [(d, point) for d, point in answered if d > policy.max_logit_diff]:
        difference, worst = max(beyond, key=lambda item: item[0])
        yield (
            f"{worst.where}: logits differ by {difference:.1e}, allowed {threshold(policy.max_logit_diff)}; "
            f"{len(beyond)} of {total} shapes are beyond that"
        )
    if turned := [(d, p) for d, p in answered if d > explained and p.labels_agree < p.batch]:
        difference, first = turned[0]
        yield (
            f"{first.where}: {first.labels_agree} of {first.batch} labels agree, and logits that differ by "
            f"{difference:.1e} are no rounding of {precision}; {len(turned)} of {total} shapes"
        )


def clip_failures(facts: ClipFacts, policy: Policy, precision: str) -> Iterator[str]:
    """Yield the failures of one source: the worst difference, too many flips, and the unexplained flips."""
    if facts.error is not None:
        yield f"clips ({facts.where}): no answer: {facts.error}"
        return
    where, count = f"{len(facts.clips)} clips ({facts.where})", len(facts.clips)
    if beyond := [clip for clip in facts.clips if not clip.max_logit_diff <= policy.max_logit_diff]:
        worst = max(beyond, key=lambda clip: clip.max_logit_diff)
        yield (
            f"{where}: logits differ by {worst.max_logit_diff:.1e} on {worst.name}, allowed "
            f"{threshold(policy.max_logit_diff)}; {len(beyond)} clips are beyond that"
        )
    # A required share below 100 % applies to unchanged clips of people only: on other clips, such as a
    # mirrored signer's, a model may be so unsure that rounding flips more labels. Each flip is judged below.
    share = policy.min_label_agreement
    counts = facts.change is None and (share == 1.0 or facts.is_of_people)
    if counts and facts.labels_agree < share * count:
        short = f"{share:.1%}"
        exact = math.isclose(float(short[:-1]) / 100, share, rel_tol=1e-12)
        needed = short if exact else f"{100 * share:.10g}%"
        yield f"{where}: {len(facts.flips)} labels differ, agreement must be {needed}"
    if unexplained := unexplained_flips(facts, precision):
        named = "; ".join(
            f"{flip.name}: {flip.reference} (by {flip.reference_margin:.1e}) became {flip.candidate}"
            for flip in unexplained[:_SHOWN]
        )
        flips = "1 flip" if len(unexplained) == 1 else f"{len(unexplained)} flips"
        yield f"{where}: {flips} that {precision} does not explain: {named}"


def unexplained_flips(facts: ClipFacts, precision: str) -> tuple[ClipFact, ...]:
    """Return the flips that the rounding of a precision does not explain.

    Rounding can flip a label only if both runners' best two logits are closer than twice the error. The error
    is the one measured for the precision, not the policy's: thresholds must not hide a flip.
    """
    error = policy_of(precision).max_logit_diff
    if facts.is_of_people:
        error = min(error, ERROR_ON_PEOPLE[precision])
    return tuple(
        flip for flip in facts.flips if max(flip.reference_margin, flip.candidate_margin) > 2 * error
    )


def worst_group(facts: ClipFacts, by: str) -> tuple[str, int, int] | None:
    """Return (name, agreeing clips, clips) of the label or signer with the lowest agreement.

    `by` is ``"label"`` or ``"signer"``. None if clips have none, or all clips agree.
    """
    groups: dict[str, list[bool]] = defaultdict(list)
    for clip in facts.clips:
        if (name := getattr(clip, by)) is not None:
            groups[name].append(not clip.is_flip)
    ranked = [(sum(agree) / len(agree), -len(agree), name) for name, agree in groups.items()]
    share, _, name = min(ranked, default=(1.0, 0, ""))
    return (name, sum(groups[name]), len(groups[name])) if share < 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """A share of agreeing labels with its interval.

    Attributes:
        low, high: 95 % interval of the share (Wilson 1927).
    """

    agree: int
    clips: int
    low: float
    high: float

    @property
    def interval(self) -> str:
        """The interval in per cent."""
        return f"({self.low:.1%} to {self.high:.1%})"


def agreement(agree: int, clips: int) -> Agreement:
    """Return the share of agreeing labels with Wilson's 95 % score interval; `clips` is at least 1."""
    z, share = Z_95, agree / clips
    middle = (share + z * z / (2 * clips)) / (1 + z * z / clips)
    half = z / (1 + z * z / clips) * math.sqrt(share * (1 - share) / clips + z * z / (4 * clips * clips))
    return Agreement(agree=agree, clips=clips, low=max(0.0, middle - half), high=min(1.0, middle + half))
