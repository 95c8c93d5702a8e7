"""The search pool answers every query or says "failed"; a bug goes through; the pool travels into actors."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Sequence

import pytest
import ray

from actors.search_pool import SearchPool
from actors.search_worker import SearchWorker
from envs.tools.base import SearchUnavailable
from sake_ray.types import Example, ImageRef, ImageSearch, QueryResult, SearchKind, TextSearch

POST = Example("17_1", "text", ImageRef("none.png", 40, 40), ())


class ScriptedTool:
    """Does what its first query says."""

    async def search_text(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        match queries[0]:
            case "slow":
                await asyncio.sleep(60)
            case "stuck":
                time.sleep(6)  # noqa: ASYNC251 - a tool that blocks its worker, which only the pool can notice
            case "unavailable":
                raise SearchUnavailable("quota")
            case "bug":
                raise KeyError("a bug of ours")
            case "die":
                os._exit(1)
        return [QueryResult(query, "success", f"{example_id} {query} {os.getpid()}") for query in queries]

    async def search_images(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        return [QueryResult(query, "no_result") for query in queries]


class Elsewhere:
    """An actor that was handed the pool, as a rollout worker is."""

    async def ask(self, pool: SearchPool) -> str:
        return (await pool.search(POST, ImageSearch(("far",)))).results[0].status


async def test_a_late_or_unavailable_tool_is_a_failed_result_and_a_bug_raises() -> None:
    worker = SearchWorker("search-0", ScriptedTool, timeout_s=0.05)
    for query in ("slow", "unavailable"):
        observation = await worker.search("17_1", TextSearch((query, "b")))
        assert [(result.query, result.status) for result in observation.results] == [(query, "failed"), ("b", "failed")]
    with pytest.raises(KeyError, match="a bug of ours"):
        await worker.search("17_1", TextSearch(("bug",)))
    assert (await worker.stats()) == {"searches": 3.0} and repr(worker) == "search-0"


@pytest.mark.integration
async def test_the_pool_spreads_searches_keeps_its_deadline_and_reaches_across_actors(local_ray: None) -> None:
    await _until_free("search-0")
    pool = SearchPool.start(ScriptedTool, workers=2, timeout_s=1.0)
    await pool.ready()
    answers = await asyncio.gather(*(pool.search(POST, TextSearch((f"q{i}",))) for i in range(4)))
    assert [answer.results[0].query for answer in answers] == ["q0", "q1", "q2", "q3"]
    assert len({answer.results[0].text.split()[-1] for answer in answers}) == 2, "both workers were asked"
    images = await pool.search(POST, ImageSearch(("x", "y")))
    assert images.kind is SearchKind.IMAGE and [result.status for result in images.results] == ["no_result"] * 2
    with pytest.raises(KeyError, match="a bug of ours"):
        await pool.search(POST, TextSearch(("bug",)))

    elsewhere = ray.remote(Elsewhere).options(num_cpus=0).remote()
    assert await elsewhere.ask.remote(pool) == "no_result"

    begin = time.monotonic()
    late = await asyncio.gather(*(pool.search(POST, TextSearch((query,))) for query in ("stuck", "slow")))
    assert [answer.results[0].status for answer in late] == ["failed", "failed"] and time.monotonic() - begin < 5
    await pool.shutdown()


@pytest.mark.integration
async def test_a_tool_that_cannot_be_built_stops_the_start_and_a_worker_that_keeps_dying_raises(
    local_ray: None,
) -> None:
    await _until_free("search-0")
    broken = SearchPool.start(functools.partial(_no_tool, "no such folder"), workers=1, timeout_s=1.0)
    with pytest.raises(ray.exceptions.RayActorError, match="no such folder"):
        await broken.ready()
    await broken.shutdown()
    await _until_free("search-0")
    pool = SearchPool.start(ScriptedTool, workers=1, timeout_s=60.0)
    with pytest.raises(ray.exceptions.RayActorError):
        await pool.search(POST, TextSearch(("die",)))
    await pool.shutdown()


async def _until_free(name: str) -> None:
    """Ray frees a dead actor's name a moment later."""
    for _ in range(100):
        try:
            ray.get_actor(name)
        except ValueError:
            return
        await asyncio.sleep(0.1)


def _no_tool(reason: str) -> ScriptedTool:
    raise ValueError(reason)
