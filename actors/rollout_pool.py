"""The rollout pool: groups go to the least-loaded worker, and come back exactly once.

Lives in the driver and implements `CountedRollout`; knows nothing of engines or episodes. Always holds:
all members of a group run on one worker (they share its prefix cache); a group whose worker is lost is
run again, from the start and with the same seeds, a bounded number of times; a worker serves only
once it has the current weights.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from actors.placement import ROLLOUT, actor_name
from actors.rollout_stats import PoolCounts, WorkerStats
from actors.rollout_worker import WorkerBroken
from sake_ray.interfaces import RolloutCounts
from sake_ray.trajectory import TrajectoryGroup
from sake_ray.types import Example

logger = logging.getLogger(__name__)

LOST = (RayActorError, ActorUnavailableError, WorkerCrashedError, NodeDiedError, OutOfMemoryError, WorkerBroken)
"""What says that a worker, and not its input, is at fault."""

_NAME_FREE_S = 30.0


class RolloutError(RuntimeError):
    """The pool cannot run a group: no worker is left, or every attempt lost its worker."""


@dataclass(slots=True)
class _Slot:
    """A place in the pool and the worker in it; `handle` is None while it is being (re)placed."""

    index: int
    handle: Any = None
    load: int = 0
    respawns: int = 0
    respawning: asyncio.Task[None] | None = None


class RolloutPool:
    """`workers` rollout actors behind one `rollout` call. One event loop only.

    `spawn(index)` places a worker actor; tests pass one of their own.
    """

    def __init__(
        self,
        spawn: Callable[[int], Any],
        workers: int,
        *,
        max_attempts: int = 3,
        max_respawns: int = 3,
        start_timeout_s: float = 1200.0,
        update_timeout_s: float = 1200.0,
    ) -> None:
        if workers < 1:
            raise ValueError(f"rollout.workers={workers}: a rollout pool needs at least one worker")
        self._spawn = spawn
        self._slots = [_Slot(index) for index in range(workers)]
        self._max_attempts = max_attempts
        self._max_respawns = max_respawns
        self._start_timeout_s = start_timeout_s
        self._update_timeout_s = update_timeout_s
        self._weights: tuple[Any, int] | None = None
        self._changed = asyncio.Condition()
        self._last_loss: BaseException | None = None
        self._failure: BaseException | None = None
        self._counted = PoolCounts()
        self._respawns = 0

    async def start(self) -> None:
        """Start all workers at once; a first start that fails is not tried again."""
        try:
            await asyncio.gather(*(self._fill(slot) for slot in self._slots))
        except BaseException:
            await self.shutdown()
            raise

    async def rollout(self, example: Example, *, seeds: Sequence[int], greedy: bool = False) -> TrajectoryGroup:
        """Run one episode per seed for a post, all on one worker.

        Raises:
            RolloutError: no worker is left, or `max_attempts` workers were lost over this group.
        """
        group_id = f"{example.id}-{seeds[0]:016x}" if seeds else example.id
        for attempt in range(1, self._max_attempts + 1):
            slot = await self._least_loaded()
            handle = slot.handle
            slot.load += len(seeds)
            call = handle.rollout_group.remote(example, list(seeds), greedy, group_id)
            try:
                group: TrajectoryGroup = await call
                slot.respawns = 0  # the limit is for a worker that does not serve, not for losses over a long run
                return group
            except LOST as error:
                if not worker_is_lost(error, handle):
                    raise
                logger.warning("group %s lost %s (attempt %d): %s", group_id, self._name(slot), attempt, _brief(error))
                self._replace(slot, handle, error)
            except asyncio.CancelledError:
                ray.cancel(call)
                raise
            finally:
                slot.load -= len(seeds)
        raise RolloutError(
            f"group {group_id} lost its worker {self._max_attempts} times; last error: {_brief(self._last_loss)}"
        ) from self._last_loss

    async def update_weights(self, params: Any, version: int) -> Mapping[str, float]:
        """Give every worker `params` (an object reference, or the parameters) as `version`.

        Returns `time/weight_…` metrics. A worker lost on the way is replaced and gets them then.

        Raises:
            WeightSyncError: the parameters cannot be handed over.
        """
        begin = time.monotonic()
        reference = params if isinstance(params, ray.ObjectRef) else ray.put(dict(params))
        self._weights = (reference, version)
        serving = [slot for slot in self._slots if slot.handle is not None]
        timings = [timing for timing in await asyncio.gather(*map(self._update, serving)) if timing]
        return {
            "time/weight_sync_s": time.monotonic() - begin,
            "time/weight_pause_s": max((timing["pause_s"] for timing in timings), default=0.0),
            "time/weight_load_s": max((timing["load_s"] for timing in timings), default=0.0),
        }

    async def stats(self) -> list[WorkerStats]:
        """How each serving worker stands; one lost while asked is left out and replaced."""

        async def ask(slot: _Slot) -> WorkerStats | None:
            handle = slot.handle
            try:
                call = handle.stats.remote()
                stats: WorkerStats = await self._within(call, self._update_timeout_s, f"{self._name(slot)} stats")
            except (*LOST, RolloutError) as error:
                self._replace(slot, handle, error)
                return None
            if slot.handle is not handle:  # lost since it answered
                return None
            self._counted.hear(stats)
            return stats

        answers = await asyncio.gather(*(ask(slot) for slot in self._slots if slot.handle is not None))
        return [answer for answer in answers if answer is not None]

    async def counts(self) -> RolloutCounts:
        """What the workers have counted, those lost included up to when they were last asked."""
        serving = await self.stats()
        return self._counted.total(workers=len(serving), respawns=self._respawns)

    async def shutdown(self, timeout_s: float = 30.0) -> None:
        """Stop every worker; one that does not answer in time is killed."""
        for slot in self._slots:
            if slot.respawning is not None:
                slot.respawning.cancel()
        handles = [slot.handle for slot in self._slots if slot.handle is not None]
        for slot in self._slots:
            slot.handle = None
        if handles:
            calls = [handle.shutdown.remote() for handle in handles]
            await asyncio.to_thread(ray.wait, calls, num_returns=len(calls), timeout=timeout_s)
        for handle in handles:
            ray.kill(handle)

    # --- routing and replacement -------------------------------------------------------------------

    async def _least_loaded(self) -> _Slot:
        """The serving worker with the fewest trajectories; waits while all are being replaced."""
        async with self._changed:
            while True:
                if self._failure is not None:
                    raise RolloutError(f"replacing a rollout worker failed: {self._failure}") from self._failure
                serving = [slot for slot in self._slots if slot.handle is not None]
                if serving:
                    return min(serving, key=lambda slot: (slot.load, slot.index))
                if not any(slot.respawning for slot in self._slots):
                    raise RolloutError(
                        f"no rollout worker is left; last error: {_brief(self._last_loss)}"
                    ) from self._last_loss
                await self._changed.wait()

    def _replace(self, slot: _Slot, lost: Any, reason: BaseException) -> None:
        """Take `lost` out of service and put a new worker in its place, once however many calls saw it go."""
        if slot.handle is not lost:
            return
        self._last_loss = reason
        self._counted.lost(self._name(slot))
        slot.handle = None
        ray.kill(lost)  # an unreachable worker must not come back beside its successor
        slot.respawning = asyncio.create_task(self._respawn(slot), name=f"respawn {self._name(slot)}")

    async def _respawn(self, slot: _Slot) -> None:
        try:
            while slot.handle is None and slot.respawns < self._max_respawns:
                slot.respawns += 1
                self._respawns += 1
                logger.warning("%s: starting it again (%d of %d)", self._name(slot), slot.respawns, self._max_respawns)
                try:
                    await self._fill(slot)
                except (*LOST, RayTaskError, RolloutError) as error:
                    self._last_loss = error
                    logger.error("%s did not start again: %s", self._name(slot), _brief(error))
            if slot.handle is None:
                logger.error("%s is given up after %d starts", self._name(slot), slot.respawns)
        except Exception as error:  # nobody awaits this task: the next rollout() raises what stopped it
            self._failure = error
            raise
        finally:
            slot.respawning = None
            async with self._changed:
                self._changed.notify_all()

    async def _fill(self, slot: _Slot) -> None:
        """Spawn a worker, start it with the current weights, and let it serve."""
        handle = await self._spawn_when_free(slot.index)
        try:
            given = self._weights
            await self._within(handle.start.remote(*(given or ())), self._start_timeout_s, f"{self._name(slot)} start")
            while given is not self._weights:  # an update came while it started
                given = self._weights
                assert given is not None
                update = handle.update_weights.remote(*given)
                await self._within(update, self._update_timeout_s, f"{self._name(slot)} weight update")
        except BaseException:
            ray.kill(handle)
            raise
        slot.handle = handle

    async def _spawn_when_free(self, index: int) -> Any:
        """Spawn worker `index`; its predecessor's name is free only a moment after it died."""
        deadline = time.monotonic() + _NAME_FREE_S
        while True:
            try:
                return self._spawn(index)
            except ValueError as error:
                if "already taken" not in str(error) or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.2)

    async def _update(self, slot: _Slot) -> Mapping[str, float] | None:
        handle, weights = slot.handle, self._weights
        assert weights is not None
        try:
            call = handle.update_weights.remote(*weights)
            timings: Mapping[str, float] = await self._within(call, self._update_timeout_s, "weight update")
            return timings
        except (*LOST, RolloutError) as error:
            if not worker_is_lost(error, handle):
                raise
            self._replace(slot, handle, error)
            return None

    @staticmethod
    async def _within(call: Any, limit: float, what: str) -> Any:
        try:
            async with asyncio.timeout(limit):
                return await call
        except TimeoutError as error:
            raise RolloutError(f"{what} did not end within {limit:.0f} s") from error

    @staticmethod
    def _name(slot: _Slot) -> str:
        return actor_name(ROLLOUT, slot.index)


def worker_is_lost(error: BaseException, handle: Any) -> bool:
    """Whether `error`, one of `LOST` or a missed deadline, means the actor `handle` and not some other actor.

    A search worker that died, or the rank that should have given the weights, shows up as the same types.
    """
    if isinstance(error, WorkerBroken | RolloutError):
        return True
    if isinstance(error, RayTaskError):  # raised by code inside the worker, which therefore lives
        return False
    actor_id = getattr(error, "actor_id", None)
    return actor_id is None or actor_id == handle._actor_id.hex()


def _brief(error: BaseException | None) -> str:
    """The last line of an error's text: Ray's carry whole tracebacks."""
    lines = str(error).strip().splitlines() if error is not None else []
    return lines[-1] if lines else type(error).__name__
