"""Small posts, tags and played episodes that the tests of stage 1 share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from envs.episode import EpisodeLimits, run_episode
from sake_ray.coldstart.difficulty import EntityTag
from sake_ray.coldstart.tag_files import PostTags
from sake_ray.trajectory import Segment, Trajectory
from sake_ray.types import (
    Box,
    Completion,
    Difficulty,
    Entity,
    Example,
    ImageRef,
    ImageSearch,
    Observation,
    QueryResult,
    SearchKind,
    TextSearch,
)

KNOWN, AMBIGUOUS, UNKNOWN = Difficulty.KNOWN, Difficulty.AMBIGUOUS, Difficulty.UNKNOWN
SIDE = 84
ADA = Entity("Ada", "PER", (Box(1, 2, 30, 40),))
OSLO = Entity("Oslo", "LOC")


def post(*entities: Entity, name: str = "p1", side: int = SIDE) -> Example:
    """A post whose picture is nowhere."""
    return Example(name, " and ".join(entity.text for entity in entities), ImageRef("post.png", side, side), entities)


def picture(path: Path, size: tuple[int, int] = (SIDE, SIDE), colour: str = "red") -> ImageRef:
    """A picture file."""
    Image.new("RGB", size, colour).save(path)
    return ImageRef(str(path), *size)


def tags_of(example: Example, *tags: EntityTag) -> PostTags:
    """Tags as they come from a file."""
    return PostTags(example.id, tuple((entity.text, entity.type) for entity in example.entities), tags)


# --- turns, and episodes made of them --------------------------------------------------------------------


def asks(tag: str, *queries: str) -> str:
    """A turn that searches; `tag` is "text_search" or "image_search"."""
    return f"<reason>who ?</reason><{tag}>{json.dumps([{'query': query} for query in queries])}</{tag}>"


def answers(*rows: tuple[str, str, Sequence[float]]) -> str:
    """A turn that answers."""
    said = [{"entity": text, "type": kind, "box2d": list(box)} for text, kind, box in rows]
    return f"<reason>so it is</reason><answer>{json.dumps(said)}</answer>"


class Stage:
    """Policy, codec and search tool of an episode that goes as it is written; a word is a token."""

    def __init__(self, texts: Sequence[str], status: str = "success") -> None:
        self._texts, self._status = list(texts), status

    async def generate(
        self, short_ids: Sequence[int], images: Sequence[ImageRef], *, max_tokens: int, seed: int
    ) -> Completion:
        words = self._texts.pop(0).split(" ")
        kept = words[:max_tokens]
        ids = tuple(range(len(kept)))
        reason = "stop" if len(kept) == len(words) else "length"
        return Completion(ids, (0.0,) * len(kept), " ".join(kept), reason, 0)

    def prompt(self, example: Example) -> Segment:
        return Segment((1, 2), (1, 2), (example.image,))

    def observation(self, example: Example, observation: Observation, *, after_ids: Sequence[int]) -> Segment:
        return Segment((3,), (3,), (example.image,))

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        kind = SearchKind.TEXT if isinstance(action, TextSearch) else SearchKind.IMAGE
        return Observation(kind, tuple(QueryResult(query, self._status, "found") for query in action.queries))


def played(example: Example, *texts: str, status: str = "success", max_turn_tokens: int = 1024) -> Trajectory:
    """The episode that these turns make, through the real loop; `status` is what searches answer with."""
    stage = Stage(texts, status)
    limits = EpisodeLimits(max_turn_tokens=max_turn_tokens)
    return asyncio.run(
        run_episode(
            example, policy=stage, codec=stage, search=stage, limits=limits, seed=0, trajectory_id=f"{example.id}/t"
        )
    )
