"""The kinds of verdict on a gold entity or a claim, as a page names them.

Which verdict is due is decided where scores are made (`rewards/evaluation/errors.py`) and handed in. Always holds: a
page names every kind that is handed in, known here or not.
"""

from __future__ import annotations

from dataclasses import dataclass

RIGHT = "right"
KINDS = {
    RIGHT: "right",
    "box": "wrong box",
    "type": "wrong type",
    "type_box": "wrong type and box",
    "boundary": "wrong span",
    "missed": "missed",
    "duplicate": "said twice",
    "spurious": "not in gold",
}
"""Every kind and its name."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A verdict on a gold entity, a claim, or a pair of them, by index; None for the one that is not there."""

    kind: str
    gold: int | None
    claim: int | None
