"""Serper and SearXNG: what they ask, what they read out of an answer, and that odd answers do no harm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from envs.tools.contract import check_provider
from envs.tools.provider import Failure, ImageHits, ProviderError, ProviderSettings, Snippet, TextHits
from envs.tools.searxng import SearXng
from envs.tools.serper import Serper


class Answering:
    """An `Api` that gives one answer after another and keeps what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    async def get_json(self, url: str, params: Mapping[str, str], headers: Any = None) -> Any:
        self.asked.append((url, params))
        return self._answers.pop(0)

    post_json = get_json


def serper(*answers: Any, **settings: Any) -> tuple[Serper, Answering]:
    api = Answering(*answers)
    return Serper(ProviderSettings("https://s.example", **settings), api), api


def searxng(*answers: Any, **settings: Any) -> tuple[SearXng, Answering]:
    api = Answering(*answers)
    return SearXng(ProviderSettings("https://x.example", **settings), api), api


async def test_serper_texts() -> None:
    provider, api = serper(
        {
            "answerBox": {"title": "Height", "answer": "330 m"},
            "knowledgeGraph": {"title": "Eiffel Tower", "type": "Tower", "description": "In Paris."},
            "organic": [{"title": "A", "snippet": "One.", "link": "https://a.example"}, {"title": "no snippet"}],
        },
        text_results=3,
    )
    assert await provider.text("how high") == TextHits(
        (Snippet("Height", "330 m"), Snippet("A", "One.", "https://a.example")),
        Snippet("Eiffel Tower", "Tower. In Paris."),
    )
    assert api.asked == [("https://s.example/search", {"q": "how high", "num": 3})]


async def test_serper_pictures_and_that_of_the_graph_for_a_second_request() -> None:
    images = {"images": [{"imageUrl": f"https://a.example/{number}.jpg"} for number in range(4)]}
    provider, api = serper(images, image_results=2)
    assert await provider.images("x") == ImageHits(("https://a.example/0.jpg", "https://a.example/1.jpg"))
    assert api.asked == [("https://s.example/images", {"q": "x", "num": 2})]

    graph = {"knowledgeGraph": {"imageUrl": "https://g.example/g.jpg"}}
    provider, api = serper(images, graph, image_results=1, graph_image=True)
    assert (await provider.images("x")).graph_url == "https://g.example/g.jpg"
    assert [url for url, _ in api.asked] == ["https://s.example/images", "https://s.example/search"]


async def test_searxng_texts_and_pictures() -> None:
    provider, api = searxng(
        {
            "results": [{"title": "A", "content": "One.", "url": "https://a.example"}, {"title": "B", "content": None}],
            "infoboxes": [{"infobox": "Eiffel Tower", "content": "A tower."}],
        }
    )
    assert await provider.text("x") == TextHits(
        (Snippet("A", "One.", "https://a.example"),), Snippet("Eiffel Tower", "A tower.")
    )
    assert api.asked == [("https://x.example/search", {"q": "x", "format": "json"})]

    pictures = [{"img_src": "//a.example/1.jpg"}, {"img_src": "data:image/png;base64,AA"}, {"img_src": ""}]
    provider, api = searxng({"results": pictures})
    assert await provider.images("x") == ImageHits(("https://a.example/1.jpg",))
    assert api.asked[0][1]["categories"] == "images"


async def test_searxng_whose_engines_fail_has_not_found_nothing() -> None:
    provider, _ = searxng({"results": [], "unresponsive_engines": [["google", "CAPTCHA"]]}, {"results": []})
    with pytest.raises(ProviderError) as caught:
        await provider.text("x")
    assert caught.value.failure is Failure.FAILED
    assert await provider.text("x") == TextHits()


@pytest.mark.parametrize("cls", [Serper, SearXng])
async def test_they_keep_the_contract(cls: type[Serper] | type[SearXng]) -> None:
    await check_provider(cls, tries=60)


def test_with_serper_a_key_without_credits_is_a_status_400() -> None:
    assert Serper.judge(400, {"message": "Not enough credits"}) is Failure.SPENT
    assert Serper.judge(400, {"message": "Query too long"}) is None
    assert Serper.judge(400, ["Not enough credits"]) is None
