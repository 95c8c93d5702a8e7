"""What the benchmarks' ratios rest on: the barrier of the compared design, and the seconds a search takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from statistics import mean
from typing import cast

import pytest

from benchmarks.rollout import SlowTool
from benchmarks.turn_sync import Gate, in_step
from envs.tools.local import LocalSearchTool
from sake_ray.types import Example, ImageRef, QueryResult, TextSearch

POST = Example("17_1", "a post", ImageRef("", 84, 84), ())


async def test_no_trajectory_goes_on_before_all_that_still_run_have_arrived() -> None:
    seen: list[tuple[int, int]] = []  # (phase, trajectory)

    def episode(number: int, phases: int) -> Callable[[Gate], Awaitable[None]]:
        async def run(gate: Gate) -> None:
            for phase in range(phases):
                await asyncio.sleep(0.001 * (number + 1))
                seen.append((phase, number))
                await gate.arrive()

        return run

    await asyncio.wait_for(in_step([episode(number, phases) for number, phases in enumerate((4, 2, 0, 3))]), 10)
    assert [phase for phase, _ in seen] == sorted(phase for phase, _ in seen)
    assert len(seen) == 9


class NoWait:
    async def search_text(self, example_id: str, queries: tuple[str, ...]) -> list[QueryResult]:
        return [QueryResult(query, "success", "x") for query in queries]


async def test_all_arms_of_a_repeat_meet_the_same_seconds_and_their_mean_is_the_one_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def at_once(seconds: float) -> None:
        del seconds

    monkeypatch.setattr("benchmarks.rollout.asyncio.sleep", at_once)
    tool = SlowTool(cast(LocalSearchTool, NoWait()), sigma=1.0)

    async def arm(latency: float, seed: int) -> list[float]:
        tool.begin(latency, seed)
        return [(await tool.search(POST, TextSearch((f"q{n % 50}",)))).latency_s for n in range(4_000)]

    first = await arm(0.3, 1)
    assert first == await arm(0.3, 1)
    assert first != await arm(0.3, 2)
    assert mean(first) == pytest.approx(0.3, rel=0.1)
    assert set(await arm(0.0, 1)) == {0.0}
