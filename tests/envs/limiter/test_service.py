"""The limiter deals fairly, refuses in time, gives back what is not used, and slows down for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.limiter.ledger import Ledger
from envs.limiter.messages import (
    NO_GRANT,
    Grant,
    Granted,
    Outcome,
    Refused,
    Report,
    Service,
    ServiceLimits,
    UnknownServiceError,
)
from envs.limiter.service import LimiterService
from sake_ray.types import SearchFailure
from tests.envs.limiter.fake_time import NS, FakeTime

LIMITS = ServiceLimits(10.0, burst=4, concurrency=100, late_s=0.0)
MORNING = 20_000 * 86_400 * NS  # a midnight, UTC


Act = Callable[[LimiterService, FakeTime], Coroutine[Any, Any, None]]


def play(act: Act, service: Service, *, ledger: Ledger | None = None, lease_s: float = 1000.0) -> None:
    """Run a scenario in fake time: two clients, a and b, and buckets that are full."""

    async def full(limiter: LimiterService, time: FakeTime) -> None:
        await limiter.register("a", service)
        await limiter.register("b", service)
        await time.sleep(60)
        await limiter.register("a", service)
        await limiter.register("b", service)
        await act(limiter, time)

    async def scenario() -> None:
        time = FakeTime()
        limiter = LimiterService(
            clock=time.clock, sleep=time.sleep, wall=lambda: MORNING + time.now, ledger=ledger, lease_s=lease_s
        )
        task = asyncio.create_task(full(limiter, time))
        await time.run(task)
        await task

    asyncio.run(scenario())


async def take(limiter: LimiterService, client: str = "a", wanted: int = 1) -> tuple[Grant, ...]:
    answer = await limiter.acquire(client, "s", wanted)
    assert isinstance(answer, Granted), answer
    return answer.grants


async def refusal(limiter: LimiterService, client: str = "a") -> Refused:
    answer = await limiter.acquire(client, "s", 1)
    assert isinstance(answer, Refused), answer
    return answer


async def end(
    limiter: LimiterService, grant: Grant, outcome: Outcome, retry_s: float | None = None, client: str = "a"
) -> None:
    await limiter.report(client, "s", [Report(grant.id, outcome, retry_s)])


@settings(max_examples=25)
@given(
    wanted=st.lists(st.integers(1, 100), min_size=2, max_size=5),
    concurrency=st.integers(1, 30),
    per_second=st.floats(5.0, 40.0),
)
def test_clients_that_never_have_enough_get_the_same_however_much_they_want(
    wanted: list[int], concurrency: int, per_second: float
) -> None:
    got = dict.fromkeys(range(len(wanted)), 0)
    service = Service("s", replace(LIMITS, per_second=per_second, burst=1, concurrency=concurrency))

    async def act(limiter: LimiterService, time: FakeTime) -> None:
        async def greedy(index: int) -> None:
            name = f"greedy-{index}"
            await limiter.register(name, service)
            while sum(got.values()) < 25:
                grants = await take(limiter, name, wanted[index])
                got[index] += len(grants)
                await asyncio.sleep(0)
                assert (await limiter.counts())["s"].under_way <= concurrency
                await limiter.report(name, "s", [Report(grant.id, Outcome.OK) for grant in grants])

        await asyncio.gather(*(greedy(index) for index in got))

    play(act, service)
    assert max(got.values()) - min(got.values()) <= 1


def test_grants_are_dealt_one_at_a_time_among_those_that_wait() -> None:
    async def act(limiter: LimiterService, time: FakeTime) -> None:
        first = await take(limiter, wanted=64)
        assert len(first) == 4, "all that can start now; what cannot is not waited for"
        for client in ("a", "a", "b"):
            await limiter.register(client, limiter_service)
        greedy = [asyncio.create_task(take(limiter, "a", 64)) for _ in range(2)]
        await asyncio.sleep(0)
        modest = asyncio.create_task(take(limiter, "b", 1))
        await asyncio.wait([*greedy, modest], return_when=asyncio.FIRST_COMPLETED)
        assert not modest.done(), "a came first"
        assert [grant.start_ns for grant in await modest] == [60 * NS + 2 * NS // 10]
        assert sum(task.done() for task in greedy) == 1, "and then b, before a's second question"
        await asyncio.gather(*greedy)

    limiter_service = Service("s", LIMITS)
    play(act, limiter_service)


def test_a_question_that_is_cancelled_or_a_grant_that_is_unused_changes_nothing_for_others() -> None:
    async def act(limiter: LimiterService, time: FakeTime) -> None:
        taken = await take(limiter, wanted=4)
        waiting = asyncio.create_task(take(limiter))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        cut = asyncio.create_task(limiter.acquire("b", "s", 4))
        await asyncio.sleep(0)
        await limiter.report("a", "s", [Report(grant.id, Outcome.UNUSED) for grant in taken])
        cut.cancel()  # its answer is there, but it has not heard of it
        await asyncio.gather(cut, return_exceptions=True)
        assert [grant.start_ns for grant in await take(limiter, "b", 9)] == [time.now] * 4
        counts = (await limiter.counts())["s"]
        assert (counts.sent, counts.under_way, counts.waiting, counts.cost_today) == (0, 4, 0, 4.0)
        assert counts.granted - counts.unused == 4

    play(act, Service("s", replace(LIMITS, cost_per_call=1.0)))


def test_places_come_back_with_reports_with_the_client_and_with_its_silence() -> None:
    async def act(limiter: LimiterService, time: FakeTime) -> None:
        first, second = await take(limiter, wanted=9)
        waiting = asyncio.create_task(take(limiter, "b"))
        await time.sleep(1)
        assert not waiting.done()
        await limiter.report("b", "s", [Report(second.id, Outcome.OK)])
        await time.sleep(0.1)
        assert not waiting.done(), "what is another's cannot be ended"
        await end(limiter, first, Outcome.ABANDONED)
        (third,) = await waiting
        await limiter.leave("b")
        assert (await limiter.counts())["s"].under_way == 1
        with pytest.raises(UnknownServiceError):
            await limiter.acquire("b", "s", 1)
        await limiter.register("b", Service("s", limits), held=[third])  # as with a limiter that was started anew
        assert (await limiter.counts())["s"].under_way == 2
        waiting = asyncio.create_task(take(limiter, "b"))
        began = time.now
        while not waiting.done():
            await time.sleep(1)
            await limiter.report("b", "s", ())
        assert len(await waiting) == 1 and limiter.clients() == 1
        assert 18 * NS < time.now - began < 24 * NS, "a was silent for more than 20 s"

    limits = replace(LIMITS, concurrency=2)
    play(act, Service("s", limits), lease_s=20.0)


def test_keys_take_turns_and_a_spent_one_is_left_out_until_the_next_day() -> None:
    async def act(limiter: LimiterService, time: FakeTime) -> None:
        grants = await take(limiter, wanted=8)
        assert [grant.key for grant in grants] == [0, 1] * 4 and {grant.start_ns for grant in grants} == {time.now}
        await end(limiter, grants[0], Outcome.SPENT)
        assert {grant.key for _ in range(4) for grant in await take(limiter, wanted=2)} == {1}
        await end(limiter, grants[1], Outcome.SPENT, 5.0)
        refused = await refusal(limiter)
        assert refused.reason is SearchFailure.UNAVAILABLE and refused.retry_s == pytest.approx(5.0)
        assert "each of its 2 keys" in refused.message and (await limiter.counts())["s"].keys_spent == 2
        await time.sleep(5)
        assert {grant.key for grant in await take(limiter)} == {1}
        await time.sleep(86_400)
        await limiter.register("a", Service("s", LIMITS, ("k", "l")))
        assert {grant.key for grant in await take(limiter, wanted=2)} == {0, 1}

    play(act, Service("s", LIMITS, ("k", "l")))


def test_the_budget_is_one_for_all_keys_and_begins_anew_each_day() -> None:
    async def act(limiter: LimiterService, time: FakeTime) -> None:
        grants = await take(limiter, wanted=8)
        assert len(grants) == 5
        refused = await refusal(limiter)
        assert refused.reason is SearchFailure.UNAVAILABLE and "daily budget of 1 " in refused.message
        assert refused.retry_s == 86_400 - time.now / NS
        await end(limiter, grants[-1], Outcome.UNUSED)
        await end(limiter, grants[0], Outcome.FAILED)
        assert len(await take(limiter, wanted=8)) == 1
        assert (await refusal(limiter)).reason is SearchFailure.UNAVAILABLE
        await time.sleep(86_400)
        await limiter.register("a", Service("s", limits, ("k", "l")))
        assert len(await take(limiter, wanted=8)) == 5

    limits = replace(LIMITS, cost_per_call=0.2, daily_budget=1.0)
    play(act, Service("s", limits, ("k", "l")))


def test_too_many_stops_the_key_for_all_then_slows_it_and_lets_it_recover() -> None:
    async def act(limiter: LimiterService, time: FakeTime) -> None:
        grants = await take(limiter, wanted=4)
        for grant in grants[:3]:  # told to several calls of one moment
            await end(limiter, grant, Outcome.THROTTLED, 2.0)
        told = time.now
        assert [(await take(limiter, "b"))[0].start_ns - told for _ in range(3)] == [
            2 * NS,
            2 * NS + 2 * NS // 10,  # half as many as before
            2 * NS + 4 * NS // 10,
        ]
        for _ in range(100):
            (grant,) = await take(limiter)
            await end(limiter, grant, Outcome.OK)
        await time.sleep(10)
        assert len(await take(limiter, wanted=9)) == 4
        assert (await take(limiter))[0].start_ns - time.now <= NS // 10, "back to the full rate"
        await limiter.report("a", "s", [Report(NO_GRANT, Outcome.THROTTLED, 5.0)])
        told = time.now
        assert (await take(limiter))[0].start_ns == told + 5 * NS

    play(act, Service("s", LIMITS))


def test_too_many_without_a_time_pauses_longer_each_time() -> None:
    async def act(limiter: LimiterService, time: FakeTime) -> None:
        pauses = []
        for _ in range(4):
            (grant,) = await take(limiter)
            told = max(time.now, grant.start_ns)
            await time.sleep((told - time.now) / NS)
            await end(limiter, grant, Outcome.THROTTLED)
            grants = await take(limiter)
            pauses.append((grants[0].start_ns - told) / NS)
            await time.sleep(max(0, grants[0].start_ns - time.now) / NS)
            await end(limiter, grants[0], Outcome.ABANDONED)
        assert pauses == pytest.approx([0.5, 1.0, 2.0, 4.0])

    play(act, Service("s", LIMITS))


def test_a_service_that_keeps_failing_gets_a_rest_and_one_probe() -> None:
    async def act(limiter: LimiterService, time: FakeTime) -> None:
        grants = await take(limiter, wanted=4)
        await end(limiter, grants[0], Outcome.FAILED)
        waiting = asyncio.create_task(refusal(limiter, "b"))
        await asyncio.sleep(0)
        await end(limiter, grants[1], Outcome.FAILED)
        assert (await waiting).reason is SearchFailure.BROKEN, "those who wait are told at once"
        assert (await refusal(limiter)).retry_s == 30.0
        await time.sleep(30)
        (probe,) = await take(limiter, wanted=9)
        assert (await refusal(limiter, "b")).reason is SearchFailure.BROKEN
        await end(limiter, probe, Outcome.OK)
        assert len(await take(limiter, "b", 9)) == 3
        assert (await limiter.counts())["s"].breaker_opened == 1

    play(act, Service("s", replace(LIMITS, breaker_failures=2)))


def test_of_several_registrations_the_tightest_limits_hold() -> None:
    async def act(limiter: LimiterService, time: FakeTime) -> None:
        await limiter.register("b", Service("s", replace(LIMITS, per_second=20.0, burst=2, concurrency=3)))
        assert [grant.start_ns - time.now for grant in await take(limiter, wanted=9)] == [0, 0]
        assert (await take(limiter))[0].start_ns == 60 * NS + NS // 10
        with pytest.raises(ValueError, match="keys="):
            await limiter.register("b", Service("s", LIMITS, ("other",)))

    play(act, Service("s", LIMITS))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"per_second": 0.0}, "per_second=0"),
        ({"burst": 0}, "burst=0"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"late_s": -1.0}, "late_s=-1"),
        ({"breaker_s": float("nan")}, "breaker_s=nan"),
        ({"daily_budget": 1.0, "cost_per_call": 2.0}, "cost_per_call=2"),
    ],
)
async def test_limits_that_let_nothing_through_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"service 's': {message}"):
        await LimiterService().register("a", Service("s", replace(LIMITS, **wrong)))  # type: ignore[arg-type]


async def test_a_ledger_that_cannot_be_written_fails_whoever_waits_for_it() -> None:
    ledger = Ledger()
    limiter = LimiterService(ledger=ledger)
    await limiter.register("a", Service("s", ServiceLimits(1000.0, late_s=0.0, cost_per_call=1.0)))
    ledger.close()
    with pytest.raises(Exception, match="closed database"):
        await asyncio.wait_for(limiter.acquire("a", "s", 1), 5)
