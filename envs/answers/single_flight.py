"""Of several who want the same at once, one does the work and all get the result.

Knows nothing of what is done or kept; for one event loop. Always holds: all callers of a key wait for one task; one
that is cancelled leaves it to the others; the task is cancelled when its last caller has gone; what it raises, all get.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Flight(Generic[Result]):
    task: asyncio.Task[Result]
    callers: int = 0


class SingleFlight(Generic[Result]):
    """Joins calls of one key. `joined` counts the callers that found a task under way."""

    def __init__(self) -> None:
        self.joined = 0
        self._flights: dict[Hashable, _Flight[Result]] = {}
        # The loop itself holds tasks weakly: one that is cleaning up after its cancellation must not vanish.
        self._ending: set[asyncio.Task[Result]] = set()

    @property
    def under_way(self) -> int:
        """How many keys have a task."""
        return len(self._flights)

    async def run(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """The result of the task under way for `key`, or of a new one that runs `make()`.

        Raises:
            Exception: what the task raises. A caller's own cancellation or deadline does not touch the task while
                others wait for it.
        """
        flight = self._flights.get(key)
        if flight is None or flight.task.done():  # done: this caller came after the end, and wants its own result
            flight = self._flights[key] = _Flight(asyncio.create_task(make()))
        else:
            self.joined += 1
        flight.callers += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.callers -= 1
            if flight.callers == 0:
                self._end(key, flight)

    def _end(self, key: Hashable, flight: _Flight[Result]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]  # at once: who comes now must not join a task that is being cancelled
        if not flight.task.done():
            self._ending.add(flight.task)
            flight.task.add_done_callback(self._ended)
            flight.task.cancel()

    def _ended(self, task: asyncio.Task[Result]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Nobody is left to raise it to.
            logger.warning("work that nobody waits for any more ended in an error", exc_info=error)
