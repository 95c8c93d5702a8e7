"""The gate of one process to a limiter that may be elsewhere: many callers share a few questions.

Knows nothing of limits, nor of how messages travel. For one event loop. Always holds: a call is let go only inside its
grant's window, by a clock that may differ from the limiter's; each grant is reported once, at the latest when its call
has ended; there is one open question at a time, for as many grants as there are callers without one.

The window: a question sent at t0 and answered at t1 (clock here) was received at A and answered at B (clock there), so
the clock there is ahead by at least B - t1 and at most A - t0. A grant with start s and lateness L is therefore within
its time, wherever between these bounds the truth lies, from s - (B - t1) until s + L - (A - t0). Bounds of earlier
answers of the same limiter hold too, widened by what clocks may drift since; the best are kept, so that a message that
was slow once does no harm. Half of L is kept for the way from here to the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from envs.limiter.bucket import NS
from envs.limiter.gate import GateClosed
from envs.limiter.messages import (
    NO_GRANT,
    Grant,
    Granted,
    Lease,
    LimiterLostError,
    LimiterPort,
    Outcome,
    Refused,
    Report,
    Service,
    UnknownServiceError,
)
from envs.limiter.state import MAX_PAUSE_S

logger = logging.getLogger(__name__)

_DRIFT = 1000
"""Clocks drift apart by less than one part in so many: quartz is ten times better, and slewed by 1 in 2000 at most."""


@dataclass(frozen=True, slots=True)
class _Ticket:
    """A grant, and its window by the clock here, in ns."""

    id: int
    key: int
    begin: int
    end: int


class LeaseClient:
    """`Gate` to one service through a limiter port."""

    def __init__(
        self,
        port: LimiterPort,
        client: str,
        service: Service,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        beat_s: float = 5.0,
    ) -> None:
        """Make a gate; nothing is asked yet.

        Args:
            port: the limiter.
            client: this process's name, another in every process of the cluster.
            service: what to register.
            clock, sleep: the time in ns, and how to wait so many seconds by it.
            beat_s: how often the limiter is told that this process is alive; well below its `lease_s`.
        """
        self._port = port
        self._client = f"{client}/{service.name}"
        self._service = service
        self._clock = clock
        self._sleep = sleep
        self._beat_s = beat_s
        self._way = math.floor(service.limits.late_s * NS / 2)
        self._waiters: deque[asyncio.Future[_Ticket]] = deque()
        self._reports: list[Report] = []
        self._registered = False
        self._grants: dict[int, Grant] = {}  # all that this process holds
        self._lost: BaseException | None = None
        self._ahead: tuple[int, int, int] | None = None  # how far the limiter's clock is ahead: least, most, known when
        self._asking: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None
        self._paused_until: dict[int, int] = {}
        self._closed = False
        self.late = 0
        """Grants whose window was over before their call could go; each was asked for again."""

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator[Lease]:
        """See `Gate.lease`.

        Raises:
            GateClosed: no call may be made now.
            LimiterLostError: the limiter cannot be reached.
            ValueError: the service cannot be registered so.
            RuntimeError: the gate was closed.
        """
        asked = self._clock()
        ticket = await self._ticket()
        lease = Lease(ticket.key, waited_s=(self._clock() - asked) / NS)
        try:
            yield lease
        except (asyncio.CancelledError, GeneratorExit):
            if lease.outcome is Outcome.OK:  # given up: this says nothing of the service
                lease.outcome = Outcome.ABANDONED
            raise
        except BaseException:
            if lease.outcome is Outcome.OK:
                lease.outcome = Outcome.FAILED
            raise
        finally:
            if lease.outcome is Outcome.THROTTLED and lease.retry_after_s is not None:
                self._hold_back(ticket.key, lease.retry_after_s)
            self._report(Report(ticket.id, lease.outcome, lease.retry_after_s))

    async def pause(self, seconds: float) -> None:
        """The service asked all its callers for a pause."""
        self._hold_back(None, seconds)
        self._report(Report(NO_GRANT, Outcome.THROTTLED, seconds))

    async def close(self) -> None:
        """Leave the limiter: no lease can be had any more, whoever waits for one is cancelled."""
        if self._closed:
            return
        self._closed = True
        for task in (self._asking, self._telling, self._beating):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        for waiter in self._waiters:
            waiter.cancel()
        if self._registered:
            with contextlib.suppress(UnknownServiceError):  # it has forgotten us already
                await self._port.report(self._client, self._service.name, tuple(self._reports))
            await self._port.leave(self._client)

    async def _ticket(self) -> _Ticket:
        """A ticket whose window is open now."""
        while True:
            if self._closed:
                raise RuntimeError(f"the gate to {self._service.name} was closed")
            if self._lost is not None:  # reports did not get through
                lost, self._lost = self._lost, None
                raise lost
            waiter: asyncio.Future[_Ticket] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            self._ask()
            try:
                ticket = await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    self._hand_on(waiter.result())
                raise
            try:
                while (wait := ticket.begin - self._clock()) > 0:
                    await self._sleep(wait / NS)
            except asyncio.CancelledError:
                self._hand_on(ticket)
                raise
            now = self._clock()
            if now <= ticket.end and now >= self._paused_until.get(ticket.key, now):
                return ticket
            self._report(Report(ticket.id, Outcome.UNUSED))
            if now > ticket.end:
                self._count_late(ticket, now)

    def _count_late(self, ticket: _Ticket, now: int) -> None:
        self.late += 1
        if self.late & (self.late - 1) == 0:  # the first, second, fourth, ...
            logger.warning(
                "%s: a grant came %.1f ms too late to be used, %d so far; the limiter is slow to answer, or this "
                "process is busy; a larger late_s would allow for it, at the cost of burst",
                self._service.name,
                (now - ticket.end) / 1e6,
                self.late,
            )

    def _hand_on(self, ticket: _Ticket) -> None:
        """A caller that has a ticket does not want it: the next one does, or nobody."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(ticket)
                return
        self._report(Report(ticket.id, Outcome.UNUSED))

    def _ask(self) -> None:
        """See to it that somebody asks for the callers that have no ticket."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_on())
            self._asking.add_done_callback(self._asking_ended)
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())
            self._beating.add_done_callback(self._telling_ended)

    async def _ask_on(self) -> None:
        if not self._registered:
            await self._register()
        await asyncio.sleep(0)  # callers that come together ask together
        while wanted := self._count_waiters():
            reports, self._reports = tuple(self._reports), []
            sent = self._clock()
            try:
                answer = await self._port.acquire(self._client, self._service.name, wanted, reports)
            except UnknownServiceError:
                await self._register()
                continue
            if isinstance(answer, Refused):
                self._refuse(answer)
                continue
            came = self._clock()
            self._grants |= {grant.id: grant for grant in answer.grants}
            for ticket in self._tickets(answer, sent, came):
                self._hand_on(ticket)
        self._asking = None

    async def _register(self) -> None:
        """Make the service known to a limiter that does not know it, or us, (any more), and what we hold."""
        await self._port.register(self._client, self._service, tuple(self._grants.values()))
        self._registered = True
        self._ahead = None  # it may be another one, with another clock

    def _count_waiters(self) -> int:
        while self._waiters and self._waiters[0].done():
            self._waiters.popleft()
        return sum(not waiter.done() for waiter in self._waiters)

    def _tickets(self, answer: Granted, sent: int, came: int) -> list[_Ticket]:
        least, most = answer.now_ns - came, answer.asked_ns - sent
        if self._ahead is not None:
            known_least, known_most, known_at = self._ahead
            drift = (came - known_at) // _DRIFT + 1
            least, most = max(least, known_least - drift), min(most, known_most + drift)
        self._ahead = (least, most, came)
        way = self._way
        return [
            _Ticket(grant.id, grant.key, grant.start_ns - least, grant.start_ns + way - most) for grant in answer.grants
        ]

    def _refuse(self, refused: Refused) -> None:
        """Each caller gets an exception of its own."""
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(GateClosed(refused.reason, refused.message))

    def _asking_ended(self, task: asyncio.Task[None]) -> None:
        """What stopped the question must reach those it was asked for."""
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self._asking = None
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def _telling_ended(self, task: asyncio.Task[None]) -> None:
        """What keeps reports from the limiter is raised at the next lease."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._lost = error
            self._telling = None

    def _hold_back(self, key: int | None, seconds: float) -> None:
        """Grants that are here already must not be used in a pause; later ones the limiter holds back."""
        if not seconds > 0:
            return
        until = self._clock() + int(min(seconds, MAX_PAUSE_S) * NS)
        for each in range(len(self._service.keys)) if key is None else (key,):
            self._paused_until[each] = max(until, self._paused_until.get(each, until))

    def _report(self, report: Report) -> None:
        """Tell the limiter soon: with others of this moment, or with the next question."""
        self._grants.pop(report.id, None)
        self._reports.append(report)
        if self._telling is None and not self._closed:
            self._telling = asyncio.create_task(self._tell())
            self._telling.add_done_callback(self._telling_ended)

    async def _tell(self) -> None:
        for _ in range(3):  # whoever asks now takes them along
            await asyncio.sleep(0)
        while self._reports:
            reports, self._reports = tuple(self._reports), []
            await self._send_reports(reports)
        self._telling = None

    async def _send_reports(self, reports: tuple[Report, ...]) -> None:
        try:
            await self._port.report(self._client, self._service.name, reports)
        except UnknownServiceError:  # it has forgotten these grants; the others it is told of
            await self._register()

    async def _beat(self) -> None:
        """Tell the limiter now and then that this process is alive."""
        while True:
            await self._sleep(self._beat_s)
            if not self._registered:
                continue
            try:
                await self._send_reports(())
            except LimiterLostError as error:  # whoever needs it next finds out, and is told
                logger.warning("%s: the limiter does not hear that this process is alive: %s", self._client, error)


class ChatLimiter:
    """`envs.rate_limit.Limiter`, so that a chat client shares the cluster's limits."""

    def __init__(self, gate: LeaseClient) -> None:
        self._gate = gate

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """See `Limiter.slot`.

        Raises:
            GateClosed: no call may be made now.
        """
        async with self._gate.lease():
            yield

    async def pause(self, seconds: float) -> None:
        """See `Limiter.pause`.

        Raises:
            ValueError: no finite number of seconds, or a negative one.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"pause of {seconds} seconds: must be a number of at least 0")
        await self._gate.pause(seconds)
