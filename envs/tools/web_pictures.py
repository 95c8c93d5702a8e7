"""From addresses of pictures to the pictures that are shown: fetched together, chosen in order.

Knows nothing of services, stores or how a picture is fetched safely. Always holds: which pictures come out depends on
the addresses and on what lies there, never on which of them was quicker; the same picture comes out once; no more are
fetched than it takes; one that cannot be shown is left out and counted by reason.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping

from envs.fetch.refusal import FetchRefused
from envs.search_counts import SearchCounts
from envs.tools.ports import Fetcher, Prepare, Prepared, Trace
from envs.tools.provider import ImageHits

_GRAPH = -1


class PictureGatherer:
    """Fetches and chooses pictures for one web tool."""

    def __init__(self, fetcher: Fetcher, prepare: Prepare, *, meter: SearchCounts, trace: Trace | None = None) -> None:
        """`meter` and `trace` are told of each picture."""
        self._fetcher = fetcher
        self._prepare = prepare
        self._meter = meter
        self._trace = trace

    async def gather(self, hits: ImageHits, limit: int) -> list[Prepared]:
        """The knowledge graph's picture, if it can be shown, then the first `limit` others that can."""
        urls = [url for url in dict.fromkeys(hits.urls) if url != hits.graph_url]
        found: dict[int, Prepared | None] = {}
        under_way: dict[asyncio.Task[Prepared | None], int] = {}
        if hits.graph_url:
            under_way[asyncio.create_task(self._one(hits.graph_url))] = _GRAPH
        started = 0
        try:
            while True:
                # Those under way may all be good: one more is begun only when one of them was not.
                others = sum(place != _GRAPH for place in under_way.values())
                room = limit - len(_chosen(found, limit)) + (found.get(_GRAPH) is not None) - others
                for url in urls[started : started + max(0, room)]:
                    under_way[asyncio.create_task(self._one(url))] = started
                    started += 1
                if not under_way:
                    return _chosen(found, limit)
                done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    found[under_way.pop(task)] = task.result()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _one(self, url: str) -> Prepared | None:
        try:
            picture = await self._prepare(await self._fetcher.fetch(url))
        except FetchRefused as error:
            self._meter.picture(error.reason)
            self._tell({"url": url, "outcome": str(error)})
            return None
        self._meter.picture()
        self._tell({"url": url, "outcome": "good", "width": picture.width, "height": picture.height})
        return picture

    def _tell(self, fields: Mapping[str, object]) -> None:
        if self._trace is not None:
            self._trace("picture", fields)


def _chosen(found: Mapping[int, Prepared | None], limit: int) -> list[Prepared]:
    """Of the pictures found so far: that of the graph, then the first `limit` unlike it and each other."""
    chosen: dict[str, Prepared] = {}
    room = limit
    for place in sorted(found):
        picture = found[place]
        if picture is None:
            continue
        name = hashlib.sha256(picture.data).hexdigest()
        if name not in chosen and (place == _GRAPH or room > 0):
            chosen[name] = picture
            room -= place != _GRAPH
    return list(chosen.values())
