"""A pool that grows, shrinks, loses workers and waits for room: each group comes back once, from current weights."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections import Counter
from typing import Any

import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.rollout_pool import RolloutError, RolloutPool
from sake_ray.interfaces import GroupLost, LearnerLost
from sake_ray.types import Example, ImageRef
from tests.actors.fake_host import FakeHost
from tests.waiting import until, until_states

# What may happen, each with a number that says to whom or how much.
EVENTS = st.tuples(
    st.sampled_from(
        ["rollout"] * 4 + ["resize"] * 3 + ["lose", "hang", "update", "room", "cancel", "bad start", "wait"]
    ),
    st.integers(0, 7),
)


def post(name: object) -> Example:
    return Example(str(name), "text", ImageRef("none.png", 40, 40), ())


def pool_of(host: FakeHost, workers: int, **options: Any) -> RolloutPool:
    return RolloutPool(host.spawn, workers, host=host, **({"retry_s": 0.0} | options))


@given(st.lists(EVENTS, max_size=40), st.integers(1, 4))
@settings(max_examples=150)
def test_whatever_happens_each_group_comes_back_once_and_the_pool_ends_as_asked(
    events: list[tuple[str, int]], workers: int
) -> None:
    asyncio.run(_live_through(events, workers))


async def _live_through(events: list[tuple[str, int]], workers: int) -> None:
    host = FakeHost()
    pool = pool_of(host, workers, max_attempts=1000, max_respawns=1000, health_every_s=0.005, health_limit_s=0.02)
    await pool.start()
    pool._roster._limits = dataclasses.replace(pool._roster._limits, start_s=0.1, update_s=0.1)
    groups: dict[int, asyncio.Task[Any]] = {}
    version = 0
    for number, (event, value) in enumerate(events):
        alive = host.alive()
        match event:
            case "rollout":
                groups[number] = asyncio.create_task(pool.rollout(post(number), seeds=range(value + 1)))
            case "resize":
                await pool.resize(value + 1)
            case "lose" if alive:
                alive[value % len(alive)].die()
            case "hang" if alive:
                alive[value % len(alive)].hung = True
            case "update":
                version += 1
                await pool.update_weights({}, version)
                host.published = version
            case "room":
                host.place = value
            case "cancel" if groups:
                groups.pop(list(groups)[value % len(groups)]).cancel()
            case "bad start":
                host.bad_starts += value
        for _ in range(value):
            await asyncio.sleep(0)
    host.place = 1000
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*groups.values())
    assert [answer.example.id for answer in answers] == [str(number) for number in groups]
    await until(
        lambda: [(w.index, w.hung) for w in host.alive()] == [(index, False) for index in range(pool.size)], every_s=0
    )
    await until(lambda: [s.state for s in pool._roster.slots.values()] == ["serving"] * pool.size, every_s=0)
    await until(lambda: all(slot.load == 0 for slot in pool._roster.slots.values()), every_s=0)
    assert all(worker.version >= host.published for worker in host.alive())
    await pool.shutdown()
    assert not host.alive()


async def test_those_that_leave_finish_what_they_have_and_what_they_counted_stays() -> None:
    host = FakeHost()
    pool = pool_of(host, 3)
    await pool.start()
    host.held = {f"{n}-0000000000000000" for n in range(3)}
    groups = [asyncio.create_task(pool.rollout(post(n), seeds=[0])) for n in range(3)]
    await until(lambda: len(host.begun) == 3)
    await pool.resize(1)
    assert [(s.name, s.state) for s in await pool.states()] == [
        ("rollout-0", "serving"), ("rollout-1", "draining"), ("rollout-2", "draining"),
    ]  # fmt: skip
    await asyncio.gather(*(pool.rollout(post(f"new{n}"), seeds=[0, 1]) for n in range(4)))
    assert {worker for group, worker in host.begun if group.startswith("new")} == {"rollout-0"}

    await pool.resize(2)  # the one that drains still can
    assert [s.state for s in await pool.states()] == ["serving", "serving", "draining"]
    host.held.clear()
    await asyncio.gather(*groups)
    await until(lambda: len(pool._roster.slots) == 2)
    assert len(host.workers) == 3 and [w.ended for w in host.workers] == [False, False, True]
    counts = await pool.counts()
    assert (counts.workers, counts.generated_tokens, counts.respawns) == (2, 11, 0)
    await pool.resize(3)
    await until(lambda: len(host.alive()) == 3)
    assert (await pool.counts()).generated_tokens == 11
    await pool.shutdown()
    with pytest.raises(ValueError, match="rollout=0"):
        await pool.resize(0)


async def test_without_room_the_pool_waits_and_says_so_and_only_its_first_start_has_a_limit(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.actor_host.WARN_EVERY_S", 0.02)
    host = FakeHost(place=1)
    with pytest.raises(RolloutError, match=r"rollout-1 found no room in \d s: it asks for a place; the cluster has 1"):
        await pool_of(host, 2, start_timeout_s=0.5).start()
    assert not host.alive(), "what had started is stopped"

    pool = pool_of(host, 1, max_respawns=1)
    await pool.start()
    host.place = 0
    host.alive()[0].die()
    with caplog.at_level(logging.WARNING):
        group = asyncio.create_task(pool.rollout(post("a"), seeds=[0]))
        await until_states(pool, ["placing"])
        await until(lambda: "rollout-0 has been waiting for room" in caplog.text)
        assert not group.done()
    host.place = 1
    assert (await group).example.id == "a"
    await pool.shutdown()


async def test_a_bug_in_looking_after_the_workers_ends_every_wait_with_its_traceback() -> None:
    host = FakeHost()
    pool = pool_of(host, 1, health_every_s=0.005)
    await pool.start()
    host.bug = KeyError("a bug of ours")
    with pytest.raises(RolloutError, match="a bug of ours") as ended:
        for number in range(10_000):
            await pool.rollout(post(number), seeds=[0])
    assert isinstance(ended.value.__cause__, KeyError)
    await pool.shutdown()


async def test_weights_lost_with_the_learner_are_no_failed_start_and_the_next_ones_bring_the_workers_back() -> None:
    host = FakeHost()
    pool = pool_of(host, 1, max_respawns=1)
    await pool.start()
    gone: Any = ray.exceptions.ObjectLostError("0" * 56, None, "")
    await pool.update_weights(gone, 1)
    host.alive()[0].die()
    with pytest.raises(LearnerLost, match="newest weights are lost"):
        await pool.rollout(post("a"), seeds=[0])
    await pool.update_weights({}, 2)
    host.published = 2
    assert (await pool.rollout(post("a"), seeds=[0])).example.id == "a"
    await pool.shutdown()


async def test_a_group_lost_too_often_says_so_and_a_pool_that_gave_up_is_tried_again_by_a_resize() -> None:
    host = FakeHost()
    pool = pool_of(host, 1, max_attempts=2, max_respawns=2)
    await pool.start()
    host.held = {"a-0000000000000000"}
    group = asyncio.create_task(pool.rollout(post("a"), seeds=[0]))
    for tries in (1, 2):
        await until(functools.partial(_was_begun, host, tries))
        host.alive()[0].die()
    with pytest.raises(GroupLost, match="lost its worker 2 times"):
        await group
    await until(host.alive)
    host.bad_starts = 2
    host.alive()[0].die()
    with pytest.raises(RolloutError, match="no rollout worker is left"):
        await pool.rollout(post("b"), seeds=[0])
    await pool.resize(1)
    assert (await pool.rollout(post("b"), seeds=[0])).example.id == "b"
    await pool.shutdown()


def _was_begun(host: FakeHost, times: int) -> bool:
    return Counter(group for group, _ in host.begun)["a-0000000000000000"] == times
