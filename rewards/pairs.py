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
    forms = [form(claim.text) for claim in claims]
    gold_forms = [form(entity.text) for entity in gold]
    of_form = dict(zip(gold_forms, range(len(gold)), strict=True))
    if len(of_form) < len(gold) or len(set(forms)) < len(forms):
        return _pair_namesakes(claims, forms, gold, gold_forms, iou_threshold)
    mner: list[int] = []
    eeg: list[int] = []
    gmner: list[int] = []
    for claim, text in zip(claims, forms, strict=True):
        entity = of_form.get(text, -1)
        typed = entity >= 0 and _same_type(claim, gold[entity])
        boxed = entity >= 0 and box_matches(claim.box, gold[entity].boxes, iou_threshold)
        mner.append(entity if typed else -1)
        eeg.append(entity if boxed else -1)
        gmner.append(entity if typed and boxed else -1)
    return PostPairs(tuple(mner), tuple(eeg), tuple(gmner))


def _pair_namesakes(
    claims: Sequence[Claim], forms: Sequence[str], gold: Sequence[Gold], gold_forms: Sequence[str], iou_threshold: float
) -> PostPairs:
    """Pair where a text occurs more than once on a side, so that claims may compete for an entity."""
    of_form: dict[str, list[int]] = {}
    for index, text in enumerate(gold_forms):
        of_form.setdefault(text, []).append(index)
    same = [of_form.get(text, []) for text in forms]
    typed = [[j for j in some if _same_type(claim, gold[j])] for claim, some in zip(claims, same, strict=True)]
    boxed = [
        [j for j in some if box_matches(claim.box, gold[j].boxes, iou_threshold)]
        for claim, some in zip(claims, same, strict=True)
    ]
    both = [[j for j in some if j in others] for some, others in zip(typed, boxed, strict=True)]
    return PostPairs(*(_paired(right, len(gold)) for right in (typed, boxed, both)))


def _same_type(claim: Claim, gold: Gold) -> bool:
    return claim.type == gold.type or claim.type.strip() == gold.type.strip()


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
