"""Which policy each deployment of engines serves, told to the replicas as it changes.

A small actor beside Ray Serve: deploying anew would restart every replica, and a new policy needs other weights alone.
Knows nothing of engines. Always holds: a replica that asks gets the newest policy that was put up; one that was added
or restarted has it before it serves.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray

from actors.placement import Resources, process_env
from sake_ray.serving.messages import PolicyCard


class PolicyBoard:
    """Policies by the name under which they are served. One event loop only."""

    def __init__(self) -> None:
        self._cards: dict[str, PolicyCard] = {}
        self._serving: dict[str, tuple[str, int]] = {}
        self._news = asyncio.Condition()

    async def put(self, card: PolicyCard) -> None:
        """Serve this policy under its name from now on."""
        async with self._news:
            self._cards[card.name] = card
            self._news.notify_all()

    async def current(self, name: str) -> PolicyCard | None:
        """What was put up last; None before the first."""
        return self._cards.get(name)

    async def newer(self, name: str, version: int, wait_s: float) -> PolicyCard | None:
        """What is newer than `version`, as soon as there is something; None after `wait_s` seconds without."""
        try:
            async with asyncio.timeout(wait_s), self._news:
                await self._news.wait_for(lambda: self._is_newer(name, version))
                return self._cards[name]
        except TimeoutError:
            return None

    async def serves(self, replica: str, name: str, version: int) -> None:
        """A replica says what it serves."""
        async with self._news:
            self._serving[replica] = (name, version)
            self._news.notify_all()

    async def left(self, replica: str) -> None:
        """A replica is gone."""
        async with self._news:
            self._serving.pop(replica, None)
            self._news.notify_all()

    async def behind(self, card: PolicyCard, wait_s: float) -> list[str]:
        """The replicas that still serve an older policy when all do not, or after `wait_s` seconds."""

        def late() -> list[str]:
            mine = ((replica, at) for replica, (name, at) in self._serving.items() if name == card.name)
            return sorted(replica for replica, at in mine if at < card.version)

        try:
            async with asyncio.timeout(wait_s), self._news:
                await self._news.wait_for(lambda: not late())
        except TimeoutError:
            pass
        return late()

    def _is_newer(self, name: str, version: int) -> bool:
        return name in self._cards and self._cards[name].version > version


def start_board() -> Any:
    """Place a board; it lives as long as this process, or until it is killed."""
    options = {"num_cpus": 0, "max_concurrency": 1_000, "runtime_env": {"env_vars": process_env(Resources(cpus=0))}}
    return ray.remote(PolicyBoard).options(name="policy-board", **options).remote()
