"""One search worker: a search tool, its deadline, and a bound on how much it takes on at once.

Knows nothing of Ray, limits or caches. Always holds: a tool that fails or is late gives "failed" results, a bug of ours
raises; more than `max_pending` queries at once are turned away, not queued.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from envs.search_counts import merge
from envs.tools.base import SearchTool, ask
from sake_ray.types import ImageRef, ImageSearch, Observation, QueryResult, SearchKind, TextSearch


@runtime_checkable
class QueryTool(Protocol):
    """A tool that answers query by query and keeps the deadline itself, because it has to record what came of it."""

    async def answer(self, kind: SearchKind, query: str, example_id: str, timeout_s: float) -> QueryResult:
        """The answer to one query, within the deadline."""
        ...


@runtime_checkable
class Counting(Protocol):
    """A tool that counts what it does."""

    def counts(self) -> Mapping[str, float]:
        """Counts since it was made; none ever falls."""
        ...


@runtime_checkable
class Closing(Protocol):
    """A tool that holds connections or files."""

    async def close(self) -> None:
        """Let go of them."""
        ...


@dataclass(frozen=True, slots=True)
class Busy:
    """A worker's answer when it has enough to do: `pending` queries."""

    pending: int


class SearchWorker:
    """Answers searches for any number of episodes at once."""

    def __init__(self, name: str, make_tool: Callable[[], SearchTool], *, max_pending: int = 256) -> None:
        self.name = name
        self.node = ""
        self._tool = make_tool()
        self._max_pending = max_pending
        self._pending = 0
        self._counts = {"searches": 0.0, "turned_away": 0.0, "remembered": 0.0, "queue_s": 0.0}

    def __repr__(self) -> str:
        return self.name

    async def search(
        self,
        example_id: str,
        action: TextSearch | ImageSearch,
        timeout_s: float,
        *,
        node: str = "",
        remembered: int = 0,
        waited_s: float = 0.0,
    ) -> Observation | Busy:
        """Ask the tool on behalf of a post.

        `node` is where the caller lives: to another machine pictures go as bytes. `remembered` answers the caller gave
        itself since it asked last, and this search has waited there for `waited_s` seconds.
        """
        self._counts["remembered"] += remembered
        queries = len(action.queries)
        if self._pending and self._pending + queries > self._max_pending:
            self._counts["turned_away"] += 1
            return Busy(self._pending)
        self._counts["searches"] += 1
        self._counts["queue_s"] += waited_s
        self._pending += queries
        try:
            observation = await self._ask(example_id, action, timeout_s)
        finally:
            self._pending -= queries
        return observation if node in ("", self.node) else await asyncio.to_thread(_with_pictures, observation)

    async def counts(self) -> dict[str, float]:
        """What it and its tool have counted, and how many queries are pending."""
        own = self._counts | {"pending": float(self._pending)}
        return merge((own, self._tool.counts())) if isinstance(self._tool, Counting) else own

    async def close(self) -> None:
        """Let the tool let go of what it holds."""
        if isinstance(self._tool, Closing):
            await self._tool.close()

    async def _ask(self, example_id: str, action: TextSearch | ImageSearch, timeout_s: float) -> Observation:
        tool = self._tool
        if not isinstance(tool, QueryTool):
            return await ask(tool, example_id, action, timeout_s=timeout_s)
        answers = (tool.answer(action.kind, query, example_id, timeout_s) for query in action.queries)
        return Observation(action.kind, tuple(await asyncio.gather(*answers)))


def _with_pictures(observation: Observation) -> Observation:
    results = (
        replace(result, images=tuple(_carried(image) for image in result.images)) for result in observation.results
    )
    return replace(observation, results=tuple(results))


def _carried(image: ImageRef) -> ImageRef:
    return image if image.data is not None else replace(image, data=Path(image.path).read_bytes())
