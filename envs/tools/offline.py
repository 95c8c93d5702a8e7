"""Search in the released cache: answers to the queries of a post, without any network.

Knows nothing of prompts or of how the cache lies on disk. Always holds: an entry answers at most one
query of a call. `matching="release"` gives what the released tool gives: the most similar entry however
unlike it is, if the two share anything at all, and nothing for a query whose entry an earlier one got.
`matching="strict"` accepts only a similarity of at least `threshold`, and says "no result" to every other query.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from envs.tools.pictures import usable_pictures
from envs.tools.search_cache import CachedImage, CacheEntry, SearchCache
from sake_ray.types import ImageRef, QueryResult, SearchKind

MATCHINGS = ("strict", "release")
MAX_QUERY_CHARS = 1_000

_WHOLE_NUMBER = re.compile(r"\s*\+?0*([1-9]\d{0,8})\s*")


@dataclass(frozen=True, slots=True)
class Asked:
    """One query as it was asked, and how many images at most it wants."""

    query: str
    top_k: int = 1


@dataclass(frozen=True, slots=True)
class Found:
    """A query and the entry that answers it (None: nothing does), with the images to show."""

    asked: Asked
    entry: CacheEntry | None = None

    @property
    def images(self) -> tuple[CachedImage, ...]:
        """The entry's own images, at most as many as were asked for."""
        return self.entry.images[: self.asked.top_k] if self.entry else ()

    @property
    def shown(self) -> tuple[CachedImage, ...]:
        """Everything the policy sees: the knowledge-graph image first, when there is one."""
        graph = self.entry.graph_image if self.entry else None
        return self.images if graph is None else (graph, *self.images)


class OfflineSearchTool:
    """A `SearchTool` over a released search cache."""

    def __init__(
        self,
        cache: str | Path,
        *,
        matching: str = "strict",
        threshold: float = 0.6,
        images_per_query: int = 1,
        max_chars: int = 2_000,
    ) -> None:
        """Open the cache folder.

        Raises:
            ValueError: an unknown matching, a threshold outside 0..1, or no cache in the folder.
        """
        if matching not in MATCHINGS:
            raise ValueError(f"search.matching={matching!r}: must be one of {', '.join(MATCHINGS)}")
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"search.threshold={threshold}: a similarity is between 0 and 1")
        self._cache = SearchCache(cache)
        self._matching = matching
        self._threshold = threshold
        self._images_per_query = images_per_query
        self._max_chars = max_chars

    async def search_text(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        """The cached summary a query; see `SearchTool`."""
        found = await self._find_in_thread(SearchKind.TEXT, example_id, queries)
        return [self._text_result(item) for item in found]

    async def search_images(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        """The cached images a query; see `SearchTool`."""
        found = await self._find_in_thread(SearchKind.IMAGE, example_id, queries)
        return await asyncio.to_thread(lambda: [_image_result(item) for item in found])

    def find(self, kind: SearchKind, example_id: str, asked: Sequence[Asked]) -> list[Found]:
        """Match queries with a post's cached entries, in order; an entry goes to the first query it answers best.

        A later query for the same entry finds nothing; in release matching it is left out, as in the released tool.

        Raises:
            SearchCacheError: the id is not a plain name, or the cache file is broken.
        """
        entries = self._cache.entries(kind, example_id)
        given: set[int] = set()
        found: list[Found] = []
        for item in asked:
            index = self._best(item.query, entries)
            if index is not None and index not in given:
                given.add(index)
                found.append(Found(item, entries[index]))
            elif index is None or self._matching == "strict":
                found.append(Found(item))
        return found

    def as_released(self, kind: SearchKind, found: Found) -> dict[str, Any]:
        """A match in the cache's own form, as the released tool returns it."""
        if found.entry is None:
            return _missed(kind, found.asked.query, self._matching)
        entry = found.entry
        if kind is SearchKind.TEXT:
            return {"query": entry.query, "status": entry.status, "result": entry.result}
        return {
            "query": entry.query,
            "status": entry.status,
            "result": {**entry.result, "images": [image.raw for image in found.images]},
            "kg_image_path": entry.graph_image.raw["path"] if entry.graph_image else None,
        }

    async def _find_in_thread(self, kind: SearchKind, example_id: str, queries: Sequence[str]) -> list[Found]:
        asked = [Asked(query, self._images_per_query) for query in queries]
        return await asyncio.to_thread(self.find, kind, example_id, asked)

    def _best(self, query: str, entries: Sequence[CacheEntry]) -> int | None:
        """The first entry of the highest similarity above 0, and in strict matching at least the threshold."""
        best, best_score = None, 0.0
        for index, entry in enumerate(entries):
            score = similarity(query, entry.query)
            if score > best_score:
                best, best_score = index, score
        return None if self._matching == "strict" and best_score < self._threshold else best

    def _text_result(self, found: Found) -> QueryResult:
        if found.entry is None or found.entry.status != "success" or not found.entry.summary.strip():
            return QueryResult(_name(found), "no_result", cached=found.entry is not None)
        return QueryResult(_name(found), "success", found.entry.summary[: self._max_chars], cached=True)


def similarity(query: str, cached: str) -> float:
    """How alike two queries are, 0..1: `difflib`'s ratio of both, stripped and lower-cased."""
    return SequenceMatcher(None, query.strip().lower()[:MAX_QUERY_CHARS], cached.strip().lower()).ratio()


def read_queries(value: object, default_top_k: int = 1) -> list[Asked]:
    """Queries in the released tools' forms: a list of strings and of `{"query" or "q": …, "top_k": …}`.

    `top_k` may be a number or digits; models write all sorts of things there, so whatever is not a whole
    number of at least 1 counts as not given.

    Raises:
        ValueError: it is no list, or an item has no query string.
    """
    if not isinstance(value, list):
        raise ValueError(f"queries: must be a JSON list, is a {type(value).__name__}")
    asked = []
    for index, item in enumerate(value):
        fields: Mapping[str, object] = item if isinstance(item, Mapping) else {"query": item}
        query = fields["query"] if "query" in fields else fields.get("q")
        if not isinstance(query, str):
            raise ValueError(f'queries[{index}]: must be a string or an object with a string "query" or "q"')
        asked.append(Asked(query, _top_k(fields.get("top_k"), default_top_k)))
    return asked


def _top_k(value: object, default: int) -> int:
    match = _WHOLE_NUMBER.fullmatch(str(value)) if isinstance(value, int | str) else None
    return int(match.group(1)) if match else default


def _name(found: Found) -> str:
    """What the policy reads before the answer: the cached query tells it whom the answer is about."""
    return found.entry.query if found.entry else found.asked.query


def _image_result(found: Found) -> QueryResult:
    images: tuple[ImageRef, ...] = ()
    if found.entry is not None and found.entry.status == "success":
        images = usable_pictures(image.path for image in found.shown)
    status = "success" if images else "no_result"
    return QueryResult(_name(found), status, images=images, cached=found.entry is not None)


def _missed(kind: SearchKind, query: str, matching: str) -> dict[str, Any]:
    """The answer to a query without an entry, in the cache's form."""
    status = "failure" if matching == "release" else "no_result"
    if kind is SearchKind.IMAGE:
        return {"query": query, "status": status, "result": {"images": []}, "kg_image_path": None}
    summary = "no result"
    if matching == "release":
        # The released tool's own sentence: users compare with recorded outputs of it.
        summary = f"[No Cache] No search information found for '{query}'. Please reason with your own knowledge."
    return {
        "query": query,
        "status": status,
        "result": {"summary": summary, "raw_snippets": [], "knowledge_graph": None},
    }
