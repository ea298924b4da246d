"""Evaluate a model on labelled clips: top-k, macro F1, top-1 of each signer, most confused labels.

Shapes: N clips, C classes.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spoter_runtime._types import OnProgress
from spoter_runtime.batching import batches_of
from spoter_runtime.bundle.manifest import MANIFEST, Bundle, read_bundle
from spoter_runtime.camera.files import trained_on, warn_of_other_landmarker
from spoter_runtime.contract import Label
from spoter_runtime.decision import Abstention
from spoter_runtime.errors import ConfigError, DataError, InputError, nearest
from spoter_runtime.landmarks import Float32Array
from spoter_runtime.runner import Runner, pad_clips
from spoter_toolkit.backends import find_source, open_source, split_backend
from spoter_toolkit.calibration.calibrate import BACKGROUND, answers_from, negatives_of
from spoter_toolkit.calibration.figures import Figures, figures_of, softmax_NC
from spoter_toolkit.calibration.negatives import Negatives
from spoter_toolkit.data.dataset import SPLITS, Clip, Dataset
from spoter_toolkit.data.extract.videos import find_videos
from spoter_toolkit.data.names import listed, natural_order, retyped
from spoter_toolkit.runs.learned import learned_among, run_of
from spoter_toolkit.runs.run import read_run

_MOST_CONFUSED: Final = 10  # pairs of labels
_WORST: Final = 4  # clips


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerScore:
    """The number of one signer's clips, and the share of clips whose best label is right."""

    signer: str
    clips: int
    top1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """How many clips of one label were recognised as another label."""

    label: str
    taken_for: str
    clips: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipAnswer:
    """The answer to one clip, its score, and the score of the clip's own label, each 0..1."""

    clip: Clip
    answer: str
    score: float
    own_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The scores of a model on some clips; shares are 0..1."""

    clips: int
    top1: float
    top5: float
    macro_f1: float  # mean F1 over the labels that have clips here
    signers: tuple[SignerScore, ...]
    confused: tuple[Confusion, ...]
    worst: tuple[ClipAnswer, ...]  # the clips whose own label got the least, the least first
    labels: tuple[str, ...]
    confusion_CC: npt.NDArray[np.int64]  # clips by true label (row) and best label (column)

    def summary(self) -> dict[str, Any]:
        """Return everything but the matrix and the worst clips, as plain JSON values."""
        left_out = ("labels", "confusion_CC", "worst")
        return {name: value for name, value in asdict(self).items() if name not in left_out}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The scores of a RUN or a BUNDLE on one split of a data set."""

    source: Path  # the RUN or the BUNDLE
    backend: str  # that computed the logits
    dataset: Dataset
    split: str
    scores: Scores
    passed_over: Mapping[str, str]  # backend → why it was not taken, where none was asked for by name
    calibration: Figures | None = None  # None where every clip is of a label that stands for no sign
    calibrated: bool = False  # whether the bundle holds a calibration; without one, of the plain softmax
    learned: int = 0  # clips that the model was trained on

    def as_json(self) -> dict[str, Any]:
        """Return everything but the confusion matrix, as plain JSON values."""
        return {
            "source": str(self.source),
            "backend": self.backend,
            "data": str(self.dataset.folder),
            "synthetic": self.dataset.origin.synthetic,
            "split": self.split,
            "split_made": self.dataset.split,
            "learned": self.learned,
            "calibrated": self.calibrated,
            "calibration": self.calibration.as_json() if self.calibration else None,
        } | self.scores.summary()


def check_split(split: str) -> None:
    """Check that `evaluate` takes a split of this name.

    Raises:
        ConfigError: it is not.
    """
    if split not in (*SPLITS, "all"):
        near = nearest(split, SPLITS) or ["test"]
        raise ConfigError(
            f"no split {split!r}; there are {', '.join(SPLITS)} and all", fix=retyped(split, near[0])
        )


def evaluate_source(
    source: Path,
    *,
    split: str = "test",
    backend: str | None = None,
    run: Path | None = None,
    data: Path | None = None,
    negatives: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Evaluate a RUN or a BUNDLE on one split of a data set.

    Args:
        source: a RUN or a BUNDLE folder.
        split: ``"train"``, ``"val"``, ``"test"``, or ``"all"``.
        backend: see `open_source`.
        run: see `find_source`.
        data: see `find_source`.
        negatives: a DATASET of clips without a sign, see `negatives_of`.
        on_progress: called with (clips done, clips, what).

    Raises:
        ConfigError: no such split or backend.
        SpoterError: see `find_source`, `open_source` and `evaluate`.
    """
    if backend:
        split_backend(backend)
    found, dataset = find_source(source, backend=backend, run=run, data=data)
    command = ["spoter-kit", "eval", str(source), *(["--data", str(data)] if data else [])]
    clips_to_evaluate(dataset, split, shlex.join(command))  # before an engine is imported
    learned = learned_among(dataset, split, run_of(found, run))
    model = trained_on(found.provenance if isinstance(found, Bundle) else {"data": found.data})
    warn_of_other_landmarker(model, dataset.origin.landmarker, where=source)
    runner, passed_over = open_source(found, backend, run=run)
    rule = found.abstention if isinstance(found, Bundle) else None
    background = rule.background if rule else ()
    others = negatives_of(negatives, runner.contract, background, split=split) if negatives else []
    clips, logits_NC = logits_of(runner, dataset, split, on_progress=on_progress)
    return Evaluation(
        source=source,
        backend=runner.name,
        dataset=dataset,
        split=split,
        scores=scores_from_logits(logits_NC, clips, runner.contract.labels),
        passed_over=passed_over,
        calibration=calibration_figures(runner, dataset, clips, logits_NC, rule, others),
        calibrated=rule is not None,
        learned=learned,
    )


def clips_to_evaluate(dataset: Dataset, split: str, command: str = "spoter-kit eval") -> tuple[Clip, ...]:
    """Return the clips of a split; of all of them for ``"all"``.

    Args:
        dataset: the clips.
        split: see `evaluate_source`.
        command: evaluates them; the fix adds a split that has clips.

    Raises:
        ConfigError: no such split.
        DataError: the split has no clips.
    """
    check_split(split)
    clips = dataset.clips if split == "all" else dataset.clips_in(split)
    if not clips:
        if not dataset.clips_in("train"):
            raise DataError(
                f"{dataset.folder}: no clip is in the split {split!r}", fix=dataset.split_command()
            )
        other = next(name for name in reversed(SPLITS) if dataset.clips_in(name))
        seen = f"; those of {other} had a part in the training. How often the model is right, only new clips "
        why = "" if other == "test" else f"{seen}tell: give them with --data"
        raise DataError(
            f"{dataset.folder}: no clip is in the split {split!r}{why}", fix=f"{command} --split {other}"
        )
    return clips


def evaluate(
    runner: Runner,
    dataset: Dataset,
    split: str,
    *,
    on_progress: OnProgress | None = None,
) -> Scores:
    """Run a model over one split of a dataset and score it; arguments and errors as `logits_of`."""
    clips, logits_NC = logits_of(runner, dataset, split, on_progress=on_progress)
    return scores_from_logits(logits_NC, clips, runner.contract.labels)


def logits_of(
    runner: Runner,
    dataset: Dataset,
    split: str,
    *,
    on_progress: OnProgress | None = None,
) -> tuple[tuple[Clip, ...], Float32Array]:
    """Return the clips of one split, and a model's logits (N, C) of them.

    Args:
        runner: any backend.
        dataset: whose labels the model must know; a model may know more.
        split: ``"train"``, ``"val"``, ``"test"``, or ``"all"``.
        on_progress: called with (clips done, clips, what).

    Raises:
        ConfigError: no such split.
        DataError: the split has no clips, or a label that the model does not know.
        InputError: a clip is longer than the model takes.
    """
    clips = clips_to_evaluate(dataset, split)
    check_labels((clip.label for clip in clips), runner.contract.labels, where=dataset.folder)
    return clips, infer_clips(runner, [dataset.poses_of(clip) for clip in clips], on_progress=on_progress)


def check_videos(source: Path, videos: Path) -> None:
    """Check that a RUN or a BUNDLE knows the labels of videos, before minutes are spent on their landmarks.

    Raises:
        DataError: it does not know one, or there are no videos.
        SpoterError: the source cannot be read.
    """
    known = read_bundle(source).contract.labels if (source / MANIFEST).is_file() else read_run(source).labels
    check_labels((part.label for part in find_videos(videos).parts), known, where=videos)


def check_labels(labels: Iterable[str], known: Sequence[Label], *, where: Path) -> None:
    """Check that a model knows the labels of some clips.

    Raises:
        DataError: it does not know one.
    """
    names = {label.name for label in known}
    unknown = sorted(set(labels) - names)
    if unknown:
        raise DataError(
            f"{where}: the model does not know {len(unknown)} of its labels: {', '.join(unknown[:5])}",
            fix=f"take their clips out; the model knows {listed(sorted(names, key=natural_order))}",
        )


def calibration_figures(
    runner: Runner,
    dataset: Dataset,
    clips: Sequence[Clip],
    logits_NC: Float32Array,
    rule: Abstention | None,
    negatives: Sequence[Negatives],
) -> Figures | None:
    """Return how far the probabilities can be believed; None where no clip is of a sign.

    Args:
        runner: that gave the logits.
        dataset: of the clips.
        clips: those of a label that stands for no sign are negatives.
        logits_NC: one row a clip.
        rule: the bundle's; None takes the plain softmax.
        negatives: more of them.
    """
    names = [label.name for label in runner.contract.labels]
    stands_N = np.array([rule is not None and clip.label in rule.background for clip in clips])
    poses = [dataset.poses_of(clip) for clip in clips]
    own = [frozenset({clip.label}) for clip in clips]
    answers = answers_from(Negatives(kind="", recorded=True, clips=poses, labels=own), logits_NC, names)
    if stands_N.all():
        return None
    others = [answers_from(one, infer_clips(runner, one.clips), names) for one in negatives]
    if stands_N.any():
        kind = replace(answers.where(stands_N), kind=BACKGROUND)
        others.append(replace(kind, own_NC=np.zeros_like(kind.own_NC)))
    return figures_of(answers.where(~stands_N), others, rule, names)


def infer_clips(
    runner: Runner,
    clips: Sequence[Float32Array],
    *,
    on_progress: OnProgress | None = None,
) -> Float32Array:
    """Return logits (N, C) for clips (frames, 54, 2) of any lengths, in their order.

    Raises:
        InputError: a clip is longer than the contract takes.
    """
    longest = max(len(clip) for clip in clips)
    if longest > runner.contract.max_frames:
        raise InputError(f"a clip has {longest} frames, the model takes 1..{runner.contract.max_frames}")
    logits_NC = np.empty((len(clips), runner.contract.num_classes), np.float32)
    done = 0
    for rows in batches_of([len(clip) for clip in clips], runner.contract.max_batch):
        logits_NC[rows] = runner.infer(*pad_clips([clips[i] for i in rows]))
        done += len(rows)
        if on_progress:
            on_progress(done, len(clips), f"clips on {runner.name}")
    return logits_NC


def scores_from_logits(
    logits_NC: npt.NDArray[np.float32], clips: Sequence[Clip], labels: Sequence[Label]
) -> Scores:
    """Score logits against the clips' own labels.

    Args:
        logits_NC: one row a clip, one column a label.
        clips: what was recognised, in the order of the rows.
        labels: the model's, in the order of the columns.
    """
    names = tuple(label.name for label in labels)
    index = {name: i for i, name in enumerate(names)}
    true_N = np.array([index[clip.label] for clip in clips])
    order_NC = np.argsort(-logits_NC, axis=1, kind="stable")
    right_N = order_NC[:, 0] == true_N
    confusion_CC = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion_CC, (true_N, order_NC[:, 0]), 1)
    f1_C = 2 * np.diag(confusion_CC) / np.maximum(confusion_CC.sum(0) + confusion_CC.sum(1), 1)
    signers = np.array([clip.signer for clip in clips])
    return Scores(
        clips=len(clips),
        top1=float(right_N.mean()),
        top5=float((order_NC[:, :5] == true_N[:, None]).any(1).mean()),
        macro_f1=float(f1_C[confusion_CC.sum(1) > 0].mean()),
        signers=tuple(
            SignerScore(
                signer=str(signer),
                clips=int((signers == signer).sum()),
                top1=float(right_N[signers == signer].mean()),
            )
            for signer in np.unique(signers)
        ),
        confused=most_confused(confusion_CC, names),
        worst=worst_answers(logits_NC, true_N, clips, names),
        labels=names,
        confusion_CC=confusion_CC,
    )


def worst_answers(
    logits_NC: npt.NDArray[np.float32],
    true_N: npt.NDArray[np.int64],
    clips: Sequence[Clip],
    names: Sequence[str],
) -> tuple[ClipAnswer, ...]:
    """Return the answers to the clips whose own label got the least."""
    shares_NC = softmax_NC(logits_NC)
    own_N, best_N = shares_NC[np.arange(len(clips)), true_N], shares_NC.argmax(1)
    return tuple(
        ClipAnswer(
            clip=clips[i],
            answer=names[best_N[i]],
            score=float(shares_NC[i, best_N[i]]),
            own_score=float(own_N[i]),
        )
        for i in np.argsort(own_N, kind="stable")[:_WORST]
    )


def most_confused(confusion_CC: npt.NDArray[np.int64], names: Sequence[str]) -> tuple[Confusion, ...]:
    """Return the pairs of labels that are confused most often, the most frequent first."""
    off_diagonal = confusion_CC.copy()
    np.fill_diagonal(off_diagonal, 0)
    pairs = sorted(zip(*np.nonzero(off_diagonal), strict=True), key=lambda p: -off_diagonal[p])
    return tuple(
        Confusion(
            label=names[true],
            taken_for=names[guess],
            clips=int(off_diagonal[true, guess]),
            of=int(confusion_CC[true].sum()),
        )
        for true, guess in pairs[:_MOST_CONFUSED]
    )
