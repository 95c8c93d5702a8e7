"""What a search tool is, and how one becomes an observation.

Knows nothing of any particular tool. Always holds: `SearchUnavailable` and a missed deadline are the only
failures a policy gets to see; every other exception is a bug or broken data and goes through.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Protocol

from sake_ray.types import (
    Example,
    ImageSearch,
    Observation,
    QueryResult,
    SearchFailure,
    SearchKind,
    TextSearch,
)

logger = logging.getLogger(__name__)


class SearchUnavailable(Exception):
    """The tool cannot answer now (network, quota, remote failure); the message is for the log, not the policy."""


class SearchTool(Protocol):
    """Answers queries about one post: one result a query, in their order, each "success" or "no_result".

    Only a tool that has to repeat another's answers (the released cache in release matching) may leave out a
    query whose answer an earlier query of the same call got; no caller pairs results with queries by position.
    """

    async def search_text(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        """One short summary a query.

        Raises:
            SearchUnavailable: no answer can be had now.
        """
        ...

    async def search_images(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        """Reference images a query.

        Raises:
            SearchUnavailable: no answer can be had now.
        """
        ...


async def ask(tool: SearchTool, example_id: str, action: TextSearch | ImageSearch, *, timeout_s: float) -> Observation:
    """One search, within a deadline: what the tool answers, or a "failed" result for every query."""
    kind = action.kind
    call = tool.search_text if kind is SearchKind.TEXT else tool.search_images
    started = time.perf_counter()
    deadline = asyncio.timeout(timeout_s)
    try:
        async with deadline:
            results = await call(example_id, action.queries)
    except SearchUnavailable as error:
        logger.warning("the %s search for post %s is unavailable: %s", kind, example_id, error)
        results = failed(action, SearchFailure.BROKEN)
    except TimeoutError:
        if not deadline.expired():  # some other timeout inside the tool, which it should have handled
            raise
        logger.warning("the %s search for post %s got no answer in %.1f s", kind, example_id, timeout_s)
        results = failed(action, SearchFailure.TIMEOUT)
    return Observation(kind, tuple(results), latency_s=time.perf_counter() - started)


def failed(action: TextSearch | ImageSearch, reason: SearchFailure) -> list[QueryResult]:
    """A "failed" result for each query of a search that got no answer."""
    return [QueryResult(query, "failed", reason=reason) for query in action.queries]


class ToolClient:
    """A `SearchClient` that asks a tool in this very process."""

    def __init__(self, tool: SearchTool, *, timeout_s: float = 30.0) -> None:
        self._tool = tool
        self._timeout_s = timeout_s

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        """See `ask`."""
        return await ask(self._tool, example.id, action, timeout_s=self._timeout_s)
