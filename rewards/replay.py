"""Saved turns of an episode, as the environment would have run them.

Reads each turn with the environment's own parser, so that a saved rollout scores as it did in training. Knows nothing
of gold. Always holds: an episode ends at its first turn that is not a search it may still make; a search counts when
an answer to it could be shown, so never in the last turn there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sake_ray.actions import parse_action
from sake_ray.types import Answer, ImageSearch, TextSearch


@dataclass(frozen=True, slots=True)
class Replay:
    """How the episode ended: its answer (None without one), how many searches were run, and its format, 1 or 0."""

    answer: Answer | None
    searches: int
    form: int


def replay(responses: Sequence[str]) -> Replay:
    """The episode of these turns with one text and one image search allowed, in either order.

    Turns after its end are no part of it, but it is not well-formed with them.
    """
    allowed: set[type] = {TextSearch, ImageSearch}
    searches = 0
    for left, text in zip(range(len(responses) - 1, -1, -1), responses, strict=True):
        action = parse_action(text)
        if isinstance(action, Answer):
            return Replay(action, searches, int(not left))
        if type(action) not in allowed or not left:
            break
        allowed.remove(type(action))
        searches += 1
    return Replay(None, searches, 0)
