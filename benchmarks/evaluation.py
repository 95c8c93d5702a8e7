"""What the numbers of an evaluation cost, beside the released evaluator's nested loops written down plainly.

    python benchmarks/evaluation.py [posts=1500] [repeats=5] [out=FILE]

The posts are made up: as many entities, boxes, mistakes and refusals a post as in the released test gold. The loops
compare every prediction with every gold row and make a tensor of each box for every overlap, as the released code
does. Figures are of this machine and this run; look at the ratios. Always holds: the loops and the project's counts
give the same scores, or the run stops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Overlap = Callable[[Sequence[float], Sequence[float]], float]
_METRICS = tuple(f"{mean}_{name}" for mean in ("micro", "macro") for name in ("precision", "recall", "f1"))


def naive_release(
    predictions: Sequence[Mapping[str, Any]],
    gold: Sequence[Mapping[str, Any]],
    types: Sequence[str] | None = None,
    overlap: Overlap | None = None,
) -> dict[str, dict[str, float]]:
    """The released protocol in nested loops over lists, one task after the other."""
    overlap = overlap or single_overlap
    scores = {}
    for task in ("gmner", "eeg", "mner"):
        pairs: list[tuple[str, str]] = []
        for said, true in zip(predictions, gold, strict=True):
            claims = [e for e in said["pre_entities"] if types is None or e["entity_type"] in (*types, "None-type")]
            pairs += _naive_post(claims, true["gt_entities"], task, overlap)
        scores[task] = _naive_scores(pairs)
    return scores


def _naive_post(claims: Sequence[Any], rows: Sequence[Any], task: str, overlap: Overlap) -> list[tuple[str, str]]:
    """(gold's type or "", claimed type or "") of everything that is gold or claimed."""
    if task == "mner":
        true: list[Any] = [(row["phrase"], row["entity_type"], None) for row in rows]
        said: list[Any] = [(claim["phrase"], claim["entity_type"], None) for claim in claims]
    elif not claims or not rows:
        return []
    else:
        kind = (lambda e: e["entity_type"]) if task == "gmner" else (lambda e: "any")
        true = [(row["phrase"], kind(row), at + 1 if row["region_box"] else 0) for at, row in enumerate(rows)]
        said = [(claim["phrase"], kind(claim), _naive_place(claim, rows, overlap)) for claim in claims]
        said += [(*one[:2], 0) for one in said if one not in true and any(one[:2] == row[:2] for row in true)]
    everything: list[Any] = []
    for one in true + said:
        if one not in everything:
            everything.append(one)
    return [(one[1] if one in true else "", one[1] if one in said else "") for one in everything]


def _naive_place(claim: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], overlap: Overlap) -> int:
    if not claim["region_box"]:
        return 0
    for at, row in enumerate(rows):
        large = bool(row["region_box"]) and overlap(claim["region_box"], row["region_box"]) >= 0.5
        if large and row["phrase"] == claim["phrase"]:
            return at + 1
    return -100


def _naive_scores(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    kinds = sorted({kind for pair in pairs for kind in pair if kind})
    rows = [_ratios([pair for pair in pairs if pair[0] == kind or pair[1] == kind]) for kind in kinds]
    macro = [sum(row[at] for row in rows) / len(rows) if rows else 0.0 for at in range(3)]
    return dict(zip(_METRICS, [100 * value for value in (*_ratios(pairs), *macro)], strict=True))


def _ratios(pairs: Sequence[tuple[str, str]]) -> tuple[float, float, float]:
    right = sum(true == said for true, said in pairs)
    claimed, gold = sum(bool(said) for _, said in pairs), sum(bool(true) for true, _ in pairs)
    precision, recall = right / claimed if claimed else 0.0, right / gold if gold else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if right else 0.0


def single_overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU in single precision, by numpy."""
    import numpy

    one, two = numpy.array(a, numpy.float32), numpy.array(b, numpy.float32)
    sides = numpy.clip(numpy.minimum(one[2:], two[2:]) - numpy.maximum(one[:2], two[:2]), 0, None)
    shared = sides[0] * sides[1]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    union = areas[0] + areas[1] - shared
    return float(shared / union) if union > 0 else 0.0
