"""The limiter of a cluster: one actor that all jobs share, and the handle by which any process reaches it.

Knows nothing of rates, budgets or fairness, which are `envs.limiter`'s. Always holds: at any time there is at most one
limiter in a cluster; it stays as long as some client is heard of, whichever job started it, and goes by itself when
the last one has left or none was heard of for `linger_s`; one that takes another's place gives out no burst.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError

from actors.placement import Resources, actor_options
from envs.limiter.ledger import Ledger
from envs.limiter.messages import Grant, Granted, LimiterLostError, Outcome, Refused, Report, Service, ServiceCounts
from envs.limiter.service import LimiterService

logger = logging.getLogger(__name__)

NAME, NAMESPACE = "limiter", "sake_ray-limiter"
_MANY_CALLS = 10_000
_SETTLE_S = 8.0  # more than `LeaseClient` lets pass between two signs of life
_RETRY_WAITS_S = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)

T = TypeVar("T")

# Dataclasses cost Ray ten times what plain values do, and these are many.
_Reports = list[tuple[int, str, float | None]]
_Grants = tuple[int, int, list[tuple[int, int, int]]]


class LimiterActor:
    """`LimiterService` as an actor."""

    def __init__(self, ledger: str, lease_s: float, linger_s: float, settle_s: float) -> None:
        """`ledger`: the file of daily budgets, "" for none. `settle_s`: as for `LimiterService`."""
        context = ray.get_runtime_context()
        with warnings.catch_warnings():  # Ray asks itself in a way that it deprecates
            warnings.simplefilter("ignore")
            again = context.was_current_actor_reconstructed
        if again:
            settle_s = max(settle_s, _SETTLE_S)
        self._limiter = LimiterService(
            ledger=Ledger(Path(ledger)) if ledger else None, lease_s=lease_s, settle_s=settle_s
        )
        self._linger_s = linger_s
        self._watch: asyncio.Task[None] | None = None
        self._self = context.current_actor
        self._self.watch.remote()  # also after Ray has restarted it, when nobody may come any more

    def __repr__(self) -> str:
        return NAME

    async def register(self, client: str, service: Service, held: Sequence[Grant]) -> None:
        """See `LimiterPort.register`."""
        await self._limiter.register(client, service, held)

    async def acquire(self, client: str, service: str, wanted: int, reports: _Reports) -> _Grants | Refused:
        """See `LimiterPort.acquire`."""
        answer = await self._limiter.acquire(client, service, wanted, _unpacked(reports))
        if isinstance(answer, Refused):
            return answer
        return answer.asked_ns, answer.now_ns, [(grant.id, grant.key, grant.start_ns) for grant in answer.grants]

    async def report(self, client: str, service: str, reports: _Reports) -> None:
        """See `LimiterPort.report`."""
        await self._limiter.report(client, service, _unpacked(reports))

    async def leave(self, client: str) -> None:
        """See `LimiterPort.leave`; the last one out ends the actor."""
        await self._limiter.leave(client)
        if not self._limiter.clients():
            self._self.stop_if_unused.remote()

    async def counts(self) -> dict[str, ServiceCounts]:
        """See `LimiterPort.counts`."""
        return await self._limiter.counts()

    async def watch(self) -> None:
        """See to it, in the background, that the actor ends when nobody is there."""
        self._watch = self._watch or asyncio.create_task(self._end_when_unused())

    async def stop_if_unused(self) -> None:
        """End the actor, unless somebody came meanwhile."""
        if self._limiter.clients():
            return
        if self._watch is not None:
            self._watch.cancel()  # Ray waits for what is under way, so nothing new may come
        await self._limiter.close()
        ray.actor.exit_actor()

    async def _end_when_unused(self) -> None:
        while True:
            await asyncio.sleep(self._linger_s)
            if not self._limiter.clients():
                await self._self.stop_if_unused.remote()  # exit_actor works in a call alone


@dataclass
class LimiterHandle:
    """`LimiterPort` over the cluster's limiter, which it finds, or starts; can be sent to any process.

    Whoever starts the limiter determines its ledger: give all the same. `linger_s` is how long it stays when it hears
    of nobody, and `lease_s` after how many seconds of silence a client counts as dead.
    """

    ledger: str = ""
    lease_s: float = 30.0
    linger_s: float = 60.0
    namespace: str = NAMESPACE
    _actor: Any = field(default=None, repr=False)
    _answered: bool = field(default=False, repr=False)
    _lost_one: bool = field(default=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_actor": None}

    async def register(self, client: str, service: Service, held: Sequence[Grant] = ()) -> None:
        """See `LimiterPort.register`."""
        await self._call(lambda actor: actor.register.remote(client, service, tuple(held)))

    async def acquire(
        self, client: str, service: str, wanted: int, reports: Sequence[Report] = ()
    ) -> Granted | Refused:
        """See `LimiterPort.acquire`."""
        packed = _packed(reports)
        answer = await self._call(lambda actor: actor.acquire.remote(client, service, wanted, packed))
        if isinstance(answer, Refused):
            return answer
        asked_ns, now_ns, grants = answer
        return Granted(asked_ns, now_ns, tuple(Grant(*grant) for grant in grants))

    async def report(self, client: str, service: str, reports: Sequence[Report]) -> None:
        """See `LimiterPort.report`."""
        packed = _packed(reports)
        await self._call(lambda actor: actor.report.remote(client, service, packed))

    async def leave(self, client: str) -> None:
        """See `LimiterPort.leave`."""
        try:
            await (self._actor or self._find()).leave.remote(client)
        except RayActorError:  # it is gone, and with it all it knew of the client
            self._actor = None

    async def counts(self) -> dict[str, ServiceCounts]:
        """See `LimiterPort.counts`."""
        return await self._call(lambda actor: actor.counts.remote())

    async def _call(self, ask: Callable[[Any], Awaitable[T]]) -> T:
        """Ask the limiter; one that has died, or was just going, gets a successor, which is asked again."""
        for wait_s in _RETRY_WAITS_S:
            await asyncio.sleep(wait_s)
            actor = self._actor = self._actor or self._find()
            try:
                answer = await ask(actor)
                self._answered = True
                return answer
            except RayActorError as error:
                logger.warning("the limiter is gone or restarting (%s); asking again", type(error).__name__)
                self._actor, self._lost_one = None, self._answered
        raise LimiterLostError(
            f"no answer from the limiter (actor {NAME!r} in namespace {self.namespace!r}) in {len(_RETRY_WAITS_S)} "
            f"tries over {sum(_RETRY_WAITS_S):.0f} s; see the cluster's log for why it dies"
        )

    def _find(self) -> Any:
        options = actor_options(NAME, Resources(cpus=0)) | {
            "namespace": self.namespace,
            "get_if_exists": True,
            "lifetime": "detached",
            "max_restarts": -1,
            "max_concurrency": _MANY_CALLS,
        }
        settle_s = _SETTLE_S if self._lost_one else 0.0
        actor = ray.remote(LimiterActor).options(**options)
        return actor.remote(self.ledger, self.lease_s, self.linger_s, settle_s)


def _packed(reports: Sequence[Report]) -> _Reports:
    return [(report.id, report.outcome.value, report.retry_after_s) for report in reports]


def _unpacked(reports: _Reports) -> list[Report]:
    return [Report(number, Outcome(outcome), retry_after_s) for number, outcome, retry_after_s in reports]
