"""What searching counts: queries, hits, requests, errors by reason, waits, cost, and how long a query took.

Knows nothing of providers, pools or where metrics go. Always holds: every number only grows, so that the snapshots of
several workers add up, and the difference of two snapshots is what happened between them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate

LATENCY_EDGES_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Upper edges of the histogram, in seconds: `latency_le_0.1` counts the queries that took at most so long."""

_EDGES = (*LATENCY_EDGES_S, float("inf"))
_ALWAYS = ("calls", "hits", "misses", "not_recorded", "requests", "retries", "pictures", "summary_fallbacks")


class SearchCounts:
    """A meter for one event loop."""

    def __init__(self, cost_per_call: float = 0.0) -> None:
        """`cost_per_call` is what one request costs, in the user's currency."""
        self._cost_per_call = cost_per_call
        self._counts: Counter[str] = Counter()
        self._bins = [0] * len(_EDGES)
        self._sums = dict.fromkeys(("latency_s", "limiter_wait_s", "cost"), 0.0)

    def add(self, name: str, count: int = 1) -> None:
        """One more (or `count`) of something that has no method of its own here."""
        self._counts[name] += count

    def query(self) -> None:
        """A query was asked."""
        self.add("calls")

    def looked_up(self, hit: bool) -> None:
        """A query was looked up in the cache; a miss is not a request yet: others may be asking the same."""
        self.add("hits" if hit else "misses")

    def request(self, waited_s: float, repeated: bool) -> None:
        """A request was sent, after so many seconds of waiting for the limiter."""
        self.add("requests")
        if repeated:
            self.add("retries")
        self._sums["limiter_wait_s"] += waited_s
        self._sums["cost"] += self._cost_per_call

    def request_failed(self, failure: str) -> None:
        """A request got no answer, for one of the reasons of `provider.Failure`."""
        self.add(f"request_{failure}")

    def failed(self, reason: str) -> None:
        """A query was answered with a failure, for one of the reasons of `SearchFailure`."""
        self.add(f"failed_{reason}")

    def picture(self, refused: str = "") -> None:
        """A picture was fetched and can be shown, or was left out for a reason."""
        self.add(f"picture_{refused}" if refused else "pictures")

    def answered(self, seconds: float) -> None:
        """A query was answered, in any way, after so long."""
        self._bins[bisect_left(LATENCY_EDGES_S, seconds)] += 1
        self._sums["latency_s"] += seconds

    def snapshot(self) -> dict[str, float]:
        """All counts by flat names: `calls`, `hits`, `requests`, `failed_timeout`, `latency_le_0.1`, `cost`, …"""
        counts = dict.fromkeys(_ALWAYS, 0.0) | {name: float(count) for name, count in self._counts.items()}
        latencies = zip(_EDGES, accumulate(self._bins), strict=True)
        return counts | {f"latency_le_{edge:g}": float(count) for edge, count in latencies} | self._sums


def merge(snapshots: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """What several workers have counted together."""
    merged: dict[str, float] = {}
    for snapshot in snapshots:
        for name, value in snapshot.items():
            merged[name] = merged.get(name, 0.0) + value
    return merged
