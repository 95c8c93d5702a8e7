"""The scripted teacher: writes an episode by the book from gold and needs, without a model.

Knows nothing of tokens, tools or how its turns are used. Always holds: what is needed is searched for, pictures
before texts, each tool once; the answer equals gold; the same brief gives the same turns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sake_ray.coldstart.teaching import Brief, Need, TaughtTurn
from sake_ray.data.images import processed_size, to_processed
from sake_ray.types import Entity, Example


class ScriptedTeacher:
    """Satisfies `Teacher`; `looks` says in words what an entity looks like, without it reasoning is shorter."""

    name = "scripted"

    def __init__(self, *, min_pixels: int, max_pixels: int, looks: Mapping[str, str] | None = None) -> None:
        self._pixels = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        self._looks = looks or {}

    async def write_turn(self, brief: Brief, turns: Sequence[TaughtTurn], feedback: str = "") -> str:
        """The next turn by the book; feedback changes nothing."""
        searches = [
            (tag, chosen)
            for tag, chosen in (
                ("image_search", [need.image for need in brief.needs]),
                ("text_search", [need.text for need in brief.needs]),
            )
            if any(chosen)
        ]
        if len(turns) < len(searches):
            tag, chosen = searches[len(turns)]
            return self._search(brief, tag, chosen)
        return self._answer(brief.example)

    def _search(self, brief: Brief, tag: str, chosen: Sequence[bool]) -> str:
        entities = brief.example.entities
        reasons = [
            self._reason(entity, brief.example) if need is Need.NONE else f"{entity.text} unknown"
            for entity, need in zip(entities, brief.needs, strict=True)
        ]
        names = dict.fromkeys(entity.text for entity, wanted in zip(entities, chosen, strict=True) if wanted)
        queries = json.dumps([{"query": name} for name in names], ensure_ascii=False)
        return f"<reason>{' ; '.join(reasons)}</reason><{tag}>{queries}</{tag}>"

    def _answer(self, example: Example) -> str:
        rows = [
            {"entity": entity.text, "type": entity.type, "box2d": self._box(entity, example)}
            for entity in example.entities
        ]
        reasons = [self._reason(entity, example) for entity in example.entities]
        answer = json.dumps(rows, ensure_ascii=False)
        return f"<reason>{' ; '.join(reasons)}</reason><answer>{answer}</answer>"

    def _reason(self, entity: Entity, example: Example) -> str:
        box = self._box(entity, example)
        words = [entity.text, entity.type, self._looks.get(entity.text, ""), json.dumps(box) if box else "none"]
        return " ".join(word for word in words if word)

    def _box(self, entity: Entity, example: Example) -> list[int]:
        """The first gold box in pixels of the image as the policy sees it; [] for an entity not visible."""
        if not entity.boxes:
            return []
        original = (example.image.width, example.image.height)
        return list(to_processed(entity.boxes[0], original, processed_size(*original, **self._pixels)))
