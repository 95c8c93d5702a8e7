"""`launch/search.py serve`: a local folder as a search service in SearXNG's form, for trying live search.

    python launch/search.py serve root=DIR [port=8888] [delay=0.3]

Knows nothing of who asks. Always holds: it listens on this machine alone, and serves until it is interrupted.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from envs.tools.local import LocalSearchTool
from envs.tools.local_index import ensure_local_index
from envs.tools.search_server import SearchServer, serving
from launch.words import UsageError, read_words

_KEYS = ("root", "port", "delay")


def main(arguments: Sequence[str]) -> int:
    """Carry out one command line; returns the exit status."""
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(__doc__ or "")
        return 0
    try:
        words = read_words(arguments, _KEYS, ("root",))
        root = Path(words["root"])
        ensure_local_index(root)
        server = SearchServer(LocalSearchTool(root), root, delay_s=_number("delay", words.get("delay", "0")))
        asyncio.run(_serve(server, int(_number("port", words.get("port", "8888")))))
    except (ValueError, OSError) as error:  # the process boundary: bad words, no index, the port is taken
        sys.stderr.write(f"search serve: {error}\n")
        return 2
    return 0


async def _serve(server: SearchServer, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(server, port=port):
        sys.stdout.write(
            f"serving {server.root} at {server.url}: search.provider=searxng search.endpoint={server.url}\n"
        )
        sys.stdout.flush()
        await stop.wait()


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{key}={text}: must be a number") from error
