"""The one F1 every reward and every protocol uses.

Knows nothing of how a claim is judged right. Always holds: 0 <= F1 <= 1; nothing claimed where there is
nothing is 1.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rewards.entities import Claim, Gold
from rewards.matching import PairCounter, Task, candidates


def f1_score(right: int, claimed: int, gold: int) -> float:
    """Harmonic mean of precision `right / claimed` and recall `right / gold`; 1.0 when both sides are empty."""
    if not claimed and not gold:
        return 1.0
    if not right:
        return 0.0
    # Not 2·right / (claimed + gold): this rounds as the released code does, and 0.9 is a bar there.
    precision, recall = right / claimed, right / gold
    return 2 * precision * recall / (precision + recall)


@dataclass(frozen=True, slots=True)
class TaskScores:
    """A post's F1 in each task."""

    mner: float
    eeg: float
    gmner: float


NOTHING = TaskScores(0.0, 0.0, 0.0)
"""What an episode without a readable answer scores."""


def task_scores(
    claims: Sequence[Claim], gold: Sequence[Gold], iou_threshold: float, count_pairs: PairCounter
) -> TaskScores:
    """The post's F1 in each task; boxes of both sides are in original pixels."""
    scores = {
        task.value: f1_score(
            count_pairs(candidates(claims, gold, task, iou_threshold), len(gold)), len(claims), len(gold)
        )
        for task in Task
    }
    return TaskScores(**scores)


def mixed_f1(scores: TaskScores, mode: str, weights: tuple[float, float, float]) -> float:
    """`R_F1`: the GMNER F1 in mode "EM"; in "MultiEM" the sum of MNER, EEG, GMNER F1 weighted by `weights`.

    Raises:
        ValueError: another mode.
    """
    if mode == "EM":
        return scores.gmner
    if mode == "MultiEM":
        return weights[0] * scores.mner + weights[1] * scores.eeg + weights[2] * scores.gmner
    raise ValueError(f"reward mode {mode!r} is not one of EM, MultiEM")
