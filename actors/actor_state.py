"""What a pool says of each of its actors, for people who watch a run.

Knows nothing of any pool. Always holds: plain values only, so that a state is JSON as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

SERVING, STARTING, PLACING, DRAINING, LOST = "serving", "starting", "placing", "draining", "lost"
"""Serving; coming up; waiting for room in the cluster; taking nothing new; gone, its successor not begun yet."""


@dataclass(frozen=True)
class ActorState:
    """One actor: its name, state, node (Ray's id; "" unknown) and numbers of its own, by name."""

    name: str
    state: str
    node: str = ""
    numbers: dict[str, float] = field(default_factory=dict)


class ScalablePool(Protocol):
    """A pool whose size may change while a job runs."""

    @property
    def size(self) -> int:
        """How many actors it is to have."""
        ...

    async def resize(self, workers: int) -> None:
        """Aim at `workers` actors; returns at once. Those that join are ready before they serve, those that leave
        finish what they have.

        Raises:
            ValueError: fewer than one.
        """
        ...

    async def states(self) -> Sequence[ActorState]:
        """Each actor, those coming and going included."""
        ...
