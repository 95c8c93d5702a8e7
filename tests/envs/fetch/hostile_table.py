"""Writes the table of what the hostile server's pages come to: `python -m tests.envs.fetch.hostile_table`."""

from __future__ import annotations

import asyncio
import sys

from tests.envs.fetch.hostile import outcomes, serving


async def table() -> str:
    async with serving() as server:
        rows = await outcomes(server)
    return "\n".join(
        ["| case | outcome |", "|---|---|", *(f"| {name} | {outcome} |" for name, outcome in rows.items())]
    )


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(table()) + "\n")
