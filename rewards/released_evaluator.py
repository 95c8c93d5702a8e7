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

_Name = tuple[str, str]
_Placed = tuple[str, str, int]


def released_tallies(posts: Sequence[ReleasePost], types: Collection[str] | None = None) -> dict[Task, Tally]:
    """Counts of each task over posts; `types` are those of the data's task (None: predictions may have any)."""
    tallies = {task: Tally() for task in Task}
    for claims, rows in posts:
        kept = _of_types(claims, types)
        tally = tallies[Task.MNER]
        said, true = _names(kept), _names(rows)
        tally.claimed.update([kind for _, kind in said])
        tally.gold.update([kind for _, kind in true])
        tally.right.update([kind for _, kind in said & true])
        for task, (placed, known) in _box_tasks(kept, rows):
            tally = tallies[task]
            tally.claimed.update([kind for _, kind, _ in placed])
            tally.gold.update([kind for _, kind, _ in known])
            tally.right.update([kind for _, kind, _ in placed & known])
    return tallies


def released_counts(post: ReleasePost, types: Collection[str] | None = None) -> dict[Task, tuple[int, int, int]]:
    """(right, claimed, gold) of one post in each task; a post that drops out has none of anything."""
    claims, rows = _of_types(post[0], types), post[1]
    said, true = _names(claims), _names(rows)
    counts = dict.fromkeys(Task, (0, 0, 0))
    counts[Task.MNER] = (len(said & true), len(said), len(true))
    for task, (placed, known) in _box_tasks(claims, rows):
        counts[task] = (len(placed & known), len(placed), len(known))
    return counts


def _of_types(claims: Sequence[Claim], types: Collection[str] | None) -> Sequence[Claim]:
    if types is None:
        return claims
    return [claim for claim in claims if claim.type in types or claim.type == NO_TYPE]


def _names(entities: Sequence[Claim] | Sequence[Gold]) -> set[_Name]:
    return {(entity.text, entity.type) for entity in entities}


def _box_tasks(claims: Sequence[Claim], rows: Sequence[Gold]) -> list[tuple[Task, tuple[set[_Placed], set[_Placed]]]]:
    """For EEG and GMNER the triples claimed and the gold ones; nothing for a post that drops out."""
    if not claims or not rows:
        return []
    places = [at if row.boxes else _NO_BOX for at, row in enumerate(rows)]
    landed = [_landing(claim, rows) for claim in claims]
    found = []
    for task in (Task.EEG, Task.GMNER):
        typed = task is Task.GMNER
        known = {(row.text, row.type if typed else "", at) for row, at in zip(rows, places, strict=True)}
        placed = {(claim.text, claim.type if typed else "", at) for claim, at in zip(claims, landed, strict=True)}
        wrong = placed - known
        if wrong:
            names = {name[:2] for name in known}
            placed |= {(text, kind, _NO_BOX) for text, kind, _ in wrong if (text, kind) in names}
        found.append((task, (placed, known)))
    return found


def _landing(claim: Claim, rows: Sequence[Gold]) -> int:
    if claim.box is None:
        return _NO_BOX
    for at, row in enumerate(rows):
        if row.text == claim.text and row.boxes and _overlaps(claim.box, row.boxes[0]):
            return at
    return _NOWHERE


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
