"""Judge parity's facts by thresholds that are data, and keep the judgement with the facts."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from spoter_export.parity.compare import ClipFact, ClipFacts, ParityFacts, WeightFact, run_parity
from spoter_export.probes import GENERATED, GOLDENS, SYNTHETIC, ClipSet
from spoter_runtime._types import OnProgress
from spoter_runtime.bundle.goldens import threshold
from spoter_runtime.bundle.manifest import Artefact
from spoter_runtime.errors import ConfigError, nearest_known
from spoter_runtime.runner import Runner

_SHOWN: Final = 3  # flips that a failure names
_Z: Final = 1.959964  # of a normal distribution, 95 % lie within so many standard deviations
_ROUNDED: Final = 0.501  # steps between a weight and its rounded value, with room for float32's own rounding
_CLAIMED: Final = 0.95  # share of labels that clips of people should at least be able to show


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Thresholds for the facts of one precision; the defaults are those of fp32.

    Attributes:
        max_logit_diff: measured on trained models, ONNX Runtime stays within 3e-6 of torch on people's clips
            and over the grid, within 4e-5 on a clip that shows one still point; 1e-4 leaves room for other
            processors' orders of summation.
        max_invariance_diff: measured within 6e-6 on trained models, in torch and in ONNX Runtime, on CPUs and
            on an H200.
        min_label_agreement: share of clips whose best label is the same; where it is less than all, only of
            people's clips.
        min_clips: people's clips without which no agreement on labels is claimed; 0 asks for none.
    """

    max_logit_diff: float = 1e-4
    max_invariance_diff: float = 1e-5
    min_label_agreement: float = 1.0
    min_clips: int = 0

    def __post_init__(self) -> None:
        for name, most in (
            ("max_logit_diff", None),
            ("max_invariance_diff", None),
            ("min_label_agreement", 1),
            ("min_clips", None),
        ):
            value = getattr(self, name)
            number = isinstance(value, int if name == "min_clips" else int | float)
            if isinstance(value, bool) or not number or not 0 <= value <= (most or sys.float_info.max):
                kind = "a whole number" if name == "min_clips" else "a number"
                expected = f"{kind} of 0 or more" if most is None else f"{kind} in 0..{most}"
                raise ConfigError(f"{name}: expected {expected}, got {value!r}")


# fp16, measured with every tensor rounded: a trained model stays within 7.9e-3 of fp32 over the grid and
# within 7.5e-3 on people's clips, changed ones too, padding and company move it by at most 2.2e-3, 256 of 256
# labels agree. With two fifths of the roundings missing: 3,133 of 3,133 labels; where a model does not know
# the words and its logits lie close, 0.5 % of the labels turn.
# int8, measured on a CPU with AVX2 by benchmarks/int8.py and over twenty seeds by
# benchmarks/no_false_alarm.py: a trained model stays within 3.6e-2 of fp32 on people's clips and within
# 1.1e-1 over the grids, where generated clips of one frame are furthest; padding, company and order move it
# by at most 6.1e-2, because they share the steps that values are rounded to; 1,303 of 1,303 labels agree.
POLICIES: Final = {
    "fp32": Policy(),
    "fp16": Policy(max_logit_diff=2e-2, max_invariance_diff=5e-3, min_label_agreement=0.99),
    "int8": Policy(max_logit_diff=1.5e-1, max_invariance_diff=1e-1, min_label_agreement=0.995),
}


# What a trained model's logits were off by at most on people's clips, with half as much again as room.
ERROR_ON_PEOPLE: Final = {"fp32": 1e-4, "fp16": 1.2e-2, "int8": 6e-2}


def _percent(share: float) -> str:
    short = f"{share:.1%}"
    return short if math.isclose(float(short[:-1]) / 100, share, rel_tol=1e-12) else f"{100 * share:.10g}%"


def policy_of(precision: str) -> Policy:
    """Return the thresholds of a precision.

    Raises:
        ConfigError: there are none.
    """
    if precision not in POLICIES:
        raise ConfigError(f"precision {precision!r}: expected one of {', '.join(POLICIES)}")
    return POLICIES[precision]


def policies_from_table(table: dict[str, Any], *, where: str) -> dict[str, Policy]:
    """Return thresholds by precision from a parsed TOML file, one table for each: ``[fp16]``.

    What a table does not name keeps its default.

    Raises:
        ConfigError: an unknown precision or key, with the nearest valid one, or a value that is no threshold.
    """
    keys = [field.name for field in fields(Policy)]
    policies = dict(POLICIES)
    for precision, values in table.items():
        if precision in keys:
            raise ConfigError(f"{where}: {precision}: of which precision?", fix="a line [fp32] before it")
        _check_known(precision, list(POLICIES), f"{where}: precision")
        if not isinstance(values, dict):
            raise ConfigError(
                f"{where}: {precision}: expected a table", fix=f"a line [{precision}] before it"
            )
        for key in values:
            _check_known(key, keys, f"{where}: [{precision}]")
        try:
            policies[precision] = Policy(**(asdict(policies[precision]) | values))
        except ConfigError as error:
            raise ConfigError(f"{where}: [{precision}]: {error}") from error
    return policies


def _check_known(name: str, known: list[str], where: str) -> None:
    if name not in known:
        raise ConfigError(f"{where}: unknown {name!r}; {nearest_known(name, known, cutoff=0.5)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A policy's judgement of some facts: passed when there are no failures."""

    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """True when nothing failed."""
        return not self.failures


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How many labels are the same, and how sure that is.

    Attributes:
        low, high: 95 % interval of the share (Wilson 1927).
    """

    agree: int
    clips: int
    low: float
    high: float


def agreement(agree: int, clips: int) -> Agreement:
    """Return the share of agreeing labels with Wilson's score interval at 95 %, of one clip or more."""
    z = _Z
    share = agree / clips
    middle = (share + z * z / (2 * clips)) / (1 + z * z / clips)
    half = z / (1 + z * z / clips) * math.sqrt(share * (1 - share) / clips + z * z / (4 * clips * clips))
    return Agreement(agree=agree, clips=clips, low=max(0.0, middle - half), high=min(1.0, middle + half))


def _of_people(facts: ClipFacts) -> bool:
    return facts.source not in (GENERATED, GOLDENS)


def agreement_in_words(facts: ClipFacts, precision: str) -> str:
    """Return how many labels agree, for people's clips with the interval, and what the flips are."""
    if facts.error is not None:
        return "no answer"
    found = agreement(facts.labels_agree, len(facts.clips))
    words = f"{found.agree} of {found.clips} labels agree"
    if _of_people(facts):
        top5 = agreement(facts.top5_agree, len(facts.clips))
        words += f" ({found.low:.1%} to {found.high:.1%}), the best five of {facts.top5_agree}"
        words += f" ({top5.low:.1%} to {top5.high:.1%})"
    if facts.flips:
        words += f"; {len(unexplained_flips(facts, precision))} of {len(facts.flips)} flips unexplained"
    for by in ("label", "signer"):
        if worst := worst_group(facts, by):
            words += f"; worst {'class' if by == 'label' else 'signer'} {worst[0]}: {worst[1]} of {worst[2]}"
    return words


def _kind_of(groups: Sequence[ClipFacts]) -> str:
    """Name the clips of datasets: nobody has signed those of a synthetic one."""
    synthetic = groups and all(group.source.startswith(SYNTHETIC) for group in groups)
    return "generated clips" if synthetic else "clips of people"


def few_clips_in_words(facts: ParityFacts) -> str:
    """Return that few clips of people show little; nothing where there are none, or enough."""
    groups = [g for g in facts.clips if _of_people(g) and not g.change and g.clips]
    clips = sum(len(group.clips) for group in groups)
    if not clips or (found := agreement(sum(g.labels_agree for g in groups), clips)).low >= _CLAIMED:
        return ""
    needed = math.ceil(_Z**2 * _CLAIMED / (1 - _CLAIMED))  # so many that agree have that lower end
    return (
        f"{clips} {_kind_of(groups)} say little about labels: the share that agrees may be {found.low:.0%}. "
        f"Fix: {needed} or more with --data; min_clips in a policy asks for them"
    )


def unexplained_flips(facts: ClipFacts, precision: str) -> tuple[ClipFact, ...]:
    """Return the flips that the rounding of a precision does not explain.

    A label can turn only where the best two logits are closer than twice the error, on both sides. The error
    that counts here is the one that this project has measured for the precision, not what a policy allows:
    thresholds must not be able to hide a flip.
    """
    error = policy_of(precision).max_logit_diff
    if _of_people(facts):
        error = min(error, ERROR_ON_PEOPLE[precision])
    return tuple(
        flip for flip in facts.flips if max(flip.reference_margin, flip.candidate_margin) > 2 * error
    )


def worst_group(facts: ClipFacts, by: str) -> tuple[str, int, int] | None:
    """Return the class (`by` ``"label"``) or signer (``"signer"``) with the lowest agreement.

    The answer is (name, agree, clips). None where clips do not say, or every label agrees.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for clip in facts.clips:
        if (name := getattr(clip, by)) is not None:
            counts[name][0] += not clip.is_flip
            counts[name][1] += 1
    if not counts:
        return None
    name, (agree, clips) = min(
        counts.items(), key=lambda item: (item[1][0] / item[1][1], -item[1][1], item[0])
    )
    return (name, agree, clips) if agree < clips else None


def judge(facts: ParityFacts, policy: Policy, precision: str = "fp32") -> Verdict:
    """Compare facts with thresholds; each failure says what, where, and by how much.

    Args:
        facts: from `run_parity`.
        policy: thresholds.
        precision: of the candidate; what it explains of flipped labels is not up to the policy.
    """
    failures = _grid_failures(facts, policy, precision)
    for clips in facts.clips:
        failures += _clip_failures(clips, policy, precision)
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
            f"weight {worst.name}: {worst.steps:.3g} steps from the fp32 file's, where rounding leaves 0.5: "
            f"its scale is not its own, or its values are not; {len(off)} of {len(facts.weights)} weights"
        )
    real = [group for group in facts.clips if _of_people(group) and not group.change]
    if (count := sum(len(group.clips) for group in real)) < policy.min_clips:
        what = f"{count} {_kind_of(real)}"
        failures.append(f"{what}, {policy.min_clips} are needed to say anything about labels")
    return Verdict(failures=tuple(failures))


def _grid_failures(facts: ParityFacts, policy: Policy, precision: str) -> list[str]:
    """Return one failure for the shapes without an answer, and one for those that differ: the worst.

    Labels that turn where the logits are further off than the precision explains fail under any policy.
    """
    total = len(facts.grid)
    silent = [point for point in facts.grid if point.max_logit_diff is None]
    # A NaN is beyond every threshold, and worse than any number.
    beyond = [
        (math.inf if math.isnan(difference) else difference, point)
        for point in facts.grid
        if (difference := point.max_logit_diff) is not None and not difference <= policy.max_logit_diff
    ]
    failures = []
    if silent:
        failures.append(
            f"{silent[0].where}: {facts.candidate} cannot run it: {silent[0].error}; "
            f"{len(silent)} of {total} shapes"
        )
    if beyond:
        difference, worst = max(beyond, key=lambda item: item[0])
        failures.append(
            f"{worst.where}: logits differ by {difference:.1e}, allowed {threshold(policy.max_logit_diff)}; "
            f"{len(beyond)} of {total} shapes are beyond that"
        )
    explained = policy_of(precision).max_logit_diff
    turned = [
        point
        for point in facts.grid
        if point.max_logit_diff is not None
        and point.labels_agree < point.batch
        and not point.max_logit_diff <= explained
    ]
    if turned:
        failures.append(
            f"{turned[0].where}: {turned[0].labels_agree} of {turned[0].batch} labels agree, and logits that "
            f"differ by {turned[0].max_logit_diff:.1e} are no rounding of {precision}; {len(turned)} of "
            f"{total} shapes"
        )
    return failures


def _clip_failures(facts: ClipFacts, policy: Policy, precision: str) -> list[str]:
    if facts.error is not None:
        return [f"clips ({facts.where}): no answer: {facts.error}"]
    failures = []
    where = f"{len(facts.clips)} clips ({facts.where})"
    beyond = [clip for clip in facts.clips if not clip.max_logit_diff <= policy.max_logit_diff]
    if beyond:
        worst = max(beyond, key=lambda clip: clip.max_logit_diff)
        failures.append(
            f"{where}: logits differ by {worst.max_logit_diff:.1e} on {worst.name}, allowed "
            f"{threshold(policy.max_logit_diff)}; {len(beyond)} clips are beyond that"
        )
    if _counts_labels(facts, policy) and facts.labels_agree < policy.min_label_agreement * len(facts.clips):
        failures.append(
            f"{where}: {len(facts.flips)} labels differ, agreement must be "
            f"{_percent(policy.min_label_agreement)}"
        )
    unexplained = unexplained_flips(facts, precision)
    if unexplained:
        named = "; ".join(
            f"{flip.name}: {flip.reference} (by {flip.reference_margin:.1e}) became {flip.candidate}"
            for flip in unexplained[:_SHOWN]
        )
        flips = "1 flip" if len(unexplained) == 1 else f"{len(unexplained)} flips"
        failures.append(f"{where}: {flips} that {precision} does not explain: {named}")
    return failures


def _counts_labels(facts: ClipFacts, policy: Policy) -> bool:
    """Whether a share of labels says anything; without, each flip is looked at all the same."""
    if facts.change is not None:
        return False  # of a mirrored signer a model may be so unsure that rounding turns more labels
    # A share below all of them is one of people's clips: on others a model may be unsure of all.
    return policy.min_label_agreement == 1.0 or _of_people(facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Facts about one artefact, and one judgement of them: what parity.json holds.

    Attributes:
        artefact: the file that the candidate ran, relative to its bundle.
        precision: of that file.
        sha256: of that file.
        on_gpu: whether a GPU computed the candidate's answers.
    """

    artefact: str
    precision: str
    sha256: str
    on_gpu: bool = False
    facts: ParityFacts
    policy: Policy
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "artefact": self.artefact,
            "precision": self.precision,
            "sha256": self.sha256,
            "on_gpu": self.on_gpu,
            "passed": self.verdict.passed,
            "failures": list(self.verdict.failures),
            "policy": asdict(self.policy),
            "facts": self.facts.as_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Proof:
        """Read what `as_json` wrote.

        Raises:
            TypeError, KeyError: a field is missing or unknown.
        """
        return cls(
            artefact=value["artefact"],
            precision=value["precision"],
            sha256=value["sha256"],
            on_gpu=value["on_gpu"],
            facts=ParityFacts.from_json(value["facts"]),
            policy=Policy(**value["policy"]),
            verdict=Verdict(failures=tuple(value["failures"])),
        )

    def judged_by(self, policy: Policy) -> Proof:
        """Return the same facts under other thresholds; nothing is run."""
        return replace(self, policy=policy, verdict=judge(self.facts, policy, self.precision))


def prove(
    reference: Runner,
    candidate: Runner,
    artefact: Artefact,
    sets: Sequence[ClipSet] = (),
    *,
    policy: Policy | None = None,
    seed: int = 0,
    on_gpu: bool = False,
    weights: Sequence[WeightFact] = (),
    on_progress: OnProgress | None = None,
) -> Proof:
    """Run `run_parity` on an artefact, and judge it; without a policy by that of its precision.

    `weights` are facts about the file itself, from `spoter_export.precision.int8.weight_facts`.
    """
    policy = policy or policy_of(artefact.precision)
    facts = run_parity(reference, candidate, sets, seed=seed, on_progress=on_progress)
    facts = replace(facts, weights=tuple(weights))
    return Proof(
        artefact=artefact.path,
        precision=artefact.precision,
        sha256=artefact.sha256,
        on_gpu=on_gpu,
        facts=facts,
        policy=policy,
        verdict=judge(facts, policy, artefact.precision),
    )
