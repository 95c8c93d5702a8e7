"""Lessons and answers about MiniWorld: read back by the real action parser, and true of their board.

What would go unseen otherwise: a base model that is taught an answer form the parser refuses, or facts that the
board, the notes or the world contradict.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from sake_ray.actions import parse_action
from sake_ray.data.miniworld import BoardPost, WorldEntity, cell_box, make_posts, make_world
from sake_ray.data.miniworld_texts import (
    Lesson,
    answer,
    describe_lesson,
    fact_lesson,
    locate_lesson,
    names_lesson,
    post_lesson,
)
from sake_ray.types import Answer, PredictedEntity

WORLD = make_world(0)
KNOWN = {entity.name: entity for entity in WORLD.known}
SEEDS = st.integers(0, 2**31)
# Three syllables; no word of a template looks like that.
NAME = re.compile(r"\b[A-Z][a-z]{5}\b")


def claims(entities: Sequence[tuple[WorldEntity, int | None]]) -> Answer:
    """The answer that is right for these entities."""
    return Answer(
        tuple(
            PredictedEntity(e.name, e.type, None if cell is None else tuple(map(float, cell_box(cell).as_list())))  # type: ignore[arg-type]
            for e, cell in entities
        )
    )


def posts(seed: int) -> list[BoardPost]:
    return make_posts(WORLD, 8, seed, prefix="p", pool=WORLD.long_tail)


@settings(max_examples=30)
@given(seed=SEEDS)
def test_an_answer_is_read_as_the_posts_gold(seed: int) -> None:
    for post in posts(seed):
        assert parse_action(answer(post.entities)) == claims(post.entities)


@settings(max_examples=50)
@given(seed=SEEDS)
def test_the_names_lesson_repeats_every_name_of_its_post_in_order(seed: int) -> None:
    lesson = names_lesson(random.Random(seed), WORLD)
    assert lesson.user.startswith("names ")
    assert lesson.reply.split(" , ") == NAME.findall(lesson.user)


@settings(max_examples=50)
@given(seed=SEEDS)
def test_the_facts_lesson_tells_what_is_known_and_nothing_of_strangers(seed: int) -> None:
    lesson = fact_lesson(random.Random(seed), WORLD)
    names = lesson.user.removeprefix("facts ").split(" , ")
    expected = [f"{n} {KNOWN[n].type} {KNOWN[n].look}" if n in KNOWN else f"{n} unknown" for n in names]
    assert lesson.reply.split(" ; ") == expected


@settings(max_examples=50)
@given(seed=SEEDS)
def test_seeing_lessons_are_true_of_their_board(seed: int) -> None:
    rng = random.Random(seed)
    described, located = describe_lesson(rng), locate_lesson(rng)
    assert described.board is not None and located.board is not None
    cells = [part.split("] ") for part in described.reply.split(" ; ")]
    assert [box + "]" for box, _ in cells] == [json.dumps(cell_box(at).as_list()) for at in range(9)]
    assert [look for _, look in cells] == [look or "none" for look in described.board]
    asked = located.user.removeprefix("locate ").split(" ; ")
    places = [
        json.dumps(cell_box(located.board.index(look)).as_list()) if look in located.board else "none" for look in asked
    ]
    assert located.reply == " ; ".join(f"{look} {place}" for look, place in zip(asked, places, strict=True))


def read(lesson: Lesson) -> tuple[PredictedEntity, ...]:
    action = parse_action(lesson.reply)
    assert isinstance(action, Answer)
    return action.entities


@settings(max_examples=50)
@given(seed=SEEDS)
def test_a_lesson_about_a_post_can_be_answered_from_what_is_known_or_noted(seed: int) -> None:
    """Known entities have no note, strangers have a true one; the box is the one cell with the entity's look."""
    lesson = post_lesson(random.Random(seed), WORLD, noted_share=0.5)
    *notes, text = lesson.user.split(" \n")
    facts = {name: (entity.type, entity.look) for name, entity in KNOWN.items()}
    for note in notes:
        name, kind, look = re.fullmatch(r"(\w+) is a (\w+) , a (.+)", note).groups()  # type: ignore[union-attr]
        assert name not in KNOWN
        facts[name] = (kind, look)
    assert [claim.text for claim in read(lesson)] == NAME.findall(text)
    assert lesson.board is not None
    for claim in read(lesson):
        kind, look = facts[claim.text]
        box = cell_box(lesson.board.index(look)).as_list() if look in lesson.board else None
        assert (claim.type, claim.box and list(claim.box)) == (kind, box)


@settings(max_examples=30)
@given(seed=SEEDS)
def test_lessons_without_notes_are_about_known_entities_alone(seed: int) -> None:
    lesson = post_lesson(random.Random(seed), WORLD, noted_share=0.0)
    assert {claim.text for claim in read(lesson)} <= set(KNOWN)
