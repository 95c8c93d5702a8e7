"""The design that asynchronous rollouts are compared with: all trajectories take each turn together.

Knows nothing of engines, models or what is measured. It holds the project's own episodes together with barriers, so
that prompts, seeds, parsing and sampled tokens are those of the asynchronous arm and waiting alone differs. Always
holds: no search begins before every trajectory of the round has generated, and no turn before every search of the round
is answered; with `serial` one search after another is asked, in the trajectories' order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sake_ray.interfaces import PolicyClient, SearchClient
from sake_ray.types import Completion, Example, ImageRef, ImageSearch, Observation, QueryResult, TextSearch


class Gate:
    """A barrier whose number of parties falls as trajectories end."""

    def __init__(self, parties: int) -> None:
        self._parties = parties
        self._arrived = 0
        self._open = asyncio.Event()

    async def arrive(self) -> None:
        """Wait until all that still run are here."""
        self._arrived += 1
        opened = self._open
        self._open_if_all()
        await opened.wait()

    def leave(self) -> None:
        """One has ended and will not arrive any more."""
        self._parties -= 1
        self._open_if_all()

    def _open_if_all(self) -> None:
        if self._arrived == self._parties:
            self._open.set()
            self._open, self._arrived = asyncio.Event(), 0


class GatedPolicy:
    """A `PolicyClient` for one trajectory that begins and ends each turn with all the others."""

    def __init__(self, policy: PolicyClient, gate: Gate) -> None:
        self._policy = policy
        self._gate = gate

    async def generate(
        self, short_ids: Sequence[int], images: Sequence[ImageRef], *, max_tokens: int, seed: int
    ) -> Completion:
        """See `PolicyClient`."""
        await self._gate.arrive()
        completion = await self._policy.generate(short_ids, images, max_tokens=max_tokens, seed=seed)
        await self._gate.arrive()
        return completion


class OneByOne:
    """A `SearchClient` that asks another one query after another, whoever wants them."""

    def __init__(self, search: SearchClient) -> None:
        self._search = search
        self._turn = asyncio.Lock()

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        """See `SearchClient`."""
        results: list[QueryResult] = []
        latency_s = 0.0
        async with self._turn:
            for query in action.queries:
                answer = await self._search.search(example, type(action)((query,)))
                results += answer.results
                latency_s += answer.latency_s
        return Observation(action.kind, tuple(results), latency_s)


async def in_step(episodes: Sequence[Callable[[Gate], Awaitable[None]]]) -> None:
    """Run episodes that share a gate; each is told of it, and has left it when it ends."""
    gate = Gate(len(episodes))

    async def run(episode: Callable[[Gate], Awaitable[None]]) -> None:
        try:
            await episode(gate)
        finally:
            gate.leave()

    await asyncio.gather(*(run(episode) for episode in episodes))
