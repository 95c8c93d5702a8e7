"""Names of actors that are ending, for tests that start pools one after another."""

from __future__ import annotations

import asyncio

from actors.placement import is_taken


async def until_free(*names: str) -> None:
    """Wait until no live actor has one of these names: Ray frees a dead one's a moment later."""
    for _ in range(100):
        if not any(is_taken(name) for name in names):
            return
        await asyncio.sleep(0.1)
