"""A long run of the service: good and bad requests, clients that leave, and what it does to memory.

Called by `benchmarks/serving.py`. Knows nothing of bare vLLM. Always holds: a request that fails ends the script,
unless it was sent to fail.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import aiohttp

from benchmarks.service_process import Post, Running
from benchmarks.tables import markdown


async def long_run(running: Running, posts: Sequence[Post], clients: int) -> str:
    """All posts, some of them in ways that go wrong; the memory of the service meanwhile."""
    rng = random.Random(0)
    ends: Counter[str] = Counter()
    memory: list[tuple[int, dict[str, float]]] = []
    waiting = iter(posts)
    done = 0
    every = max(1, len(posts) // 10)
    began = time.monotonic()

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal done
        for post in waiting:
            ends[await _one(session, running.url, post, rng)] += 1
            done += 1
            if done % every == 0:
                memory.append((done, running.memory()))
                sys.stderr.write(f"{done} requests, {time.monotonic() - began:.0f} s: {memory[-1][1]}\n")

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client(session))
        seconds = time.monotonic() - began
        playing = await _under_way(session, running.url)
    kinds = sorted({kind for _, at in memory for kind in at})
    rows = [[kind, *(f"{at.get(kind, 0):.0f}" for _, at in memory)] for kind in kinds]
    table = markdown(["MiB resident after", *(f"{count:,}" for count, _ in memory)], rows)
    told = ", ".join(f"{name} {count:,}" for name, count in sorted(ends.items()))
    head = f"{len(posts):,} requests by {clients} clients in {seconds:.0f} s: {told}"
    return f"{head}\nunder way at the end: {playing:.0f}\n\n{table}"


async def _under_way(session: aiohttp.ClientSession, url: str) -> float:
    """Orders that the service says to have under way, a minute after the last client was answered or left at most.

    What Ray exports is some seconds old.
    """
    playing = 1.0
    for _ in range(60):
        async with session.get(f"{url}/metrics") as response:
            lines = (await response.text()).splitlines()
        name = "ray_sake_ray_serve_playing{"
        playing = sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))
        if not playing:
            break
        await asyncio.sleep(1)
    return playing


async def _one(session: aiohttp.ClientSession, url: str, post: Post, rng: random.Random) -> str:
    """One request of some kind; says how it ended."""
    kind = rng.random()
    address = f"{url}/v1/extract"
    if kind < 0.70:
        return await _status(session.post(address, json=post), 200, "answered")
    if kind < 0.80:
        async with session.post(address, json={**post, "stream": True}) as response:
            body = await response.text()
        if "event: result" not in body:
            raise SystemExit(f"a stream ended without a result: {body[-500:]}")
        return "streamed"
    if kind < 0.90:  # leaves after the first event
        async with session.post(address, json={**post, "stream": True}) as response:
            await response.content.readline()
            response.close()
        return "left in the middle"
    if kind < 0.95:
        return await _status(session.post(address, json={**post, "image": post["image"][:200]}), 422, "bad picture")
    broken = session.post(address, data=b"{" * 1000, headers={"Content-Type": "application/json"})
    return await _status(broken, 400, "bad JSON")


async def _status(request: Any, wanted: int, name: str) -> str:
    async with request as response:
        if response.status != wanted:
            raise SystemExit(f"{name}: {response.status}, {await response.text()}")
        await response.read()
    return name
