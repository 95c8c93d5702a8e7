"""The reward worker as a Ray actor: one batch after another, and its counts on Ray's metrics port.

Knows nothing of how a reward is computed. Always holds: while it scores it can say how it stands, between any two
trajectories.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import ray
from ray.util.metrics import Counter, Gauge

from actors.reward_pool import Crash, RewardWorker, TrajectoryScorer
from sake_ray.trajectory import Trajectory
from sake_ray.types import Reward

_TAGS = ("actor",)


class RewardActor(RewardWorker):
    """A `RewardWorker` in a process that Ray gave it."""

    def __init__(self, name: str, make_scorer: Callable[[], TrajectoryScorer]) -> None:
        super().__init__(name, make_scorer)
        self._node = ray.get_runtime_context().get_node_id()
        self._turn = asyncio.Lock()
        self._scored = self._pending = 0
        self._tags = {"actor": name}
        self._scored_total = Counter("sake_ray_reward_scored", "trajectories scored", tag_keys=_TAGS)
        self._pending_now = Gauge(
            "sake_ray_reward_pending", "trajectories a reward worker has to score", tag_keys=_TAGS
        )
        self._add_pending(0)

    async def score(self, trajectories: Sequence[Trajectory]) -> list[Reward] | Crash:
        """See `RewardWorker.score`."""
        self._add_pending(len(trajectories))
        try:
            async with self._turn:
                answer = await super().score(trajectories)
        finally:
            self._add_pending(-len(trajectories))
        scored = answer.index if isinstance(answer, Crash) else len(answer)
        if scored:
            self._scored += scored
            self._scored_total.inc(scored, self._tags)
        return answer

    async def state(self) -> tuple[str, int, int]:
        """Its node, how many trajectories it has scored since it was made, and how many it has yet to."""
        return self._node, self._scored, self._pending

    def _add_pending(self, trajectories: int) -> None:
        self._pending += trajectories
        self._pending_now.set(self._pending, self._tags)
