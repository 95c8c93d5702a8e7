"""Waiting for something to become true, for tests of things that take their time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any


async def until(what: Callable[[], Any], every_s: float = 0.05, limit_s: float = 60.0) -> None:
    """Return when `what()`, awaited if need be, is true; TimeoutError when it never is."""
    async with asyncio.timeout(limit_s):
        while True:
            seen = what()
            if await seen if inspect.isawaitable(seen) else seen:
                return
            await asyncio.sleep(every_s)


async def until_states(pool: Any, states: list[str]) -> None:
    """Wait until a pool's actors stand like this."""

    async def stand_so() -> bool:
        return [state.state for state in await pool.states()] == states

    await until(stand_so)
