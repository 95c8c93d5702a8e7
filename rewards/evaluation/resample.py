"""How sure a score is: bootstrap over posts, paired bootstrap between two evaluations, and the sign test.

Knows nothing of entities: counts of (right, claimed, gold) a post and sample go in. Always holds: a post is drawn with
all its samples; the same seed gives the same intervals; micro F1 of a draw is made of its summed counts, as of the
whole. numpy is imported on first use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    Array = NDArray[float64]

LEVEL = 0.95
_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
_AT_ONCE = 1_000_000  # draws of a post held in memory together

Counts = tuple[int, int, int]
METRICS = ("micro_precision", "micro_recall", "micro_f1")


@dataclass(frozen=True, slots=True)
class Sign:
    """Posts where A is better, where B is, ties, and the two-sided chance of as lopsided a result by luck."""

    a_better: int
    b_better: int
    ties: int
    p: float


def intervals(
    tables: Mapping[str, Sequence[Sequence[Counts]]], *, resamples: int, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """For each table, for each micro metric in percent, its value (the mean over samples) and its interval.

    Args:
        tables: by name, for each sample, the counts of each post; posts in one order, the same in all.
        resamples: how many times the posts are drawn, once for all tables.
        seed: of the draws.
    """
    import numpy

    arrays = [_table(counts) for counts in tables.values()]
    found = {}
    for name, table, sums in zip(tables, arrays, _draws(arrays, resamples, seed), strict=True):
        value = _metrics(table.sum(axis=1)[None])[0]
        low, high = numpy.quantile(_metrics(sums), _ENDS, axis=0)
        found[name] = {
            metric: {"value": float(value[at]), "low": float(low[at]), "high": float(high[at])}
            for at, metric in enumerate(METRICS)
        }
    return found


def spread_of_samples(counts: Sequence[Sequence[Counts]]) -> dict[str, Any]:
    """Micro F1 of each sample, in percent, and their standard deviation (0.0 of one)."""
    each = [float(_metrics(_table([one]).sum(axis=1)[None])[0][2]) for one in counts]
    mean = sum(each) / len(each)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in each) / (len(each) - 1)) if len(each) > 1 else 0.0
    return {"per_sample": each, "std": deviation}


def paired(
    tables: Mapping[str, tuple[Sequence[Sequence[Counts]], Sequence[Sequence[Counts]]]], *, resamples: int, seed: int
) -> dict[str, dict[str, float]]:
    """For each pair of tables (A, B) the difference of micro F1, B less A, in percent, with its interval and p.

    Both of a pair are of the same posts in one order, which are drawn together. p is two-sided: twice the share of
    draws on the other side of 0 (a draw at 0 counts on both), never under 1 / resamples.
    """
    import numpy

    arrays = [_table(side) for pair in tables.values() for side in pair]
    drawn = [_metrics(sums)[:, 2] for sums in _draws(arrays, resamples, seed)]
    whole = [float(_metrics(table.sum(axis=1)[None])[0][2]) for table in arrays]
    found = {}
    for at, name in enumerate(tables):
        difference = drawn[2 * at + 1] - drawn[2 * at]
        low, high = numpy.quantile(difference, _ENDS)
        tail = min(int((difference <= 0).sum()), int((difference >= 0).sum())) / resamples
        found[name] = {
            "a": whole[2 * at],
            "b": whole[2 * at + 1],
            "difference": whole[2 * at + 1] - whole[2 * at],
            "low": float(low),
            "high": float(high),
            "p": max(min(1.0, 2 * tail), 1 / resamples),
        }
    return found


def sign_test(a: Sequence[float], b: Sequence[float]) -> Sign:
    """Compare two scores of each post; posts on which they agree tell nothing."""
    a_better = sum(x > y for x, y in zip(a, b, strict=True))
    b_better = sum(x < y for x, y in zip(a, b, strict=True))
    n, fewer = a_better + b_better, min(a_better, b_better)
    p = sum(math.comb(n, k) for k in range(fewer + 1)) * 2 / 2**n if n else 1.0
    return Sign(a_better, b_better, len(a) - n, min(1.0, p))


def _table(counts: Sequence[Sequence[Counts]]) -> Array:
    """samples x posts x (right, claimed, gold)."""
    import numpy

    return numpy.array(counts, dtype=float).reshape(len(counts), -1, 3)


def _draws(tables: Sequence[Array], resamples: int, seed: int) -> list[Array]:
    """For each table the summed counts of each draw, draws x samples x 3; a draw takes the same posts of all."""
    import numpy

    posts = tables[0].shape[1]
    columns = numpy.concatenate([table.transpose(1, 0, 2).reshape(posts, -1) for table in tables], axis=1)
    random = numpy.random.default_rng(seed)
    step = max(1, _AT_ONCE // max(1, posts))
    parts = []
    for start in range(0, resamples, step):
        some = min(step, resamples - start)
        chosen = random.integers(0, posts, (some, posts), dtype=numpy.int64)
        chosen += numpy.arange(some, dtype=numpy.int64)[:, None] * posts
        weights = numpy.bincount(chosen.ravel(), minlength=some * posts).reshape(some, posts)
        parts.append(weights.astype(float) @ columns)
    ends = numpy.cumsum([table.shape[0] * 3 for table in tables])[:-1]
    split = numpy.split(numpy.concatenate(parts), ends, axis=1)
    return [part.reshape(resamples, -1, 3) for part in split]


def _metrics(sums: Array) -> Array:
    """draws x samples x 3 counts → draws x (precision, recall, F1) in percent, the mean over samples."""
    import numpy

    right, claimed, gold = sums[..., 0], sums[..., 1], sums[..., 2]
    precision = right / numpy.maximum(claimed, 1)
    recall = right / numpy.maximum(gold, 1)
    f1 = 2 * right / numpy.maximum(claimed + gold, 1)
    found: Array = 100 * numpy.stack([precision, recall, f1], axis=-1).mean(axis=1)
    return found
