"""`SearchEnv`: limits a kind, and tools that only ever see allowed searches."""

from __future__ import annotations

import pytest

from envs.search_env import SearchEnv
from sake_ray.types import Answer, Example, ImageRef, ImageSearch, Malformed, Observation, SearchKind, TextSearch

EXAMPLE = Example("p1", "Ada", ImageRef("a.png", 1, 1), ())


class Echo:
    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        return Observation(SearchKind.TEXT if isinstance(action, TextSearch) else SearchKind.IMAGE, ())


async def test_each_kind_has_its_own_limit() -> None:
    env = SearchEnv(EXAMPLE, Echo(), text_searches=2, image_searches=0)
    text, image = TextSearch(("a",)), ImageSearch(("a",))
    assert (env.allows(text), env.allows(image)) == (True, False)
    await env.step(text)
    await env.step(text)
    assert not env.allows(text)
    with pytest.raises(ValueError, match="no text search is left"):
        await env.step(text)


def test_only_searches_are_allowed() -> None:
    env = SearchEnv(EXAMPLE, Echo(), text_searches=1, image_searches=1)
    assert not env.allows(Answer(()))
    assert not env.allows(Malformed("no_reason"))


async def test_an_answer_of_the_other_kind_is_a_bug() -> None:
    class Wrong(Echo):
        async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
            return Observation(SearchKind.IMAGE, ())

    env = SearchEnv(EXAMPLE, Wrong(), text_searches=1, image_searches=1)
    with pytest.raises(ValueError, match="answered by a image"):
        await env.step(TextSearch(("a",)))
