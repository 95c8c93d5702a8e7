"""The learner and the rollout pool as one policy: what the trainer trains is what the pool samples from.

Knows nothing of losses or episodes. Always holds: `publish(version)` returns only when every serving
rollout worker has the learner's current weights; the driver never holds a copy of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from actors.actor_state import ActorState
from actors.learner_group import LearnerGroup
from actors.rollout_pool import RolloutPool
from actors.weight_sync import publish
from sake_ray.trajectory import Trajectory


class PublishingLearner:
    """`LearnerClient` over a learner group whose weights go to a rollout pool."""

    def __init__(self, group: LearnerGroup, pool: RolloutPool) -> None:
        self._group = group
        self._pool = pool

    async def update(self, trajectories: Sequence[Trajectory]) -> Mapping[str, float]:
        """One optimiser step; see `LearnerGroup.update`."""
        return await self._group.update(trajectories)

    async def publish(self, version: int) -> Mapping[str, float]:
        """Weights from rank 0 to every rollout worker, through the object store."""
        return await publish(self._group, self._pool, version)

    async def save(self, folder: Path) -> None:
        """See `LearnerGroup.save`."""
        await self._group.save(folder)

    async def load(self, folder: Path) -> None:
        """See `LearnerGroup.load`."""
        await self._group.load(folder)

    async def export(self, folder: Path) -> None:
        """See `LearnerGroup.export`."""
        await self._group.export(folder)

    async def restart(self) -> None:
        """See `LearnerGroup.restart`."""
        await self._group.restart()

    async def states(self) -> list[ActorState]:
        """See `LearnerGroup.states`."""
        return await self._group.states()
