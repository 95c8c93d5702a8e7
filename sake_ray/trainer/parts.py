"""The Protocols of what the trainer alone talks to; what others talk to as well is in `sake_ray.interfaces`.

Knows nothing of the loop, Ray or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from sake_ray.interfaces import LearnerClient, Stateful
from sake_ray.types import Example


class Sampler(Stateful, Protocol):
    """Gives posts in a seeded order."""

    @property
    def dealt(self) -> int:
        """How many posts it has given in all, in earlier processes too."""
        ...

    def take(self, count: int) -> list[Example]:
        """The next `count` posts."""
        ...


class Evaluator(Protocol):
    """Scores the current policy on held-out posts."""

    async def evaluate(self, step: int) -> Mapping[str, float]:
        """`eval/…` metrics."""
        ...


class Checkpoints(Protocol):
    """Where a run's state is kept."""

    async def save(self, learner: LearnerClient, state: Mapping[str, object], step: int) -> None:
        """Write a checkpoint that is whole or absent; a step that has one already keeps it.

        `state["best"]` names the step of the best evaluation (None before the first): its checkpoint is never pruned.
        """
        ...


class Display(Protocol):
    """Shows people where the run is."""

    def phase(self, step: int, name: str) -> None:
        """A phase of a step begins."""
        ...

    def group_done(self, done: int, total: int) -> None:
        """A group of the step has been scored."""
        ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step has ended."""
        ...
