"""Time that passes when everything waits, in no time at all; and a limiter behind messages that take time."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Sequence
from typing import Any

from envs.limiter.messages import Grant, Granted, LimiterPort, Refused, Report, Service, ServiceCounts

NS = 1_000_000_000


class FakeTime:
    """`clock` and `sleep` for what is under test; `run` lets time pass until tasks are done."""

    def __init__(self, now: int = 0) -> None:
        self.now = now
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    def clock(self) -> int:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self._count += 1
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + round(seconds * NS), self._count, woken))
        await woken

    async def run(self, *tasks: asyncio.Task[Any], until: int | None = None) -> None:
        while True:
            for _ in range(12):  # whatever can go on without time passing goes on
                await asyncio.sleep(0)
            if tasks and all(task.done() for task in tasks):
                return
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)  # cancelled
            if until is not None and (not self._sleepers or self._sleepers[0][0] > until):
                self.now = until
                return
            when, _, woken = heapq.heappop(self._sleepers)
            self.now = max(self.now, when)
            woken.set_result(None)


class SlowPort:
    """A limiter behind a network: each message takes a random time, drawn anew in either direction."""

    def __init__(self, port: LimiterPort, time: FakeTime, most_s: float, rng: random.Random) -> None:
        self._port, self._time, self._most_s, self._rng = port, time, most_s, rng

    async def _way(self) -> None:
        await self._time.sleep(self._rng.uniform(0, self._most_s))

    async def register(self, client: str, service: Service, held: Sequence[Grant] = ()) -> None:
        await self._way()
        await self._port.register(client, service, held)

    async def acquire(
        self, client: str, service: str, wanted: int, reports: Sequence[Report] = ()
    ) -> Granted | Refused:
        await self._way()
        answer = await self._port.acquire(client, service, wanted, reports)
        await self._way()
        return answer

    async def report(self, client: str, service: str, reports: Sequence[Report]) -> None:
        await self._way()
        await self._port.report(client, service, reports)

    async def leave(self, client: str) -> None:
        await self._way()
        await self._port.leave(client)

    async def counts(self) -> dict[str, ServiceCounts]:
        return await self._port.counts()


def excess(times: Sequence[int], per_second: float, burst: int) -> float:
    """By how many calls the worst stretch of time is over `burst + w * per_second`; at most 0 where none is."""
    ordered = sorted(times)
    return max(
        (
            last - first + 1 - burst - (ordered[last] - ordered[first]) / NS * per_second
            for first in range(len(ordered))
            for last in range(first, len(ordered))
        ),
        default=0.0,
    )
