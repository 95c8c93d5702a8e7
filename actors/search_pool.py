"""The search pool: search actors, and the small client that rollout workers carry to reach them.

Knows nothing of tools, limits or what answers are kept for other jobs. Always holds: one deadline covers waiting,
retries and answering; a search that misses it becomes "failed" results and is cancelled, as one is whose caller was
cancelled; a worker that dies is started anew and its searches are asked once more; any other failure raises.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from actors.placement import SEARCH, Resources, actor_name, actor_options
from actors.search_worker import Busy
from envs.answers.key import normalised
from envs.answers.single_flight import SingleFlight
from envs.search_counts import merge
from envs.tools.base import SearchTool, failed
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

_GRACE_S = 2.0
_LOSSES = 10
_BACKOFF_S = (0.01, 0.1)
_Key = tuple[str, SearchKind, str]


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How a pool is used.

    `timeout_s` bounds a search, `max_pending` the queries a worker takes at once. `per_query`: the tool answers every
    query for itself, so that the same one always goes to the same worker (which then asks only once for all who want
    it), and a copy of the client remembers up to `remember` answers.
    """

    timeout_s: float
    max_pending: int = 256
    per_query: bool = False
    remember: int = 2_048

    def __post_init__(self) -> None:
        """Refuse a deadline or a bound that lets nothing through.

        Raises:
            ValueError: naming the setting.
        """
        if self.timeout_s <= 0:
            raise ValueError(f"search.timeout_s={self.timeout_s}: must be more than 0")
        if self.max_pending < 1:
            raise ValueError(f"search.max_pending={self.max_pending}: must be at least 1")


class SearchPool:
    """`SearchClient` over search actors. Can be sent to other actors: what travels is handles and settings.

    A copy has at most as many searches under way as the workers take at once; the others wait in the copy.
    """

    def __init__(self, workers: Sequence[Any], settings: PoolSettings) -> None:
        if not workers:
            raise ValueError("search.workers=0: a search pool needs at least one worker")
        self._workers = list(workers)
        self._settings = settings
        self._next = 0
        self._node = ""
        self._places: asyncio.Semaphore | None = None
        self._known: OrderedDict[_Key, QueryResult] = OrderedDict()
        self._asking: SingleFlight[QueryResult] = SingleFlight()
        self._remembered = 0
        self._losses = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """What a copy elsewhere is made from."""
        return SearchPool, (self._workers, self._settings)

    @classmethod
    def start(
        cls,
        make_tool: Callable[[], SearchTool],
        settings: PoolSettings,
        *,
        workers: int,
        resources: Resources | None = None,
        together: bool = False,
    ) -> SearchPool:
        """Place `workers` actors, each with a tool of its own. They mostly wait, and so take no core by default.

        `together`: on the caller's node, because they share files there.
        """
        from actors.search_actor import SearchActor

        handles = []
        for index in range(workers):
            name = actor_name(SEARCH, index)
            # A search changes nothing, so Ray itself may restart the actor and ask once more.
            options = actor_options(name, resources or Resources(cpus=0)) | {
                "max_restarts": -1,
                "max_task_retries": 1,
            }
            if together:
                from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

                here = ray.get_runtime_context().get_node_id()
                options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
            actor = ray.remote(SearchActor).options(**options)
            handles.append(actor.remote(name, make_tool, max_pending=settings.max_pending))
        return cls(handles, settings)

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        """One result a query, at the latest a little after `timeout_s`."""
        begin = time.perf_counter()
        kind = action.kind
        # Only the id travels: a post's image would be copied with every search.
        if self._settings.per_query:
            answers = (self._query(example.id, kind, query) for query in action.queries)
            results = tuple(await asyncio.gather(*answers))
        else:
            self._next += 1
            results = await self._call(example.id, action, self._next % len(self._workers))
        return Observation(kind, results, latency_s=time.perf_counter() - begin)

    async def ready(self) -> None:
        """Wait until every worker has its tool; raises what kept one from it."""
        await asyncio.gather(*(worker.counts.remote() for worker in self._workers))

    async def counts(self) -> dict[str, float]:
        """What the workers have counted, added up; one that is being restarted counts for nothing meanwhile."""
        answers = await asyncio.gather(*(worker.counts.remote() for worker in self._workers), return_exceptions=True)
        counted: list[dict[str, float]] = []
        for answer in answers:
            if isinstance(answer, ray.exceptions.RayActorError):
                continue
            if isinstance(answer, BaseException):
                raise answer
            counted.append(answer)
        return merge(counted)

    async def shutdown(self) -> None:
        """Stop the actors, after they let go of what they hold."""
        closing = asyncio.gather(*(worker.close.remote() for worker in self._workers), return_exceptions=True)
        await asyncio.wait([closing], timeout=_GRACE_S)
        for worker in self._workers:
            ray.kill(worker)

    async def _query(self, example_id: str, kind: SearchKind, query: str) -> QueryResult:
        """One query: remembered, asked already by another episode of the post, or asked now."""
        key = (example_id, kind, query)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            self._remembered += 1
            return known
        return await self._asking.run(key, lambda: self._ask_and_remember(key))

    async def _ask_and_remember(self, key: _Key) -> QueryResult:
        example_id, kind, query = key
        action = TextSearch((query,)) if kind is SearchKind.TEXT else ImageSearch((query,))
        # By the query alone: whichever post asks, the same worker does, and it asks the service once.
        digest = hashlib.blake2b(f"{kind} {normalised(query)}".encode(), digest_size=8)
        (result,) = await self._call(example_id, action, int.from_bytes(digest.digest()) % len(self._workers))
        if result.status != "failed":
            self._known[key] = replace(result, cached=True)
            while len(self._known) > self._settings.remember:
                self._known.popitem(last=False)
        return result

    async def _call(self, example_id: str, action: TextSearch | ImageSearch, index: int) -> tuple[QueryResult, ...]:
        """Ask worker `index`, waiting while it is busy."""
        worker, timeout_s = self._workers[index], self._settings.timeout_s
        begin = time.perf_counter()
        deadline = asyncio.timeout(timeout_s + _GRACE_S)  # the worker's own deadline comes first
        try:
            async with deadline, self._place():
                while True:
                    left = timeout_s - (time.perf_counter() - begin)
                    if left <= 0:
                        return tuple(failed(action, SearchFailure.TIMEOUT))
                    answer = await self._ask(worker, example_id, action, left, timeout_s - left)
                    if not isinstance(answer, Busy):
                        return answer
                    await asyncio.sleep(random.uniform(*_BACKOFF_S))
        except TimeoutError:
            if not deadline.expired():
                raise
            logger.warning("a search for post %s got no answer in %.0f s", example_id, timeout_s)
            return tuple(failed(action, SearchFailure.TIMEOUT))

    async def _ask(
        self, worker: Any, example_id: str, action: TextSearch | ImageSearch, timeout_s: float, waited_s: float
    ) -> tuple[QueryResult, ...] | Busy:
        # What this copy answered itself, or let one call answer for several, since it asked last.
        remembered, self._remembered = self._remembered + self._asking.joined, 0
        self._asking.joined = 0
        call = worker.search.remote(
            example_id, action, timeout_s, node=self._here(), remembered=remembered, waited_s=waited_s
        )
        try:
            answer: Observation | Busy = await call
        except asyncio.CancelledError:
            ray.cancel(call)
            raise
        except ray.exceptions.RayActorError as error:
            return self._lost(example_id, action, error)
        self._losses = 0
        return answer if isinstance(answer, Busy) else answer.results

    def _lost(self, example_id: str, action: TextSearch | ImageSearch, error: Exception) -> tuple[QueryResult, ...]:
        """The worker died under a search, twice. One such search has failed; one after another are a fault of ours."""
        self._losses += 1
        if self._losses >= _LOSSES:
            raise error
        logger.warning("a search worker died twice under a search for post %s: %s", example_id, error)
        return tuple(failed(action, SearchFailure.LOST))

    def _place(self) -> asyncio.Semaphore:
        if self._places is None:
            self._places = asyncio.Semaphore(self._settings.max_pending * len(self._workers))
        return self._places

    def _here(self) -> str:
        if not self._node:
            self._node = ray.get_runtime_context().get_node_id()
        return self._node
