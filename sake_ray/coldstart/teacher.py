"""The scripted teacher: plays an episode by the book from gold and difficulty tags, without a model.

It is a `PolicyClient`, so its searches are really executed and its trajectories are built by the very
loop that RL uses. Knows the gold answer, which a policy never does. Always holds: unknown entities are
searched for and known ones are not; the answer equals gold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sake_ray.data.images import processed_size, to_processed
from sake_ray.types import Box, Completion, Difficulty, Entity, Example, ImageRef


class ScriptedTeacher:
    """Writes the turns of one episode; make one for each episode.

    `looks` says in words what an entity looks like, for the reasoning; without it reasoning is shorter.
    """

    def __init__(
        self,
        example: Example,
        tokenizer: Any,
        *,
        min_pixels: int,
        max_pixels: int,
        looks: Mapping[str, str] | None = None,
    ) -> None:
        self._example = example
        self._tokenizer = tokenizer
        self._pixels = (min_pixels, max_pixels)
        self._looks = looks or {}
        self._turn = 0

    async def generate(
        self, short_ids: Sequence[int], images: Sequence[ImageRef], *, max_tokens: int, seed: int
    ) -> Completion:
        """The next turn by the book.

        Raises:
            ValueError: the turn does not fit into `max_tokens`.
        """
        text = self.turn_text(self._turn)
        self._turn += 1
        ids = tuple(self._tokenizer.encode(text, add_special_tokens=False))
        if len(ids) > max_tokens:
            raise ValueError(
                f"post {self._example.id}: the teacher's turn takes {len(ids)} tokens, {max_tokens} are left"
            )
        return Completion(ids, (0.0,) * len(ids), text, "stop", 0)

    def turn_text(self, turn: int) -> str:
        """The text of turn 0, 1, …"""
        unknown = [e.text for e in self._example.entities if e.difficulty is Difficulty.UNKNOWN]
        if turn == 0 and unknown:
            reasons = [
                f"{entity.text} unknown" if entity.difficulty is Difficulty.UNKNOWN else self._reason(entity)
                for entity in self._example.entities
            ]
            queries = json.dumps([{"query": name} for name in dict.fromkeys(unknown)])
            return f"<reason>{' ; '.join(reasons)}</reason><text_search>{queries}</text_search>"
        return self._answer()

    def _answer(self) -> str:
        rows = [
            {"entity": entity.text, "type": entity.type, "box2d": self._box(entity)}
            for entity in self._example.entities
        ]
        reasons = [self._reason(entity) for entity in self._example.entities]
        return f"<reason>{' ; '.join(reasons)}</reason><answer>{json.dumps(rows)}</answer>"

    def _box(self, entity: Entity) -> list[int]:
        return list(self._shown(entity.boxes[0])) if entity.boxes else []

    def _reason(self, entity: Entity) -> str:
        box = self._box(entity)
        words = [entity.text, entity.type, self._looks.get(entity.text, ""), json.dumps(box) if box else "none"]
        return " ".join(word for word in words if word)

    def _shown(self, box: Box) -> tuple[int, int, int, int]:
        """A gold box in pixels of the image as the policy sees it."""
        image = self._example.image
        original = (image.width, image.height)
        shown = processed_size(*original, min_pixels=self._pixels[0], max_pixels=self._pixels[1])
        return to_processed(box, original, shown)
