"""Search as a Ray Serve deployment, and the pool's own client over it.

The very worker, tool, limits and client of training: `SearchPool`'s copy asks one "worker", which is all replicas of
the deployment behind Serve's router. Knows nothing of episodes. Always holds: a search whose replica died is asked once
more, at another one; a search that nobody waits for any more is cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError

from actors.search_build import ToolSpec
from actors.search_pool import PoolSettings, SearchPool
from actors.search_worker import Busy, SearchWorker
from sake_ray.types import ImageSearch, Observation, TextSearch


class SearchReplica:
    """A `SearchWorker` that Serve made."""

    def __init__(self, spec: ToolSpec, max_pending: int) -> None:
        name = f"search-{serve.get_replica_context().replica_id.unique_id}"
        self._worker = SearchWorker(name, spec, max_pending=max_pending)
        self._worker.node = ray.get_runtime_context().get_node_id()

    async def search(
        self,
        example_id: str,
        action: TextSearch | ImageSearch,
        timeout_s: float,
        *,
        node: str,
        remembered: int,
        waited_s: float,
        members: int,
    ) -> Observation | Busy:
        """See `SearchWorker.search`; who serves is Serve's business."""
        del members
        return await self._worker.search(
            example_id, action, timeout_s, node=node, remembered=remembered, waited_s=waited_s
        )

    async def counts(self) -> dict[str, float]:
        """See `SearchWorker.counts`."""
        return await self._worker.counts()

    async def __del__(self) -> None:
        await self._worker.close()


@dataclass(frozen=True)
class ServedSearch:
    """`SearchClient` over the deployment; travels to engines as handle and settings."""

    handle: Any
    settings: PoolSettings

    def client(self) -> SearchPool:
        """The client of one engine."""
        return SearchPool([_Replicas(self.handle)], self.settings, cancel=lambda call: call.cancel())


class _Replicas:
    """The deployment as `SearchPool` knows a worker: `worker.search.remote(…)`."""

    def __init__(self, handle: Any) -> None:
        self.search = _Again(handle.search)
        self.counts = handle.counts


class _Again:
    """A method of the deployment that is called once more when its replica died, as Ray does for an actor's."""

    def __init__(self, method: Any) -> None:
        self._method = method

    def remote(self, *args: Any, **kwargs: Any) -> _Call:
        return _Call(self._method, args, kwargs)


class _Call:
    """One call: awaited or cancelled."""

    def __init__(self, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._again = (method, args, kwargs)
        self._response = method.remote(*args, **kwargs)

    def __await__(self) -> Any:
        return self._answer().__await__()

    def cancel(self) -> None:
        self._response.cancel()

    async def _answer(self) -> Any:
        try:
            return await self._response
        except RayActorError:
            method, args, kwargs = self._again
            self._response = method.remote(*args, **kwargs)
            return await self._response
