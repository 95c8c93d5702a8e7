"""What a limiter and its users say to each other.

Knows nothing of how it travels. Always holds: plain numbers and words, so that it can go through any channel; keys are
named by their place in the list they were registered in, and never travel themselves.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sake_ray.types import SearchFailure


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What one key of one service may be asked.

    In any stretch of w seconds at most `burst + w * per_second` calls reach the service, and never more than
    `concurrency` are under way. `daily_budget` bounds what the calls of a UTC day cost over all keys (0: no bound).
    `late_s` is how late after its time a call may still be sent; the limiter keeps so much distance.
    After `breaker_failures` failed calls in a row nothing is let through for `breaker_s` seconds, then one probe at a
    time until one succeeds (0 failures: no breaker).
    """

    per_second: float
    burst: int = 1
    concurrency: int = 16
    daily_budget: float = 0.0
    cost_per_call: float = 0.0
    late_s: float = 0.05
    breaker_failures: int = 0
    breaker_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Service:
    """A service as it is registered: its name, its limits, and a fingerprint of each key ("-": it takes none)."""

    name: str
    limits: ServiceLimits
    keys: tuple[str, ...] = ("-",)


class Outcome(enum.StrEnum):
    """What became of a grant."""

    OK = "ok"
    FAILED = "failed"
    UNUSED = "unused"  # never sent: cancelled, or too late
    THROTTLED = "throttled"  # the service says "too many": it was sent and counted
    SPENT = "spent"  # this key has no quota left, or is not accepted
    ABANDONED = "abandoned"  # it was sent, and given up before it ended: says nothing of the service


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave for one call: not before `start_ns` of the limiter's clock, and at most `late_s` after it."""

    id: int
    key: int
    start_ns: int


NO_GRANT = 0
"""In a report of THROTTLED, instead of a grant's id: the whole service asked for a pause, whichever call it told."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the grant `id`; `retry_after_s` is what the service asked for."""

    id: int
    outcome: Outcome
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """An answer of the limiter: by its clock it was asked at `asked_ns` and answered at `now_ns`.

    With its own times of asking and of the answer the client knows the difference of the clocks, up to the time the
    two messages took; how long it waited for its turn in between does not matter.
    """

    asked_ns: int
    now_ns: int
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """No grant can be had for now; `retry_s` (if known) says when it is worth asking again."""

    reason: SearchFailure
    message: str
    retry_s: float | None = None


@dataclass(frozen=True, slots=True)
class ServiceCounts:
    """What a limiter has counted of one service since it began; `cost_today` over the UTC day."""

    granted: int = 0
    sent: int = 0
    unused: int = 0
    failed: int = 0
    throttled: int = 0
    waiting: int = 0
    under_way: int = 0
    keys_spent: int = 0
    breaker_opened: int = 0
    cost_today: float = 0.0
    cost_total: float = 0.0


class UnknownServiceError(LookupError):
    """The limiter does not know the service or the client (any more): register, and ask again.

    It was started anew, or has not heard of the client for too long.
    """


class LimiterLostError(RuntimeError):
    """The limiter cannot be reached, so nothing may be sent; the message says what was tried."""


class LimiterPort(Protocol):
    """The limiter as its users reach it: in this process, or through an actor."""

    async def register(self, client: str, service: Service, held: Sequence[Grant] = ()) -> None:
        """Make a service known; of several registrations of one name the tightest limits hold.

        `held`: grants of a limiter before this one, which the client has still.

        Raises:
            ValueError: the limits let nothing through, or the keys differ from those registered before.
        """
        ...

    async def acquire(
        self, client: str, service: str, wanted: int, reports: Sequence[Report] = ()
    ) -> Granted | Refused:
        """Wait until at least one grant can be had, and take up to `wanted`; also hands in reports.

        Raises:
            UnknownServiceError: service or client are not registered, or the client was silent for too long.
            ValueError: less than one is wanted.
        """
        ...

    async def report(self, client: str, service: str, reports: Sequence[Report]) -> None:
        """Say what became of grants, or, with none, only that the client is alive.

        Raises:
            UnknownServiceError: service or client are not registered.
        """
        ...

    async def leave(self, client: str) -> None:
        """The client asks no more: its grants are given back, those whose time had come as used."""
        ...

    async def counts(self) -> dict[str, ServiceCounts]:
        """Counts by service."""
        ...


@dataclass(slots=True)
class Lease:
    """A call under way. The holder says how it ended; a lease left by an exception counts as failed."""

    key: int
    outcome: Outcome = Outcome.OK
    retry_after_s: float | None = None
    waited_s: float = field(default=0.0)
