"""The search pool: search actors, and the small client that rollout workers carry to reach them.

Knows nothing of tools, limits or what answers are kept for other jobs. Always holds: one deadline covers waiting,
retries and answering; a search that misses it becomes "failed" results and is cancelled, as one is whose caller was
cancelled; a worker that dies is started anew and its searches are asked once more; one that left sends its askers to
the others, so that no search is lost to a change of size; any other failure raises.
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

from actors.actor_host import RayHost
from actors.actor_state import ActorState
from actors.crew import Crew
from actors.placement import SEARCH, Resources, actor_name, actor_options
from actors.search_actor import Members, SearchActor, Told
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

    A copy has at most as many searches under way as the workers take at once; the others wait in the copy. The pool
    that `start` made is a `ScalablePool`; its copies learn of changes from the workers' answers, at no call more.
    """

    def __init__(
        self,
        workers: Sequence[Any],
        settings: PoolSettings,
        version: int = 0,
        cancel: Callable[[Any], None] = ray.cancel,
    ) -> None:
        if not workers:
            raise ValueError("search.workers=0: a search pool needs at least one worker")
        self._workers = list(workers)
        self._version = version
        self._cancel = cancel
        self._settings = settings
        self._crew: Crew | None = None
        self._telling: set[asyncio.Task[None]] = set()
        self._past: dict[str, float] = {}
        self._next = 0
        self._node = ""
        self._places: asyncio.Semaphore | None = None
        self._places_for = 0
        self._known: OrderedDict[_Key, QueryResult] = OrderedDict()
        self._asking: SingleFlight[QueryResult] = SingleFlight()
        self._remembered = 0
        self._losses = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """What a copy elsewhere is made from."""
        return SearchPool, (self._workers, self._settings, self._version)

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
        # A search changes nothing, so Ray itself may restart the actor and ask once more.
        options: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 1}
        if together:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            here = ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
        taken = resources or Resources(cpus=0)

        def spawn(index: int) -> Any:
            name = actor_name(SEARCH, index)
            actor = ray.remote(SearchActor).options(**actor_options(name, taken) | options)
            return actor.remote(name, make_tool, max_pending=settings.max_pending)

        crew = Crew(
            SEARCH,
            workers,
            RayHost(spawn, taken),
            started=lambda handle: handle.counts.remote(),
            see_off=lambda handle: pool._see_off(handle),
            changed=lambda: pool._changed(),
        )
        pool = cls(crew.serving, settings)
        pool._crew = crew
        return pool

    @property
    def size(self) -> int:
        """How many workers it is to have."""
        return len(self._workers) if self._crew is None else self._crew.size

    async def resize(self, workers: int) -> None:
        """See `ScalablePool.resize`; not for copies."""
        self._own_crew.resize(workers)

    async def states(self) -> list[ActorState]:
        """See `ScalablePool.states`; not for copies."""
        self._own_crew.check()
        return await self._own_crew.states(self._look)

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
            results = await self._call(example.id, action, self._next)
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
        return merge([*counted, self._past])

    async def shutdown(self) -> None:
        """Stop the actors, after they let go of what they hold."""
        workers = self._workers if self._crew is None else await self._crew.stop()
        closing = asyncio.gather(*(worker.close.remote() for worker in workers), return_exceptions=True)
        await asyncio.wait([closing], timeout=_GRACE_S)
        for worker in workers:
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
        (result,) = await self._call(example_id, action, int.from_bytes(digest.digest()))
        if result.status != "failed":
            self._known[key] = replace(result, cached=True)
            while len(self._known) > self._settings.remember:
                self._known.popitem(last=False)
        return result

    async def _call(self, example_id: str, action: TextSearch | ImageSearch, turn: int) -> tuple[QueryResult, ...]:
        """Ask the worker whose turn it is, waiting while it is busy, and another when it has left."""
        timeout_s = self._settings.timeout_s
        begin = time.perf_counter()
        deadline = asyncio.timeout(timeout_s + _GRACE_S)  # the worker's own deadline comes first
        try:
            async with deadline, self._place():
                while True:
                    left = timeout_s - (time.perf_counter() - begin)
                    if left <= 0:
                        return tuple(failed(action, SearchFailure.TIMEOUT))
                    worker = self._workers[turn % len(self._workers)]
                    answer = await self._ask(worker, example_id, action, left, timeout_s - left)
                    if answer is None:
                        continue
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
    ) -> tuple[QueryResult, ...] | Busy | None:
        """The worker's answer; None when it has none because it left, or because its node took the answer along."""
        # What this copy answered itself, or let one call answer for several, since it asked last.
        remembered, self._remembered = self._remembered + self._asking.joined, 0
        self._asking.joined = 0
        call = worker.search.remote(
            example_id,
            action,
            timeout_s,
            node=self._here(),
            remembered=remembered,
            waited_s=waited_s,
            members=self._version,
        )
        try:
            answer: Observation | Busy | Told | None = await call
        except asyncio.CancelledError:
            self._cancel(call)
            raise
        except ray.exceptions.RayActorError as error:
            if await self._has_left(worker):
                return None
            return self._lost(example_id, action, error)
        except ray.exceptions.ObjectLostError as error:
            logger.warning("the answer to a search for post %s is lost; asking again: %s", example_id, error)
            return None
        self._losses = 0
        if isinstance(answer, Told):
            self._take(answer.members)
            answer = answer.answer
        return answer.results if isinstance(answer, Observation) else answer

    async def _has_left(self, worker: Any) -> bool:
        """Whether a worker is gone for good. One that Ray restarts answers, when it is back."""
        if worker not in self._workers:  # another call has found out
            return True
        try:
            await worker.counts.remote()
        except ray.exceptions.RayActorError:
            if len(self._workers) > 1 and worker in self._workers:
                self._workers = [other for other in self._workers if other != worker]
            return worker not in self._workers
        return False

    def _lost(self, example_id: str, action: TextSearch | ImageSearch, error: Exception) -> tuple[QueryResult, ...]:
        """The worker died under a search, twice. One such search has failed; one after another are a fault of ours."""
        self._losses += 1
        if self._losses >= _LOSSES:
            raise error
        logger.warning("a search worker died twice under a search for post %s: %s", example_id, error)
        return tuple(failed(action, SearchFailure.LOST))

    def _take(self, members: Members) -> None:
        """These serve now."""
        if members.version <= self._version:
            return
        self._version, self._workers = members.version, list(members.workers)
        while self._places is not None and self._places_for < len(self._workers):
            self._places_for += 1
            for _ in range(self._settings.max_pending):
                self._places.release()

    # --- of the pool that `start` made ---------------------------------------------------------------

    @property
    def _own_crew(self) -> Crew:
        if self._crew is None:
            raise RuntimeError("a copy of a search pool can neither be resized nor looked at; ask the pool itself")
        return self._crew

    def _changed(self) -> None:
        """Tell the workers who serves now; each tells whoever asks it."""
        self._take(Members(self._version + 1, tuple(self._own_crew.serving)))
        for worker in self._workers:
            self._tell(worker)

    def _tell(self, worker: Any) -> None:
        async def tell() -> None:
            try:
                await worker.tell.remote(Members(self._version, tuple(self._workers)))
            except ray.exceptions.RayActorError as error:  # it is told when it is next looked at
                logger.debug("a search worker could not be told who serves: %s", error)

        task = asyncio.create_task(tell(), name="tell a search worker who serves")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _see_off(self, worker: Any) -> None:
        counts = dict(await worker.leave.remote(Members(self._version, tuple(self._workers))))
        del counts["pending"]
        self._past = merge([self._past, counts])
        await worker.close.remote()

    async def _look(self, worker: Any) -> tuple[str, dict[str, float]]:
        node, version, numbers = await worker.state.remote()
        if version < self._version and worker in self._workers:  # it was restarted since it was told
            self._tell(worker)
        return node, numbers

    # -------------------------------------------------------------------------------------------------

    def _place(self) -> asyncio.Semaphore:
        if self._places is None:
            self._places_for = len(self._workers)
            self._places = asyncio.Semaphore(self._settings.max_pending * self._places_for)
        return self._places

    def _here(self) -> str:
        if not self._node:
            self._node = ray.get_runtime_context().get_node_id()
        return self._node
