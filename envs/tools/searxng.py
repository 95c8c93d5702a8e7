"""SearXNG: a metasearch engine that users run themselves, read through its JSON format.

Knows nothing of keys, limits or caches. Always holds: what `provider.WebProvider` promises; an answer without results
for which an engine behind it failed is a failure, not "nothing was found".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from envs.tools.odd_json import address_in, objects_in, text_in
from envs.tools.provider import Api, Failure, ImageHits, ProviderError, ProviderSettings, Snippet, TextHits


class SearXng:
    """A `WebProvider`. It has no number of results to ask for: what is over it is dropped."""

    NAME: ClassVar[str] = "searxng"
    NEEDS_KEY: ClassVar[bool] = False
    DEFAULT_ENDPOINT: ClassVar[str] = ""
    ADVICE: ClassVar[Mapping[int, str]] = {
        403: "or turn its JSON format on: search.formats: [html, json] in its settings.yml"
    }

    def __init__(self, settings: ProviderSettings, api: Api) -> None:
        self._settings = settings
        self._api = api

    async def text(self, query: str) -> TextHits:
        """`results`, and the first of `infoboxes`."""
        body = await self._get(query)
        snippets = [
            Snippet(text_in(item, "title"), text_in(item, "content"), address_in(item, "url"))
            for item in objects_in(body, "results")
        ]
        snippets = [snippet for snippet in snippets if snippet.text]
        boxes = [Snippet(text_in(box, "infobox"), text_in(box, "content")) for box in objects_in(body, "infoboxes")]
        graph = next((box for box in boxes if box.text), None)
        return TextHits(tuple(snippets[: self._settings.text_results]), graph)

    async def images(self, query: str) -> ImageHits:
        """`results` of the images, and with `graph_image` the picture of an infobox, which only a text search has."""
        body = await self._get(query, {"categories": "images"})
        urls = [address_in(item, "img_src") for item in objects_in(body, "results")]
        graph_url = ""
        if self._settings.graph_image:
            boxes = objects_in(await self._get(query), "infoboxes")
            graph_url = next((url for box in boxes if (url := address_in(box, "img_src"))), "")
        return ImageHits(tuple(url for url in urls if url)[: self._settings.image_results], graph_url)

    @staticmethod
    def judge(status: int, body: Any) -> Failure | None:
        """Its statuses mean what they mean everywhere."""
        return None

    async def _get(self, query: str, more: Mapping[str, str] | None = None) -> Mapping[str, Any]:
        params = {"q": query, "format": "json", **(more or {})}
        body = await self._api.get_json(f"{self._settings.endpoint}/search", params, _headers)
        if not isinstance(body, Mapping):
            raise ProviderError(Failure.FAILED, "the answer is no JSON object")
        if not body.get("results") and not body.get("infoboxes") and body.get("unresponsive_engines"):
            raise ProviderError(Failure.FAILED, "no result, and engines behind it did not answer")
        return body


def _headers(key: str) -> Mapping[str, str]:
    """Its own takes no key; a proxy before it may."""
    return {"Authorization": f"Bearer {key}"} if key else {}
