"""A rollout worker's numbers as series of Ray's metrics port.

Knows a worker only by the `WorkerStats` it gives. Always holds: a counter only grows, over the engine's rebuilds too.
"""

from __future__ import annotations

from actors.rollout_stats import WorkerStats

TAG = "actor"


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
