"""The limiter: exact under any arrivals, pauses and cancellations, in virtual time; a glance at real time."""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.rate_limit import Limits, RateLimiter

NS = 1_000_000_000


class FakeTime:
    """Virtual nanoseconds: time moves only when every task sleeps."""

    def __init__(self) -> None:
        self.now = 0
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    def clock(self) -> int:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await self.until(self.now + math.ceil(seconds * NS))

    async def until(self, when: int) -> None:
        self._count += 1
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (when, self._count, woken))
        await woken

    async def run(self, *tasks: asyncio.Task[None]) -> None:
        while True:
            for _ in range(20):  # whatever can go on without time passing goes on
                await asyncio.sleep(0)
            if all(task.done() for task in tasks):
                return
            when, _, woken = heapq.heappop(self._sleepers)
            self.now = max(self.now, when)
            if not woken.done():
                woken.set_result(None)


@dataclass(frozen=True)
class Call:
    """One caller: when it comes, how long its call takes, and after how long it gives up (None: never)."""

    arrives: int
    takes: int
    patience: int | None = None


@dataclass
class Record:
    begun: dict[int, int] = field(default_factory=dict)
    under_way: int = 0
    most: int = 0


def play(limits: Limits, calls: list[Call], pauses: Sequence[tuple[int, int]] = ()) -> Record:
    """Run the calls (in order of arrival) and pauses (when, how long, in ns); when each call began."""
    fake, record = FakeTime(), Record()

    async def make(limiter: RateLimiter, index: int, call: Call) -> None:
        async with limiter.slot():
            record.begun[index] = fake.now
            record.under_way += 1
            record.most = max(record.most, record.under_way)
            try:
                await fake.until(fake.now + call.takes)
            finally:
                record.under_way -= 1

    async def come(limiter: RateLimiter, index: int, call: Call) -> None:
        await fake.until(call.arrives)
        task = asyncio.create_task(make(limiter, index, call))
        if call.patience is not None:
            await fake.until(call.arrives + call.patience)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def stop(limiter: RateLimiter, when: int, length: int) -> None:
        await fake.until(when)
        await limiter.pause(length / NS)

    async def scenario() -> None:
        limiter = RateLimiter(limits, clock=fake.clock, sleep=fake.sleep)
        coming = [asyncio.create_task(come(limiter, index, call)) for index, call in enumerate(calls)]
        stopping = [asyncio.create_task(stop(limiter, *pause)) for pause in pauses]
        await fake.run(*coming, *stopping)

    asyncio.run(scenario())
    return record


TIMES = st.integers(0, 4 * NS)
LIMITS = st.builds(
    Limits,
    per_second=st.floats(0.3, 50.0) | st.integers(1, 7).map(float),
    burst=st.integers(1, 4),
    concurrency=st.integers(1, 4),
)
PATIENT = st.builds(Call, arrives=TIMES, takes=st.integers(0, NS))
HASTY = st.builds(Call, arrives=TIMES, takes=st.integers(0, NS), patience=st.integers(0, NS))


def arriving(calls: st.SearchStrategy[Call]) -> st.SearchStrategy[list[Call]]:
    return st.lists(calls, max_size=10).map(lambda made: sorted(made, key=lambda call: call.arrives))


@given(
    limits=LIMITS, calls=arriving(PATIENT | HASTY), pauses=st.lists(st.tuples(TIMES, st.integers(0, NS)), max_size=3)
)
def test_never_more_than_allowed_and_in_order_of_arrival(
    limits: Limits, calls: list[Call], pauses: list[tuple[int, int]]
) -> None:
    record = play(limits, calls, pauses)
    begun = sorted(record.begun.items())
    times = [when for _, when in begun]
    assert times == sorted(times), "first come, first served"
    interval = NS / limits.per_second
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert times[last] - times[first] >= (last - first + 1 - limits.burst) * interval - 1e-3
    assert record.most <= limits.concurrency
    assert not any(start < when < start + length for start, length in pauses for when in times)
    patient = {index for index, call in enumerate(calls) if call.patience is None}
    assert patient <= set(record.begun), "a caller that waits gets its turn"


@given(limits=LIMITS, calls=arriving(PATIENT))
def test_no_call_waits_longer_than_it_must(limits: Limits, calls: list[Call]) -> None:
    """Against a bucket worked out by hand: call k begins once it came, k-1 began, and the k-burst-th is old enough."""
    endless = Limits(limits.per_second, limits.burst, concurrency=len(calls) + 1)
    begun = play(endless, calls).begun
    # The bucket's level in exact arithmetic, as tokens times the interval.
    interval = math.ceil(NS / limits.per_second)
    level, at = interval * limits.burst, 0
    for index, call in enumerate(calls):
        now = max(call.arrives, at)
        level = min(interval * limits.burst, level + now - at)
        now, level = (now, level) if level >= interval else (now + interval - level, interval)
        level, at = level - interval, now
        assert abs(begun[index] - now) <= index + 1  # a nanosecond a call, for sleeps in floating-point seconds


@given(limits=LIMITS, calls=arriving(PATIENT), hasty=st.lists(TIMES, min_size=1, max_size=5))
def test_a_cancelled_waiter_gives_its_place_back(limits: Limits, calls: list[Call], hasty: list[int]) -> None:
    """Callers that give up before their turn change nothing for the others."""
    alone = Limits(limits.per_second, limits.burst, concurrency=1)
    holder = Call(0, 10 * NS)  # nobody else gets in before ten seconds
    without = play(alone, [holder, *calls]).begun
    gone = [Call(when, 0, patience=NS) for when in hasty]
    everyone = sorted([*calls, *gone], key=lambda call: call.arrives)
    with_gone = play(alone, [holder, *everyone]).begun
    # Order among equals may differ; the times at which anything begins may not.
    assert sorted(without.values()) == sorted(with_gone.values())


def test_a_pause_holds_everybody_and_spends_the_burst() -> None:
    calls = [Call(0, 0)] * 2 + [Call(NS, 0)] * 3
    begun = play(Limits(10.0, burst=3), calls, [(NS // 2, 2 * NS)]).begun
    assert [when / NS for when in begun.values()] == [0.0, 0.0, 2.5, 2.6, 2.7]


def test_a_pause_holds_one_who_already_sleeps() -> None:
    begun = play(Limits(1.0), [Call(0, 0), Call(0, 0)], [(NS // 2, 3 * NS)]).begun
    assert [when / NS for when in begun.values()] == [0.0, 3.5]


def test_a_failed_call_frees_its_place() -> None:
    async def scenario() -> None:
        limiter = RateLimiter(Limits(1000.0, concurrency=1))
        for _ in range(3):
            with pytest.raises(KeyError):
                async with limiter.slot():
                    raise KeyError

    asyncio.run(asyncio.wait_for(scenario(), 5.0))


async def test_by_the_real_clock() -> None:
    limiter = RateLimiter(Limits(200.0, burst=2, concurrency=3))
    began: list[float] = []

    async def call() -> None:
        async with limiter.slot():
            began.append(time.monotonic())

    await asyncio.gather(*(call() for _ in range(12)))
    assert began[-1] - began[0] >= (12 - 2) / 200.0 - 0.001


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"per_second": 0.0}, "per_second=0.0"),
        ({"per_second": math.inf}, "per_second=inf"),
        ({"per_second": 1.0, "burst": 0}, "burst=0"),
        ({"per_second": 1.0, "concurrency": 0}, "concurrency=0"),
    ],
)
def test_limits_that_let_nothing_through_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
async def test_a_pause_without_end_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="pause of"):
        await RateLimiter(Limits(1.0)).pause(seconds)
