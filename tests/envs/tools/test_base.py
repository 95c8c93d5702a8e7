"""`ask`: unavailable tools and missed deadlines become "failed" results; every other failure goes through."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from envs.tools.base import SearchUnavailable, ToolClient, ask
from sake_ray.types import Example, ImageRef, ImageSearch, QueryResult, SearchKind, TextSearch

ACTION = TextSearch(("a", "b"))


class Tool:
    """Answers, waits or fails as told."""

    def __init__(self, error: Exception | None = None, wait_s: float = 0.0) -> None:
        self.error, self.wait_s = error, wait_s

    async def search_text(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        await asyncio.sleep(self.wait_s)
        if self.error:
            raise self.error
        return [QueryResult(query, "success", f"{example_id}: {query}") for query in queries]

    async def search_images(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        return [QueryResult(query, "no_result") for query in queries]


async def test_a_search_is_answered_by_the_tool_of_its_kind() -> None:
    example = Example("p1", "", ImageRef("", 1, 1), ())
    text = await ToolClient(Tool()).search(example, ACTION)
    image = await ToolClient(Tool()).search(example, ImageSearch(("a",)))
    assert (text.kind, [result.text for result in text.results]) == (SearchKind.TEXT, ["p1: a", "p1: b"])
    assert (image.kind, [result.status for result in image.results]) == (SearchKind.IMAGE, ["no_result"])


@pytest.mark.parametrize("tool", [Tool(SearchUnavailable("quota")), Tool(wait_s=5.0)], ids=["unavailable", "too slow"])
async def test_a_tool_that_cannot_answer_fails_every_query(tool: Tool) -> None:
    observation = await ask(tool, "p1", ACTION, timeout_s=0.05)
    assert [(result.query, result.status) for result in observation.results] == [("a", "failed"), ("b", "failed")]


@pytest.mark.parametrize("error", [KeyError("bug"), TimeoutError("of its own")])
async def test_other_errors_go_through(error: Exception) -> None:
    with pytest.raises(type(error)):
        await ask(Tool(error), "p1", ACTION, timeout_s=5.0)
