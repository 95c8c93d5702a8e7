"""The released evaluator's counts, bug for bug, as its golden vectors show them.

Knows nothing of files. Always holds: texts and types are compared exactly as written, and every gold box
is a row of its own. What is odd about it, on purpose:

- MNER compares sets of (text, type) over all posts; GMNER and EEG leave out every post where the
  predictions or the gold rows are empty, so a refusal costs nothing there.
- A predicted box lands on the *first* gold row of its name with IoU >= 0.5. Rows that are landed on count as
  right once, however many predictions land there; identical predictions and identical rows count once.
- A gold row without a box is right whatever the predicted box.
- A predicted box that lands nowhere, though its name is in gold, counts as claimed twice: as itself and
  as the name without a box ("a wrong box adds a false positive").
- The name without a box counts at most once; where gold has several rows of the name, two such claims
  cancel each other, so an even number of them counts as none.

The last rule is inferred from few vectors (pairs of claims only).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rewards.entities import Claim, Gold
from rewards.matching import Task
from rewards.tally import Tally
from sake_ray.data.boxes import Quad, iou

IOU_THRESHOLD = 0.5

Name = tuple[str, str]
"""(text, type); the type is "" in EEG."""


def released_tally(posts: Sequence[tuple[Sequence[Claim], Sequence[Gold]]], task: Task) -> Tally:
    """Counts over posts of (predictions, gold rows of at most one box)."""
    tally = Tally()
    for claims, rows in posts:
        if task is Task.MNER:
            _count_names({(c.text, c.type) for c in claims}, {(g.text, g.type) for g in rows}, tally)
        elif claims and rows:
            _count_boxes(claims, rows, task, tally)
    return tally


def _count_names(claimed: set[Name], gold: set[Name], tally: Tally) -> None:
    tally.claimed.update(kind for _, kind in claimed)
    tally.gold.update(kind for _, kind in gold)
    tally.right.update(kind for _, kind in claimed & gold)


def _count_boxes(claims: Sequence[Claim], rows: Sequence[Gold], task: Task, tally: Tally) -> None:
    gold: dict[Name, list[Quad | None]] = {}
    for row in rows:
        gold.setdefault(_name(row, task), []).append(row.boxes[0] if row.boxes else None)
    claimed: dict[Name, list[Quad | None]] = {}
    for claim in claims:
        claimed.setdefault(_name(claim, task), []).append(claim.box)
    for name, boxes in gold.items():
        tally.gold[name[1]] += len(boxes)
    for name, boxes in claimed.items():
        if name not in gold:
            tally.claimed[name[1]] += len(set(boxes))
            continue
        right, counted = _place(boxes, gold[name])
        tally.right[name[1]] += right
        tally.claimed[name[1]] += counted


def _place(boxes: Sequence[Quad | None], rows: Sequence[Quad | None]) -> tuple[int, int]:
    """How many gold rows of one name are right, and how many claims of it are counted."""
    landed: set[Quad] = set()
    nowhere: Counter[Quad | None] = Counter()
    for box in boxes:
        row = next((r for r in rows if box is not None and r is not None and iou(box, r) >= IOU_THRESHOLD), None)
        if row is None:
            nowhere[box] += 1
        else:
            landed.add(row)
    unplaced = nowhere.total()
    bare = int(unplaced > 0) if len(rows) == 1 else unplaced % 2
    wrong_boxes = len([box for box in nowhere if box is not None])
    right = len(landed) + int(None in rows and unplaced > 0)
    return right, len(landed) + wrong_boxes + bare


def _name(entity: Claim | Gold, task: Task) -> Name:
    return entity.text, "" if task is Task.EEG else entity.type
