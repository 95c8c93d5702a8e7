"""How well the base model knows an entity, counted from answers it gave without tools (method, stage 1a).

Knows nothing of files, models or how samples came about. Always holds: counts are over all predicted entities of all
samples and capped at n; texts and types must be equal to the letter, as in the released code; a sample that did not
parse is None and hits nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sake_ray.coldstart.teaching import Need
from sake_ray.data.boxes import Quad, iou
from sake_ray.types import Difficulty, Example

IOU_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Guess:
    """One predicted entity; `box` in the pixels gold is in, None when it claims not to be visible."""

    text: str
    type: str
    box: Quad | None


Sample = Sequence[Guess] | None
"""What one answer said; None when it was no answer."""


@dataclass(frozen=True, slots=True)
class EntityTag:
    """What n samples tell of one gold entity.

    Attributes:
        n: how many samples were taken.
        hit_text: predicted entities with its text and type, at most n.
        hit_image: predicted entities with its text and a matching box, at most n.
        hits: samples that have it whole: text, type and box in one predicted entity.
    """

    n: int
    hit_text: int
    hit_image: int
    hits: int

    @property
    def is_search(self) -> Need:
        """The released rule: what was never hit must be searched for."""
        if self.hit_text:
            return Need.NONE if self.hit_image else Need.IMAGE
        return Need.TEXT if self.hit_image else Need.BOTH

    @property
    def difficulty(self) -> Difficulty:
        """The paper's rule: never, sometimes or always right as a whole."""
        return self.difficulty_by("whole")

    def difficulty_by(self, known_by: str) -> Difficulty:
        """The paper's rule over one of two counts: of whole entities, or of types alone ("type").

        A type may be right by luck, a box hardly: by type more entities count as ambiguous.
        """
        count = {"whole": self.hits, "type": self.hit_text}[known_by]
        if count == 0:
            return Difficulty.UNKNOWN
        return Difficulty.KNOWN if count == self.n else Difficulty.AMBIGUOUS


def tag_entity(text: str, kind: str, boxes: Sequence[Quad], samples: Sequence[Sample], n: int) -> EntityTag:
    """Count the hits of a gold entity with these boxes (none: not visible) in `samples`."""
    hit_text = hit_image = hits = 0
    for sample in samples:
        whole = False
        for guess in sample or ():
            if guess.text != text:
                continue
            right_type, right_box = guess.type == kind, _box_matches(guess.box, boxes)
            hit_text += right_type
            hit_image += right_box
            whole |= right_type and right_box
        hits += whole
    return EntityTag(n, min(hit_text, n), min(hit_image, n), min(hits, n))


def tag_post(example: Example, samples: Sequence[Sample], n: int) -> tuple[EntityTag, ...]:
    """One tag an entity, in order; the samples' boxes are in original pixels."""
    return tuple(
        tag_entity(
            entity.text, entity.type, [(box.x1, box.y1, box.x2, box.y2) for box in entity.boxes], samples, n
        )
        for entity in example.entities
    )  # fmt: skip


def post_difficulty(example: Example) -> Difficulty | None:
    """The difficulty of a post's hardest entity; None where not every entity has one, or there is none."""
    found = {entity.difficulty for entity in example.entities}
    if not found or None in found:
        return None
    for difficulty in (Difficulty.UNKNOWN, Difficulty.AMBIGUOUS):
        if difficulty in found:
            return difficulty
    return Difficulty.KNOWN


def _box_matches(claimed: Quad | None, boxes: Sequence[Quad]) -> bool:
    if claimed is None or not boxes:
        return claimed is None and not boxes
    return any(iou(claimed, box) >= IOU_THRESHOLD for box in boxes)
