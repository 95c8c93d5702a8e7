"""The Twitter data sets as a whole: their tasks' entity types, and which half a post belongs to.

Knows nothing of files or images. Always holds: `entity_types` is the only place that says which types a
task has, `subset_of` the only one that reads a post's id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from sake_ray.data.fmnerg import FMNERG_TYPES
from sake_ray.data.problems import DataError

GMNER_TYPES: Mapping[str, str] = MappingProxyType({"PER": "", "ORG": "", "LOC": "", "MISC": ""})
"""Type → coarse type; GMNER has no coarse ones."""

TASKS: Mapping[str, Mapping[str, str]] = MappingProxyType({"gmner": GMNER_TYPES, "fmnerg": FMNERG_TYPES})
SUBSETS = ("all", "twitter15", "twitter17")

_TWITTER15 = re.compile(r"[0-9]+")
_TWITTER17 = re.compile(r"(?:16|17|O)_[0-9_]+")


def entity_types(task: str) -> Mapping[str, str]:
    """The types of a task, each with its coarse type ("" where the task has none).

    Raises:
        DataError: no such task.
    """
    if task not in TASKS:
        raise DataError(f"data.task={task!r} is not one of {', '.join(TASKS)}")
    return TASKS[task]


def subset_of(post_id: str) -> str:
    """The subset of a post: numeric ids are twitter15, `16_…`, `17_…` and `O_…` twitter17, others none ("")."""
    if _TWITTER15.fullmatch(post_id):
        return "twitter15"
    return "twitter17" if _TWITTER17.fullmatch(post_id) else ""
