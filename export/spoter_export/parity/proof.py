"""Proof: the facts about one file of a bundle, and the verdict on them; an entry of parity.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from spoter_export.parity.compare import run_parity
from spoter_export.parity.facts import ParityFacts, WeightFact
from spoter_export.parity.judge import Verdict, judge
from spoter_export.parity.policy import Policy, policy_of
from spoter_export.probes import ClipSet
from spoter_runtime._types import OnProgress
from spoter_runtime.bundle.libraries import FACE
from spoter_runtime.bundle.manifest import Artefact
from spoter_runtime.runner import Runner
from spoter_runtime.strict import expect, made_from

# Name of the runner that proves an fp16 file on a CPU, see `spoter_export.precision.fp16`.
ROUNDED: Final = "ort-cpu, all rounded to fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The facts about one artefact, and the verdict on them; an entry of parity.json.

    Attributes:
        artefact: path of the candidate's file in the bundle.
        precision: precision of the file.
        sha256: hash of the file.
        on_gpu: whether a GPU computed the candidate's answers.
    """

    artefact: str
    precision: str
    sha256: str
    on_gpu: bool = False
    facts: ParityFacts
    policy: Policy
    verdict: Verdict

    @property
    def backend(self) -> str:
        """The proven backend, in the form of `spoter-kit parity --backend`: ``"ort-cpu:fp16"``."""
        name = "ort-cpu" if self.facts.candidate == ROUNDED else self.facts.candidate
        return name if self.precision == "fp32" else f"{name}:{self.precision}"

    @property
    def face(self) -> str:
        """The name of the face that answered, as in ``parity --face``; empty for an engine in Python."""
        return self.facts.candidate.removeprefix(FACE) if self.facts.candidate.startswith(FACE) else ""

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
            ValueError: a field is missing, unknown, or of another type.
        """
        stated = dict(expect(value, dict[str, Any], "proof"))
        stated.pop("passed", None)
        verdict = {"failures": stated.pop("failures", None)}
        proof = made_from(cls, stated | {"verdict": verdict}, "proof")
        policy_of(proof.precision)
        return proof

    def judged_by(self, policy: Policy) -> Proof:
        """Return a proof with the same facts, judged by other thresholds."""
        return replace(self, policy=policy, verdict=judge(self.facts, policy, self.precision))


def one_of(on_progress: OnProgress | None, number: int, count: int) -> OnProgress | None:
    """Return the `on_progress` of one of several proofs, from 0: it counts the frames of all of them.

    The first one counts twice: it runs the reference too, whose answers are then remembered.
    """
    if on_progress is None:
        return None
    return lambda done, total, what: on_progress(
        (number + 1) * total + done if number else 2 * done, (count + 1) * total, what
    )


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
    """Compare an artefact's runner with the reference, and judge it, by default by its precision's policy.

    `weights` are facts about the file, from `spoter_export.precision.int8.weight_facts`.
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
