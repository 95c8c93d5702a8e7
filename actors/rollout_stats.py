"""What engines and rollout workers count, and the pool's metrics made of it.

Knows nothing of vLLM, Ray or episodes. Always holds: a counter only grows; what a dead engine counted stays
in its worker's sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_COUNTERS = ("prompt_tokens", "generated_tokens", "prefix_queries", "prefix_hits", "preemptions")


@dataclass(slots=True)
class EngineStats:
    """Counters since the engine was built (`running`, `waiting`, `kv_usage`: now)."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0

    def record(self, scheduler: Any, iteration: Any) -> None:
        """Add one engine step, in vLLM's `SchedulerStats` and `IterationStats` (either may be None)."""
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


def pool_metrics(stats: Sequence[WorkerStats]) -> dict[str, float]:
    """The pool's `rollout/…` metrics: counts since the start, summed over workers."""
    queries = sum(worker.prefix_queries for worker in stats)
    return {
        "rollout/workers": float(len(stats)),
        "rollout/trajectories": float(sum(worker.trajectories for worker in stats)),
        "rollout/generated_tokens": float(sum(worker.generated_tokens for worker in stats)),
        "rollout/prompt_tokens": float(sum(worker.prompt_tokens for worker in stats)),
        "rollout/prefix_hit_rate": sum(worker.prefix_hits for worker in stats) / queries if queries else 0.0,
        "rollout/preemptions": float(sum(worker.preemptions for worker in stats)),
        "rollout/rebuilds": float(sum(worker.rebuilds for worker in stats)),
    }
