"""Orders on a real worker over a fake engine: their events in order, one end and one policy each, nothing left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from actors.rollout_worker import RolloutWorker
from actors.serving.player import EpisodePlayer
from actors.weight_sync import WeightSyncError
from envs.episode import EpisodeLimits
from sake_ray.serving.messages import LAST, Event, Order, PolicyCard
from sake_ray.types import Completion, Example, ImageRef
from tests.actors.test_rollout_worker import ANSWER, SEARCH, FakeEngine, PlainCodec, Searches

CARD = PolicyCard("a", "run/best_policy", "/policies/0", "step-000001", 0)
NEXT = PolicyCard("a", "run/best_policy", "/policies/1", "step-000002", 1)
ORDER = Order(
    "o1", Example("o1", "a post", ImageRef("p.png", 40, 40), ()), 80, 80, seed=5, temperature=0.0, text_searches=1,
    image_searches=1, deadline_s=20.0, streamed=True,
)  # fmt: skip


@dataclass
class Talking(FakeEngine):
    """Says its text in pieces of three characters; can be held after the first piece."""

    script: Callable[[int], str] = lambda turn: SEARCH if turn == 0 else ANSWER
    going: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: int = 0
    cancelled: int = 0
    takes: bool = True

    def __post_init__(self) -> None:
        self.going.set()

    async def generate(
        self,
        short_ids: Sequence[int],
        images: Sequence[Any],
        *,
        heard: Callable[[str], None] | None = None,
        **options: Any,
    ) -> tuple[Completion, tuple[int, ...]]:
        self.under_way += 1
        try:
            text = self.script(list(short_ids).count(2))
            for at in range(0, len(text), 3):
                if heard is not None:
                    heard(text[at : at + 3])
                await asyncio.sleep(0)
                await self.going.wait()
            return await super().generate(short_ids, images, **options)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1

    async def update_weights(self, params: Mapping[str, Any], version: int) -> Mapping[str, float]:
        assert not self.under_way, "weights change while something is sampled"
        if not self.takes:
            raise WeightSyncError("other shapes")
        return await super().update_weights(params, version)


async def player_on(*engines: FakeEngine, search: Searches | None = None, max_tokens: int = 100) -> EpisodePlayer:
    remaining = iter(engines)
    limits = EpisodeLimits(max_turn_tokens=8, max_tokens=max_tokens)
    worker = RolloutWorker(
        "engine-0",
        lambda: next(remaining),
        PlainCodec(),
        search or Searches(),
        limits=limits,
        load_image=lambda ref: ref.path,  # type: ignore[arg-type,return-value]
        max_rebuilds=2,
    )

    async def load_params(folder: str) -> dict[str, Any]:
        if "gone" in folder:
            raise FileNotFoundError(folder)
        return {"w": folder}

    player = EpisodePlayer(worker, CARD, limits=limits, min_pixels=1, max_pixels=10_000, load_params=load_params)
    await player.start()
    return player


async def sampling(engine: Talking, count: int) -> None:
    for _ in range(1_000):
        await asyncio.sleep(0)
        if engine.under_way == count:
            return
    raise AssertionError(f"{engine.under_way} are sampled")


async def all_of(player: EpisodePlayer, order: Order = ORDER) -> list[Event]:
    async with asyncio.timeout(10):
        return [event async for event in player.events(order)]


def joined(events: Sequence[Event], turn: int) -> str:
    return "".join(event.data["text"] for event in events if event.name == "delta" and event.data["turn"] == turn)


async def test_events_come_in_order_and_say_what_the_result_says() -> None:
    player = await player_on(Talking())
    events = await all_of(player)
    names = [name for name in (event.name for event in events) if name != "delta"]
    assert names == ["start", "turn", "search", "turn", "result"]
    result, turns = events[-1].data, [event.data for event in events if event.name == "turn"]
    assert [turn["text"] for turn in result["turns"]] == [joined(events, 0), joined(events, 1)] == [SEARCH, ANSWER]
    (search,) = (event.data for event in events if event.name == "search")
    assert [{**turns[0], "search": search["search"]}, turns[1]] == result["turns"] and turns[0]["search"] is None
    assert [turn["prompt_tokens"] for turn in turns] == [5, 9] and {turn["tokens"] for turn in turns} == {2}
    assert events[0].data["policy"] == result["policy"] == CARD.shown()
    assert (result["id"], result["stop"], result["usage"]["queries"]) == ("o1", "answer", 1)


async def test_only_a_streamed_order_tells_its_text_and_both_end_alike() -> None:
    quiet = replace(ORDER, streamed=False)
    events = await all_of(await player_on(Talking()), quiet)
    assert [event.name for event in events] == ["start", "turn", "search", "turn", "result"]
    last = await (await player_on(Talking())).play(quiet)
    assert last.name == "result" and last.data["entities"] == events[-1].data["entities"]


async def test_an_order_may_search_less_than_in_training_but_never_more() -> None:
    for allowed, stop in ((0, "search_limit"), (5, "answer")):
        last = await (await player_on(Talking())).play(replace(ORDER, text_searches=allowed))
        assert last.data["stop"] == stop
    twice = Talking(script=lambda turn: SEARCH)
    last = await (await player_on(twice)).play(replace(ORDER, text_searches=5))
    assert (last.data["stop"], last.data["entities"]) == ("search_limit", [])


async def test_a_lost_engine_makes_what_was_told_void_and_the_result_is_whole() -> None:
    player = await player_on(Talking(die_at_call=2), Talking())
    events = await all_of(player)
    at = next(index for index, event in enumerate(events) if event.name == "restart")
    before, after = events[:at], events[at + 1 :]
    assert [event.name for event in before if event.name != "delta"] == ["start", "turn", "search"]
    assert [event.name for event in after if event.name != "delta"] == ["turn", "search", "turn", "result"]
    result = after[-1].data
    assert [turn["text"] for turn in result["turns"]] == [SEARCH, ANSWER] == [joined(after, 0), joined(after, 1)]
    assert [turn["index"] for turn in result["turns"]] == [0, 1] and result["usage"]["searches"] == 1


@pytest.mark.parametrize("where", ["generation", "search"])
async def test_whoever_stops_listening_ends_the_episode(where: str) -> None:
    engine, search = Talking(), Searches()
    player = await player_on(engine, search=search)
    (engine.going if where == "generation" else search.gate).clear()
    wanted = "delta" if where == "generation" else "turn"
    async with aclosing(player.events(ORDER)) as events:
        async for event in events:
            if event.name == wanted:
                break
        assert player.playing == 1
    assert player.playing == 0 and engine.under_way == 0
    assert engine.cancelled == (1 if where == "generation" else 0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}, "neither episode nor search is left"
    async with asyncio.timeout(5):
        await player.swap(NEXT)  # nobody is waited for


async def test_a_call_that_is_cancelled_ends_its_generation() -> None:
    engine = Talking()
    player = await player_on(engine)
    engine.going.clear()
    call = asyncio.create_task(player.play(ORDER))
    await sampling(engine, 1)
    call.cancel()
    await asyncio.wait({call})
    assert (engine.under_way, engine.cancelled, player.playing) == (0, 1, 0)


async def test_a_swap_waits_for_what_is_under_way_and_each_result_is_of_one_policy() -> None:
    engine = Talking()
    engine.script = lambda turn: (ANSWER if turn else SEARCH).replace(">r<", f">{engine.version}<")
    player = await player_on(engine)
    engine.going.clear()
    before = [asyncio.create_task(player.play(replace(ORDER, seed=seed))) for seed in range(3)]
    await sampling(engine, 3)
    swap = asyncio.create_task(player.swap(NEXT))
    await asyncio.sleep(0.01)
    after = [asyncio.create_task(player.play(replace(ORDER, seed=seed))) for seed in range(3)]
    await asyncio.sleep(0.01)
    assert not swap.done() and engine.under_way == 3 and engine.version == 0
    engine.going.set()
    async with asyncio.timeout(10):
        old, new = await asyncio.gather(*before), await asyncio.gather(*after)
        await swap
    for events, card in ((old, CARD), (new, NEXT)):
        assert [event.data["policy"] for event in events] == [card.shown()] * 3
        sampled_by = [turn["reasoning"] for event in events for turn in event.data["turns"]]
        assert sampled_by == [str(card.version)] * 6, "the engine wrote its version into every turn"
    assert player.card == NEXT


@pytest.mark.parametrize(
    ("card", "takes", "error"),
    [(replace(NEXT, folder="/gone"), True, FileNotFoundError), (NEXT, False, WeightSyncError)],
)
async def test_a_policy_that_cannot_be_swapped_in_leaves_the_old_one(
    card: PolicyCard, takes: bool, error: type[Exception]
) -> None:
    player = await player_on(Talking(takes=takes))
    with pytest.raises(error):
        await player.swap(card)
    last = await player.play(ORDER)
    assert last.name == "result" and last.data["policy"] == CARD.shown()


async def test_a_rebuilt_engine_has_the_policy_that_was_swapped_in() -> None:
    first, second = Talking(), Talking()
    player = await player_on(first, second)
    await player.swap(NEXT)
    first.dead = True
    last = await player.play(ORDER)
    assert last.data["policy"] == NEXT.shown() and second.version == 1


async def test_an_order_over_its_deadline_is_late_and_ended() -> None:
    engine = Talking()
    player = await player_on(engine)
    engine.going.clear()
    events = await all_of(player, replace(ORDER, deadline_s=0.05))
    assert [event.name for event in events if event.name in LAST] == ["late"] == [events[-1].name]
    assert (engine.cancelled, player.playing) == (1, 0)


async def test_a_post_too_long_for_the_policy_is_refused_with_its_field() -> None:
    player = await player_on(Talking(), max_tokens=5)
    events = await all_of(player)
    assert [event.name for event in events] == ["start", "refused"]
    assert events[-1].data["field"] == "text" and events[-1].data["detail"]
