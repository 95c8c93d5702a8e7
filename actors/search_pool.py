"""The search pool: search actors, and the small client that rollout workers carry to reach them.

Knows nothing of tools, limits or caches. Always holds: one deadline covers queueing and answering; a
search that misses it becomes "failed" results and is cancelled; any other failure raises, a worker
that died too often included.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from actors.placement import SEARCH, Resources, actor_name, actor_options
from actors.search_worker import SearchWorker
from envs.tools.base import SearchTool, failed
from sake_ray.types import Example, ImageSearch, Observation, SearchKind, TextSearch

logger = logging.getLogger(__name__)

_RESTARTS = 3
_GRACE_S = 2.0


class SearchPool:
    """`SearchClient` over search actors. Can be sent to other actors: it holds handles and numbers only.

    Each copy spreads its own searches evenly; the actors themselves queue nothing (they are async).
    """

    def __init__(self, workers: Sequence[Any], timeout_s: float) -> None:
        if not workers:
            raise ValueError("search.workers=0: a search pool needs at least one worker")
        if timeout_s <= 0:
            raise ValueError(f"search.timeout_s={timeout_s}: must be more than 0")
        self._workers = list(workers)
        self._timeout_s = timeout_s
        self._next = 0

    @classmethod
    def start(
        cls,
        make_tool: Callable[[], SearchTool],
        *,
        workers: int,
        timeout_s: float,
        resources: Resources | None = None,
    ) -> SearchPool:
        """Place `workers` actors, each with a tool of its own. They mostly wait, and so take no core by default."""
        handles = []
        for index in range(workers):
            name = actor_name(SEARCH, index)
            # A search changes nothing, so Ray itself may restart the actor and ask again.
            options = actor_options(name, resources or Resources(cpus=0)) | {
                "max_restarts": _RESTARTS,
                "max_task_retries": _RESTARTS,
            }
            handles.append(ray.remote(SearchWorker).options(**options).remote(name, make_tool, timeout_s))
        return cls(handles, timeout_s)

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        """One result a query, at the latest a little after `timeout_s`."""
        worker = self._workers[self._next % len(self._workers)]
        self._next += 1
        begin = time.perf_counter()
        # Only the id travels: a post's image would be copied with every search.
        call = worker.search.remote(example.id, action)
        deadline = asyncio.timeout(self._timeout_s + _GRACE_S)  # the worker's own deadline comes first
        try:
            async with deadline:
                observation: Observation = await call
                return observation
        except TimeoutError:
            if not deadline.expired():
                raise
            ray.cancel(call)
            logger.warning("a search for post %s got no answer in %.0f s", example.id, self._timeout_s)
            kind = SearchKind.TEXT if isinstance(action, TextSearch) else SearchKind.IMAGE
            return Observation(kind, tuple(failed(action)), latency_s=time.perf_counter() - begin)
        except asyncio.CancelledError:
            ray.cancel(call)
            raise

    async def ready(self) -> None:
        """Wait until every worker has its tool; raises what kept one from it."""
        await asyncio.gather(*(worker.stats.remote() for worker in self._workers))

    async def shutdown(self) -> None:
        """Stop the actors."""
        for worker in self._workers:
            ray.kill(worker)
