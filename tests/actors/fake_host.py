"""A cluster of rollout workers without Ray: room that comes and goes, workers that die, hang, and fail to start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from actors.rollout_stats import WorkerStats
from actors.rollout_worker import WorkerBroken
from sake_ray.trajectory import Trajectory, TrajectoryGroup
from sake_ray.types import Example


class Method:
    """A method as actor handles have them."""

    def __init__(self, call: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self._call = call

    def remote(self, *arguments: Any) -> asyncio.Task[Any]:
        """Begin the call."""
        return asyncio.ensure_future(self._call(*arguments))


class FakeWorker:
    """Plays groups in a few turns of the event loop; notes every group that it began and finished."""

    def __init__(self, host: FakeHost, index: int) -> None:
        self.host, self.name, self.index = host, f"rollout-{index}", index
        self.version, self.tokens = -1, 0
        self.dead = self.hung = self.ended = False
        self.gone = asyncio.Event()
        for name in ("start", "rollout_group", "update_weights", "stats", "shutdown"):
            setattr(self, name, Method(self._guarded(getattr(self, f"_{name}"))))

    def die(self) -> None:
        """All that is under way is lost."""
        self.dead = True
        self.gone.set()

    def _guarded(self, method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def call(*arguments: Any) -> Any:
            work = asyncio.ensure_future(method(*arguments))
            gone = asyncio.ensure_future(self.gone.wait())
            try:
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
                if self.dead:
                    raise WorkerBroken(f"{self.name} is dead")
                return work.result()
            finally:
                work.cancel()
                gone.cancel()
                await asyncio.gather(work, gone, return_exceptions=True)

        return call

    async def _pass(self, turns: int = 1) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        if self.hung:
            await asyncio.Event().wait()

    async def _start(self, params: Any = None, version: int = 0) -> None:
        await self._pass(2)
        if self.host.bad_starts:
            self.host.bad_starts -= 1
            self.die()
        if isinstance(params, Exception):
            raise params
        self.version = version

    async def _rollout_group(self, post: Example, seeds: list[int], greedy: bool, group_id: str) -> TrajectoryGroup:
        assert not self.ended, "a group for a worker that was told to end"
        assert self.version >= self.host.published, "a worker serves without the current weights"
        self.host.begun.append((group_id, self.name))
        await self._pass(self.host.turns)
        while group_id in self.host.held:  # noqa: ASYNC110
            await asyncio.sleep(0)
        self.tokens += len(seeds)
        return TrajectoryGroup(post, [Trajectory(f"{group_id}.{i}", post) for i in range(len(seeds))])

    async def _update_weights(self, params: Any, version: int) -> dict[str, float]:
        await self._pass()
        self.version = version
        return {"pause_s": 0.0, "load_s": 0.0}

    async def _stats(self) -> WorkerStats:
        await self._pass()
        if self.host.bug is not None:
            raise self.host.bug
        return WorkerStats(self.name, self.version, 0, 0, 0, 0, self.tokens, 0, 0, 0, 0)

    async def _shutdown(self) -> None:
        self.ended = True


class FakeHost:
    """`ActorHost` with so much `place`; `published` is the version that every serving worker must have."""

    def __init__(self, place: int = 1000) -> None:
        self.place, self.published, self.turns, self.bad_starts = place, -1, 3, 0
        self.bug: Exception | None = None
        self.workers: list[FakeWorker] = []
        self.placed: set[FakeWorker] = set()
        self.begun: list[tuple[str, str]] = []
        self.held: set[str] = set()

    def alive(self) -> list[FakeWorker]:
        """Workers that have a place, by index."""
        return sorted((w for w in self.placed if not w.dead), key=lambda worker: worker.index)

    def spawn(self, index: int) -> FakeWorker:
        """See `ActorHost`."""
        assert all(worker.dead or worker.index != index for worker in self.workers), "two of one name"
        self.workers.append(FakeWorker(self, index))
        return self.workers[-1]

    def ready(self, handle: FakeWorker) -> Awaitable[None]:
        """See `ActorHost`."""

        async def wait() -> None:
            while len(self.alive()) >= self.place:  # noqa: ASYNC110
                await asyncio.sleep(0)
            self.placed.add(handle)

        return wait()

    def kill(self, handle: FakeWorker) -> None:
        """See `ActorHost`."""
        handle.die()

    def cancel(self, call: asyncio.Task[Any]) -> None:
        """See `ActorHost`."""
        call.cancel()

    def put(self, value: Any) -> Any:
        """See `ActorHost`."""
        return value

    def room(self) -> str:
        """See `ActorHost`."""
        return f"it asks for a place; the cluster has {self.place}"
