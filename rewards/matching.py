"""When a claim is right about a gold entity, and how claims and gold are paired.

Knows nothing of scores. Always holds: no claim and no gold entity is in more than one pair;
`maximum_pairs` is the largest number possible, so it does not depend on the order of either side, while
`greedy_pairs` gives each claim in turn the first free entity it is right about.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence

from rewards.entities import Claim, Gold
from sake_ray.data.boxes import Quad, iou


class Task(enum.StrEnum):
    """What a claim must get right beside the text: the type, the box, or both."""

    MNER = "mner"
    EEG = "eeg"
    GMNER = "gmner"


PairCounter = Callable[[Sequence[Sequence[int]], int], int]
"""(for each claim the indices of the gold entities it is right about, number of gold entities) → pairs."""


def box_matches(claimed: Quad | None, boxes: Sequence[Quad], iou_threshold: float) -> bool:
    """Both not visible, or the claimed box overlaps one of the gold boxes enough."""
    if claimed is None or not boxes:
        return claimed is None and not boxes
    return any(iou(claimed, box) >= iou_threshold for box in boxes)


def is_right(claim: Claim, gold: Gold, task: Task, iou_threshold: float) -> bool:
    """Text lower-cased and stripped, type stripped (its case counts), box by `box_matches`, as the task asks."""
    if claim.text.lower().strip() != gold.text.lower().strip():
        return False
    if task is not Task.EEG and claim.type.strip() != gold.type.strip():
        return False
    return task is Task.MNER or box_matches(claim.box, gold.boxes, iou_threshold)


def candidates(claims: Sequence[Claim], gold: Sequence[Gold], task: Task, iou_threshold: float) -> list[list[int]]:
    """For each claim the indices of the gold entities it is right about."""
    return [[j for j, entity in enumerate(gold) if is_right(claim, entity, task, iou_threshold)] for claim in claims]


def greedy_pairs(right: Sequence[Sequence[int]], n_gold: int) -> int:
    """Pairs when each claim, in order, takes the first entity that is still free (the released rule)."""
    taken: set[int] = set()
    for options in right:
        free = next((j for j in options if j not in taken), None)
        if free is not None:
            taken.add(free)
    return len(taken)


def maximum_pairs(right: Sequence[Sequence[int]], n_gold: int) -> int:
    """The most pairs any one-to-one pairing has."""
    return sum(claim >= 0 for claim in maximum_pairing(right, n_gold))


def maximum_pairing(right: Sequence[Sequence[int]], n_gold: int) -> list[int]:
    """One of the largest one-to-one pairings: each gold entity's claim, or -1 (augmenting paths, breadth first)."""
    claim_of = [-1] * n_gold
    for start in range(len(right)):
        _augment(right, claim_of, start)
    return claim_of


def _augment(right: Sequence[Sequence[int]], claim_of: list[int], start: int) -> bool:
    """Pair claim `start`, moving earlier claims to other entities where that makes room."""
    came_from: dict[int, int] = {}  # entity → the claim that reached it
    reached: dict[int, int] = {}  # claim → the entity it holds, through which it was reached
    queue = deque([start])
    while queue:
        claim = queue.popleft()
        for entity in right[claim]:
            if entity in came_from:
                continue
            came_from[entity] = claim
            if claim_of[entity] < 0:
                _shift(claim_of, came_from, reached, entity)
                return True
            reached[claim_of[entity]] = entity
            queue.append(claim_of[entity])
    return False


def _shift(claim_of: list[int], came_from: dict[int, int], reached: dict[int, int], entity: int) -> None:
    while True:
        claim = came_from[entity]
        claim_of[entity] = claim
        if claim not in reached:
            return
        entity = reached[claim]
