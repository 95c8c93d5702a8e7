"""The limiter: how often, and how many at once, something outside is asked.

For one process and one event loop; `Limiter` is what callers hold, so that a limiter for a whole cluster can take its
place. Knows nothing of what is asked. Always holds: in any stretch of w seconds at most `burst + w * per_second`
calls begin (exactly: time is counted in whole nanoseconds), and never more than `concurrency` are under way; calls
begin in the order in which they came, and one that is cancelled while it waits has used nothing up.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What a limiter lets through: calls a second in the long run, how many of them together, how many under way."""

    per_second: float
    burst: int = 1
    concurrency: int = 16

    def __post_init__(self) -> None:
        """Refuse limits that let nothing through.

        Raises:
            ValueError: naming the limit and its value.
        """
        if not 0 < self.per_second < math.inf:
            raise ValueError(f"per_second={self.per_second}: must be a number above 0")
        for name, value in (("burst", self.burst), ("concurrency", self.concurrency)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")


class Limiter(Protocol):
    """Lets calls to one service through, one after another."""

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Wait for the turn of one call; the call is under way until the context is left."""
        ...

    async def pause(self, seconds: float) -> None:
        """Let nothing begin for so long: the service asked for it."""
        ...


class RateLimiter:
    """A token bucket and a bound on what is under way, for one process."""

    def __init__(
        self,
        limits: Limits,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """`clock` tells the time in nanoseconds and `sleep` waits so many seconds by it; tests give their own."""
        self._clock = clock
        self._sleep = sleep
        self._interval = math.ceil(Fraction(_NS) / Fraction(limits.per_second))
        self._slack = self._interval * (limits.burst - 1)
        # When the bucket will be full again, had it room for one: a call may begin up to `_slack` before that.
        self._full_at = clock()
        self._turn = asyncio.Lock()
        self._places = asyncio.Semaphore(limits.concurrency)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """See `Limiter.slot`."""
        await self._enter()
        try:
            yield
        finally:
            self._places.release()

    async def pause(self, seconds: float) -> None:
        """See `Limiter.pause`. After it calls begin one by one: what had been saved up for a burst is gone.

        Raises:
            ValueError: no finite number of seconds, or a negative one.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"pause of {seconds} seconds: must be a number of at least 0")
        self._full_at = max(self._full_at, self._clock() + math.ceil(seconds * _NS) + self._slack)

    async def _enter(self) -> None:
        """Take a place and a token. Only the head of the queue gets past the lock, so the order is that of arrival."""
        async with self._turn:
            await self._places.acquire()
            entered = False
            try:
                # Asked again after every sleep: it may have been short, and a pause may have begun meanwhile.
                while (wait := self._full_at - self._slack - self._clock()) > 0:
                    await self._sleep(wait / _NS)
                self._full_at = max(self._full_at, self._clock()) + self._interval
                entered = True
            finally:
                if not entered:
                    self._places.release()
