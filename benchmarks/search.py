"""What search costs beside the service itself: limiter, pool and cache, as ratios measured in one run.

    python benchmarks/search.py [queries=2000] [together=32] [out=FILE]

A canned service runs in a process of its own on loopback. Bare aiohttp asks it, then the tool in this process does
(limiter and store around it), then the search pool (real Ray actors), and both again for what is kept by now. An empty
Ray call says how much of the pool's time is Ray's: an uncached search takes one to the worker and one to the limiter.
Figures are of this machine and this run; look at the ratios. Always holds: both sides send the same queries to the same
server, with the same number under way.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import aiohttp
import ray

from actors.search_build import ToolSpec
from actors.search_pool import PoolSettings, SearchPool
from benchmarks import search_limiter, search_store
from benchmarks.script import own_ray, words_or_exit
from envs.tools.search_server import SearchServer, serving
from envs.tools.web_tool import WebTool
from launch.search_tool import open_web_tool
from sake_ray.config.search_section import SearchConfig
from sake_ray.types import Example, ImageRef, QueryResult, SearchKind, TextSearch

Ask = Callable[[str], Awaitable[object]]
POST = Example("bench", "a post", ImageRef("none.png", 64, 64), ())


class CannedTool:
    """Answers every query with the same kind of text, at once."""

    async def search_text(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        """See `SearchTool`."""
        return [QueryResult(query, "success", f"{query} is a name. " * 20) for query in queries]

    async def search_images(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        """See `SearchTool`."""
        return [QueryResult(query, "no_result") for query in queries]


@dataclass(frozen=True)
class Timed:
    """Seconds of each call, one at a time, and calls a second with many under way."""

    p50_ms: float
    p95_ms: float
    per_second: float


async def timed(ask: Ask, queries: Sequence[str], together: int) -> Timed:
    """Ask a quarter of the queries one after another, the others `together` at a time."""
    quarter = len(queries) // 4
    seconds = []
    for query in queries[:quarter]:
        begin = time.perf_counter()
        await ask(query)
        seconds.append(time.perf_counter() - begin)
    rest = iter(queries[quarter:])

    async def worker() -> None:
        for query in rest:
            await ask(query)

    begin = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(together)))
    rate = (len(queries) - quarter) / (time.perf_counter() - begin)
    return Timed(statistics.median(seconds) * 1e3, statistics.quantiles(seconds, n=20)[-1] * 1e3, rate)


async def measure_pool(url: str, folder: Path, queries: Sequence[str], together: int) -> dict[str, Timed]:
    """Bare aiohttp and the pool on the same server."""
    results = {}
    async with aiohttp.ClientSession() as session:

        async def bare(query: str) -> None:
            async with session.get(f"{url}/search", params={"q": query, "format": "json"}) as response:
                await response.json()

        await timed(bare, [f"warm {n}" for n in range(200)], together)
        results["bare aiohttp"] = await timed(bare, [f"bare {query}" for query in queries], together)
    settings = SearchConfig(
        provider="searxng", endpoint=url, per_second=1e5, burst=100_000, concurrency=1_000, workers=2, cache="on"
    )
    for name, cache in (("tool in process, nothing kept", "off"), ("tool in process", "on")):
        async with open_web_tool(replace(settings, cache=cache), folder / "own", 1_000_000) as tool:

            async def ask_tool(query: str, tool: WebTool = tool) -> None:
                await tool.answer(SearchKind.TEXT, query, POST.id, 30.0)

            await timed(ask_tool, [f"warm {n}" for n in range(200)], together)
            results[name] = await timed(ask_tool, queries, together)
            if cache == "on":
                results["tool in process, from the store"] = await timed(ask_tool, queries, together)
    results["an empty Ray call"] = await _empty_calls(queries, together)
    for name, cache in (("pool, not cached, nothing kept", "off"), ("pool, not cached", "on")):
        spec = ToolSpec(replace(settings, cache=cache), "", folder / "pool", 1_000_000)
        pool = SearchPool.start(spec, PoolSettings(30.0, per_query=True, remember=len(queries) * 2), workers=2)
        await pool.ready()

        async def ask(query: str, pool: SearchPool = pool) -> None:
            (result,) = (await pool.search(POST, TextSearch((query,)))).results
            if result.status != "success":
                raise RuntimeError(f"{query}: {result}")

        await timed(ask, [f"warm {n}" for n in range(200)], together)
        results[name] = await timed(ask, queries, together)
        if cache == "on":
            results["pool, remembered by the asker"] = await timed(ask, queries, together)
            fresh = SearchPool(pool._workers, PoolSettings(30.0, per_query=True))

            async def ask_fresh(query: str, pool: SearchPool = fresh) -> None:
                await pool.search(POST, TextSearch((query,)))

            results["pool, from the store"] = await timed(ask_fresh, queries, together)
        await pool.shutdown()
    return results


class Empty:
    """An actor that does nothing."""

    async def call(self, query: str) -> str:
        """Return what was sent."""
        return query


async def _empty_calls(queries: Sequence[str], together: int) -> Timed:
    """What Ray itself takes to ask an actor on this machine."""
    actor = ray.remote(Empty).options(num_cpus=0, max_concurrency=1_000).remote()

    async def ask(query: str) -> None:
        await actor.call.remote(query)

    await timed(ask, [f"warm {n}" for n in range(200)], together)
    return await timed(ask, queries, together)


async def serve() -> None:
    """The canned service, until the process is ended."""
    async with serving(SearchServer(CannedTool(), Path("/nonexistent"))) as server:
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def table(pool: dict[str, Timed]) -> str:
    """The pool's figures as a Markdown table."""
    bare = pool["bare aiohttp"]
    lines = ["| | p50 ms | added p50 ms | p95 ms | calls/s | of bare |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {name} | {t.p50_ms:.2f} | {t.p50_ms - bare.p50_ms:+.2f} | {t.p95_ms:.2f} | {t.per_second:,.0f} "
        f"| {t.per_second / bare.per_second:.2f} |"
        for name, t in pool.items()
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Measure everything; returns the exit status."""
    if arguments == ["serve"]:
        asyncio.run(serve())
    words = words_or_exit(arguments, ("queries", "together", "out"), __doc__)
    queries = [f"query {n}" for n in range(int(words.get("queries", "2000")))]
    server = subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    try:
        with tempfile.TemporaryDirectory(prefix="sake-bench-") as folder, own_ray(4):
            pool = asyncio.run(measure_pool(url, Path(folder), queries, int(words.get("together", "32"))))
            report: dict[str, Any] = {"pool": {name: vars(t) for name, t in pool.items()}}
            report["limiter"] = asdict(search_limiter.measure())
    finally:
        server.terminate()
        server.wait()
    with tempfile.TemporaryDirectory(prefix="sake-bench-") as store:
        report["store"] = search_store.measure(Path(store))
    sys.stdout.write(table(pool) + "\n" + json.dumps(report, indent=1) + "\n")
    if words.get("out"):
        Path(words["out"]).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
