"""Held-out scores for the evaluator: predictions of posts through the strict protocol, as shares.

The bridge between the trainer's predictions and the rewards' matching; knows nothing of either's
insides. Always holds: every post counts, one-to-one matching, an entity with several boxes is one.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.composite import gold_of
from rewards.entities import Claim, Quad
from rewards.f1 import f1_score
from rewards.matching import Task, candidates, maximum_pairs
from sake_ray.trainer.evaluator import Prediction
from sake_ray.types import Box, Example

IOU_THRESHOLD = 0.5


def strict_scores(predictions: Sequence[Sequence[Prediction]], examples: Sequence[Example]) -> dict[str, float]:
    """Micro F1 over posts: `gmner_f1`, `mner_f1`, `eeg_f1`, each in 0..1."""
    claims = [[Claim(p.text, p.type, _quad(p.box)) for p in post] for post in predictions]
    gold = [[gold_of(entity) for entity in example.entities] for example in examples]
    claimed, wanted = sum(map(len, claims)), sum(map(len, gold))
    scores = {}
    for task in Task:
        right = sum(
            maximum_pairs(candidates(said, true, task, IOU_THRESHOLD), len(true))
            for said, true in zip(claims, gold, strict=True)
        )
        scores[f"{task.value}_f1"] = f1_score(right, claimed, wanted)
    return scores


def _quad(box: Box | None) -> Quad | None:
    return None if box is None else (box.x1, box.y1, box.x2, box.y2)
