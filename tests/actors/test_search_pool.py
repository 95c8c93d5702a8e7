"""The search pool answers every query or says "failed"; a bug goes through; the pool travels into actors."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray

from actors.search_pool import PoolSettings, SearchPool
from actors.search_worker import Busy, SearchWorker
from envs.tools.base import SearchUnavailable
from sake_ray.types import (
    Example,
    ImageRef,
    ImageSearch,
    Observation,
    QueryResult,
    SearchFailure,
    SearchKind,
    TextSearch,
)
from tests.actors.names import until_free
from tests.waiting import until_states

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
            case word if word.startswith("die once "):
                if _first(word.removeprefix("die once ")):
                    os._exit(1)
            case word if word.startswith("cancelled "):
                try:
                    await asyncio.sleep(60)
                finally:
                    _first(word.removeprefix("cancelled "))
        return [QueryResult(query, "success", f"{example_id} {query} {os.getpid()}") for query in queries]

    async def search_images(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        return [QueryResult(query, "no_result") for query in queries]


def _first(flag: str) -> bool:
    """Whether nobody has been here before; the flag is a file, because processes die here."""
    path = Path(flag)
    first = not path.exists()
    path.touch()
    return first


class Elsewhere:
    """An actor that was handed the pool, as a rollout worker is."""

    async def ask(self, pool: SearchPool) -> str:
        return (await pool.search(POST, ImageSearch(("far",)))).results[0].status

    async def keep(self, pool: SearchPool, flag: str) -> tuple[int, list[str], int]:
        """Search until the file `flag` is there: how often, what went wrong, and how many workers it knows then."""
        asked, wrong = 0, []
        while not await asyncio.to_thread(Path(flag).exists):
            answers = await asyncio.gather(*(pool.search(POST, TextSearch((f"q{asked + n}",))) for n in range(8)))
            asked += len(answers)
            wrong += [answer.results[0].status for answer in answers if answer.results[0].status != "success"]
        return asked, wrong, len(pool._workers)


async def test_a_late_or_unavailable_tool_is_a_failed_result_and_a_bug_raises() -> None:
    worker = SearchWorker("search-0", ScriptedTool)
    for query, reason in (("slow", SearchFailure.TIMEOUT), ("unavailable", SearchFailure.BROKEN)):
        observation = await worker.search("17_1", TextSearch((query, "b")), 0.05)
        assert isinstance(observation, Observation)
        told = [(result.query, result.status, result.reason) for result in observation.results]
        assert told == [(query, "failed", reason), ("b", "failed", reason)]
    with pytest.raises(KeyError, match="a bug of ours"):
        await worker.search("17_1", TextSearch(("bug",)), 0.05)
    assert (await worker.counts())["searches"] == 3.0 and repr(worker) == "search-0"


async def test_a_worker_turns_away_what_it_cannot_take_but_never_a_search_when_it_has_nothing_to_do() -> None:
    worker = SearchWorker("search-0", ScriptedTool, max_pending=2)
    slow = [asyncio.create_task(worker.search("17_1", TextSearch(("slow",)), 60)) for _ in range(2)]
    await asyncio.sleep(0)
    assert await worker.search("17_1", TextSearch(("a",)), 1) == Busy(2)
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)
    assert isinstance(await worker.search("17_1", TextSearch(("a", "b", "c")), 1), Observation)
    assert (await worker.counts())["pending"] == 0


@pytest.mark.integration
async def test_the_pool_spreads_searches_keeps_its_deadline_and_reaches_across_actors(local_ray: None) -> None:
    await until_free("search-0")
    pool = SearchPool.start(ScriptedTool, PoolSettings(1.0), workers=2)
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
async def test_a_tool_that_cannot_be_built_stops_the_start(local_ray: None) -> None:
    await until_free("search-0")
    broken = SearchPool.start(functools.partial(_no_tool, "no such folder"), PoolSettings(1.0), workers=1)
    with pytest.raises(ray.exceptions.RayActorError, match="no such folder"):
        await broken.ready()
    await broken.shutdown()


@pytest.mark.integration
async def test_a_worker_that_dies_is_started_anew_and_its_searches_are_asked_once_more(
    local_ray: None, tmp_path: Path
) -> None:
    await until_free("search-0")
    pool = SearchPool.start(ScriptedTool, PoolSettings(60.0), workers=1)
    once = TextSearch((f"die once {tmp_path / 'flag'}",))
    answers = await asyncio.gather(*(pool.search(POST, action) for action in (once, TextSearch(("fine",)))))
    assert [answer.results[0].status for answer in answers] == ["success", "success"]
    dead = await pool.search(POST, TextSearch(("die",)))
    assert (dead.results[0].status, dead.results[0].reason) == ("failed", SearchFailure.LOST)
    assert (await pool.search(POST, TextSearch(("fine",)))).results[0].status == "success"
    await pool.shutdown()


@pytest.mark.integration
async def test_a_query_goes_to_one_worker_whoever_asks_is_asked_once_a_post_and_ends_with_its_trajectory(
    local_ray: None, tmp_path: Path
) -> None:
    await until_free("search-0")
    pool = SearchPool.start(ScriptedTool, PoolSettings(10.0, max_pending=4, per_query=True), workers=2)
    posts = [Example(f"17_{n}", "text", POST.image, ()) for n in range(3)]
    asked = [pool.search(post, TextSearch((f"q{n}",))) for post in posts for n in range(8) for _ in range(3)]
    answers = await asyncio.gather(*asked)
    workers = {(a.results[0].query, a.results[0].text.split()[-1]) for a in answers}
    assert len(workers) == 8 and len({worker for _, worker in workers}) == 2
    assert (await pool.search(posts[0], TextSearch(("q1",)))).results[0].cached
    assert (await pool.counts())["searches"] == 24

    begun = asyncio.create_task(pool.search(POST, TextSearch((f"cancelled {tmp_path / 'flag'}",))))
    await asyncio.sleep(0.5)
    begun.cancel()
    for _ in range(100):
        if (tmp_path / "flag").exists():
            break
        await asyncio.sleep(0.05)
    assert (tmp_path / "flag").exists(), "the search goes on although nobody waits for it"
    await pool.shutdown()


@pytest.mark.integration
async def test_no_search_is_lost_while_the_pool_changes_and_copies_elsewhere_learn_of_it(
    local_ray: None, tmp_path: Path
) -> None:
    await until_free("search-0", "search-1")
    pool = SearchPool.start(ScriptedTool, PoolSettings(20.0), workers=2)
    await pool.ready()
    forgotten = SearchPool(pool._workers, PoolSettings(20.0))  # hears nothing until it asks
    elsewhere = ray.remote(Elsewhere).options(num_cpus=0).remote()
    searching = asyncio.ensure_future(elsewhere.keep.remote(pool, str(tmp_path / "flag")))
    for size in (4, 1, 3):
        await asyncio.sleep(0.3)
        await pool.resize(size)
        await until_states(pool, ["serving"] * size)
    await asyncio.sleep(0.3)
    (tmp_path / "flag").touch()
    asked, wrong, known = await searching
    assert asked > 50 and wrong == [] and known == 3
    assert (await pool.counts())["searches"] == asked, "what those that left had counted stays"
    late = await asyncio.gather(*(forgotten.search(POST, TextSearch((f"late{n}",))) for n in range(8)))
    assert {answer.results[0].status for answer in late} == {"success"} and len(forgotten._workers) == 3
    await pool.shutdown()


def _no_tool(reason: str) -> ScriptedTool:
    raise ValueError(reason)
