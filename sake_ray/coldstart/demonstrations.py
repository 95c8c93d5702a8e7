"""Demonstrations for the cold start: episodes the scripted teacher plays, searches really executed.

Knows nothing of models beyond a codec, nor of Ray. Always holds: a demonstration is a finished
trajectory that ended in an answer, built by the episode loop that RL uses; the same seed gives the
same choice and order of posts.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sake_ray.coldstart.teacher import ScriptedTeacher
from sake_ray.interfaces import PolicyClient
from sake_ray.trajectory import Trajectory
from sake_ray.types import Difficulty, Example, StopReason

RunEpisode = Callable[[Example, PolicyClient], Awaitable[Trajectory]]
"""Plays one episode of a post with a policy (in this job: `envs.episode.run_episode`)."""


class DemonstrationError(RuntimeError):
    """The teacher's episode did not end in an answer; names the post and how it ended."""


async def demonstrate(
    examples: Sequence[Example],
    run_episode: RunEpisode,
    tokenizer: Any,
    *,
    looks: Mapping[str, str],
    min_pixels: int,
    max_pixels: int,
) -> list[Trajectory]:
    """One demonstration a post, in order.

    Raises:
        DemonstrationError: an episode ended in anything but an answer.
    """
    made = []
    for example in examples:
        teacher = ScriptedTeacher(example, tokenizer, looks=looks, min_pixels=min_pixels, max_pixels=max_pixels)
        trajectory = await run_episode(example, teacher)
        if trajectory.stop_reason is not StopReason.ANSWER:
            raise DemonstrationError(f"post {example.id}: the teacher's episode ended as {trajectory.stop_reason}")
        made.append(trajectory)
    return made


def choose_posts(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """`count` posts (0: all), in a seeded order."""
    order = list(examples)
    random.Random(f"cold-start-{seed}").shuffle(order)
    return order[: count or None]


def judged(examples: Sequence[Example], *, search_unknown: float, search_known: float, seed: int) -> list[Example]:
    """The posts as a fallible teacher judges them: all of a post's entities may be tagged the wrong way.

    A post with an unknown entity keeps its tags in a share `search_unknown` of the cases and counts as known
    otherwise; a post with known entities only counts as unknown in a share `search_known`. Shares of 1 and 0
    leave every tag as it is.
    """
    made = []
    for example in examples:
        draw = random.Random(f"judged-{seed}-{example.id}").random()
        if any(entity.difficulty is Difficulty.UNKNOWN for entity in example.entities):
            made.append(example if draw < search_unknown else _tagged(example, Difficulty.KNOWN))
        else:
            made.append(_tagged(example, Difficulty.UNKNOWN) if draw < search_known else example)
    return made


def _tagged(example: Example, difficulty: Difficulty) -> Example:
    return replace(example, entities=tuple(replace(entity, difficulty=difficulty) for entity in example.entities))


def token_batches(lengths: Sequence[int], batch_tokens: int, epochs: int, seed: int) -> Iterator[list[int]]:
    """Indices in batches of about `batch_tokens` tokens, reshuffled every epoch."""
    for epoch in range(epochs):
        order = list(range(len(lengths)))
        random.Random(f"cold-start-{seed}-epoch-{epoch}").shuffle(order)
        batch: list[int] = []
        tokens = 0
        for index in order:
            batch.append(index)
            tokens += lengths[index]
            if tokens >= batch_tokens:
                yield batch
                batch, tokens = [], 0
        if batch:
            yield batch
