"""A search tool over a service on the web: what is remembered, what is asked, what of it is shown.

Knows nothing of HTTP, limits, keys or databases: a provider, a store and a fetcher are given to it. For one event loop.
Always holds: of several who ask the same at once one asks the service; an answer is stored whole before anybody gets
it; while recording, the first answer to a query is the only one, failures included; while replaying nothing is sent; a
failure that a policy sees is one of the reasons of `SearchFailure`, and everything else raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
import unicodedata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from envs.answers.key import AnswerKey
from envs.limiter.gate import GateClosed
from envs.search_counts import SearchCounts
from envs.tools.condense import Condensed, LlmCondenser, condense
from envs.tools.ports import Answers, Flight, Prepared, Trace
from envs.tools.provider import Failure, ImageHits, ProviderError, TextHits, WebProvider
from envs.tools.shown import (
    ShownSettings,
    hits_key,
    hits_value,
    image_hits,
    shown_key,
    shown_result,
    shown_value,
    text_hits,
)
from envs.tools.web_pictures import PictureGatherer
from sake_ray.types import ImageRef, QueryResult, SearchFailure, SearchKind

logger = logging.getLogger(__name__)

MAX_QUERY_CHARS = 400

_REASONS = {
    Failure.THROTTLED: SearchFailure.BROKEN,
    Failure.SPENT: SearchFailure.UNAVAILABLE,
    Failure.FAILED: SearchFailure.BROKEN,
    Failure.REFUSED: SearchFailure.REFUSED,
}
_WHAT_TO_DO = (
    "raise search.daily_budget or wait for the next UTC day, check or add keys (search.key_env, search.key_file), let "
    "the policy do without (search.on_spent=unavailable), or repeat a recorded run (search.cache=read_only)"
)


class SearchSpent(RuntimeError):
    """No key or budget is left, and the run is to fail then; the message says what to do."""


@dataclass(frozen=True, slots=True)
class _Found:
    """An answer as it was made; `settled` is false for one that is worth asking for again."""

    result: QueryResult
    pictures: tuple[Prepared, ...] = ()
    settled: bool = True


class WebTool:
    """Satisfies `SearchTool`; queries are answered one by one, and all at once."""

    def __init__(
        self,
        provider: WebProvider,
        settings: ShownSettings,
        *,
        pictures: PictureGatherer,
        flight: Flight,
        meter: SearchCounts,
        store: Answers | None = None,
        mode: str = "off",
        llm: LlmCondenser | None = None,
        on_spent: str = "fail",
        timeout_s: float | None = None,
        keys: int = 1,
        trace: Trace | None = None,
        closing: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        """Put the parts together.

        Args:
            provider: asks the service.
            settings: what shapes the answers.
            pictures: fetches them.
            flight: joins those who ask the same; of this tool alone.
            meter: where everything is counted.
            store: keeps answers; without one pictures travel as bytes.
            mode: on, record, read_only, or off without a store.
            llm: writes summaries, for summary="llm".
            on_spent: "fail" raises `SearchSpent` when no key or budget is left, "unavailable" tells the policy.
            timeout_s: seconds for a query of `search_text` and `search_images`; None: as long as the caller waits.
            keys: how many keys share the requests, for whoever reckons how long they take.
            trace: told of each step.
            closing: what `close` closes.

        Raises:
            ValueError: a mode without a store or the other way round, or a summary without a model.
        """
        if (store is None) != (mode == "off"):
            raise ValueError(f"search.cache={mode}: a store belongs to every mode but off")
        if (llm is None) != (settings.summary != "llm"):
            raise ValueError(f"search.summary={settings.summary}: a model belongs to llm, and to nothing else")
        self.keys = keys
        self._provider = provider
        self._settings = settings
        self._pictures = pictures
        self._flight = flight
        self._meter = meter
        self._store = store
        self._mode = mode
        self._llm = llm
        self._on_spent = on_spent
        self._timeout_s = timeout_s
        self._trace = trace
        self._closing = tuple(closing)

    async def search_text(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        """What is shown of the service's texts, a query; see `SearchTool`."""
        return await self._all(SearchKind.TEXT, example_id, queries)

    async def search_images(self, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        """The pictures the service names, a query; see `SearchTool`."""
        return await self._all(SearchKind.IMAGE, example_id, queries)

    async def answer(
        self, kind: SearchKind, query: str, example_id: str = "", timeout_s: float | None = None
    ) -> QueryResult:
        """The answer to one query, at the latest after `timeout_s` seconds (None: whenever it comes).

        Raises:
            SearchSpent: no key or budget is left, and on_spent is "fail".
            ApiSettingsError, ChatRefused: the settings are wrong; the message says which.
            AnswerStoreError: the store cannot be used.
        """
        begin = time.perf_counter()
        self._meter.query()
        key = shown_key(self._provider.NAME, kind, query, self._settings)
        self._tell("query", kind=str(kind), key=key.query)
        deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                result = await self._answer(key, kind, query, example_id)
        except TimeoutError:
            if not deadline.expired():  # some other timeout inside, which it should have handled
                raise
            logger.warning("the %s search for post %s got no answer in %.1f s", kind, example_id, timeout_s)
            late = QueryResult(query, "failed", reason=SearchFailure.TIMEOUT)
            result = await self._kept(key, kind, query, _Found(late), example_id)
        seconds = time.perf_counter() - begin
        self._meter.answered(seconds)
        if result.reason is not None:
            self._meter.failed(result.reason)
        self._tell("answer", status=result.status, reason=str(result.reason or ""), ms=round(seconds * 1e3, 2))
        return result

    def requests_for(self, kind: SearchKind, query: str) -> int:
        """How many requests to the service it would take to answer a query now, if none has to be repeated.

        Raises:
            AnswerStoreError: the store cannot be used.
        """
        if self.is_known(kind, query):
            return 0
        key = hits_key(self._provider.NAME, kind, query, self._settings)
        if self._store is not None and self._store.get(key) is not None:
            return 0
        return 2 if kind is SearchKind.IMAGE and self._settings.graph_image else 1

    def is_known(self, kind: SearchKind, query: str) -> bool:
        """Whether a query would be answered from the store, or is none and never asked.

        Raises:
            AnswerStoreError: the store cannot be used.
        """
        key = shown_key(self._provider.NAME, kind, query, self._settings)
        return not words_asked(query) or self._known(key, kind, query) is not None

    def counts(self) -> dict[str, float]:
        """What has been counted; see `SearchCounts.snapshot`."""
        return self._meter.snapshot()

    async def close(self) -> None:
        """Close the connections, and whatever else was handed over to be closed."""
        async with contextlib.AsyncExitStack() as stack:  # all of them, also after one that fails
            for close in reversed(self._closing):
                stack.push_async_callback(close)

    # --- one query -----------------------------------------------------------------------------------

    async def _all(self, kind: SearchKind, example_id: str, queries: Sequence[str]) -> list[QueryResult]:
        tasks = [asyncio.create_task(self.answer(kind, query, example_id, self._timeout_s)) for query in queries]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _answer(self, key: AnswerKey, kind: SearchKind, query: str, example_id: str) -> QueryResult:
        known = self._known(key, kind, query)
        if self._store is not None:
            self._meter.looked_up(known is not None)
            self._tell("cache", hit=known is not None)
        if known is not None:
            self._note(key, example_id)
            return known
        asked = words_asked(query)
        if not asked:
            return QueryResult(query, "failed", reason=SearchFailure.REFUSED)
        own = False

        async def make() -> QueryResult:
            nonlocal own
            own = True
            return await self._make(key, kind, asked, example_id)

        result = await self._flight.run(key, make)
        if not own:
            self._meter.add("shared")
            self._tell("shared")
            self._note(key, example_id)
        return replace(result, query=query)

    def _known(self, key: AnswerKey, kind: SearchKind, query: str) -> QueryResult | None:
        stored = None if self._store is None else self._store.get(key)
        known = None if stored is None else shown_result(stored, key, query, cached=True)
        # A failure stands in a recording alone: whoever merely keeps answers asks again.
        return None if known is not None and known.status == "failed" and self._mode == "on" else known

    def _note(self, key: AnswerKey, example_id: str) -> None:
        """Say who asked: a recording is exported post by post."""
        if self._store is not None and example_id:
            self._store.note_asked(key, example_id)

    async def _make(self, key: AnswerKey, kind: SearchKind, asked: str, example_id: str) -> QueryResult:
        # Once more: another process, or a flight that has just landed, may have stored it.
        known = self._known(key, kind, asked)
        if known is not None:
            self._note(key, example_id)
            return known
        if self._mode == "read_only":
            return (await self._from_hits(kind, asked)).result
        try:
            found = await self._find(kind, asked)
        except (ProviderError, GateClosed) as error:
            reason = _REASONS[error.failure] if isinstance(error, ProviderError) else error.reason
            if reason is SearchFailure.UNAVAILABLE and self._on_spent == "fail":
                raise SearchSpent(f"search.provider={self._provider.NAME}: {error}; {_WHAT_TO_DO}") from error
            logger.warning("the %s search is answered as failed (%s): %s", kind, reason, error)
            found = _Found(QueryResult(asked, "failed", reason=reason))
        return await self._kept(key, kind, asked, found, example_id)

    async def _kept(self, key: AnswerKey, kind: SearchKind, query: str, found: _Found, post: str) -> QueryResult:
        """The answer as it is given: from the store, where it is kept there."""
        store = self._store
        keep = self._mode == "record" or (self._mode == "on" and found.settled and found.result.status != "failed")
        if store is None or not keep:
            return replace(found.result, images=_references(found.pictures))

        def put() -> QueryResult:
            kept = [store.add_picture(each.data, each.suffix, each.width, each.height) for each in found.pictures]
            stored = store.put(key, shown_value(found.result), pictures=kept, post=post)
            return shown_result(stored, key, query, cached=False)

        return await asyncio.to_thread(put)

    # --- what is shown -------------------------------------------------------------------------------

    async def _find(self, kind: SearchKind, asked: str) -> _Found:
        if kind is SearchKind.TEXT:
            hits = await self._text_hits(asked)
            if self._llm is not None:
                condensed = await self._llm.condense(asked, hits)
            else:
                condensed = Condensed(condense(hits, self._settings.summary, self._settings.max_chars))
            self._tell("condensed", mode=self._settings.summary, chars=len(condensed.text))
            return _text_answer(asked, condensed)
        found = await self._image_hits(asked)
        pictures = await self._pictures.gather(found, self._settings.images_per_query)
        result = QueryResult(asked, "success" if pictures else "no_result")
        # Addresses of which none gave a picture: the net may have been at fault, and the hits are kept anyway.
        return _Found(result, tuple(pictures), settled=bool(pictures) or not (found.urls or found.graph_url))

    async def _from_hits(self, kind: SearchKind, asked: str) -> _Found:
        """Replaying: what can be made of recorded hits without asking anybody, for settings that have changed."""
        key = hits_key(self._provider.NAME, kind, asked, self._settings)
        stored = None if kind is SearchKind.IMAGE or self._store is None else self._store.get(key)
        if stored is not None:
            hits = text_hits(stored.value, key)
            if self._llm is None:
                condensed: Condensed | None = Condensed(
                    condense(hits, self._settings.summary, self._settings.max_chars)
                )
            else:
                condensed = self._llm.recorded(asked, hits)
            if condensed is not None:
                return _text_answer(asked, condensed)
        self._meter.add("not_recorded")
        return _Found(QueryResult(asked, "failed", reason=SearchFailure.NOT_RECORDED))

    async def _text_hits(self, asked: str) -> TextHits:
        key = hits_key(self._provider.NAME, SearchKind.TEXT, asked, self._settings)
        value = await self._hits(key, lambda: self._provider.text(asked))
        hits = text_hits(value, key)
        self._tell("hits", snippets=len(hits.snippets), graph=hits.graph is not None)
        return hits

    async def _image_hits(self, asked: str) -> ImageHits:
        key = hits_key(self._provider.NAME, SearchKind.IMAGE, asked, self._settings)
        value = await self._hits(key, lambda: self._provider.images(asked))
        hits = image_hits(value, key)
        self._tell("hits", urls=len(hits.urls), graph=bool(hits.graph_url))
        return hits

    async def _hits(self, key: AnswerKey, ask: Callable[[], Awaitable[TextHits | ImageHits]]) -> Mapping[str, Any]:
        """What the service says, or said: hits are kept for themselves, as they are what money was paid for."""
        stored = None if self._store is None else self._store.get(key)
        if stored is not None:
            return stored.value
        value = hits_value(await ask())
        if self._store is None:
            return value
        return (await asyncio.to_thread(self._store.put, key, value)).value

    def _tell(self, step: str, **fields: object) -> None:
        if self._trace is not None:
            self._trace(step, fields)


def words_asked(query: str) -> str:
    """A query as it is sent: one line without control characters, at most `MAX_QUERY_CHARS` characters."""
    plain = (" " if unicodedata.category(char) in ("Cc", "Cs", "Cn", "Co") else char for char in query[:4_000])
    return " ".join("".join(plain).split())[:MAX_QUERY_CHARS].strip()


def _references(pictures: Sequence[Prepared]) -> tuple[ImageRef, ...]:
    """Pictures that no store keeps, as bytes."""
    return tuple(
        ImageRef(f"web/{hashlib.sha256(each.data).hexdigest()}{each.suffix}", each.width, each.height, data=each.data)
        for each in pictures
    )


def _text_answer(asked: str, condensed: Condensed) -> _Found:
    status = "success" if condensed.text else "no_result"
    return _Found(QueryResult(asked, status, condensed.text), settled=condensed.settled)
