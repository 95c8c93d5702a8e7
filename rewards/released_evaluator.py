"""The released evaluator's counts, bug for bug.

Knows nothing of files. Always holds: texts and types are compared exactly as written, and every gold box is a row of
its own. What is odd about it, on purpose:

- A prediction of a type that the task does not have is left out, before anything else is looked at.
- MNER compares sets of (text, type) over all posts; GMNER and EEG leave out every post where the predictions or the
  gold rows are empty, so a refusal costs nothing there.
- In GMNER and EEG a row or a prediction is the triple (text, type, place), and sets of triples are compared. A gold
  row's place is its own number, or "no box": two rows of one name and one box are two, two without a box are one.
- A predicted box takes the place of the *first* gold row of its text, of whatever type, with IoU >= 0.5. All boxes
  that find none share one place, "nowhere": any number of wrong boxes of one name is one false positive.
- A prediction that is no gold triple, though gold has its name, is counted a second time as that name without a box:
  right where gold has such a row ("a row without a box is right whatever the predicted box"), one more false positive
  where it has not ("a wrong box adds a false positive").
- The IoU is of single precision, which can matter only where it is 0.5 to seven digits.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Sequence

from rewards.entities import Claim, Gold
from rewards.matching import Task
from rewards.tally import Tally
from sake_ray.data.boxes import Quad, iou

IOU_THRESHOLD = 0.5
NO_TYPE = "None-type"
"""What EEG puts in a type's place; the released evaluator lets predictions have it in every task."""

ReleasePost = tuple[Sequence[Claim], Sequence[Gold]]
"""Predictions, and gold rows of at most one box."""

_NO_BOX, _NOWHERE = -1, -2
# An IoU this far from the threshold falls on the same side of it in single precision.
_CLOSE = 1e-3

_Triple = tuple[int, str, str, int]
"""Post, text, type, place."""
_Sets = tuple[set[_Triple], set[_Triple]]
"""What is claimed, and what is gold."""


def released_tallies(posts: Sequence[ReleasePost], types: Collection[str] | None = None) -> dict[Task, Tally]:
    """Counts of each task over posts; `types` are those of the data's task (None: predictions may have any)."""
    return {
        task: Tally(*(Counter([one[2] for one in some]) for some in (claimed & gold, claimed, gold)))
        for task, (claimed, gold) in _triples(posts, types).items()
    }


def released_counts(
    posts: Sequence[ReleasePost], types: Collection[str] | None = None
) -> list[dict[Task, tuple[int, int, int]]]:
    """(right, claimed, gold) of each post in each task; a post that drops out has none of anything."""
    counted = {
        task: [Counter([one[0] for one in some]) for some in (claimed & gold, claimed, gold)]
        for task, (claimed, gold) in _triples(posts, types).items()
    }
    return [
        {task: (right[at], claimed[at], gold[at]) for task, (right, claimed, gold) in counted.items()}
        for at in range(len(posts))
    ]


def _triples(posts: Sequence[ReleasePost], types: Collection[str] | None) -> dict[Task, _Sets]:
    """The triples of every post together: a few large sets are made much quicker than many small ones."""
    kept = [(at, _of_types(claims, types), rows) for at, (claims, rows) in enumerate(posts)]
    said = {(at, claim.text, claim.type, 0) for at, claims, _ in kept for claim in claims}
    true = {(at, row.text, row.type, 0) for at, _, rows in kept for row in rows}
    both = [(at, claims, rows) for at, claims, rows in kept if claims and rows]
    boxed: dict[tuple[int, str], list[tuple[int, Quad]]] = {}
    known: list[_Triple] = []
    for at, _, rows in both:
        for number, row in enumerate(rows):
            known.append((at, row.text, row.type, number if row.boxes else _NO_BOX))
            if row.boxes:
                boxed.setdefault((at, row.text), []).append((number, row.boxes[0]))
    placed = [
        (at, c.text, c.type, _NO_BOX if c.box is None else _landing(c.box, boxed.get((at, c.text), ())))
        for at, claims, _ in both
        for c in claims
    ]
    return {
        Task.MNER: (said, true),
        Task.EEG: _with_second_counts(
            {(at, text, "", place) for at, text, _, place in placed},
            {(at, text, "", place) for at, text, _, place in known},
        ),
        Task.GMNER: _with_second_counts(set(placed), set(known)),
    }


def _with_second_counts(placed: set[_Triple], known: set[_Triple]) -> _Sets:
    """The claims that are no gold, once more as their name without a box where gold has the name."""
    wrong = placed - known
    names = {one[:3] for one in known} if wrong else set()
    return placed | {(*one[:3], _NO_BOX) for one in wrong if one[:3] in names}, known


def _of_types(claims: Sequence[Claim], types: Collection[str] | None) -> Sequence[Claim]:
    if types is None:
        return claims
    return [claim for claim in claims if claim.type in types or claim.type == NO_TYPE]


def _landing(box: Quad, rows: Sequence[tuple[int, Quad]]) -> int:
    return next((number for number, row in rows if _overlaps(box, row)), _NOWHERE)


def _overlaps(a: Quad, b: Quad) -> bool:
    value = iou(a, b)
    if abs(value - IOU_THRESHOLD) > _CLOSE:
        return value > IOU_THRESHOLD
    return _single_iou(a, b) >= IOU_THRESHOLD


def _single_iou(a: Quad, b: Quad) -> float:
    """The IoU, rounded to single precision after every operation."""
    a1, b1 = [_single(side) for side in a], [_single(side) for side in b]
    width = max(0.0, _single(min(a1[2], b1[2]) - max(a1[0], b1[0])))
    height = max(0.0, _single(min(a1[3], b1[3]) - max(a1[1], b1[1])))
    shared = _single(width * height)
    areas = [_single(_single(box[2] - box[0]) * _single(box[3] - box[1])) for box in (a1, b1)]
    union = _single(_single(areas[0] + areas[1]) - shared)
    return _single(shared / union) if union > 0 else 0.0


def _single(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])
