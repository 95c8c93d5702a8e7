"""A gate lets calls go inside their windows alone, whatever the clocks and the network do, and loses no grant."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from envs.limiter.gate import GateClosed
from envs.limiter.lease import ChatLimiter, LeaseClient
from envs.limiter.messages import Grant, Granted, LimiterPort, Outcome, Service, ServiceCounts, ServiceLimits
from envs.limiter.service import LimiterService
from sake_ray.types import SearchFailure
from tests.envs.limiter.fake_time import NS, FakeTime, SlowPort, excess

PAUSES_S = 120.0
"""Longer than the pauses of a few throttled calls, and far shorter than a grant may be held: a lost one would show."""
LIMITS = ServiceLimits(20.0, burst=4, concurrency=8, late_s=0.05)


@dataclass
class World:
    """A limiter, and gates to it in processes whose clocks differ."""

    service: Service
    most_s: float = 0.0
    seed: int = 0
    time: FakeTime = field(default_factory=FakeTime)
    sent: list[int] = field(default_factory=list)
    under_way: int = 0
    most: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.limiter = LimiterService(clock=self.time.clock, sleep=self.time.sleep, wall=lambda: self.time.now)

    def gate(self, name: str, ahead: int = 0, port: LimiterPort | None = None) -> LeaseClient:
        port = port or SlowPort(self.limiter, self.time, self.most_s, self.rng)
        return LeaseClient(
            port, name, self.service, clock=lambda: self.time.now + ahead, sleep=self.time.sleep, beat_s=1.0
        )

    async def call(self, gate: LeaseClient, takes_s: float = 0.01, outcome: Outcome = Outcome.OK) -> None:
        async with gate.lease() as lease:
            await self.time.sleep(self.rng.choice([0, self.service.limits.late_s / 2]))  # on its way to the service
            self.sent.append(self.time.now)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            try:
                await self.time.sleep(takes_s)
            finally:
                self.under_way -= 1
            lease.outcome = outcome

    async def counts(self) -> ServiceCounts:
        await self.time.sleep(1.0)  # the last reports arrive
        return (await self.limiter.counts())["s"]


def play(world: World, act: Callable[[], Any]) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(act())
        await world.time.run(task)
        await task
        await world.limiter.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for other in rest:
            other.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    asyncio.run(scenario())


@settings(max_examples=40)
@example(  # the grant for the last call comes at the end of a pause, just when the others have been counted
    limits=ServiceLimits(5.0, burst=1, concurrency=1, late_s=0.02),
    ahead=[0, 0],
    calls=[
        (0, 0.0, Outcome.OK, False),
        (0, 0.0, Outcome.THROTTLED, False),
        (0, 0.0, Outcome.THROTTLED, False),
        (1, 0.5, Outcome.OK, True),
    ],
    seed=0,
)
@given(
    limits=st.builds(
        ServiceLimits,
        per_second=st.floats(5.0, 200.0),
        burst=st.integers(1, 6),
        concurrency=st.integers(1, 5),
        late_s=st.sampled_from([0.02, 0.05, 0.2]),
    ),
    ahead=st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=4),
    calls=st.lists(
        st.tuples(st.integers(0, 3), st.floats(0, 1), st.sampled_from(list(Outcome)), st.booleans()), max_size=25
    ),
    seed=st.integers(0, 99),
)
def test_no_window_has_too_many_whatever_the_clocks_the_network_and_the_callers_do(
    limits: ServiceLimits, ahead: list[int], calls: list[tuple[int, float, Outcome, bool]], seed: int
) -> None:
    world = World(Service("s", limits), most_s=0.008, seed=seed)

    async def act() -> None:
        gates = [world.gate(f"client-{index}", skew) for index, skew in enumerate(ahead)]

        async def one(gate: LeaseClient, comes: float, outcome: Outcome, hasty: bool) -> None:
            await world.time.sleep(comes)
            if outcome is Outcome.SPENT or outcome is Outcome.UNUSED:
                outcome = Outcome.FAILED
            call = asyncio.create_task(world.call(gate, outcome=outcome))
            if hasty:
                await world.time.sleep(0.1)
                call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            assert call.cancelled() or call.exception() is None

        await asyncio.gather(*(one(gates[call[0] % len(gates)], *call[1:]) for call in calls))
        # What a caller that gave up was waiting for still comes, perhaps after a pause, and is given back.
        await world.time.sleep(PAUSES_S)
        counts = await world.counts() if calls else ServiceCounts()
        assert counts.under_way == counts.waiting == 0
        # A call that was given up on its way counts as sent.
        assert len(world.sent) <= counts.sent == counts.granted - counts.unused

    play(world, act)
    assert excess(world.sent, limits.per_second, limits.burst) <= 1e-6
    assert world.most <= limits.concurrency


@given(
    ahead=st.integers(-(10**12), 10**12),
    ways=st.lists(st.tuples(st.floats(0, 0.03), st.floats(0, 5.0), st.floats(0, 0.03)), min_size=1, max_size=5),
    starts_in=st.integers(0, NS // 50),
)
def test_a_call_goes_within_its_grants_time_by_the_limiters_clock(
    ahead: int, ways: list[tuple[float, float, float]], starts_in: int
) -> None:
    """Each question takes a way there, a wait and a way back; the last of them is fast."""
    world = World(Service("s", LIMITS))
    granted: list[int] = []

    class Scripted(SlowPort):
        async def acquire(self, client: str, service: str, wanted: int, reports: Any = ()) -> Any:
            there, wait, back = [*ways, (0.001, 1.0, 0.001)][len(granted)]
            await world.time.sleep(there)
            asked = world.time.now
            await world.time.sleep(wait)
            granted.append(world.time.now + starts_in)
            answer = Granted(asked, world.time.now, (Grant(len(granted), 0, granted[-1]),))
            await world.time.sleep(back)
            return answer

    async def act() -> None:
        gate = world.gate("a", ahead, Scripted(world.limiter, world.time, 0.0, world.rng))
        async with gate.lease():
            assert granted[-1] <= world.time.now <= granted[-1] + LIMITS.late_s * NS / 2
        needless = [there + back < LIMITS.late_s / 2 - 0.001 for there, _, back in ways[: gate.late]]
        assert not any(needless) and gate.late == len(granted) - 1

    play(world, act)


def test_callers_share_their_questions_and_wait_as_long_as_they_are_told() -> None:
    world = World(Service("s", LIMITS))
    asked: list[int] = []

    class Counting(SlowPort):
        async def acquire(self, client: str, service: str, wanted: int, reports: Any = ()) -> Any:
            asked.append(wanted)
            return await super().acquire(client, service, wanted, reports)

    async def act() -> None:
        gate = world.gate("a", port=Counting(world.limiter, world.time, 0.0, world.rng))
        await world.call(gate)
        await world.time.sleep(10)
        asked.clear()
        await asyncio.gather(*(world.call(gate) for _ in range(30)))
        # Four at once, less what the lateness takes; then one at a time, as it may start.
        assert asked[0] == 30 and len(asked) <= 28
        async with gate.lease() as lease:
            pass
        assert 0 < lease.waited_s <= 0.05
        assert (await world.counts()).unused == gate.late == 0
        await gate.close()
        assert world.limiter.clients() == 0
        with pytest.raises(RuntimeError, match="was closed"):
            await world.call(gate)

    play(world, act)


def test_a_grant_that_comes_too_late_is_given_back_and_asked_for_again() -> None:
    world = World(Service("s", LIMITS))

    class Stalling(SlowPort):
        stall_s = 0.2

        async def acquire(self, client: str, service: str, wanted: int, reports: Any = ()) -> Any:
            answer = await super().acquire(client, service, wanted, reports)
            stall, self.stall_s = self.stall_s, 0.0
            await self._time.sleep(stall)
            return answer

    async def act() -> None:
        gate = world.gate("a", port=Stalling(world.limiter, world.time, 0.0, world.rng))
        await world.call(gate)
        counts = await world.counts()
        assert gate.late == counts.unused == counts.sent == 1

    play(world, act)


@pytest.mark.parametrize(
    ("error", "set_to", "counted"),
    [
        (None, Outcome.OK, Outcome.OK),
        (KeyError, Outcome.OK, Outcome.FAILED),
        (KeyError, Outcome.THROTTLED, Outcome.THROTTLED),
        (asyncio.CancelledError, Outcome.OK, Outcome.ABANDONED),
        (asyncio.CancelledError, Outcome.UNUSED, Outcome.UNUSED),
    ],
)
def test_how_a_lease_is_left_is_what_is_reported(
    error: type[BaseException] | None, set_to: Outcome, counted: Outcome
) -> None:
    world = World(Service("s", LIMITS))

    async def act() -> None:
        gate = world.gate("a")
        with pytest.raises(error or StopAsyncIteration):
            async with gate.lease() as lease:
                lease.outcome = set_to
                raise error or StopAsyncIteration
        counts = await world.counts()
        if error is not None:
            assert (counts.failed, counts.throttled, counts.unused) == tuple(
                int(counted is each) for each in (Outcome.FAILED, Outcome.THROTTLED, Outcome.UNUSED)
            )
        assert counts.under_way == 0

    play(world, act)


def test_a_refusal_closes_the_gate_for_all_who_wait() -> None:
    world = World(Service("s", replace(LIMITS, cost_per_call=1.0, daily_budget=2.0)))

    async def act() -> None:
        gate = world.gate("a")
        results = await asyncio.gather(*(world.call(gate) for _ in range(6)), return_exceptions=True)
        closed = [result for result in results if isinstance(result, GateClosed)]
        assert len(closed) == 4 and closed[0].reason is SearchFailure.UNAVAILABLE and "budget" in str(closed[0])

    play(world, act)


def test_a_pause_stops_other_gates_and_grants_that_are_on_their_way() -> None:
    world = World(Service("s", LIMITS))

    async def act() -> None:
        one, two = world.gate("a"), world.gate("b")
        await asyncio.gather(world.call(one), world.call(two))
        await ChatLimiter(one).pause(3.0)
        await world.time.sleep(0.001)
        told = world.time.now
        async with ChatLimiter(two).slot():
            assert world.time.now >= told + 2.99 * NS
        async with one.lease() as lease:
            lease.outcome, lease.retry_after_s = Outcome.THROTTLED, 2.0
            told = world.time.now
            waiting = [asyncio.create_task(world.call(gate)) for gate in (one, two)]
            await world.time.sleep(0.5)
            before = len(world.sent)
        await asyncio.gather(*waiting)
        await world.call(two)
        assert all(when >= told + 2.5 * NS for when in world.sent[before:])

    play(world, act)


def test_a_limiter_that_forgot_is_told_again_with_what_is_held() -> None:
    world = World(Service("s", replace(LIMITS, concurrency=2)))

    async def act() -> None:
        port = SlowPort(world.limiter, world.time, 0.0, world.rng)
        gate = world.gate("a", port=port)
        long = asyncio.create_task(world.call(gate, takes_s=20.0))
        await world.time.sleep(1.0)
        await world.limiter.close()
        world.limiter = LimiterService(clock=world.time.clock, sleep=world.time.sleep, wall=lambda: world.time.now)
        port._port = world.limiter
        await world.call(gate)
        assert (await world.counts()).under_way == 1
        assert not long.done()
        await long
        assert (await world.counts()).under_way == 0

    play(world, act)
