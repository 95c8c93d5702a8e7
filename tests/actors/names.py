"""Names of actors that are ending, for tests that start pools one after another."""

from __future__ import annotations

from actors.placement import is_taken
from tests.waiting import until


async def until_free(*names: str) -> None:
    """Wait until no live actor has one of these names: Ray frees a dead one's a moment later."""
    await until(lambda: not any(is_taken(name) for name in names))
