"""From a request that was read to its answer: a place, the picture, an order, an engine, and another try where it died.

Knows nothing of HTTP or Ray. Always holds: no more than `max_concurrent` requests are under way, the others are refused
at once; a request has one deadline for all of it, and what it began is ended then; an order whose engine died is asked
again from its start, with the same seed, and its follower is told; a problem is ours to word.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, Protocol

from envs.fetch.fetcher import PictureFetcher
from envs.fetch.picture import prepare_in_thread
from envs.fetch.refusal import FetchRefused
from sake_ray.serving.messages import LAST, Event, Order, PolicyCard
from sake_ray.serving.problems import Problem, invalid
from sake_ray.serving.request import Asked, RequestLimits, read_extract
from sake_ray.types import Example, ImageRef

logger = logging.getLogger(__name__)

RETRY_S = 2.0
_ATTEMPTS = 3
_GRACE_S = 1.0
_PAUSE_S = 0.1
_READY_S = 5.0


class EngineGone(RuntimeError):
    """The engine that had an order is gone; another one may do."""


class Engines(Protocol):
    """The engines of one policy."""

    async def play(self, order: Order) -> Event:
        """The last event of an order; `EngineGone` when its engine died."""
        ...

    def events(self, order: Order) -> AsyncGenerator[Event, None]:
        """All events of an order; `EngineGone` when its engine died. Leaving it ends the order."""
        ...

    async def card(self) -> PolicyCard:
        """The policy they serve."""
        ...


class Desk:
    """Answers requests. One event loop only."""

    def __init__(
        self,
        engines: dict[str, Engines],
        limits: RequestLimits,
        *,
        max_concurrent: int,
        max_pixels: int,
        fetcher: PictureFetcher | None,
    ) -> None:
        self.limits = limits
        self._engines = engines
        self._max_concurrent = max_concurrent
        self._max_pixels = max_pixels
        self._fetcher = fetcher
        self._under_way = 0
        self._numbers = itertools.count()
        self._name = uuid.uuid4().hex[:12]

    @property
    def policies(self) -> Sequence[str]:
        """Names of the policies; the first answers where none is named."""
        return tuple(self._engines)

    @contextmanager
    def place(self, wanted: int = 1) -> Iterator[int]:
        """From 1 to `wanted` of the places there are.

        Raises:
            Problem: there is none.
        """
        got = min(wanted, self._max_concurrent - self._under_way)
        if got < 1:
            raise Problem("busy", f"{self._under_way} requests are under way; ask again in a moment", retry_s=RETRY_S)
        self._under_way += got
        try:
            yield got
        finally:
            self._under_way -= got

    async def answer(self, asked: Asked) -> dict[str, Any]:
        """The result of a request that has a place.

        Raises:
            Problem: there is none.
        """
        async with aclosing(self._events(asked, streamed=False)) as events:
            async for event in events:
                if event.name == "result":
                    return event.data
        raise AssertionError("unreachable: the events of a request end with its result or a problem")

    def follow(self, asked: Asked) -> AsyncGenerator[Event, None]:
        """All events of a request that has a place; the last one is its result.

        Raises:
            Problem: there is none.
        """
        return self._events(asked, streamed=True)

    async def batch(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answer to each, or its problem, in order; as many at once as there are places.

        Raises:
            Problem: there is no place.
        """
        with self.place(len(items)) as places:
            free = asyncio.Semaphore(places)

            async def one(item: dict[str, Any]) -> dict[str, Any]:
                try:
                    asked = await asyncio.to_thread(read_extract, item, self.limits)
                    if asked.stream:
                        raise invalid("stream", "a batch is not streamed")
                    async with free:
                        return {"status": 200, "result": await self.answer(asked)}
                except Problem as problem:
                    return {"status": problem.status, "problem": problem.shown()}

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(item)) for item in items]
        return [task.result() for task in tasks]

    async def cards(self) -> list[PolicyCard]:
        """The policies as they are served now.

        Raises:
            Problem: an engine does not say.
        """
        try:
            async with asyncio.timeout(_READY_S):
                return [replace(await engines.card(), name=name) for name, engines in self._engines.items()]
        except (TimeoutError, EngineGone):
            raise Problem("unavailable", "an engine is not ready; ask again in a moment", retry_s=RETRY_S) from None

    async def _events(self, asked: Asked, *, streamed: bool) -> AsyncGenerator[Event, None]:
        """What an engine tells of a request, over the loss of engines; without `streamed` little but its result."""
        began = time.monotonic()
        async with _deadline(asked.deadline_s):
            order, engines = await self._order(asked, streamed)
            for attempt in itertools.count(1):
                if attempt > 1:
                    yield Event("restart", {"reason": "the engine was lost"})
                try:
                    left = _left(order, asked, began)
                    async with aclosing(engines.events(left) if streamed else _last(engines, left)) as events:
                        async for event in events:
                            if event.name in LAST:
                                shown = _result(event, asked, time.monotonic() - began)
                                yield Event("result", shown)
                                return
                            if event.name != "start" or attempt == 1:
                                yield event
                    raise EngineGone("it ended without a last event")
                except EngineGone as error:
                    await _wait_for_another(error, attempt)

    async def _order(self, asked: Asked, streamed: bool) -> tuple[Order, Engines]:
        name = asked.options.policy or self.policies[0]
        if name not in self._engines:
            raise invalid("options.policy", f"no such policy; there are: {', '.join(self.policies)}")
        field = "image" if asked.image is not None else "image_url"
        try:
            data = asked.image if asked.image is not None else await self._fetch(asked.image_url)
            picture = await prepare_in_thread(data, max_pixels=self._max_pixels, lossless=True)
        except FetchRefused as refused:
            raise invalid(field, f"{refused.reason.value}: {refused.detail}") from None
        number = f"{self._name}-{next(self._numbers)}"
        example = Example(
            number, asked.text, ImageRef(f"{number}.png", picture.width, picture.height, data=picture.data), ()
        )
        options = asked.options
        order = Order(
            number,
            example,
            *picture.source,
            seed=options.seed,
            temperature=options.temperature,
            text_searches=asked.text_searches,
            image_searches=asked.image_searches,
            deadline_s=asked.deadline_s,
            thumbnails=options.thumbnails,
            streamed=streamed,
        )
        return order, self._engines[name]

    async def _fetch(self, url: str) -> bytes:
        if self._fetcher is None:
            raise invalid("image_url", "this service fetches no pictures; send image instead")
        return await self._fetcher.fetch(url)


async def _last(engines: Engines, order: Order) -> AsyncGenerator[Event, None]:
    yield await engines.play(order)


class _deadline:
    """`asyncio.timeout` whose end is a problem; the engine's own deadline comes first, so a little is added."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._clock = asyncio.timeout(seconds + _GRACE_S)

    async def __aenter__(self) -> None:
        await self._clock.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._clock.__aexit__(*error)
        except TimeoutError:
            if not self._clock.expired():
                raise
            raise _late(self._seconds) from None


def _late(seconds: float) -> Problem:
    return Problem("deadline", f"no answer within {seconds:g} seconds; generation and search were ended")


def _left(order: Order, asked: Asked, began: float) -> Order:
    left = asked.deadline_s - (time.monotonic() - began)
    if left <= 0:
        raise _late(asked.deadline_s)
    return replace(order, deadline_s=left)


def _result(event: Event, asked: Asked, total: float) -> dict[str, Any]:
    """What a last event brought.

    Raises:
        Problem: no result.
    """
    if event.name == "late":
        raise _late(asked.deadline_s)
    if event.name == "refused":
        raise invalid(str(event.data.get("field", "")), str(event.data["detail"]))
    seconds = event.data["seconds"]
    waited = max(0.0, total - seconds["total"])
    return {**event.data, "seconds": {**seconds, "wait": round(waited, 4), "total": round(total, 4)}}


async def _wait_for_another(error: EngineGone, attempt: int) -> None:
    if attempt >= _ATTEMPTS:
        raise Problem("unavailable", "the engine was lost, again and again; ask later", retry_s=RETRY_S) from error
    logger.warning("an order lost its engine (attempt %d): %s", attempt, error)
    await asyncio.sleep(_PAUSE_S * attempt)
