"""Held-out scores for the evaluator: predictions of posts through the strict protocol, as shares.

The bridge between the trainer's predictions and the rewards' matching; knows nothing of either's
insides. Always holds: every post counts, one-to-one matching, an entity with several boxes is one.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.composite import gold_of
from rewards.entities import Claim
from rewards.protocols import score_strict
from sake_ray.data.boxes import Quad
from sake_ray.trainer.evaluator import Prediction
from sake_ray.types import Box, Example


def strict_scores(predictions: Sequence[Sequence[Prediction]], examples: Sequence[Example]) -> dict[str, float]:
    """Micro F1 over posts: `gmner_f1`, `mner_f1`, `eeg_f1`, each in 0..1."""
    posts = [
        ([Claim(p.text, p.type, _quad(p.box)) for p in said], [gold_of(entity) for entity in example.entities])
        for said, example in zip(predictions, examples, strict=True)
    ]
    return {f"{task}_f1": scores["micro_f1"] / 100 for task, scores in score_strict(posts).items()}


def _quad(box: Box | None) -> Quad | None:
    return None if box is None else (box.x1, box.y1, box.x2, box.y2)
