"""A rollout worker's numbers on Ray's metrics port, kept up to date while it lives.

Knows a worker only by the `WorkerStats` it gives. Always holds: a counter only grows, over the engine's rebuilds too;
an exporter that broke is told with its traceback, and whoever asks for it next (`check`) gets its error: a worker
whose graphs stand still must not look like one that does nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from actors.rollout_stats import WorkerStats

logger = logging.getLogger(__name__)

EVERY_S = 2.0
TAG = "actor"


class Series(Protocol):
    """Where numbers go (`RaySeries`, or a list in tests)."""

    def show(self, stats: WorkerStats) -> None:
        """Export a worker's numbers of this moment."""
        ...


class RaySeries:
    """Gauges and counters of `ray.util.metrics`, tagged with the actor's name. Only in an actor's process."""

    def __init__(self, actor: str) -> None:
        from ray.util.metrics import Counter, Gauge

        gauges = {
            "running": "requests the engine decodes",
            "waiting": "requests that wait in the engine for room",
            "version": "version of the policy it serves",
            "kv_usage": "share of the memory for keys and values that is in use",
        }
        counters = {"generated_tokens": "tokens sampled", "trajectories": "trajectories finished"}
        self._gauges = {name: Gauge(f"sake_ray_rollout_{name}", text, (TAG,)) for name, text in gauges.items()}
        self._counters = {name: Counter(f"sake_ray_rollout_{name}", text, (TAG,)) for name, text in counters.items()}
        self._told = dict.fromkeys(counters, 0)
        for metric in (*self._gauges.values(), *self._counters.values()):
            metric.set_default_tags({TAG: actor})

    def show(self, stats: WorkerStats) -> None:
        """Export a worker's numbers of this moment."""
        for name, gauge in self._gauges.items():
            gauge.set(getattr(stats, name))
        for name, counter in self._counters.items():
            more = getattr(stats, name) - self._told[name]
            if more > 0:  # Ray refuses to count nothing
                counter.inc(more)
                self._told[name] += more


class Exporter:
    """Shows `ask()` in `series` every `every_s` seconds, from `start` to `stop`."""

    def __init__(self, ask: Callable[[], Awaitable[WorkerStats]], series: Series, every_s: float = EVERY_S) -> None:
        self._ask = ask
        self._series = series
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running event loop; begun twice is begun once."""
        if self._task is None:
            self._task = asyncio.create_task(self._export(), name="export of metrics")
            self._task.add_done_callback(_tell)

    def check(self) -> None:
        """Raise what ended the export, if something did.

        Raises:
            RuntimeError: the export broke; its cause is chained.
        """
        task = self._task
        if task is not None and task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise RuntimeError(f"the export of this worker's metrics broke: {error!r}") from error

    def stop(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()

    async def _export(self) -> None:
        while True:
            self._series.show(await self._ask())
            await asyncio.sleep(self._every_s)


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the export of metrics broke", exc_info=error)
