"""What a reader says when a data file is wrong: where, which field, what, and what to do.

Knows nothing of formats, images or tasks. Always holds: a problem names its file, line and field; with
`on_bad="stop"` the first one raises, with `on_bad="skip"` every one is kept and the post it belongs to
is left out whole (a post with part of its gold would train on wrong gold).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from sake_ray.types import Example

OnBad = Literal["stop", "skip"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a data file. `line` is 1-based; in a parquet file it is the row."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: {self.message}"


class DataError(ValueError):
    """A data file cannot be used as it is; the text says where, why and what to do."""


class FieldError(ValueError):
    """A value breaks a rule. Raised by checks that know the field, caught by readers that know the line."""

    def __init__(self, field_name: str, message: str) -> None:
        super().__init__(f"{field_name}: {message}")
        self.field = field_name
        self.message = message


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a file gave: the usable posts, the problems of those left out, and counts for the log.

    `counts` has: posts (read), kept, skipped (bad, left out), other_subset, beyond_max, entities, boxes,
    without_size (kept posts with no recorded image size), boxes_unchecked (boxes that no size confirms,
    because none is recorded and the picture is stood in for).
    """

    examples: tuple[Example, ...]
    problems: tuple[Problem, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


class ProblemLog:
    """Collects problems, or stops at the first, as `on_bad` says."""

    def __init__(self, on_bad: OnBad) -> None:
        if on_bad not in get_args(OnBad):
            raise DataError(f"data.on_bad={on_bad!r} is not one of {', '.join(get_args(OnBad))}")
        self._on_bad = on_bad
        self.problems: list[Problem] = []

    def add(self, problem: Problem) -> None:
        """Keep a problem.

        Raises:
            DataError: `on_bad` is "stop".
        """
        if self._on_bad == "stop":
            raise DataError(f"{problem} (data.on_bad=skip leaves such posts out and lists them)")
        self.problems.append(problem)
