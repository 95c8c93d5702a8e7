"""What engines and rollout workers count, and the pool's sums of it.

Knows nothing of vLLM, Ray or episodes. Always holds: a counter only grows; what a dead engine counted stays
in its worker's sums, and what a lost worker had told stays in the pool's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from sake_ray.interfaces import RolloutCounts

_COUNTERS = ("prompt_tokens", "generated_tokens", "prefix_queries", "prefix_hits", "preemptions")


@dataclass(slots=True)
class EngineStats:
    """Counters since the engine was built (`running`, `waiting`, `kv_usage`: now; `last_step`: when it made one)."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    last_step: float = field(default_factory=time.monotonic)

    def record(self, scheduler: Any, iteration: Any) -> None:
        """Add one engine step, in vLLM's `SchedulerStats` and `IterationStats` (either may be None)."""
        self.last_step = time.monotonic()
        if scheduler is not None:
            self.running = scheduler.num_running_reqs
            self.waiting = scheduler.num_waiting_reqs
            self.kv_usage = scheduler.kv_cache_usage
            self.prefix_queries += scheduler.prefix_cache_stats.queries
            self.prefix_hits += scheduler.prefix_cache_stats.hits
        if iteration is not None:
            self.prompt_tokens += iteration.num_prompt_tokens
            self.generated_tokens += iteration.num_generation_tokens
            self.preemptions += iteration.num_preempted_reqs

    def add_counts(self, other: EngineStats) -> None:
        """Add another engine's counters; what is true of one moment only is left alone."""
        for name in _COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True)
class WorkerStats:
    """A worker at one moment; token counts are since it started, over rebuilds."""

    name: str
    version: int
    running: int
    waiting: int
    trajectories: int
    prompt_tokens: int
    generated_tokens: int
    prefix_queries: int
    prefix_hits: int
    preemptions: int
    rebuilds: int
    kv_usage: float = 0.0
    node: str = ""


class PoolCounts:
    """Sums over a pool's workers, from what each tells of itself since its own start."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys((*_COUNTERS, "rebuilds"), 0)
        self._told: dict[str, WorkerStats] = {}

    def hear(self, stats: WorkerStats) -> None:
        """Add what a worker has counted since it was last heard of."""
        before = self._told.get(stats.name)
        for name in self._sums:
            self._sums[name] += getattr(stats, name) - (getattr(before, name) if before else 0)
        self._told[stats.name] = stats

    def lost(self, name: str) -> None:
        """The worker is gone; the next of its name counts from 0."""
        self._told.pop(name, None)

    def total(self, *, workers: int, respawns: int) -> RolloutCounts:
        """The sums, beside what the pool itself knows."""
        return RolloutCounts(workers=workers, respawns=respawns, **self._sums)
