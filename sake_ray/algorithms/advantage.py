"""Rewards of a group → advantages of its trajectories, through verl's registry of estimators.

Knows nothing of trajectories or tokens: one number in, one number out. Always holds: the order of groups
and members is kept, and an estimator that needs more than outcome rewards is refused, never fed made-up
values. verl is imported on the first call: it takes seconds.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence

SIGNAL_TOLERANCE = 1e-9
KNOWN_ESTIMATORS = (
    "grpo", "grpo_passk", "grpo_vectorized", "rloo", "rloo_vectorized", "opo", "gpg", "gdpo", "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
)  # fmt: skip
"""The estimators verl ships that need nothing but outcome rewards."""

_GIVEN = ("token_level_rewards", "response_mask", "index", "config")


def has_signal(rewards: Sequence[float]) -> bool:
    """Whether a group's rewards differ; if not, every group-relative advantage in it is zero."""
    return len(rewards) > 1 and max(rewards) - min(rewards) > SIGNAL_TOLERANCE


def group_advantages(groups: Sequence[Sequence[float]], estimator: str = "grpo") -> list[list[float]]:
    """The advantage of each member of each group.

    `grpo` is (r - mean) / (std + 1e-6), std with n - 1 in the denominator (Shao et al. 2024 as verl
    computes it); `rloo` is r minus the mean of the others. Estimators see one outcome per trajectory.

    Raises:
        ValueError: a reward is not finite, a group has fewer than two members, or the estimator is
            unknown or needs what outcome rewards do not give (values, baselines, log-probs).
    """
    for number, group in enumerate(groups):
        if len(group) < 2:
            raise ValueError(f"group {number} has {len(group)} member(s); a group-relative advantage needs at least 2")
        if not all(math.isfinite(reward) for reward in group):
            raise ValueError(f"group {number} has a reward that is not finite: {list(group)}")
    if not groups:
        return []

    import numpy as np
    import torch
    from verl.trainer.config import AlgoConfig
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    check_estimator(estimator)
    function = get_adv_estimator_fn(estimator)
    rewards = torch.tensor([[r] for group in groups for r in group], dtype=torch.float64)
    given = {
        "token_level_rewards": rewards,
        "response_mask": torch.ones_like(rewards),
        "index": np.repeat(np.arange(len(groups)), [len(group) for group in groups]),
        "config": AlgoConfig(adv_estimator=estimator),
    }
    parameters = inspect.signature(function).parameters
    advantages, _ = function(**{name: value for name, value in given.items() if name in parameters})
    flat = iter(advantages[:, 0].tolist())
    return [[next(flat) for _ in group] for group in groups]


def check_estimator(estimator: str) -> None:
    """Refuse an estimator that outcome rewards are not enough for.

    Raises:
        ValueError: it is unknown, or needs values, baselines or log-probs.
    """
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, get_adv_estimator_fn

    if estimator not in ADV_ESTIMATOR_REGISTRY:
        raise ValueError(
            f"algorithm.advantage={estimator!r} is not in verl's registry; it has {sorted(ADV_ESTIMATOR_REGISTRY)}"
        )
    parameters = inspect.signature(get_adv_estimator_fn(estimator)).parameters
    missing = [n for n, p in parameters.items() if p.default is p.empty and p.kind != p.VAR_KEYWORD and n not in _GIVEN]
    if missing:
        raise ValueError(
            f"algorithm.advantage={estimator!r} needs {', '.join(missing)}, which outcome rewards do not give; "
            "use grpo, rloo or another group-relative estimator"
        )
