"""The search worker as a Ray actor: it knows its node, and what it counts stands on Ray's metrics port.

It also hands on who serves in the pool: an answer to an asker that knows less says so, and a worker that leaves sends
askers away. Knows nothing of tools. Always holds: what is exported are the worker's own counts, a few seconds old at
most, and the latency of every search, tagged with actor and provider.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from actors.metrics_export import Exporter
from actors.search_worker import Busy, SearchWorker
from envs.search_counts import LATENCY_EDGES_S
from envs.tools.base import SearchTool
from sake_ray.search_metrics import BUCKET
from sake_ray.types import ImageSearch, Observation, TextSearch

_TAGS = ("actor", "provider")


@dataclass(frozen=True, slots=True)
class Members:
    """The workers that serve; a later `version` replaces an earlier one."""

    version: int
    workers: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """An answer together with who serves by now; without one the worker has left, and another must be asked."""

    answer: Observation | Busy | None
    members: Members


class SearchActor(SearchWorker):
    """A `SearchWorker` in a process that Ray gave it."""

    def __init__(self, name: str, make_tool: Callable[[], SearchTool], *, max_pending: int = 256) -> None:
        super().__init__(name, make_tool, max_pending=max_pending)
        self.node = ray.get_runtime_context().get_node_id()
        self._tags = {"actor": name, "provider": str(getattr(make_tool, "provider", ""))}
        self._latency = Histogram(
            "sake_ray_search_latency_s", "seconds of a search", boundaries=list(LATENCY_EDGES_S), tag_keys=_TAGS
        )
        self._exporter = Exporter(super().counts, _SearchSeries(self._tags))
        self._members: Members | None = None
        self._left = False

    async def search(  # type: ignore[override]  # answers that tell more are for the pool alone
        self,
        example_id: str,
        action: TextSearch | ImageSearch,
        timeout_s: float,
        *,
        node: str = "",
        remembered: int = 0,
        waited_s: float = 0.0,
        members: int = 0,
    ) -> Observation | Busy | Told:
        """See `SearchWorker.search`; the asker knows who serves as of version `members`."""
        if self._left:
            assert self._members is not None
            self._counts["remembered"] += remembered
            return Told(None, self._members)
        begin = time.perf_counter()
        answer = await super().search(
            example_id, action, timeout_s, node=node, remembered=remembered, waited_s=waited_s
        )
        if not isinstance(answer, Busy):
            self._latency.observe(time.perf_counter() - begin, self._tags)
        if self._members is not None and members < self._members.version:
            return Told(answer, self._members)
        return answer

    async def tell(self, members: Members) -> None:
        """From now on these serve."""
        if self._members is None or members.version > self._members.version:
            self._members = members

    async def leave(self, members: Members) -> dict[str, float]:
        """Take nothing new, send askers to these, and wait until what is under way has ended; returns the counts."""
        self._members, self._left = members, True
        while self._pending:  # noqa: ASYNC110 - a rare wait for what may take a minute
            await asyncio.sleep(0.05)
        return await super().counts()

    async def state(self) -> tuple[str, int, dict[str, float]]:
        """Its node, the version of what it knows of the others, and numbers for people."""
        version = 0 if self._members is None else self._members.version
        return self.node, version, {"pending": float(self._pending), "searches": self._counts["searches"]}

    async def counts(self) -> dict[str, float]:
        """See `SearchWorker.counts`; the first call, which waits for the actor to be ready, also starts the export."""
        self._exporter.start()
        return await super().counts()

    async def close(self) -> None:
        """See `SearchWorker.close`."""
        self._exporter.stop()
        await super().close()


class _SearchSeries:
    """A search worker's counts as counters, and what is pending as a gauge; latencies have a histogram of their own."""

    def __init__(self, tags: dict[str, str]) -> None:
        self._tags = tags
        self._pending = Gauge("sake_ray_search_pending", "queries a search worker has under way", tag_keys=_TAGS)
        self._counters: dict[str, Counter] = {}
        self._told: dict[str, float] = {}

    def show(self, counts: dict[str, float]) -> None:
        """Export the counts of this moment."""
        self._pending.set(counts["pending"], self._tags)
        for name, value in counts.items():
            if name.startswith(BUCKET) or name in ("latency_s", "pending"):
                continue
            if name not in self._counters:
                series = "".join(char if char.isalnum() else "_" for char in name)
                self._counters[name] = Counter(f"sake_ray_search_{series}", f"search: {name}", tag_keys=_TAGS)
            if (more := value - self._told.get(name, 0.0)) > 0:
                self._counters[name].inc(more, self._tags)
                self._told[name] = value
