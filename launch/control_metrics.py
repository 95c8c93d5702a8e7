"""The trainer's numbers on Ray's metrics port, for the dashboard and Prometheus.

Knows nothing of training: it copies numbers by name. Always holds: a series that is named here is exported from the
first step on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

_STEP = {
    "time/step_s": ("step_s", "seconds of the last step"),
    "time/wait_share": ("wait_share", "share of the last step in which the learner waited for groups"),
    "time/held_share": ("held_share", "share of the time in which the staleness budget let no group begin"),
    "rollout/staleness": ("staleness", "mean age of the groups of the last step, in policy versions"),
    "reward/total": ("reward", "mean reward of the last step"),
    "reward/gmner_f1": ("gmner_f1", "mean GMNER F1 of the last step's episodes"),
    "search/per_episode": ("searches", "searches an episode in the last step"),
}
_VIEW = {"step": "training steps done", "policy_version": "version of the policy"}
_GROUPS = {"running": "groups under way", "ready": "groups that wait to train", "waiting": "groups to be begun again"}


class TrainerGauges:
    """One gauge a number."""

    def __init__(self) -> None:
        names = {**dict(_STEP.values()), **_VIEW, **{f"groups_{name}": text for name, text in _GROUPS.items()}}
        self._gauges = {name: Gauge(f"sake_ray_trainer_{name}", text) for name, text in names.items()}

    def step(self, metrics: Mapping[str, float]) -> None:
        """A step's metrics."""
        for key, (name, _) in _STEP.items():
            if key in metrics:
                self._gauges[name].set(metrics[key])

    def view(self, view: Mapping[str, Any]) -> None:
        """Where the trainer stands; nothing before there is one."""
        for name in _VIEW:
            if name in view:
                self._gauges[name].set(view[name])
        for name in _GROUPS:
            if name in view.get("groups", {}):
                self._gauges[f"groups_{name}"].set(view["groups"][name])
