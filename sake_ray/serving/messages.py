"""What travels between the parts of the service: which policy, what is asked, what happens.

Knows nothing of HTTP or Ray. Always holds: immutable, plain values; an event's data is what JSON can carry.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sake_ray.types import Example


@dataclass(frozen=True, slots=True)
class PolicyCard:
    """A policy that is served. `folder` is a Hugging Face folder, `version` rises with each swap."""

    name: str
    model: str
    folder: str
    checkpoint: str = ""
    version: int = 0

    def shown(self) -> dict[str, Any]:
        """What clients are told: not where it lies."""
        return {key: value for key, value in asdict(self).items() if key != "folder"}


@dataclass(frozen=True, slots=True)
class Order:
    """One episode that a client wants. `temperature` 0 is greedy; after `deadline_s` seconds nobody waits for it.

    `streamed`: the text is wanted as it comes. `width` and `height` are of the picture as the client has it, upright;
    boxes are given in its pixels, though `example.image` may be smaller.
    """

    id: str
    example: Example
    width: int
    height: int
    seed: int
    temperature: float
    text_searches: int
    image_searches: int
    deadline_s: float
    thumbnails: bool = True
    streamed: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an order.

    `name` is "start", "delta", "turn", "search" or "restart" on the way, and last of all "result", "late" (its deadline
    passed) or "refused" (with the `field` at fault and a `detail`).
    """

    name: str
    data: dict[str, Any]


LAST = frozenset({"result", "late", "refused"})
"""The events that end an order."""
