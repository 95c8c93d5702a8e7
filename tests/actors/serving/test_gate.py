"""Whatever comes and goes in whatever order: no episode during a change, no change held off, nothing left behind."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from hypothesis import given
from hypothesis import strategies as st

from actors.serving.gate import Gate

STEPS = st.lists(st.tuples(st.sampled_from(["episode", "change", "leave", "give up"]), st.integers(0, 9)), max_size=30)


class Visitor:
    """Somebody who goes through the gate, stays until let go, and may give up before."""

    def __init__(self, kind: str, way: AbstractAsyncContextManager[None]) -> None:
        self.kind = kind
        self.inside = False
        self._let_go = asyncio.Event()
        self.task = asyncio.create_task(self._visit(way))

    async def _visit(self, way: AbstractAsyncContextManager[None]) -> None:
        async with way:
            self.inside = True
            try:
                await self._let_go.wait()
            finally:
                self.inside = False

    def leave(self) -> None:
        self._let_go.set()


def who_is_in(*visitors: Visitor) -> list[bool]:
    return [visitor.inside for visitor in visitors]


async def settle() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


@given(STEPS)
def test_changes_are_alone_and_everybody_gets_in_whoever_gives_up(steps: list[tuple[str, int]]) -> None:
    asyncio.run(_play(steps))


async def _play(steps: list[tuple[str, int]]) -> None:
    gate = Gate()
    visitors: list[Visitor] = []
    for what, which in steps:
        if what in ("episode", "change"):
            visitors.append(Visitor(what, gate.episode() if what == "episode" else gate.change()))
        elif visitors:
            visitor = visitors[which % len(visitors)]
            visitor.leave() if what == "leave" else visitor.task.cancel()
        await settle()
        inside = [visitor.kind for visitor in visitors if visitor.inside]
        assert inside == ["change"] or "change" not in inside, inside
        assert gate.inside == inside.count("episode")
        waiting = [visitor.kind for visitor in visitors if not visitor.inside and not visitor.task.done()]
        assert inside or not waiting, "nobody waits for nothing"
    for visitor in visitors:
        visitor.leave()
    async with asyncio.timeout(5):
        await asyncio.gather(*(visitor.task for visitor in visitors), return_exceptions=True)
    assert gate.inside == 0
    async with asyncio.timeout(5), gate.change():
        pass
    async with asyncio.timeout(5), gate.episode():
        assert gate.inside == 1


async def test_a_change_is_not_held_off_by_episodes_that_go_on_coming() -> None:
    gate = Gate()
    first = Visitor("episode", gate.episode())
    await settle()
    change = Visitor("change", gate.change())
    await settle()
    later = Visitor("episode", gate.episode())
    await settle()
    assert who_is_in(first, change, later) == [True, False, False]
    first.leave()
    await settle()
    assert who_is_in(first, change, later) == [False, True, False]
    change.leave()
    await settle()
    assert who_is_in(first, change, later) == [False, False, True]
    later.leave()
    await later.task


async def test_a_change_that_gives_up_lets_the_episodes_in_again() -> None:
    gate = Gate()
    first = Visitor("episode", gate.episode())
    await settle()
    change, later = Visitor("change", gate.change()), Visitor("episode", gate.episode())
    await settle()
    assert who_is_in(first, change, later) == [True, False, False]
    change.task.cancel()
    await settle()
    assert who_is_in(first, change, later) == [True, False, True] and gate.inside == 2
    for visitor in (first, later):
        visitor.leave()
        await visitor.task
