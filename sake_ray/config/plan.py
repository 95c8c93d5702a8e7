"""Which actors a configuration starts, and what each takes: what `--dry-run` prints and placement reserves.

Knows nothing of Ray. Always holds: a row's `cpus` and `gpus` are of one actor, and count × them sum to what the job
reserves.
"""

from __future__ import annotations

from dataclasses import dataclass

from sake_ray.config.config import Config

# Jobs that use only some of the pools; every other job uses all of them.
_POOLS = {
    "sft_secot": ("learner",),
    "tag_difficulty": ("rollout",),
    "build_secot": ("rollout", "search"),
    "evaluate": ("rollout", "search"),
}


@dataclass(frozen=True)
class PlanRow:
    """One kind of actor: how many, and the CPUs and GPUs of each."""

    actor: str
    count: int
    cpus: float
    gpus: float


def describe_plan(config: Config) -> list[PlanRow]:
    """The actors of `config`'s job, in the order of data flow; of a service, which grows, the most it may have."""
    if config.job == "serve":
        return _service(config)
    rows = [
        PlanRow("rollout", config.rollout.workers, config.rollout.cpus_per_worker, config.rollout.gpus_per_worker),
        PlanRow("search", config.search.workers, config.search.cpus_per_worker, 0.0),
        PlanRow("reward", config.reward.workers, config.reward.cpus_per_worker, 0.0),
        PlanRow("learner", config.learner.ranks, config.learner.cpus_per_rank, config.learner.gpus_per_rank),
    ]
    used = _POOLS.get(config.job)
    return [row for row in rows if used is None or row.actor in used]


def _service(config: Config) -> list[PlanRow]:
    serve, rollout = config.serve, config.rollout
    policies = len(serve.compare.split(",")) if serve.compare else 1
    ingresses, engines, searches = (serve.replicas(part)[1] for part in ("ingress", "engines", "searches"))
    return [
        PlanRow("ingress", ingresses, 0.0, 0.0),
        PlanRow("engine", engines * policies, rollout.cpus_per_worker, rollout.gpus_per_worker),
        PlanRow("search", searches * policies, config.search.cpus_per_worker, 0.0),
    ]


def totals(plan: list[PlanRow]) -> tuple[float, float]:
    """CPUs and GPUs the whole plan reserves."""
    return sum(r.count * r.cpus for r in plan), sum(r.count * r.gpus for r in plan)
