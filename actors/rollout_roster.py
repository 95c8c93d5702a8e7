"""Who serves in the rollout pool: workers that join, are lost, hang, or leave.

Knows nothing of groups or of who is given which. Always holds: a worker serves only once it has the current weights; a
worker is taken out of service once, however many calls saw it go; one that leaves ends when nothing runs on it any
more; waiting for room is no failed start; a bug in a background task reaches whoever waits, with its traceback.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayTaskError

from actors.actor_host import (
    LOST,
    NOT_MADE,
    ActorHost,
    NoRoomError,
    actor_is_lost,
    argument_is_gone,
    brief,
    node_is_gone,
    spawn_when_free,
    until_ready,
)
from actors.actor_state import DRAINING, PLACING, SERVING, STARTING
from actors.actor_state import LOST as LOST_STATE
from actors.placement import ROLLOUT, actor_name
from actors.rollout_stats import PoolCounts, WorkerStats
from actors.rollout_worker import WorkerBroken

logger = logging.getLogger(__name__)

WORKER_LOST = (*LOST, WorkerBroken)
"""What says that a worker, and not its input, is at fault."""

_FAREWELL_S = 10.0
_NAME_FREE_S = 30.0


class RolloutError(RuntimeError):
    """The pool cannot go on: no worker is left, or one missed a deadline."""


class _WeightsGone(Exception):
    """The weights that a worker was to start with are lost; newer ones will come."""

    def __init__(self, weights: Any, reason: BaseException) -> None:
        super().__init__(brief(reason))
        self.weights = weights


@dataclass(frozen=True)
class RosterLimits:
    """Seconds and counts; see `RolloutPool`."""

    max_respawns: int = 3
    start_s: float = 1200.0
    update_s: float = 1200.0
    health_every_s: float = 5.0
    health_s: float = 60.0
    retry_s: float = 1.0


@dataclass(slots=True, eq=False)
class Slot:
    """A place in the pool and the worker in it; `handle` is None while none is there that could run anything."""

    index: int
    handle: Any = None
    parting: Any = None  # the worker that is being seen off
    load: int = 0
    state: str = PLACING
    leaving: bool = False
    failed_starts: int = 0
    refused: Any = None  # weights that it could not start with, because they are lost
    task: asyncio.Task[None] | None = None  # what brings its worker in, or sees it off
    look: asyncio.Task[WorkerStats | None] | None = None
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    last: WorkerStats | None = None

    @property
    def name(self) -> str:
        """The worker's name."""
        return actor_name(ROLLOUT, self.index)


class Roster:
    """Slots 0 to size − 1, and those above that still have something to finish. One event loop only."""

    def __init__(self, host: ActorHost, size: int, limits: RosterLimits) -> None:
        self.size = size
        self.slots = {index: Slot(index) for index in range(size)}
        self.weights: tuple[Any, int] | None = None
        self.counted = PoolCounts()
        self.respawns = 0
        self.failure: BaseException | None = None
        self.last_loss: BaseException | None = None
        self._host = host
        self._limits = limits
        self._running = False
        self._changed = asyncio.Event()
        self._monitor: asyncio.Task[None] | None = None

    # --- what the pool calls -------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring all in at once; a first start that fails is not tried again."""
        joining = [asyncio.create_task(self._join(slot, self._limits.start_s)) for slot in self.slots.values()]
        try:
            await asyncio.gather(*joining)
        except NoRoomError as error:
            raise RolloutError(str(error)) from error
        finally:
            for task in joining:
                task.cancel()
            await asyncio.gather(*joining, return_exceptions=True)
        self._running = True
        self._monitor = asyncio.create_task(self._watch(), name="health of rollout workers")
        self._monitor.add_done_callback(self._note_failure)
        for slot in list(self.slots.values()):
            self._settle(slot)

    def resize(self, size: int) -> None:
        """Aim at another size; a place that was given up is tried again."""
        if size < 1:
            raise ValueError(f"rollout={size}: a rollout pool needs at least one worker")
        self.size = size
        for index in range(size):
            slot = self.slots.setdefault(index, Slot(index))
            slot.leaving = False
            slot.failed_starts = 0
            if slot.handle is not None:
                slot.state = SERVING
            self._settle(slot)
        for slot in list(self.slots.values()):
            if slot.index >= size and not slot.leaving:
                slot.leaving = True
                if slot.handle is not None:
                    slot.state = DRAINING
                elif slot.task is not None and slot.state != DRAINING:
                    slot.task.cancel()  # it was still coming
                self._settle(slot)
        self._tell()

    def serving(self) -> Iterator[Slot]:
        """Those that take groups."""
        return (slot for slot in self.slots.values() if slot.handle is not None and not slot.leaving)

    def present(self) -> list[Slot]:
        """Those that have a worker, the leaving included."""
        return [slot for slot in self.slots.values() if slot.handle is not None]

    def coming(self) -> Iterator[Slot]:
        """Those that will have a worker without anybody's doing."""
        return (slot for slot in self.slots.values() if slot.task is not None and slot.index < self.size)

    def awaits_weights(self) -> bool:
        """Whether a worker could start if only it were given weights that exist."""
        return any(self._refuses(slot) for slot in self.slots.values())

    def unload(self, slot: Slot, trajectories: int) -> None:
        """So many trajectories no longer run on a slot's worker."""
        slot.load -= trajectories
        self._settle(slot)

    def renew(self, weights: tuple[Any, int]) -> None:
        """From now on workers join with these weights."""
        self.weights = weights
        for slot in list(self.slots.values()):
            self._settle(slot)

    def lose(self, slot: Slot, lost: Any, reason: BaseException) -> None:
        """Take `lost` out of service, and put a new worker in its place unless it was leaving."""
        if slot.handle is not lost:
            return
        logger.warning("%s is lost: %s", slot.name, brief(reason))
        self.last_loss = reason
        self.counted.lost(slot.name)
        slot.handle, slot.state = None, LOST_STATE
        self._host.kill(lost)  # an unreachable worker must not come back beside its successor
        if not slot.leaving:
            self.respawns += 1
        self._settle(slot)
        self._tell()

    async def ask(self, slot: Slot) -> WorkerStats | None:
        """How a slot's worker stands; None when it has none, or was lost over the question."""
        handle = slot.handle
        if handle is None:
            return None
        async with slot.asking:  # so that answers come in order and no count ever falls
            if slot.handle is not handle:
                return None
            try:
                stats: WorkerStats = await within(handle.stats.remote(), self._limits.health_s, f"{slot.name} stats")
            except (*WORKER_LOST, RolloutError) as error:
                if not worker_is_lost(error, handle):
                    raise
                self.lose(slot, handle, error)
                return None
            if slot.handle is not handle:  # lost since it answered
                return None
            self.counted.hear(stats)
            slot.last = stats
            return stats

    async def change(self) -> None:
        """Wait until something has changed in who serves."""
        await self._changed.wait()

    async def stop(self) -> list[Any]:
        """End all background work; returns the workers that are left, out of service."""
        self._running = False
        looks = [slot.look for slot in self.slots.values()]
        tasks = [task for task in (self._monitor, *looks, *(s.task for s in self.slots.values())) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        handles = [slot.handle for slot in self.present()]
        for slot in self.slots.values():
            slot.handle = None
            if slot.parting is not None:  # its task was cancelled before it began
                self._host.kill(slot.parting)
        return handles

    # --- coming and going ----------------------------------------------------------------------------

    def _settle(self, slot: Slot) -> None:
        """Begin what the slot needs next, unless something is under way."""
        if not self._running or self.failure is not None or slot.task is not None:
            return
        if slot.leaving:
            if slot.handle is not None:
                if slot.load == 0:
                    slot.parting, slot.handle, slot.state = slot.handle, None, DRAINING
                    self._begin(slot, self._see_off(slot, slot.parting))
            elif self.slots.get(slot.index) is slot:
                del self.slots[slot.index]
                self._tell()
        elif slot.handle is None and slot.failed_starts < self._limits.max_respawns and not self._refuses(slot):
            self._begin(slot, self._bring_in(slot))

    def _refuses(self, slot: Slot) -> bool:
        return slot.handle is None and slot.refused is not None and slot.refused is self.weights

    def _begin(self, slot: Slot, work: Coroutine[Any, Any, None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            slot.task = None
            self._note_failure(task)
            self._settle(slot)
            self._tell()

        slot.task = asyncio.create_task(work, name=f"{slot.name} comes or goes")
        slot.task.add_done_callback(ended)

    async def _bring_in(self, slot: Slot) -> None:
        """One attempt to put a worker into the slot."""
        try:
            await self._join(slot)
        except _WeightsGone as gone:
            slot.refused = gone.weights
            logger.warning("%s waits for new weights: %s", slot.name, gone)
        except (*WORKER_LOST, *NOT_MADE, RayTaskError, RolloutError) as error:
            self.last_loss, slot.state = error, LOST_STATE
            slot.failed_starts += not node_is_gone(error)
            tries = f"failed start {slot.failed_starts} of {self._limits.max_respawns}"
            logger.error("%s did not start (%s): %s", slot.name, tries, brief(error))
            if slot.failed_starts >= self._limits.max_respawns:
                logger.error("%s is given up after %d failed starts", slot.name, slot.failed_starts)
            else:
                await asyncio.sleep(self._limits.retry_s)

    async def _join(self, slot: Slot, patience_s: float | None = None) -> None:
        """Spawn a worker, wait for its place, start it with the current weights, and let it serve."""
        slot.state = PLACING
        name_limit_s = None if patience_s is None else _NAME_FREE_S
        handle = await spawn_when_free(self._host, slot.index, slot.name, limit_s=name_limit_s)
        try:
            await until_ready(self._host, handle, slot.name, limit_s=patience_s)
            slot.state = STARTING
            given = self.weights
            await self._give(handle.start.remote(*(given or ())), handle, self._limits.start_s, f"{slot.name} start")
            while given is not self.weights:  # an update came while it started
                given = self.weights
                assert given is not None
                update = handle.update_weights.remote(*given)
                await self._give(update, handle, self._limits.update_s, f"{slot.name} weight update")
        except BaseException:
            self._host.kill(handle)
            raise
        slot.handle, slot.failed_starts, slot.refused, slot.last = handle, 0, None, None
        slot.state = DRAINING if slot.leaving else SERVING
        self._tell()

    async def _give(self, call: Any, handle: Any, limit_s: float, what: str) -> None:
        given = self.weights
        try:
            await within(call, limit_s, what)
        except Exception as error:
            if given is not None and argument_is_gone(error, handle):
                raise _WeightsGone(given, error) from error
            raise

    async def _see_off(self, slot: Slot, handle: Any) -> None:
        """Stop a worker that has nothing left to do; what it had counted stays counted."""
        limit_s = min(_FAREWELL_S, self._limits.health_s)
        try:
            self.counted.hear(await within(handle.stats.remote(), limit_s, f"{slot.name} stats"))
            await within(handle.shutdown.remote(), limit_s, f"{slot.name} shutdown")
        except (*WORKER_LOST, RayTaskError, RolloutError) as error:
            logger.warning("%s did not end by itself: %s", slot.name, brief(error))
        finally:
            self.counted.lost(slot.name)
            self._host.kill(handle)
            slot.parting = None

    async def _watch(self) -> None:
        """Ask each worker now and then; one that does not answer is lost."""
        while True:
            await asyncio.sleep(self._limits.health_every_s)
            for slot in self.present():
                if slot.look is None or slot.look.done():
                    slot.look = asyncio.create_task(self.ask(slot), name=f"look at {slot.name}")
                    slot.look.add_done_callback(self._note_failure)

    def _note_failure(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failure = self.failure or error
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def worker_is_lost(error: BaseException, handle: Any) -> bool:
    """Whether `error`, one of `WORKER_LOST` or a missed deadline, means this worker and not some other actor."""
    return isinstance(error, WorkerBroken | RolloutError) or actor_is_lost(error, handle)


async def within(call: Any, limit_s: float, what: str) -> Any:
    """The call's result.

    Raises:
        RolloutError: it did not come in `limit_s`.
    """
    try:
        async with asyncio.timeout(limit_s):
            return await call
    except TimeoutError as error:
        raise RolloutError(f"{what} did not end within {limit_s:.0f} s") from error
