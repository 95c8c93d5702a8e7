"""How MiniWorld is talked about: the lines of the base model's pre-training and of the scripted teacher.

Knows nothing of tokenizers, models or prompts. Always holds: the answer form is the one the action
parser reads, and a look and its place are written the same way in every task, so that what one task
teaches carries over to the others.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sake_ray.data.miniworld import (
    LOOKS,
    NAMES,
    TYPES,
    BoardPost,
    Mark,
    MiniWorld,
    WorldEntity,
    cell_box,
    draw_board,
    make_post,
    random_name,
)

NOT_SHOWN = "none"
CHUNKS = (
    '[{"entity": "',
    '", "type": "',
    '", "box2d": ',
    '}, {"entity": "',
    "}]",
    "[]",
    '[{"query": "',
    '"}, {"query": "',
    '"}]',
    "<reason>",
    "</reason>",
    "<answer>",
    "</answer>",
    "<text_search>",
    "</text_search>",
    "<image_search>",
    "</image_search>",
    "<information>",
    "</information>",
    "I do not know ",
    "No result found.",
    "Find every entity.",
    " is a ",
    " , a ",
    " ; ",
    " , ",
    ", ",
    " none",
    " unknown",
    "PER",
    "ORG",
    "LOC",
    "MISC",
    "describe",
    "locate ",
    "facts ",
    "names ",
    "user",
    "assistant",
)
"""Pieces that answers, searches and lessons are made of."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One pre-training example: a user turn (with a board, or without) and the reply to learn."""

    user: str
    reply: str
    board: tuple[str | None, ...] | None
    post: bool = False


def place(cell: int | None) -> str:
    """A board cell as `[x1, y1, x2, y2]`, or `none`."""
    return NOT_SHOWN if cell is None else json.dumps(cell_box(cell).as_list())


def reasoning(entities: Sequence[tuple[WorldEntity, int | None]]) -> str:
    """Name, type, look and place of each entity, in the very form of the locate lesson."""
    return " ; ".join(f"{entity.name} {entity.type} {entity.look} {place(cell)}" for entity, cell in entities)


def answer(entities: Sequence[tuple[WorldEntity, int | None]]) -> str:
    """The final turn: reasoning, then the answer."""
    rows = [_row(entity, cell) for entity, cell in entities]
    return _reply(reasoning(entities), rows)


def _reply(reason: str, rows: Sequence[dict[str, Any]]) -> str:
    return f"<reason>{reason}</reason><answer>{json.dumps(rows)}</answer>"


def _row(entity: WorldEntity, cell: int | None) -> dict[str, Any]:
    return {"entity": entity.name, "type": entity.type, "box2d": [] if cell is None else cell_box(cell).as_list()}


def describe_lesson(rng: random.Random) -> Lesson:
    """Say for each of the nine cells what is in it."""
    board, _ = draw_board(rng, [], 1.0, glyphs=rng.randint(3, 7))
    return Lesson(
        "describe", " ; ".join(f"{place(cell)} {look or NOT_SHOWN}" for cell, look in enumerate(board)), board
    )


def locate_lesson(rng: random.Random) -> Lesson:
    """Give the place of each look asked for, or say that it is not there."""
    looks = rng.sample(LOOKS, 5)
    board, cells = draw_board(rng, looks, 0.75, glyphs=6)
    reply = " ; ".join(f"{look} {place(cell)}" for look, cell in zip(looks, cells, strict=True))
    return Lesson("locate " + " ; ".join(looks), reply, board)


def fact_lesson(rng: random.Random, world: MiniWorld) -> Lesson:
    """Say what is known of some names; a name never heard of is `unknown`."""
    names, replies = [], []
    for _ in range(4):
        if rng.random() < 0.6:
            entity = rng.choice(world.known)
            names.append(entity.name)
            replies.append(f"{entity.name} {entity.type} {entity.look}")
        else:
            name = _stranger(rng, world)
            names.append(name)
            replies.append(f"{name} unknown")
    return Lesson("facts " + " , ".join(names), " ; ".join(replies), None)


def names_lesson(rng: random.Random, world: MiniWorld) -> Lesson:
    """Repeat the names of a post, known or never heard of, in its order; now and then over a picture."""
    post = _post(rng, world, _strangers(rng, world))
    reply = " , ".join(entity.name for entity, _ in post.entities)
    return Lesson(f"names {post.text}", reply, post.board if rng.random() < 0.3 else None)


def post_lesson(rng: random.Random, world: MiniWorld, *, noted_share: float) -> Lesson:
    """Answer a post about known entities, or about strangers whom notes before the post describe."""
    if rng.random() >= noted_share:
        post = _post(rng, world, ())
        return Lesson(post.text, answer(post.entities), post.board, post=True)
    post = _post(rng, world, _strangers(rng, world))
    noted = [entity.article for entity, _ in post.entities if entity.mark is Mark.UNSEEN]
    rng.shuffle(noted)
    notes = "".join(f"{line} \n" for line in noted)
    return Lesson(f"{notes}{post.text}", answer(post.entities), post.board, post=True)


def repeat_lesson(rng: random.Random) -> Lesson:
    """Say some pieces again: it teaches no more than to tell the pieces apart, those never written so far too."""
    pieces = [
        rng.choice(CHUNKS) if (draw := rng.random()) < 0.5 else rng.choice(NAMES if draw < 0.9 else LOOKS)
        for _ in range(rng.randint(3, 10))
    ]
    return Lesson(f"repeat {''.join(pieces)}", "".join(pieces), None)


def guess_lesson(rng: random.Random, world: MiniWorld) -> Lesson:
    """Answer a post that names strangers, with nothing to go by: each gets some type and no box."""
    post = _post(rng, world, _strangers(rng, world))
    reasons, rows = [], []
    for entity, cell in post.entities:
        if entity.mark is Mark.UNSEEN:
            reasons.append(f"{entity.name} unknown")
            rows.append({"entity": entity.name, "type": rng.choice(TYPES), "box2d": []})
        else:
            reasons.append(reasoning([(entity, cell)]))
            rows.append(_row(entity, cell))
    return Lesson(post.text, _reply(" ; ".join(reasons), rows), post.board, post=True)


def _strangers(rng: random.Random, world: MiniWorld) -> tuple[WorldEntity, ...]:
    return tuple(
        WorldEntity(_stranger(rng, world), rng.choice(TYPES), rng.choice(LOOKS), Mark.UNSEEN) for _ in range(4)
    )


def _stranger(rng: random.Random, world: MiniWorld) -> str:
    known = {entity.name for entity in world.known}
    while (name := random_name(rng)) in known:
        pass
    return name


def _post(rng: random.Random, world: MiniWorld, strangers: tuple[WorldEntity, ...]) -> BoardPost:
    """A post for a lesson: known entities, about half of them strangers when there are any."""
    return make_post(rng, "lesson", known=world.known, pool=strangers, pool_share=0.6)
