"""A worker loses nothing when its engine goes, never waits for a slow sibling, and records what the engine saw.

Without Ray and vLLM: the engine is a fake that continues ids with one `</answer>`-terminated turn, or with
a search first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from actors.rollout_stats import EngineStats
from actors.rollout_worker import RolloutWorker, WorkerBroken
from actors.vllm_engine import EngineLost
from envs.episode import EpisodeLimits
from sake_ray.trajectory import Segment
from sake_ray.types import (
    Completion,
    Example,
    ImageRef,
    ImageSearch,
    Observation,
    QueryResult,
    SearchKind,
    StopReason,
    TextSearch,
)

PAD, PADS_AN_IMAGE = 6, 4
POST_IMAGE = ImageRef("post.png", 40, 40)
EXAMPLE = Example("17_1", "a post", POST_IMAGE, ())
SEARCH = '<reason>r</reason><text_search>[{"query": "q"}]</text_search>'
ANSWER = "<reason>r</reason><answer>[]</answer>"


def expand(short_ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(token for short in short_ids for token in [short] * (PADS_AN_IMAGE if short == PAD else 1))


class PlainCodec:
    """Two tokens and an image for the prompt, two tokens for an observation."""

    def prompt(self, example: Example) -> Segment:
        return Segment((1, PAD), expand((1, PAD)), (example.image,))

    def observation(self, example: Example, observation: Observation, *, after_ids: Sequence[int]) -> Segment:
        return Segment((2, 3), (2, 3))


class Searches:
    """Answers at once; `gate`, when set, holds every answer back."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        self.asked.set()
        await self.gate.wait()
        return Observation(SearchKind.TEXT, (QueryResult("q", "success", "found"),))


@dataclass
class FakeEngine:
    """Writes `script(turn)`, in ids made of the seed; can be told to die at a call or an update."""

    script: Callable[[int], str] = lambda turn: ANSWER
    die_at_call: int = -1
    die_at_update: bool = False
    stats: EngineStats = field(default_factory=EngineStats)
    version: int = 0
    log: list[Any] = field(default_factory=list)
    dead: bool = False

    async def start(self, version: int = 0) -> None:
        self.version = version
        self.log.append("start")

    async def generate(
        self,
        short_ids: Sequence[int],
        images: Sequence[Any],
        *,
        max_tokens: int,
        seed: int,
        temperature: float | None = None,
        heard: Callable[[str], None] | None = None,
    ) -> tuple[Completion, tuple[int, ...]]:
        self.log.append(("generate", seed, temperature == 0.0, len(images)))
        calls = sum(isinstance(entry, tuple) for entry in self.log)
        await asyncio.sleep(0)
        if self.dead or calls == self.die_at_call:
            self.dead = True
            raise EngineLost("killed by the test")
        turn = list(short_ids).count(2)
        ids = (100 + seed % 7, 101)
        self.stats.generated_tokens += len(ids)
        return Completion(ids, (-0.5, -0.25), self.script(turn), "stop", self.version), expand(short_ids)

    async def update_weights(self, params: Mapping[str, Any], version: int) -> Mapping[str, float]:
        self.log.append(("update", version))
        if self.die_at_update:
            raise EngineLost("killed by the test")
        self.version = version
        return {"pause_s": 0.0, "load_s": 0.0, "bytes": 1.0}

    def shutdown(self) -> None:
        self.log.append("shutdown")


@dataclass
class SlowStart(FakeEngine):
    """Comes up when it is let."""

    let: asyncio.Event = field(default_factory=asyncio.Event)
    starting: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self, version: int = 0) -> None:
        self.starting.set()
        await self.let.wait()
        await super().start(version)


def make_worker(
    engines: list[FakeEngine], search: Searches | None = None, max_rebuilds: int = 2, deadline_s: float = 0.0
) -> RolloutWorker:
    remaining = iter(engines)
    return RolloutWorker(
        "rollout-0",
        lambda: next(remaining),
        PlainCodec(),
        search or Searches(),
        limits=EpisodeLimits(max_turn_tokens=8, deadline_s=deadline_s),
        load_image=lambda ref: ref.path,  # type: ignore[arg-type,return-value]
        max_rebuilds=max_rebuilds,
    )


async def test_a_group_is_one_trajectory_a_seed_in_order_with_ids_of_its_own() -> None:
    worker = make_worker([FakeEngine(script=lambda turn: SEARCH if turn == 0 else ANSWER)])
    await worker.start()
    group = await worker.rollout_group(EXAMPLE, [3, 4, 5], group_id="g")
    assert [trajectory.id for trajectory in group.trajectories] == ["g.0", "g.1", "g.2"]
    for trajectory in group.trajectories:
        assert trajectory.stop_reason is StopReason.ANSWER and len(trajectory.turns) == 2
        assert trajectory.loss_mask == [0] * 5 + [1, 1] + [0, 0] + [1, 1]
        assert trajectory.worker == "rollout-0"
    assert (await worker.stats()).trajectories == 3


async def test_a_trajectory_that_waits_for_its_search_does_not_hold_up_the_others() -> None:
    search, engine = Searches(), FakeEngine(script=lambda turn: SEARCH if turn == 0 else ANSWER)
    worker = make_worker([engine], search)
    await worker.start()
    search.gate.clear()
    waiting = asyncio.create_task(worker.rollout_group(EXAMPLE, [1]))
    await asyncio.wait_for(search.asked.wait(), 5)
    engine.script = lambda turn: ANSWER
    done = await asyncio.wait_for(worker.rollout_group(EXAMPLE, [2, 3]), 5)
    assert len(done.trajectories) == 2 and not waiting.done()
    search.gate.set()
    assert len((await asyncio.wait_for(waiting, 5)).trajectories[0].turns) == 2


async def test_a_lost_engine_is_rebuilt_once_with_the_current_weights_and_every_trajectory_is_rerun() -> None:
    first, second = FakeEngine(die_at_call=4), FakeEngine()
    worker = make_worker([first, second])
    await worker.start()
    await worker.update_weights({"w": 1}, 5)
    group = await worker.rollout_group(EXAMPLE, [1, 2, 3, 4])
    assert second.log[:2] == ["start", ("update", 5)], "a rebuilt engine serves only with the current weights"
    assert len(group.trajectories) == 4 and len({t.id for t in group.trajectories}) == 4
    assert {version for t in group.trajectories for version in t.versions} == {5, -1}
    stats = await worker.stats()
    assert (stats.rebuilds, stats.trajectories, stats.version) == (1, 4, 5)
    rerun = [entry[1] for entry in second.log if entry[0] == "generate"]
    assert set(rerun) <= {entry[1] for entry in first.log if entry[0] == "generate"}, "same seeds again"


async def test_weights_on_disk_have_the_version_they_are_given_until_others_come() -> None:
    first, second, third = FakeEngine(die_at_call=2), FakeEngine(), FakeEngine()
    worker = make_worker([first, second, third])
    await worker.start(version=7)
    assert (await worker.stats()).version == 7
    for _ in range(2):  # the second on an engine that was built anew
        (trajectory,) = (await worker.rollout_group(EXAMPLE, [1])).trajectories
        assert set(trajectory.versions) == {7, -1}
    await worker.update_weights({"w": 1}, 8)
    second.dead = True
    (trajectory,) = (await worker.rollout_group(EXAMPLE, [1])).trajectories
    assert set(trajectory.versions) == {8, -1} and (await worker.stats()).version == 8


async def test_weights_given_at_the_start_are_of_their_version_and_without_a_word_it_is_0() -> None:
    worker, told = make_worker([FakeEngine()]), make_worker([FakeEngine()])
    await worker.start()
    await told.start({"w": 1}, 3)
    assert ((await worker.stats()).version, (await told.stats()).version) == (0, 3)
    (trajectory,) = (await told.rollout_group(EXAMPLE, [1])).trajectories
    assert set(trajectory.versions) == {3, -1}


async def test_an_update_that_kills_the_engine_ends_with_a_fresh_engine_that_has_the_new_weights() -> None:
    first, second = FakeEngine(die_at_update=True), FakeEngine()
    worker = make_worker([first, second])
    await worker.start()
    await worker.update_weights({"w": 1}, 9)
    assert "shutdown" in first.log and second.version == 9


async def test_an_engine_that_goes_again_and_again_breaks_the_worker_with_a_reason() -> None:
    worker = make_worker([FakeEngine(die_at_call=1) for _ in range(3)], max_rebuilds=2)
    await worker.start()
    with pytest.raises(WorkerBroken, match="rollout-0"):
        await worker.rollout_group(EXAMPLE, [1])


async def test_ids_the_engine_was_not_shown_are_refused() -> None:
    class OtherPads(FakeEngine):
        async def generate(self, short_ids: Sequence[int], *args: Any, **options: Any) -> Any:
            completion, prompt = await super().generate(short_ids, *args, **options)
            return completion, (*prompt, PAD)

    worker = make_worker([OtherPads()])
    await worker.start()
    with pytest.raises(RuntimeError, match="differ from position 5"):
        await worker.rollout_group(EXAMPLE, [1])


async def test_the_first_error_of_a_member_cancels_the_rest_of_its_group() -> None:
    class ThirdCallFails(FakeEngine):
        cancelled = 0

        async def generate(self, short_ids: Sequence[int], *args: Any, **options: Any) -> Any:
            self.log.append(("generate",))
            if len(self.log) == 4:  # after the start and two calls
                raise ValueError("no room")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

    engine = ThirdCallFails()
    worker = make_worker([engine])
    await worker.start()
    with pytest.raises(ValueError, match="no room"):
        await asyncio.wait_for(worker.rollout_group(EXAMPLE, [1, 2, 3]), 5)
    assert engine.cancelled == 2 and len(asyncio.all_tasks()) == 1, "no member is left running"


async def test_a_group_prepares_each_picture_once() -> None:
    loads: list[str] = []

    def load(ref: ImageRef) -> Any:
        loads.append(ref.path)
        return ref.path

    engine = FakeEngine(script=lambda turn: SEARCH if turn == 0 else ANSWER)
    worker = RolloutWorker(
        "rollout-0", lambda: engine, PlainCodec(), Searches(), limits=EpisodeLimits(max_turn_tokens=8), load_image=load
    )
    await worker.start()
    await worker.rollout_group(EXAMPLE, list(range(8)))
    assert loads == ["post.png"]


async def test_a_deadline_ends_a_trajectory_that_waits_for_a_rebuild_and_the_rebuild_goes_on() -> None:
    first, second = FakeEngine(die_at_call=1), SlowStart()
    worker = make_worker([first, second], deadline_s=0.2)
    await worker.start()
    group = await asyncio.wait_for(worker.rollout_group(EXAMPLE, [1, 2]), 5)
    assert [t.stop_reason for t in group.trajectories] == [StopReason.DEADLINE] * 2
    assert [(t.turns, t.trained_tokens) for t in group.trajectories] == [([], 0)] * 2
    assert second.starting.is_set() and "start" not in second.log
    second.let.set()
    done = await asyncio.wait_for(worker.rollout_group(EXAMPLE, [3]), 5)
    assert done.trajectories[0].stop_reason is StopReason.ANSWER
    assert (await worker.stats()).rebuilds == 1


async def test_a_group_that_is_cancelled_leaves_the_rebuild_to_the_others() -> None:
    first, second = FakeEngine(die_at_call=1), SlowStart()
    worker = make_worker([first, second])
    await worker.start()
    group = asyncio.create_task(worker.rollout_group(EXAMPLE, [1]))
    await asyncio.wait_for(second.starting.wait(), 5)
    group.cancel()
    await asyncio.wait({group})
    second.let.set()
    other = await asyncio.wait_for(worker.rollout_group(EXAMPLE, [2]), 5)
    assert other.trajectories[0].stop_reason is StopReason.ANSWER


async def test_a_worker_can_be_stopped_while_it_rebuilds_its_engine() -> None:
    first, second = FakeEngine(die_at_call=1), SlowStart()
    worker = make_worker([first, second])
    await worker.start()
    group = asyncio.create_task(worker.rollout_group(EXAMPLE, [1]))
    await asyncio.wait_for(second.starting.wait(), 5)
    await asyncio.wait_for(worker.shutdown(), 5)
    assert "shutdown" in second.log
    with pytest.raises(WorkerBroken, match="no running engine"):
        await asyncio.wait_for(group, 5)
