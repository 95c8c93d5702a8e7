"""What the search pool did in a step, from what it has counted before and after.

Knows nothing of pools or tools; counts are flat names. Always holds: a count becomes `search/pool_NAME`, the number of
this step alone; waits become seconds an answer took, `latency_le_SECONDS` counts its quantiles; `pending` is as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

BUCKET = "latency_le_"
"""Prefix of the histogram's counts: answers that took at most so many seconds (`latency_le_inf`: all)."""


def pool_metrics(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Metrics of the time between two counts. A count that fell began anew: its worker was restarted."""
    done = {name: _difference(name, before, after) for name in after if name != "pending"}
    metrics = {f"search/pool_{name}": value for name, value in done.items() if not name.startswith(BUCKET)}
    if "pending" in after:
        metrics["search/pool_pending"] = after["pending"]
    calls = done.get("calls", 0.0) + done.get("remembered", 0.0)
    if calls:
        metrics["search/pool_hit_rate"] = (done.get("hits", 0.0) + done.get("remembered", 0.0)) / calls
    buckets = {name.removeprefix(BUCKET): count for name, count in done.items() if name.startswith(BUCKET)}
    edges = sorted((float(edge), count) for edge, count in buckets.items())
    for share in (0.5, 0.95):
        if (value := _quantile(edges, share)) is not None:
            metrics[f"search/pool_latency_p{share * 100:.0f}_s"] = value
    return metrics


def _difference(name: str, before: Mapping[str, float], after: Mapping[str, float]) -> float:
    difference = after[name] - before.get(name, 0.0)
    return difference if difference >= 0 else after[name]


def _quantile(edges: list[tuple[float, float]], share: float) -> float | None:
    """The upper edge of the bucket in which the quantile lies (cumulative counts); None of nothing."""
    total = edges[-1][1] if edges else 0.0
    if total <= 0:
        return None
    finite = [edge for edge, count in edges if count >= share * total and math.isfinite(edge)]
    return finite[0] if finite else max((edge for edge, _ in edges if math.isfinite(edge)), default=0.0)
