"""The trainer's held-out scores: the evaluation's own numbers, under the names and with the values they always had."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.held_out import held_out_scores
from rewards.composite import gold_of
from rewards.entities import Claim
from rewards.protocols import score_strict
from sake_ray.metrics import needs_search
from sake_ray.trainer.evaluator import Prediction
from sake_ray.types import Box, Difficulty, Entity, Example, ImageRef

BOXES = (Box(0, 0, 10, 10), Box(1, 1, 10, 10), Box(50, 50, 90, 90))
TEXTS, TYPES = st.sampled_from(["Ada", "ada", "Rome", "X Y"]), st.sampled_from(["PER", "LOC"])
ENTITIES = st.builds(
    Entity,
    TEXTS,
    TYPES,
    st.sampled_from([(), BOXES[:1], BOXES[1:]]),
    difficulty=st.sampled_from([None, *Difficulty]),
    seen=st.sampled_from([None, True, False]),
)
SAID = st.lists(st.builds(Prediction, TEXTS, TYPES, st.sampled_from([None, *BOXES])), max_size=3)
POSTS = st.lists(st.tuples(SAID, st.lists(ENTITIES, max_size=3)), min_size=1, max_size=5)


def by_hand(posts: list[tuple[list[Prediction], Example]]) -> dict[str, float]:
    """The strict protocol over the posts of each slice."""
    slices: dict[str, list[tuple[list[Prediction], Example]]] = {
        "": posts,
        "_unseen": [p for p in posts if any(e.seen is False for e in p[1].entities)],
        "_unknown": [p for p in posts if needs_search(p[1])],
        "_known": [p for p in posts if needs_search(p[1]) is False],
    }
    found: dict[str, float] = {}
    for suffix, members in slices.items():
        scored: list[Any] = [
            (
                [
                    Claim(s.text, s.type, None if s.box is None else (s.box.x1, s.box.y1, s.box.x2, s.box.y2))
                    for s in said
                ],
                [gold_of(entity) for entity in example.entities],
            )
            for said, example in members
        ]
        if scored:
            found |= {f"{task}_f1{suffix}": s["micro_f1"] / 100 for task, s in score_strict(scored).items()}
    return found


@given(POSTS)
def test_scores_are_those_of_the_strict_protocol_over_each_slice(
    drawn: list[tuple[list[Prediction], list[Entity]]],
) -> None:
    image = ImageRef("p.png", 100, 100)
    posts = [(said, Example(str(at), "post", image, tuple(gold))) for at, (said, gold) in enumerate(drawn)]
    found = held_out_scores([said for said, _ in posts], [example for _, example in posts])
    assert found == pytest.approx(by_hand(posts), abs=1e-12)
