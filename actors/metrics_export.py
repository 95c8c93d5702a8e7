"""An actor's numbers on Ray's metrics port, kept up to date while it lives.

Knows nothing of what the numbers are. Always holds: an exporter that broke is told with its traceback, and whoever asks
for it next (`check`) gets its error: a worker whose graphs stand still must not look like one that does nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

logger = logging.getLogger(__name__)

EVERY_S = 2.0
Numbers = TypeVar("Numbers")
Shown = TypeVar("Shown", contravariant=True)


class Series(Protocol[Shown]):
    """Where numbers go; a list in tests."""

    def show(self, numbers: Shown, /) -> None:
        """Export the numbers of this moment."""
        ...


class Exporter(Generic[Numbers]):
    """Shows `ask()` in `series` every `every_s` seconds, from `start` to `stop`."""

    def __init__(
        self, ask: Callable[[], Awaitable[Numbers]], series: Series[Numbers], every_s: float = EVERY_S
    ) -> None:
        self._ask = ask
        self._series = series
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running event loop; begun twice is begun once."""
        if self._task is None:
            self._task = asyncio.create_task(self._export(), name="export of metrics")
            self._task.add_done_callback(_tell)

    def check(self) -> None:
        """Raise what ended the export, if something did.

        Raises:
            RuntimeError: the export broke; its cause is chained.
        """
        task = self._task
        if task is not None and task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise RuntimeError(f"the export of this worker's metrics broke: {error!r}") from error

    def stop(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()

    async def _export(self) -> None:
        while True:
            self._series.show(await self._ask())
            await asyncio.sleep(self._every_s)


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the export of metrics broke", exc_info=error)
