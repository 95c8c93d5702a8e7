"""Serper (serper.dev): Google's results for a key and a price a request.

Knows nothing of keys, limits or caches. Always holds: what `provider.WebProvider` promises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from envs.tools.odd_json import address_in, object_in, objects_in, text_in
from envs.tools.provider import Api, Failure, ImageHits, ProviderError, ProviderSettings, Snippet, TextHits


class Serper:
    """A `WebProvider`."""

    NAME: ClassVar[str] = "serper"
    NEEDS_KEY: ClassVar[bool] = True
    DEFAULT_ENDPOINT: ClassVar[str] = "https://google.serper.dev"

    def __init__(self, settings: ProviderSettings, api: Api) -> None:
        self._settings = settings
        self._api = api

    async def text(self, query: str) -> TextHits:
        """`organic`, with the answer box first if there is one, and `knowledgeGraph`."""
        body = await self._post("search", query, self._settings.text_results)
        box = object_in(body, "answerBox")
        found = [Snippet(text_in(box, "title"), text_in(box, "answer") or text_in(box, "snippet"))]
        found += [
            Snippet(text_in(item, "title"), text_in(item, "snippet"), address_in(item, "link"))
            for item in objects_in(body, "organic")
        ]
        snippets = [snippet for snippet in found if snippet.text]
        return TextHits(tuple(snippets[: self._settings.text_results]), _graph(body))

    async def images(self, query: str) -> ImageHits:
        """`images`, and with `graph_image` the picture of the knowledge graph, which only a text search tells."""
        body = await self._post("images", query, self._settings.image_results)
        urls = [address_in(item, "imageUrl") for item in objects_in(body, "images")]
        graph_url = ""
        if self._settings.graph_image:
            graph_url = address_in(object_in(await self._post("search", query, 1), "knowledgeGraph"), "imageUrl")
        return ImageHits(tuple(url for url in urls if url)[: self._settings.image_results], graph_url)

    @staticmethod
    def judge(status: int, body: Any) -> Failure | None:
        """A key without credits is a status 400 with a message."""
        return Failure.SPENT if status == 400 and "credits" in text_in(body, "message").lower() else None

    async def _post(self, path: str, query: str, count: int) -> Mapping[str, Any]:
        body = await self._api.post_json(f"{self._settings.endpoint}/{path}", {"q": query, "num": count}, _headers)
        if not isinstance(body, Mapping):
            raise ProviderError(Failure.FAILED, "the answer is no JSON object")
        return body


def _headers(key: str) -> Mapping[str, str]:
    return {"X-API-KEY": key} if key else {}


def _graph(body: Mapping[str, Any]) -> Snippet | None:
    graph = object_in(body, "knowledgeGraph")
    title, kind, text = (text_in(graph, name) for name in ("title", "type", "description"))
    if not (text or (title and kind)):
        return None
    return Snippet(title, ". ".join(part for part in (kind, text) if part), address_in(graph, "descriptionLink"))
