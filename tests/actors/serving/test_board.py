"""The policy board, without Ray: whoever waits hears of the newest policy, and who lags behind is known."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from actors.serving.board import PolicyBoard
from sake_ray.serving.messages import PolicyCard

FIRST = PolicyCard("a", "run/best_policy", "/copies/0", "step-000001", 0)
SECOND = replace(FIRST, folder="/copies/1", version=1)
THIRD = replace(FIRST, folder="/copies/2", version=2)
OTHER = replace(THIRD, name="b")


async def test_whoever_waits_hears_of_a_newer_policy_at_once_and_only_of_its_own() -> None:
    board = PolicyBoard()
    assert await board.current("a") is None
    waiting = asyncio.create_task(board.newer("a", 0, 10.0))
    await asyncio.sleep(0)
    for card in (FIRST, OTHER):
        await board.put(card)
    await asyncio.sleep(0.01)
    assert not waiting.done(), "it has that one, and the other is another's"
    await board.put(SECOND)
    assert await asyncio.wait_for(waiting, 1) == SECOND
    await board.put(THIRD)
    assert await board.newer("a", 0, 10.0) == THIRD == await board.current("a"), "the newest, not each in turn"


async def test_nothing_newer_is_none_in_time_and_leaves_the_board_usable() -> None:
    board = PolicyBoard()
    await board.put(FIRST)
    assert await board.newer("a", 0, 0.01) is None
    given_up = asyncio.create_task(board.newer("a", 0, 10.0))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait({given_up})
    await asyncio.wait_for(board.put(SECOND), 1)
    assert await board.newer("a", 0, 1.0) == SECOND


async def test_a_swap_waits_for_every_replica_of_its_policy_that_is_still_there() -> None:
    board = PolicyBoard()
    for replica, name in (("r1", "a"), ("r2", "a"), ("r3", "a"), ("s1", "b")):
        await board.serves(replica, name, 0)
    waiting = asyncio.create_task(board.behind(SECOND, 10.0))
    await board.serves("r1", "a", 1)
    await board.serves("r2", "a", 2)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await board.left("r3")
    assert await asyncio.wait_for(waiting, 1) == []
    assert await board.behind(THIRD, 0.01) == ["r1"]
