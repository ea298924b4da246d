"""The demo's page: the signs, the training, the same answers everywhere, the speed, a clip recognised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from spoter_export.parity.report import proof_rows
from spoter_toolkit.bench.analysis.result import BenchResult
from spoter_toolkit.bench.report.charts import headline_chart, length_charts, memory_chart, start_chart
from spoter_toolkit.data.dataset import Clip
from spoter_toolkit.evaluation import Evaluation
from spoter_toolkit.parity.page import verdict_grid
from spoter_toolkit.parity.report import ParityReport
from spoter_toolkit.report.charts import Bar, BarChart
from spoter_toolkit.report.html import Page, Section, html_from_page
from spoter_toolkit.report.skeleton import Skeleton, skeleton_of
from spoter_toolkit.report.words import plural
from spoter_toolkit.training.page import curve_charts, score_sections

_SIGNS_SHOWN: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """The device's answer to one clip, from a process without torch.

    Attributes:
        scores: label → score of the best labels, the best first.
        files: of the bundle that were hashed and found as written.
        goldens: stored clips that were replayed.
        verified: whether their answers are the reference's.
    """

    clip: Clip
    scores: Mapping[str, float]
    files: int
    goldens: int
    verified: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that the demo has made.

    Attributes:
        metrics: rows of metrics.jsonl, one an epoch.
        evaluation: on signers that the model has never seen.
        pages: text → page beside this one, for a closer look.
    """

    evaluation: Evaluation
    metrics: Sequence[Mapping[str, Any]]
    parity: ParityReport
    bench: BenchResult
    recognised: Recognised
    pages: Mapping[str, str]


def html_from_story(story: Story) -> str:
    """Return the demo's page.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    scores = story.evaluation.scores
    right = round(scores.top1 * scores.clips)
    page = Page(
        verdict=f"{right} of {plural(scores.clips, 'clip')} by unseen signers recognised",
        title="The demo of spoter-kit",
        about="All clips are generated: nobody signed them.",
        lead=[_recognised_clip(story)],
        sections=[
            _signs(story),
            _training(story),
            *_unseen(story),
            _same_answers(story),
            _speed(story),
            _device(story),
            Section(
                name="more",
                title="Look closer",
                paragraphs=("Each step has a page of its own.",),
                links=story.pages,
            ),
        ],
        facts={"model": f"sha256 {story.bench.records.model_sha256}"},
    )
    return html_from_page(page)


def _recognised_clip(story: Story) -> Skeleton:
    recognised = story.recognised
    clip, (label, score) = recognised.clip, next(iter(recognised.scores.items()))
    poses = story.evaluation.dataset.poses_of(clip)
    caption = (
        f"Recognised as {label}, score {score:.2f}. The generated signer {clip.signer} signs {clip.label}."
    )
    return skeleton_of(poses, caption=caption, alt=caption, fps=clip.fps, moving=True)


def _signs(story: Story) -> Section:
    dataset = story.evaluation.dataset
    first = {clip.label: clip for clip in reversed(dataset.clips_in("train"))}
    shown = [first[label.name] for label in dataset.labels if label.name in first][:_SIGNS_SHOWN]
    signers = len({clip.signer for clip in dataset.clips})
    films = [
        skeleton_of(
            dataset.poses_of(clip),
            caption=clip.label,
            alt=f"The sign {clip.label}, moving.",
            fps=clip.fps,
            moving=True,
        )
        for clip in shown
    ]
    return Section(
        name="signs",
        title="1. The signs",
        paragraphs=(
            f"A program made {len(dataset.clips)} clips: {len(dataset.labels)} signs by {signers} signers.",
            "Each clip holds landmarks of body and hands, and some are missing.",
        ),
        charts=films,
        layout="films",
    )


def _training(story: Story) -> Section:
    dataset = story.evaluation.dataset
    signers = len({clip.signer for clip in dataset.clips_in("train")})
    return Section(
        name="training",
        title="2. The training",
        paragraphs=(f"A small transformer learned from {signers} signers on the CPU.",),
        charts=curve_charts(story.metrics),
    )


def _unseen(story: Story) -> list[Section]:
    found = story.evaluation
    confusion, signers, _ = score_sections(found.scores, found.dataset)
    count = plural(len(found.scores.signers), "signer")
    return [
        Section(
            name="unseen",
            title="3. Signers it has never seen",
            paragraphs=(f"The test clips come from {count} that no training saw.",),
            charts=[*signers.charts, *confusion.charts],
        )
    ]


def _same_answers(story: Story) -> Section:
    report = story.parity
    rows = proof_rows(report.proofs, report.bundle.artefacts if report.bundle else ())
    shapes = len(report.proofs[0].facts.grid)
    clips = sum(len(group.clips) for group in report.proofs[0].facts.clips)
    return Section(
        name="parity",
        title="4. The same answers everywhere",
        paragraphs=(
            f"Each file answered as PyTorch does, over {shapes} shapes and {clips} clips.",
            "A cell shows the largest difference of a score before softmax.",
        ),
        charts=[verdict_grid(rows)],
        layout="wide",
    )


def _speed(story: Story) -> Section:
    headline = headline_chart(story.bench)
    small = [*length_charts(story.bench), start_chart(story.bench), memory_chart(story.bench)]
    return Section(
        name="speed",
        title="5. The speed on this machine",
        paragraphs=("A first look of a few seconds. The command bench measures longer.",),
        charts=[chart for chart in (headline, *small) if chart],
    )


def _device(story: Story) -> Section:
    recognised = story.recognised
    outcome = "the same answers" if recognised.verified else "OTHER ANSWERS"
    bars = [Bar(name=label, value=score, shown=f"{score:.2f}") for label, score in recognised.scores.items()]
    return Section(
        name="device",
        title="6. On a device",
        paragraphs=(
            "A device needs numpy and ONNX Runtime, no PyTorch.",
            f"It hashed {recognised.files} files and replayed {recognised.goldens} stored clips: {outcome}.",
        ),
        charts=[BarChart(caption=f"Its best labels for the clip {recognised.clip.id}.", bars=bars, most=1.0)],
    )
