"""Proof: the facts about one file of a bundle with a verdict on them, as parity.json keeps them."""

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
from spoter_runtime.bundle.manifest import Artefact
from spoter_runtime.runner import Runner

# The name of the runner that stands for an fp16 file on a CPU, see `spoter_export.precision.fp16`.
ROUNDED: Final = "ort-cpu, all rounded to fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Facts about one artefact and a verdict on them, as parity.json keeps them.

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

    @property
    def backend(self) -> str:
        """The backend that was proven, as `spoter-kit parity --backend` takes it: ``"ort-cpu:fp16"``."""
        name = "ort-cpu" if self.facts.candidate == ROUNDED else self.facts.candidate
        return name if self.precision == "fp32" else f"{name}:{self.precision}"

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
        """Return the same facts with the verdict of other thresholds; nothing is run."""
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
