"""One task for all callers of a key: what each gets, and what a cancelled one leaves behind."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.answers.single_flight import SingleFlight


class Work:
    """Something to do whose end the test decides."""

    def __init__(self) -> None:
        self.started = self.cancelled = 0
        self.end: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> int:
        self.started += 1
        try:
            return await self.end
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_callers_of_one_key_share_one_task_and_those_of_another_do_not() -> None:
    flight: SingleFlight[int] = SingleFlight()
    work, other = Work(), Work()
    callers = [asyncio.create_task(flight.run("a", work)) for _ in range(8)]
    stranger = asyncio.create_task(flight.run("b", other))
    await settle()
    assert (work.started, other.started, flight.joined, flight.under_way) == (1, 1, 7, 2)
    work.end.set_result(3)
    other.end.set_result(4)
    assert await asyncio.gather(*callers) == [3] * 8
    assert await stranger == 4
    assert flight.under_way == 0


async def test_what_the_task_raises_all_get_and_the_next_caller_tries_anew() -> None:
    flight: SingleFlight[int] = SingleFlight()
    work = Work()
    callers = [asyncio.create_task(flight.run("a", work)) for _ in range(3)]
    await settle()
    work.end.set_exception(LookupError("no such thing"))
    assert [type(error) for error in await asyncio.gather(*callers, return_exceptions=True)] == [LookupError] * 3
    again = Work()
    again.end.set_result(1)
    assert await flight.run("a", again) == 1


@given(st.integers(1, 6), st.data())
def test_the_task_lives_exactly_as_long_as_anyone_waits(count: int, data: st.DataObject) -> None:
    leaving = data.draw(st.lists(st.integers(0, count - 1), unique=True))

    async def case() -> None:
        flight: SingleFlight[int] = SingleFlight()
        work = Work()
        callers = [asyncio.create_task(flight.run("a", work)) for _ in range(count)]
        await settle()
        for index in leaving:
            callers[index].cancel()
            await settle()
        all_gone = len(leaving) == count
        assert work.cancelled == int(all_gone)
        assert flight.under_way == int(not all_gone)
        if not all_gone:
            work.end.set_result(7)
        ends = await asyncio.gather(*callers, return_exceptions=True)
        for index, end in enumerate(ends):
            assert isinstance(end, asyncio.CancelledError) if index in leaving else end == 7

    asyncio.run(case())


async def test_who_comes_while_the_task_is_being_cancelled_starts_a_new_one() -> None:
    flight: SingleFlight[int] = SingleFlight()
    held = asyncio.Event()

    async def slow_to_go() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            await held.wait()
        return 0

    first = asyncio.create_task(flight.run("a", slow_to_go))
    await settle()
    first.cancel()
    await settle()
    again = Work()
    again.end.set_result(2)
    assert await flight.run("a", again) == 2
    held.set()
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_deadline_of_one_caller_is_not_the_others() -> None:
    flight: SingleFlight[int] = SingleFlight()
    work = Work()
    other = asyncio.create_task(flight.run("a", work))
    await settle()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await flight.run("a", work)
    work.end.set_result(5)
    assert await other == 5
