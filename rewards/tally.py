"""Counts of right, claimed and gold entities by type, and the scores they give.

Knows nothing of how anything was matched. Always holds: micro scores come from the summed counts, macro
scores are the plain mean over the types counted; a ratio over nothing is 0.0; scores are in percent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Entities by type: those claimed rightly, all claimed, all gold."""

    right: Counter[str] = field(default_factory=Counter)
    claimed: Counter[str] = field(default_factory=Counter)
    gold: Counter[str] = field(default_factory=Counter)

    def scores(self, types: Iterable[str]) -> dict[str, float]:
        """`micro_` and `macro_` precision, recall and f1 in percent; the macro mean is over `types`."""
        micro = _ratios(self.right.total(), self.claimed.total(), self.gold.total())
        each = [_ratios(self.right[kind], self.claimed[kind], self.gold[kind]) for kind in sorted(types)]
        macro = [sum(column) / len(each) for column in zip(*each, strict=True)] if each else [0.0, 0.0, 0.0]
        names = ("precision", "recall", "f1")
        return {f"micro_{name}": 100 * value for name, value in zip(names, micro, strict=True)} | {
            f"macro_{name}": 100 * value for name, value in zip(names, macro, strict=True)
        }


def _ratios(right: int, claimed: int, gold: int) -> tuple[float, float, float]:
    precision = right / claimed if claimed else 0.0
    recall = right / gold if gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return precision, recall, f1
