"""The limiter of a process, or inside its actor of a cluster: who gets the next grant, and when.

Knows nothing of rates, budgets or keys, which are `ServiceState`'s. For one event loop. Always holds: the grants of a
service are dealt one at a time, round robin among the clients that wait, however much each wants; whoever waits gets a
grant or a refusal; a cancelled wait, a client that left and one that fell silent for `lease_s` hold nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from envs.limiter.bucket import NS, Pace
from envs.limiter.ledger import Ledger
from envs.limiter.limits import checked
from envs.limiter.messages import (
    Grant,
    Granted,
    Outcome,
    Refused,
    Report,
    Service,
    ServiceCounts,
    UnknownServiceError,
)
from envs.limiter.state import Moment, ServiceState

logger = logging.getLogger(__name__)

BATCH = 64
"""Grants of one answer, at most."""


@dataclass(slots=True, eq=False)
class _Asked:
    """One acquire that waits, and what it has got."""

    wanted: int
    answer: asyncio.Future[Refused | None]
    grants: list[Grant] = field(default_factory=list)


@dataclass(slots=True)
class _Desk:
    """A service and the clients that wait for it, the next one first."""

    state: ServiceState
    waiting: dict[str, deque[_Asked]] = field(default_factory=dict)
    timer: asyncio.Task[None] | None = None
    due: int = 0


class LimiterService:
    """`LimiterPort` for whoever shares its event loop."""

    def __init__(
        self,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        wall: Callable[[], int] = time.time_ns,
        ledger: Ledger | None = None,
        lease_s: float = 30.0,
        hold_s: float = 600.0,
        horizon_s: float = 0.02,
        settle_s: float = 0.0,
    ) -> None:
        """Make a limiter that knows no service yet.

        Args:
            clock: the time in ns, from any beginning.
            sleep: waits so many seconds by that clock.
            wall: ns since 1970, for what belongs to a UTC day.
            ledger: where daily budgets are kept; None: in memory alone.
            lease_s: after so many seconds of silence a client counts as dead, and its grants are taken back.
            hold_s: after so many seconds a grant is taken back although its client lives; longer than any call takes.
            horizon_s: how long before its start a grant is given.
            settle_s: let nothing start for so long after a service became known: for a limiter that takes the place of
                one that died, until every client has said what it holds.
        """
        self._clock = clock
        self._sleep = sleep
        self._wall = wall
        self._ledger = ledger or Ledger()
        self._lease = int(lease_s * NS)
        self._hold = int(hold_s * NS)
        self._horizon = int(horizon_s * NS)
        self._settle = int(settle_s * NS)
        self._desks: dict[str, _Desk] = {}
        self._heard: dict[str, int] = {}
        self._sweep_at = clock()
        # Ids of another limiter, before or after this one, must not be taken for ours.
        self._first_id = 1 + secrets.randbits(62)

    async def register(self, client: str, service: Service, held: Sequence[Grant] = ()) -> None:
        """See `LimiterPort.register`; `held` are grants of a limiter before this one that the client has still."""
        moment = self._moment()
        desk = self._desks.get(service.name)
        checked(service)
        if desk is None:
            begin = Moment(moment.now + self._settle, moment.wall)
            state = ServiceState(service, self._ledger, begin, self._horizon, self._first_id)
            self._first_id += 1 << 40
            desk = self._desks[service.name] = _Desk(state)
        else:
            desk.state.tighten(service)
        _say_what_lateness_costs(desk.state.service)
        desk.state.adopt(client, held)
        self._heard[client] = moment.now
        self._deal(desk)  # tighter limits may mean another time to wake up

    async def acquire(
        self, client: str, service: str, wanted: int, reports: Sequence[Report] = ()
    ) -> Granted | Refused:
        """See `LimiterPort.acquire`."""
        asked_at = self._clock()
        if wanted < 1:
            raise ValueError(f"wanted={wanted}: at least 1")
        desk = self._take_reports(client, service, reports)
        asked = _Asked(min(wanted, BATCH), asyncio.get_running_loop().create_future())
        desk.waiting.setdefault(client, deque()).append(asked)
        try:
            self._deal(desk)
            refused = await asked.answer
        except BaseException:  # cancelled, or the ledger cannot be written: nothing may be left behind
            self._withdraw(desk, client, asked)
            raise
        return refused or Granted(asked_at, self._clock(), tuple(asked.grants))

    async def report(self, client: str, service: str, reports: Sequence[Report]) -> None:
        """See `LimiterPort.report`."""
        desk = self._take_reports(client, service, reports)
        if reports:
            self._deal(desk)

    async def leave(self, client: str) -> None:
        """See `LimiterPort.leave`."""
        self._heard.pop(client, None)
        self._forget(client)

    async def counts(self) -> dict[str, ServiceCounts]:
        """See `LimiterPort.counts`."""
        moment = self._moment()
        self._sweep(moment)
        return {
            name: desk.state.counts(moment, sum(map(len, desk.waiting.values()))) for name, desk in self._desks.items()
        }

    def clients(self) -> int:
        """How many clients are there: that have not left, and were heard of within `lease_s`."""
        moment = self._moment()
        self._sweep_at = moment.now
        self._sweep(moment)
        return len(self._heard)

    async def close(self) -> None:
        """End what runs in the background and close the ledger; whoever waits is cancelled."""
        for desk in self._desks.values():
            if desk.timer is not None:
                desk.timer.cancel()
            for asked in [asked for line in desk.waiting.values() for asked in line]:
                asked.answer.cancel()
        self._ledger.close()

    def _moment(self) -> Moment:
        return Moment(self._clock(), self._wall())

    def _take_reports(self, client: str, service: str, reports: Sequence[Report]) -> _Desk:
        desk = self._desks.get(service)
        if desk is None or client not in self._heard:
            raise UnknownServiceError(f"service {service!r} or client {client!r} is not known to this limiter")
        moment = self._moment()
        self._heard[client] = moment.now
        for report in reports:
            desk.state.report(client, report, moment)
        self._sweep(moment)
        return desk

    def _deal(self, desk: _Desk) -> None:
        """Give out what can be had now, one grant at a time, and see to it that the rest is given in time."""
        moment = self._moment()
        until: int | None = None
        while desk.waiting:
            client = next(iter(desk.waiting))
            got = desk.state.grant(client, moment)
            if isinstance(got, Grant):
                line = desk.waiting.pop(client)
                asked = line[0]
                asked.grants.append(got)
                if len(asked.grants) == asked.wanted:
                    _answer(line.popleft(), None)
                if line:
                    desk.waiting[client] = line  # at the end: it is the others' turn
                continue
            if isinstance(got, Refused):
                _answer_all(desk, got)
            else:
                _answer_all(desk, None)
                until = got.until
            break
        if desk.waiting:
            # With all places taken only a report helps, or that its client is found to be dead.
            self._wake(desk, self._sweep_at if until is None else min(until, self._sweep_at))

    def _wake(self, desk: _Desk, due: int) -> None:
        """Deal again at `due`; one timer a service, for the earliest time there is one."""
        if desk.timer is not None and not desk.timer.done():
            if desk.due <= due:
                return
            desk.timer.cancel()
        desk.due = due
        desk.timer = asyncio.create_task(self._deal_at(desk, due))
        desk.timer.add_done_callback(lambda timer: _spread_failure(desk, timer))

    async def _deal_at(self, desk: _Desk, due: int) -> None:
        while (wait := due - self._clock()) > 0:
            await self._sleep(wait / NS)
        desk.timer = None
        self._sweep(self._moment())
        self._deal(desk)

    def _withdraw(self, desk: _Desk, client: str, asked: _Asked) -> None:
        line = desk.waiting.get(client)
        if line is not None and asked in line:
            line.remove(asked)
            if not line:
                del desk.waiting[client]
        if asked.grants:
            moment = self._moment()
            for grant in reversed(asked.grants):
                desk.state.report(client, Report(grant.id, Outcome.UNUSED), moment)
            self._deal(desk)

    def _sweep(self, moment: Moment) -> None:
        """Take back what the dead hold; now and then."""
        if moment.now < self._sweep_at:
            return
        self._sweep_at = moment.now + max(1, self._lease // 8)
        for client in [client for client, heard in self._heard.items() if moment.now - heard > self._lease]:
            del self._heard[client]
            self._forget(client)
        for desk in self._desks.values():
            desk.state.drop_overdue(self._hold, moment)

    def _forget(self, client: str) -> None:
        moment = self._moment()
        for desk in self._desks.values():
            for asked in desk.waiting.pop(client, ()):
                if not asked.answer.done():
                    asked.answer.set_exception(UnknownServiceError(f"{client} left, or was silent for too long"))
            desk.state.drop(client, moment)
            self._deal(desk)


def _say_what_lateness_costs(service: Service) -> None:
    possible = NS / Pace.of(service.limits).interval
    if possible < 0.99 * service.limits.per_second:
        logger.warning(
            "%s: with burst=%d and late_s=%g %.3g calls a second are possible, of per_second=%g: the limit must "
            "hold however late a call is sent; a burst of %d costs nothing",
            service.name,
            service.limits.burst,
            service.limits.late_s,
            possible,
            service.limits.per_second,
            math.ceil(1 + service.limits.late_s * service.limits.per_second),
        )


def _answer(asked: _Asked, refused: Refused | None) -> None:
    if not asked.answer.done():
        asked.answer.set_result(refused)


def _answer_all(desk: _Desk, refused: Refused | None) -> None:
    """Answer whoever has a grant, and with a refusal the others too."""
    for client, line in list(desk.waiting.items()):
        for asked in list(line):
            if asked.grants or refused is not None:
                line.remove(asked)
                _answer(asked, None if asked.grants else refused)
        if not line:
            del desk.waiting[client]


def _spread_failure(desk: _Desk, timer: asyncio.Task[None]) -> None:
    """What stops the timer must reach those who wait for it."""
    error = None if timer.cancelled() else timer.exception()
    if error is None:
        return
    for line in desk.waiting.values():
        for asked in line:
            if not asked.answer.done():
                asked.answer.set_exception(error)
    desk.waiting.clear()
