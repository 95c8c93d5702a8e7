"""Plays orders on a rollout worker, one after another or many at once, and swaps the policy between them.

The very worker and episode of training. Knows nothing of Ray Serve or HTTP. Always holds: an order's turns are all of
one policy, the one its result names; each order ends with exactly one last event; whoever stops listening ends the
episode, its generation and its search.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from actors.play import Play
from actors.rollout_worker import RolloutWorker
from actors.serving.gate import Gate
from actors.weight_sync import Params
from envs.episode import EpisodeLimits, PromptTooLong
from sake_ray.serving.messages import Event, Order, PolicyCard
from sake_ray.serving.result import result_shown, search_shown, turn_shown
from sake_ray.trajectory import Trajectory, Turn
from sake_ray.types import Observation, StopReason

LoadParams = Callable[[str], Awaitable[Params]]
"""From a policy's folder to its parameters."""


class EpisodePlayer:
    """Orders in, events out. `limits` bound what an order may ask for; pixels are those of training."""

    def __init__(
        self,
        worker: RolloutWorker,
        card: PolicyCard,
        *,
        limits: EpisodeLimits,
        min_pixels: int,
        max_pixels: int,
        load_params: LoadParams,
    ) -> None:
        self._worker = worker
        self._limits = limits
        self._pixels = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        self._load_params = load_params
        self._gate = Gate()
        self.card = card

    @property
    def playing(self) -> int:
        """Orders under way."""
        return self._gate.inside

    async def start(self) -> None:
        """Bring the engine up, with the weights on disk."""
        await self._worker.start(version=self.card.version)

    async def swap(self, card: PolicyCard) -> None:
        """Serve another policy of the same model from now on; what is under way ends with the old one.

        Raises:
            WeightSyncError: its parameters do not fit; the old policy goes on.
            OSError, ValueError: it cannot be read; the old policy goes on.
        """
        params = await self._load_params(card.folder)  # before anybody has to wait
        async with self._gate.change():
            await self._worker.update_weights(params, card.version)
            self.card = card

    async def play(self, order: Order) -> Event:
        """The last event of an order."""
        last = Event("refused", {"detail": "the episode told of no end"})
        async for event in self.events(order):
            last = event
        return last

    async def events(self, order: Order) -> AsyncGenerator[Event, None]:
        """All events of an order; leaving the iteration ends the episode."""
        watch = _Watch()
        async with self._gate.episode(), _task(self._episode(order, watch)) as playing:
            card = self.card
            image = {"width": order.width, "height": order.height}
            yield Event("start", {"id": order.id, "policy": card.shown(), "image": image})
            shown: list[dict[str, Any]] = []
            began = time.monotonic()
            while True:
                for event in await self._told(order, await watch.next(playing), shown):
                    yield event
                if playing.done() and not watch.waiting:
                    break
            yield self._end(order, card, playing, shown, time.monotonic() - began)

    async def shutdown(self) -> None:
        """Stop the engine."""
        await self._worker.shutdown()

    async def _episode(self, order: Order, watch: _Watch) -> Trajectory:
        limits = replace(
            self._limits,
            text_searches=min(order.text_searches, self._limits.text_searches),
            image_searches=min(order.image_searches, self._limits.image_searches),
            deadline_s=order.deadline_s,
        )
        how = Play(order.seed, limits, order.temperature, watch, order.streamed)
        return await self._worker.play(order.example, how, order.id)

    async def _told(self, order: Order, told: list[Any], shown: list[dict[str, Any]]) -> list[Event]:
        """What the watch was told, as events; texts of one turn that came together are one."""
        events: list[Event] = []
        for item in told:
            match item:
                case (int() as turn, str() as text):
                    if events and events[-1].name == "delta" and events[-1].data["turn"] == turn:
                        text = events.pop().data["text"] + text
                    events.append(Event("delta", {"turn": turn, "text": text}))
                case (int() as index, Turn() as turn, int() as prompt_tokens, int() as tokens):
                    shown.append(turn_shown(index, turn, prompt_tokens, tokens, None))
                    events.append(Event("turn", dict(shown[-1])))
                case (int() as index, Observation() as observation):
                    if order.thumbnails and any(result.images for result in observation.results):
                        search = await asyncio.to_thread(search_shown, observation, True)
                    else:
                        search = search_shown(observation, False)
                    shown[index]["search"] = search
                    events.append(Event("search", {"turn": index, "search": search}))
                case str() as reason:
                    shown.clear()
                    events.append(Event("restart", {"reason": reason}))
        return events

    def _end(
        self,
        order: Order,
        card: PolicyCard,
        playing: asyncio.Task[Trajectory],
        shown: list[dict[str, Any]],
        seconds: float,
    ) -> Event:
        try:
            trajectory = playing.result()
        except PromptTooLong as error:
            return Event("refused", {"field": "text", "detail": str(error)})
        if trajectory.stop_reason is StopReason.DEADLINE:
            return Event("late", {"turns": shown})
        return Event("result", result_shown(trajectory, order, card, shown, seconds=seconds, **self._pixels))


class _Watch:
    """Collects what a worker tells of an episode until somebody asks for it."""

    def __init__(self) -> None:
        self._told: list[Any] = []
        self._news = asyncio.Event()

    @property
    def waiting(self) -> bool:
        return bool(self._told)

    def heard(self, turn: int, text: str) -> None:
        self._tell((turn, text))

    def turned(self, index: int, turn: Turn, trajectory: Trajectory) -> None:
        written = next((at for at, mask in enumerate(reversed(trajectory.loss_mask)) if not mask), 0)
        self._tell((index, turn, len(trajectory.loss_mask) - written, written))

    def searched(self, index: int, turn: Turn) -> None:
        self._tell((index, turn.observation))

    def restarted(self, reason: str) -> None:
        self._tell(reason)

    async def next(self, playing: asyncio.Task[Trajectory]) -> list[Any]:
        """What was told since, once there is something or the episode has ended."""
        if not self._told and not playing.done():
            news = asyncio.ensure_future(self._news.wait())
            try:
                await asyncio.wait({news, playing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
        told, self._told = self._told, []
        self._news.clear()
        return told

    def _tell(self, what: Any) -> None:
        self._told.append(what)
        self._news.set()


@contextlib.asynccontextmanager
async def _task(work: Any) -> AsyncIterator[asyncio.Task[Trajectory]]:
    """A task that is over when the block is, whatever ended the block."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
