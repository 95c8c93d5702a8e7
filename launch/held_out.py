"""Held-out scores for the trainer's evaluator: its predictions through the evaluation that reports are made by.

The bridge between the trainer, which may not import rewards, and `rewards.evaluation`; knows nothing of either's
insides. Always holds: every post counts, one-to-one matching, an entity with several boxes is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rewards.entities import Claim
from rewards.evaluation.inputs import record_of_example
from rewards.evaluation.report import quick_scores
from sake_ray.data.boxes import Quad
from sake_ray.trainer.evaluator import Prediction
from sake_ray.types import Box, Example


def held_out_scores(predictions: Sequence[Sequence[Prediction]], examples: Sequence[Example]) -> dict[str, float]:
    """`quick_scores`: micro F1 in 0..1 over all posts, and over those with unseen, unknown or only known entities."""
    return quick_scores(
        [
            replace(record_of_example(example), claims=tuple(Claim(p.text, p.type, _quad(p.box)) for p in said))
            for said, example in zip(predictions, examples, strict=True)
        ]
    )


def _quad(box: Box | None) -> Quad | None:
    return None if box is None else (box.x1, box.y1, box.x2, box.y2)
