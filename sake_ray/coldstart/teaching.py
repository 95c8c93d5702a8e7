"""What a teacher is told and what it writes: the messages of stage 1b, and the Protocol of teachers.

Knows nothing of models, endpoints, searching or how an episode is run. Always holds: a `Brief` has one need an
entity, in the example's order; a demonstration's turns are exactly what the teacher wrote and what the searches
really answered.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sake_ray.types import Example, Observation


class Need(enum.StrEnum):
    """What must be looked up about an entity; the values are those of the released search tags."""

    NONE = "None"
    TEXT = "only_text"
    IMAGE = "only_image"
    BOTH = "both"

    @property
    def text(self) -> bool:
        """Whether the entity's concept is not known: a text search."""
        return self in (Need.TEXT, Need.BOTH)

    @property
    def image(self) -> bool:
        """Whether the entity's look is not known: an image search."""
        return self in (Need.IMAGE, Need.BOTH)


@dataclass(frozen=True, slots=True)
class Brief:
    """A post and what the teacher must pretend not to know of it.

    Attributes:
        example: the post with its gold entities (boxes in original pixels).
        needs: what to search for, one an entity.
        free: entities (by index) whose search is left to the teacher: the ambiguous ones.
    """

    example: Example
    needs: tuple[Need, ...]
    free: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Refuse needs that do not belong to the entities.

        Raises:
            ValueError: another number of needs than of entities.
        """
        if len(self.needs) != len(self.example.entities):
            raise ValueError(
                f"post {self.example.id}: {len(self.needs)} needs for {len(self.example.entities)} entities"
            )

    @property
    def searches(self) -> bool:
        """Whether anything must be looked up."""
        return any(need is not Need.NONE for need in self.needs)


@dataclass(frozen=True, slots=True)
class TaughtTurn:
    """One turn of a demonstration: `<reason>…</reason>` and one action, and what a search answered to it."""

    text: str
    observation: Observation | None = None


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A checked episode to learn from; the last turn is the answer."""

    example: Example
    needs: tuple[Need, ...]
    turns: tuple[TaughtTurn, ...]
    teacher: str = ""
    attempts: int = 1

    @property
    def searches(self) -> int:
        """How many of its turns are searches."""
        return sum(turn.observation is not None for turn in self.turns)


class TeacherError(RuntimeError):
    """The teacher gave no turn this time (time-out, overload, garbage); the attempt is lost, not the post."""


class TeacherRefused(RuntimeError):
    """The teacher will not answer at all (wrong key, unknown model): the job stops; the message says what to do."""


class Teacher(Protocol):
    """Writes the turns of demonstrations; used for many posts at once."""

    @property
    def name(self) -> str:
        """How reports and cards call it."""
        ...

    async def write_turn(self, brief: Brief, turns: Sequence[TaughtTurn], feedback: str = "") -> str:
        """The text of the next turn after `turns`; `feedback` says why the last attempt at this post was rejected.

        Raises:
            TeacherError: no turn this time.
            TeacherRefused: no turn ever.
        """
        ...
