"""How sure a score is: bootstrap over posts, paired bootstrap between two evaluations, and the sign test.

Knows nothing of entities: counts of (right, claimed, gold) a post and sample go in. Always holds: a post is drawn with
all its samples; the same seed gives the same intervals; micro F1 of a draw is made of its summed counts, as of the
whole. numpy is imported on first use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    Array = NDArray[float64]

LEVEL = 0.95
_AT_ONCE = 4_000_000  # draws of a post held in memory together

Counts = tuple[int, int, int]
METRICS = ("micro_precision", "micro_recall", "micro_f1")


@dataclass(frozen=True, slots=True)
class Sign:
    """Posts where A is better, where B is, ties, and the two-sided chance of as lopsided a result by luck."""

    a_better: int
    b_better: int
    ties: int
    p: float


def intervals(counts: Sequence[Sequence[Counts]], *, resamples: int, seed: int) -> dict[str, dict[str, float]]:
    """For each micro metric, in percent, its value (the mean over samples) and its interval.

    Args:
        counts: for each sample, the counts of each post, posts in one order.
        resamples: how many times the posts are drawn.
        seed: of the draws.
    """
    import numpy

    table = _table(counts)
    value = _metrics(table.sum(axis=1)[None])[0]
    drawn = numpy.concatenate([_metrics(part) for part in _draws(table, resamples, seed)])
    low, high = numpy.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {
        name: {"value": float(value[at]), "low": float(low[at]), "high": float(high[at])}
        for at, name in enumerate(METRICS)
    }


def spread_of_samples(counts: Sequence[Sequence[Counts]]) -> dict[str, Any]:
    """Micro F1 of each sample, in percent, and their standard deviation (0.0 of one)."""
    each = [float(_metrics(_table([one]).sum(axis=1)[None])[0][2]) for one in counts]
    mean = sum(each) / len(each)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in each) / (len(each) - 1)) if len(each) > 1 else 0.0
    return {"per_sample": each, "std": deviation}


def paired(
    a: Sequence[Sequence[Counts]], b: Sequence[Sequence[Counts]], *, resamples: int, seed: int
) -> dict[str, float]:
    """The difference of micro F1, B less A, in percent, with its interval and a two-sided p.

    p is twice the share of draws on the other side of 0 (a draw at 0 counts on both), never under 1 / resamples.
    """
    import numpy

    one, other = _table(a), _table(b)
    before, after = (_metrics(table.sum(axis=1)[None])[0][2] for table in (one, other))
    drawn = numpy.concatenate(
        [
            _metrics(second)[:, 2] - _metrics(first)[:, 2]
            for first, second in zip(_draws(one, resamples, seed), _draws(other, resamples, seed), strict=True)
        ]
    )
    low, high = numpy.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum())) / resamples
    return {
        "a": float(before),
        "b": float(after),
        "difference": float(after - before),
        "low": float(low),
        "high": float(high),
        "p": max(min(1.0, 2 * tail), 1 / resamples),
    }


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


def _draws(table: Array, resamples: int, seed: int) -> Iterator[Array]:
    """Summed counts of each draw, draws x samples x 3, some draws at a time."""
    import numpy

    samples, posts, _ = table.shape
    flat = table.transpose(1, 0, 2).reshape(posts, samples * 3)
    random = numpy.random.default_rng(seed)
    step = max(1, _AT_ONCE // max(1, posts))
    for start in range(0, resamples, step):
        some = min(step, resamples - start)
        chosen = random.integers(0, posts, (some, posts), dtype=numpy.int64)
        chosen += numpy.arange(some, dtype=numpy.int64)[:, None] * posts
        weights = numpy.bincount(chosen.ravel(), minlength=some * posts).reshape(some, posts)
        yield (weights.astype(float) @ flat).reshape(some, samples, 3)


def _metrics(sums: Array) -> Array:
    """draws x samples x 3 counts → draws x (precision, recall, F1) in percent, the mean over samples."""
    import numpy

    right, claimed, gold = sums[..., 0], sums[..., 1], sums[..., 2]
    precision = right / numpy.maximum(claimed, 1)
    recall = right / numpy.maximum(gold, 1)
    f1 = 2 * right / numpy.maximum(claimed + gold, 1)
    found: Array = 100 * numpy.stack([precision, recall, f1], axis=-1).mean(axis=1)
    return found
