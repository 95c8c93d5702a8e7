"""Which claim is paired with which gold entity of a post, in each task, under the strict protocol.

Knows nothing of scores or files. Always holds: pairing is one-to-one and as large as possible in each task, as
`rewards.matching` defines a right claim; a post whose names are all different, as nearly every one is, takes one look
up a claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rewards.entities import Claim, Gold
from rewards.matching import Task, box_matches, maximum_pairing

IOU_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class PostPairs:
    """For each claim, in order, the index of its gold entity in that task, or -1."""

    mner: tuple[int, ...]
    eeg: tuple[int, ...]
    gmner: tuple[int, ...]

    def of(self, task: Task) -> tuple[int, ...]:
        """The pairs of a task."""
        return self.mner if task is Task.MNER else self.eeg if task is Task.EEG else self.gmner


def form(text: str) -> str:
    """A text as scoring compares it: lower case, without blanks around it."""
    return text.lower().strip()


def pair_post(claims: Sequence[Claim], gold: Sequence[Gold], iou_threshold: float = IOU_THRESHOLD) -> PostPairs:
    """Pair a post's claims with its gold entities; boxes of both in one pixel space."""
    of_form: dict[str, list[int]] = {}
    for index, entity in enumerate(gold):
        of_form.setdefault(form(entity.text), []).append(index)
    mner: list[list[int]] = []
    eeg: list[list[int]] = []
    gmner: list[list[int]] = []
    for claim in claims:
        same = of_form.get(form(claim.text), ())
        typed = [j for j in same if claim.type.strip() == gold[j].type.strip()]
        boxed = [j for j in same if box_matches(claim.box, gold[j].boxes, iou_threshold)]
        mner.append(typed)
        eeg.append(boxed)
        gmner.append([j for j in typed if j in boxed])
    return PostPairs(_paired(mner, len(gold)), _paired(eeg, len(gold)), _paired(gmner, len(gold)))


def _paired(right: list[list[int]], n_gold: int) -> tuple[int, ...]:
    only = tuple([options[0] if options else -1 for options in right])
    taken = [index for index in only if index >= 0]
    if len(set(taken)) == len(taken):  # everyone's first wish can be granted, so nothing larger is possible
        return only
    found = [-1] * len(right)
    for entity, claim in enumerate(maximum_pairing(right, n_gold)):
        if claim >= 0:
            found[claim] = entity
    return tuple(found)
