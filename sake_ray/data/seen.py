"""Marks which gold entities of a split were seen in training, by their surface form.

Knows nothing of files. Always holds: forms are compared as scoring compares text (lower case, stripped), and a
mark that the data set brought along is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sake_ray.types import Example


def mark_seen(examples: Sequence[Example], train: Iterable[Example]) -> tuple[Example, ...]:
    """The examples with `seen` set on every entity that has no mark yet."""
    forms = {_form(entity.text) for example in train for entity in example.entities}
    marked = []
    for example in examples:
        entities = tuple(
            entity if entity.seen is not None else replace(entity, seen=_form(entity.text) in forms)
            for entity in example.entities
        )
        marked.append(replace(example, entities=entities))
    return tuple(marked)


def _form(text: str) -> str:
    return text.lower().strip()
