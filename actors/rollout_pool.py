"""The rollout pool: groups go to the least-loaded worker, and come back exactly once.

Lives in the driver and implements `CountedRollout` and `ScalablePool`; knows nothing of engines or episodes, and leaves
it to `rollout_roster.py` who serves. Always holds: all members of a group run on one worker (they share its prefix
cache); a group whose worker is lost is run again, from the start and with the same seeds, a bounded number of times;
no call fails because the pool's size changes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.exceptions import ObjectLostError, RayTaskError

from actors.actor_host import ActorHost, RayHost, brief
from actors.actor_state import ActorState
from actors.placement import Resources
from actors.rollout_roster import (
    WORKER_LOST,
    RolloutError,
    Roster,
    RosterLimits,
    Slot,
    within,
    worker_is_lost,
)
from actors.rollout_stats import WorkerStats
from sake_ray.interfaces import GroupLost, LearnerLost, RolloutCounts
from sake_ray.trajectory import TrajectoryGroup
from sake_ray.types import Example

logger = logging.getLogger(__name__)

_LOOK_S = 2.0

__all__ = ["RolloutError", "RolloutPool"]


class RolloutPool:
    """`workers` rollout actors behind one `rollout` call. One event loop only.

    `spawn(index)` places a worker actor, which takes `resources` (for messages); tests pass a `host` of their own.
    A worker that does not say within `health_limit_s` how it stands (asked every `health_every_s`) is replaced, and so
    is a lost one, until `max_respawns` starts in a row failed; waiting for room is no failure.
    """

    def __init__(
        self,
        spawn: Callable[[int], Any],
        workers: int,
        *,
        resources: Resources | None = None,
        max_attempts: int = 3,
        max_respawns: int = 3,
        start_timeout_s: float = 1200.0,
        update_timeout_s: float = 1200.0,
        health_every_s: float = 5.0,
        health_limit_s: float = 60.0,
        retry_s: float = 1.0,
        host: ActorHost | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"rollout.workers={workers}: a rollout pool needs at least one worker")
        self._host = host or RayHost(spawn, resources)
        self._max_attempts = max_attempts
        self._update_timeout_s = update_timeout_s
        limits = RosterLimits(max_respawns, start_timeout_s, update_timeout_s, health_every_s, health_limit_s, retry_s)
        self._roster = Roster(self._host, workers, limits)

    async def start(self) -> None:
        """Start all workers at once; a first start that fails is not tried again.

        Raises:
            RolloutError: the cluster had no room for them in `start_timeout_s`, or a start did not end in it.
        """
        try:
            await self._roster.start()
        except BaseException:
            await self.shutdown()
            raise

    @property
    def size(self) -> int:
        """How many workers it is to have."""
        return self._roster.size

    async def resize(self, workers: int) -> None:
        """See `ScalablePool.resize`. Workers that were given up are tried again."""
        self._roster.resize(workers)

    async def rollout(self, example: Example, *, seeds: Sequence[int], greedy: bool = False) -> TrajectoryGroup:
        """Run one episode per seed for a post, all on one worker.

        Raises:
            GroupLost: `max_attempts` workers were lost over this group.
            LearnerLost: no worker is left, and the weights to start one with are lost with whoever gave them.
            RolloutError: no worker is left and none can be started, or the pool's own background work failed.
        """
        group_id = f"{example.id}-{seeds[0]:016x}" if seeds else example.id
        for attempt in range(1, self._max_attempts + 1):
            slot = await self._least_loaded()
            handle = slot.handle
            slot.load += len(seeds)
            call = handle.rollout_group.remote(example, list(seeds), greedy, group_id)
            try:
                group: TrajectoryGroup = await call
                return group
            except WORKER_LOST as error:
                if not worker_is_lost(error, handle):
                    raise
                logger.warning("group %s lost %s (attempt %d): %s", group_id, slot.name, attempt, brief(error))
                self._roster.lose(slot, handle, error)
            except ObjectLostError as error:  # the answer is gone with the node that kept it
                if isinstance(error, RayTaskError):
                    raise
                logger.warning("group %s: its answer is lost (attempt %d): %s", group_id, attempt, brief(error))
                self._roster.last_loss = error
            except asyncio.CancelledError:
                self._host.cancel(call)
                raise
            finally:
                self._roster.unload(slot, len(seeds))
        last = self._roster.last_loss
        raise GroupLost(
            f"group {group_id} lost its worker {self._max_attempts} times; last error: {brief(last)}"
        ) from last

    async def update_weights(self, params: Any, version: int) -> Mapping[str, float]:
        """Give every worker `params` (an object reference, or the parameters) as `version`.

        Returns `time/weight_…` metrics. A worker lost on the way is replaced and gets them then.

        Raises:
            WeightSyncError: the parameters cannot be handed over.
        """
        begin = time.monotonic()
        self._roster.renew((self._host.put(params), version))
        updates = [self._update(slot, slot.handle) for slot in self._roster.present()]
        timings = [timing for timing in await asyncio.gather(*updates) if timing]
        return {
            "time/weight_sync_s": time.monotonic() - begin,
            "time/weight_pause_s": max((timing["pause_s"] for timing in timings), default=0.0),
            "time/weight_load_s": max((timing["load_s"] for timing in timings), default=0.0),
        }

    async def stats(self) -> list[WorkerStats]:
        """How each worker stands; one lost while asked is left out and replaced."""
        answers = await asyncio.gather(*(self._roster.ask(slot) for slot in self._roster.present()))
        return [answer for answer in answers if answer is not None]

    async def counts(self) -> RolloutCounts:
        """What the workers have counted, those gone included up to when they were last asked."""
        await self.stats()
        serving = sum(1 for _ in self._roster.serving())
        return self._roster.counted.total(workers=serving, respawns=self._roster.respawns)

    async def states(self) -> list[ActorState]:
        """See `ScalablePool.states`; one that does not answer at once has the numbers it told last."""

        async def look(slot: Slot) -> None:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._roster.ask(slot)
            except TimeoutError:
                logger.debug("%s does not say at once how it stands", slot.name)

        await asyncio.gather(*(look(slot) for slot in self._roster.present()))
        return [_state(slot) for _, slot in sorted(self._roster.slots.items())]

    async def shutdown(self, timeout_s: float = 30.0) -> None:
        """Stop every worker; one that does not answer in time is killed."""
        handles = await self._roster.stop()
        if handles:
            calls = asyncio.gather(*(handle.shutdown.remote() for handle in handles), return_exceptions=True)
            await asyncio.wait([calls], timeout=timeout_s)
        for handle in handles:
            self._host.kill(handle)

    async def _least_loaded(self) -> Slot:
        """The serving worker with the fewest trajectories; waits while there is none and one may come."""
        roster = self._roster
        while True:
            if (failure := roster.failure) is not None:
                raise RolloutError(f"looking after the rollout workers failed: {failure!r}") from failure
            if serving := list(roster.serving()):
                return min(serving, key=lambda slot: (slot.load, slot.index))
            if not any(roster.coming()):
                last = roster.last_loss
                if roster.awaits_weights():
                    raise LearnerLost("no rollout worker is left, and the newest weights are lost with the learner")
                raise RolloutError(f"no rollout worker is left; last error: {brief(last)}") from last
            await roster.change()

    async def _update(self, slot: Slot, handle: Any) -> Mapping[str, float] | None:
        weights = self._roster.weights
        assert weights is not None
        try:
            call = handle.update_weights.remote(*weights)
            timings: Mapping[str, float] = await within(call, self._update_timeout_s, f"{slot.name} weight update")
            return timings
        except (*WORKER_LOST, RolloutError) as error:
            if not worker_is_lost(error, handle):
                raise
            self._roster.lose(slot, handle, error)
            return None


def _state(slot: Slot) -> ActorState:
    """A worker as people see it."""
    stats = slot.last
    numbers = {"load": float(slot.load)}
    if stats is None:
        return ActorState(slot.name, slot.state, numbers=numbers)
    numbers |= {
        "version": float(stats.version),
        "running": float(stats.running),
        "waiting": float(stats.waiting),
        "prefix_hit_rate": stats.prefix_hits / stats.prefix_queries if stats.prefix_queries else 0.0,
        "generated_tokens": float(stats.generated_tokens),
        "rebuilds": float(stats.rebuilds),
        "kv_usage": stats.kv_usage,
    }
    return ActorState(slot.name, slot.state, stats.node, numbers)
