"""What makes a run the run it is: the settings its outcome depends on, kept in its checkpoints.

Knows nothing of checkpoints. Always holds: a setting belongs to them unless it is named here, so that a new one does
until somebody has thought about it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sake_ray.config.config import Config
from sake_ray.config.guard_section import GuardConfig
from sake_ray.config.serve_section import ServeConfig
from sake_ray.config.values import Value, show

FREE = frozenset(
    {
        # Where a run writes, how far it goes and what it keeps on the way. (learner.decay_steps is not here: the
        # steps that are done followed the old schedule.)
        "run.dir", "trainer.total_steps", "trainer.resume", "trainer.eval_every", "trainer.checkpoint_every",
        "trainer.keep_checkpoints", "trainer.export_best", "tracking.backends", "tracking.project",
        # When it is said that a run goes wrong, and whether it ends then.
        *(f"guard.{field.name}" for field in dataclasses.fields(GuardConfig)),
        # What becomes of the policy afterwards.
        *(f"serve.{field.name}" for field in dataclasses.fields(ServeConfig)),
        # Who does the work and how it is shared out: no more than rounding, and when something happens.
        "search.workers", "search.cpus_per_worker", "search.timeout_s", "search.max_pending", "search.retries",
        "search.per_second", "search.burst", "search.concurrency", "search.breaker_failures", "search.breaker_s",
        "search.fetch_s", "search.summary_per_second", "search.summary_concurrency",
        "reward.workers", "reward.cpus_per_worker",
        "rollout.workers", "rollout.autoscale", "rollout.stall_timeout_s", "learner.max_restarts",
        "rollout.cpus_per_worker", "rollout.gpus_per_worker", "rollout.tensor_parallel",
        "rollout.max_num_seqs", "rollout.kv_cache_gib", "rollout.picture_cache_gib", "rollout.gpu_memory_utilization",
        "learner.ranks",
        "learner.cpus_per_rank", "learner.gpus_per_rank", "learner.micro_batch_tokens", "learner.row_tokens",
        "learner.logprob_chunk", "learner.gradient_checkpointing",
        # Who pays for searches and how much, and where their answers are kept.
        "search.key_env", "search.key_file", "search.cost_per_call", "search.daily_budget", "search.on_spent",
        "search.summary_key_env", "search.cache_dir", "search.cache_gib", "search.allow_private",
        # What the stages before RL, where they are part of the run, leave out of their own names for the same reasons.
        "secot.dir", "secot.concurrency", "sft.eval_every", "sft.checkpoint_every", "sft.max_failures",
    }
)  # fmt: skip
"""Settings that may change when a run goes on."""


def identity(config: Config) -> dict[str, Value]:
    """Every setting the outcome of a run depends on, by dotted name."""
    return {
        f"{name}.{field}": value
        for name, section in vars(config).items()
        if dataclasses.is_dataclass(section)
        for field, value in vars(section).items()
        if f"{name}.{field}" not in FREE
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`field=value (now value)` for each setting that is not the same in both."""
    names = [name for name in {**before, **now} if _said(before, name) != _said(now, name)]
    return [f"{name}={_said(before, name)} (now {_said(now, name)})" for name in names]


def _said(settings: Mapping[str, Any], name: str) -> str:
    return (show(settings[name]) or "(empty)") if name in settings else "(no such setting)"
