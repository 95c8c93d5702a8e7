"""A gate between episodes, many at once, and a change of policy, alone.

Knows nothing of either. Always holds: while a change is under way no episode is, and the other way round; episodes that
come after a change asked wait for it, so that it cannot be held off for ever; whoever stops waiting leaves nothing
behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """One event loop only."""

    def __init__(self) -> None:
        self._inside = 0
        self._changing = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        """Episodes under way."""
        return self._inside

    @asynccontextmanager
    async def episode(self) -> AsyncIterator[None]:
        """Go through, and wait for a change that asked before."""
        while not self._open.is_set():
            await self._open.wait()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def change(self) -> AsyncIterator[None]:
        """Let nobody in any more, wait until all are out, and change."""
        async with self._changing:
            self._open.clear()
            try:
                await self._empty.wait()
                yield
            finally:
                self._open.set()
