"""What went wrong with each gold entity and each claim of a post: exactly one kind of error each.

The kinds, in the order in which a claim and a gold entity are put together, one-to-one, each time as many as possible:

- `right`: a pair of the strict GMNER protocol.
- `box`: same text and type, wrong box. `type`: same text, right box, wrong type. `type_box`: same text, both wrong.
- `boundary`: another text that shares a word with the gold text, or one is part of the other; whatever type and box.
  The most words in common go first, then the same type, then a right box.
- What is left: a gold entity is `missed`; a claim is a `duplicate` when its text is that of a gold entity (which other
  claims have taken), else `spurious`.

"Same text" and "right box" are the strict protocol's. Knows nothing of reports. Always holds: every gold entity and
every claim is in exactly one verdict; `right` to `boundary` have one of each, `missed` has only gold, `duplicate` and
`spurious` only a claim. So gold = right + box + type + type_box + boundary + missed, and
claims = right + box + type + type_box + boundary + duplicate + spurious.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.entities import Claim, Gold
from rewards.evaluation.scored import Scored
from rewards.matching import box_matches, maximum_pairing
from rewards.pairs import IOU_THRESHOLD, PostPairs, form


class ErrorKind(enum.StrEnum):
    """Kinds of verdict."""

    RIGHT = "right"
    BOX = "box"
    TYPE = "type"
    TYPE_BOX = "type_box"
    BOUNDARY = "boundary"
    MISSED = "missed"
    DUPLICATE = "duplicate"
    SPURIOUS = "spurious"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a claim, a gold entity, or both: indices into the post's, None for none."""

    kind: ErrorKind
    claim: int | None
    gold: int | None


def judge(claims: Sequence[Claim], gold: Sequence[Gold], pairs: PostPairs) -> list[Verdict]:
    """One verdict for every claim and every gold entity, pairs in one."""
    verdicts = [Verdict(ErrorKind.RIGHT, at, entity) for at, entity in enumerate(pairs.gmner) if entity >= 0]
    free_claims = [at for at, entity in enumerate(pairs.gmner) if entity < 0]
    free_gold = sorted(set(range(len(gold))) - set(pairs.gmner))
    if free_claims and free_gold:
        for kind, fits in _STAGES:
            for at, entity in _put_together(free_claims, free_gold, claims, gold, fits):
                verdicts.append(Verdict(kind, at, entity))
                free_claims.remove(at)
                free_gold.remove(entity)
        for at, entity in _nearest(free_claims, free_gold, claims, gold):
            verdicts.append(Verdict(ErrorKind.BOUNDARY, at, entity))
            free_claims.remove(at)
            free_gold.remove(entity)
    verdicts += [Verdict(ErrorKind.MISSED, None, entity) for entity in free_gold]
    forms = {form(entity.text) for entity in gold} if free_claims else set()
    for at in free_claims:
        kind = ErrorKind.DUPLICATE if form(claims[at].text) in forms else ErrorKind.SPURIOUS
        verdicts.append(Verdict(kind, at, None))
    return verdicts


def error_report(scored: Scored, verdicts: Sequence[Sequence[Verdict]]) -> dict[str, Any]:
    """Counts of every kind, and finer ones of boxes, boundaries and types.

    `box_kinds` adds up to `box` + `type_box`, `boundary_kinds` to `boundary`, `confusion` to `type` + `type_box`.
    """
    kinds = {kind.value: {"gold": 0, "claims": 0} for kind in ErrorKind}
    by_type: dict[str, Counter[str]] = {}
    boxes, bounds = Counter(dict.fromkeys(_BOX_KINDS, 0)), Counter(dict.fromkeys(_BOUNDARY_KINDS, 0))
    confusion: Counter[tuple[str, str]] = Counter()
    for (claims, gold), found in zip(scored.posts, verdicts, strict=True):
        for verdict in found:
            count = kinds[verdict.kind.value]
            claim = None if verdict.claim is None else claims[verdict.claim]
            entity = None if verdict.gold is None else gold[verdict.gold]
            count["claims"] += claim is not None
            count["gold"] += entity is not None
            if entity is not None:
                by_type.setdefault(entity.type.strip(), Counter())[verdict.kind.value] += 1
            if claim is None or entity is None or verdict.kind is ErrorKind.RIGHT:
                continue
            if verdict.kind in (ErrorKind.BOX, ErrorKind.TYPE_BOX):
                boxes[_box_kind(claim, entity)] += 1
            if verdict.kind in (ErrorKind.TYPE, ErrorKind.TYPE_BOX):
                confusion[entity.type.strip(), claim.type.strip()] += 1
            if verdict.kind is ErrorKind.BOUNDARY:
                bounds[_boundary_kind(claim, entity)] += 1
    return {
        "gold": len(scored.gold),
        "claims": len(scored.claims),
        "kinds": kinds,
        "box_kinds": dict(boxes),
        "boundary_kinds": dict(bounds),
        "confusion": [{"gold": pair[0], "claimed": pair[1], "count": n} for pair, n in confusion.most_common()],
        "by_type": {kind: dict(by_type[kind]) for kind in sorted(by_type)},
    }


_Fits = Callable[[Claim, Gold], bool]
_BOX_KINDS = ("elsewhere", "said_not_visible", "said_visible")
_BOUNDARY_KINDS = ("type_and_box_right", "type_right", "box_right", "neither")


def _same_form(claim: Claim, gold: Gold) -> bool:
    return form(claim.text) == form(gold.text)


def _same_type(claim: Claim, gold: Gold) -> bool:
    return claim.type.strip() == gold.type.strip()


def _right_box(claim: Claim, gold: Gold) -> bool:
    return box_matches(claim.box, gold.boxes, IOU_THRESHOLD)


_STAGES: tuple[tuple[ErrorKind, _Fits], ...] = (
    (ErrorKind.BOX, lambda claim, gold: _same_form(claim, gold) and _same_type(claim, gold)),
    (ErrorKind.TYPE, lambda claim, gold: _same_form(claim, gold) and _right_box(claim, gold)),
    (ErrorKind.TYPE_BOX, _same_form),
)


def _put_together(
    free_claims: Sequence[int], free_gold: Sequence[int], claims: Sequence[Claim], gold: Sequence[Gold], fits: _Fits
) -> list[tuple[int, int]]:
    options = [[j for j, entity in enumerate(free_gold) if fits(claims[at], gold[entity])] for at in free_claims]
    claim_of = maximum_pairing(options, len(free_gold))
    return [(free_claims[at], entity) for entity, at in zip(free_gold, claim_of, strict=True) if at >= 0]


def _nearest(
    free_claims: Sequence[int], free_gold: Sequence[int], claims: Sequence[Claim], gold: Sequence[Gold]
) -> list[tuple[int, int]]:
    wishes = []
    for at in free_claims:
        for entity in free_gold:
            share = _shared(form(claims[at].text), form(gold[entity].text))
            if share is not None:
                exact = (_same_type(claims[at], gold[entity]), _right_box(claims[at], gold[entity]))
                wishes.append((-share, not exact[0], not exact[1], at, entity))
    found: dict[int, int] = {}
    for *_, at, entity in sorted(wishes):
        if at not in found and entity not in found.values():
            found[at] = entity
    return list(found.items())


def _shared(one: str, other: str) -> float | None:
    """The share of words that two texts have in common (Dice); None when they have nothing to do with each other."""
    a, b = Counter(one.split()), Counter(other.split())
    common = (a & b).total()
    if common:
        return 2 * common / (a.total() + b.total())
    return 0.0 if one and other and (one in other or other in one) else None


def _box_kind(claim: Claim, gold: Gold) -> str:
    if claim.box is None:
        return "said_not_visible"
    return "elsewhere" if gold.boxes else "said_visible"


def _boundary_kind(claim: Claim, gold: Gold) -> str:
    typed, boxed = _same_type(claim, gold), _right_box(claim, gold)
    return _BOUNDARY_KINDS[(0 if boxed else 1) if typed else (2 if boxed else 3)]
