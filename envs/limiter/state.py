"""One service as the limiter sees it: its keys, its breaker, its budget, and the grants that are out.

Knows nothing of waiting or of who is next: it is asked for one grant at a time, and is told the time. Always holds: a
grant was charged before it is given, holds a place of its key until it has ended, and ends once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from envs.limiter.breaker import Breaker
from envs.limiter.bucket import NS, Bucket, Pace
from envs.limiter.ledger import Ledger
from envs.limiter.limits import merged
from envs.limiter.messages import NO_GRANT, Grant, Outcome, Refused, Report, Service, ServiceCounts
from sake_ray.types import SearchFailure

DAY = 86_400 * NS
MAX_PAUSE_S = 300.0
"""A service that asks for a longer pause than this is taken to say that the key is spent for so long."""
_MAX_SPENT_S = 7 * 86_400.0
_FIRST_PAUSE_S = 0.5
_MAX_FACTOR = 32.0
_RECOVERY = 0.95


@dataclass(frozen=True, slots=True)
class Moment:
    """The time, in ns: by the limiter's clock, and since 1970 (UTC) for what belongs to a day."""

    now: int
    wall: int


@dataclass(frozen=True, slots=True)
class Wait:
    """No grant yet; at `until` (ns) there may be one. None: only after a call has ended."""

    until: int | None


@dataclass(slots=True)
class _Key:
    bucket: Bucket
    spent_until: int = -(1 << 62)
    factor: float = 1.0
    slowed_at: int = -1


@dataclass(frozen=True, slots=True)
class _Held:
    client: str
    key: int
    start: int
    day: int
    probe: bool


class ServiceState:
    """Gives grants of one service, and takes them back."""

    def __init__(self, service: Service, ledger: Ledger, moment: Moment, horizon: int, first_id: int) -> None:
        """`horizon` is how long before its start a grant is given, in ns; ids are counted from `first_id`."""
        self.service = service
        self._ledger = ledger
        self._horizon = horizon
        self._next_id = first_id
        pace = Pace.of(service.limits)
        self._keys = [_Key(Bucket(pace, moment.now, horizon)) for _ in service.keys]
        self._turn = 0
        self._held: dict[int, _Held] = {}
        self._breaker = Breaker(service.limits.breaker_failures, int(service.limits.breaker_s * NS))
        self._no_budget_on = -1
        self._granted = self._sent = self._unused = self._failed = self._throttled = 0
        self._cost = 0.0

    def tighten(self, service: Service) -> None:
        """Another registration of the service: the tightest limits hold from now on.

        Raises:
            ValueError: its keys differ.
        """
        service = merged(self.service, service)
        if service == self.service:
            return
        self.service = service
        for key in self._keys:
            key.bucket.change(Pace.of(service.limits))
            key.bucket.stretch(key.factor)
        self._breaker.change(service.limits.breaker_failures, int(service.limits.breaker_s * NS))

    def grant(self, client: str, moment: Moment) -> Grant | Refused | Wait:
        """One grant, of the key that can go first."""
        now, limits = moment.now, self.service.limits
        blocked = self._breaker.blocked(now)
        if blocked is not None:
            words = f"{self.service.name} failed {limits.breaker_failures} times in a row and gets a rest"
            return Refused(SearchFailure.BROKEN, words, blocked / NS)
        best = self._first_key(now)
        if best is None:
            seconds = (min(key.spent_until for key in self._keys) - now) / NS
            words = (
                f"{self.service.name}: each of its {len(self._keys)} keys is spent or not accepted; the first can be "
                f"tried again in {seconds:.0f} s; add quota, or another key"
            )
            return Refused(SearchFailure.UNAVAILABLE, words, seconds)
        day = moment.wall // DAY
        if day == self._no_budget_on:
            return self._budget_gone(moment)
        index, start = best
        if start is None or start > now + self._horizon:
            return Wait(None if start is None else start - self._horizon)
        if not self._ledger.charge(self.service.name, day, limits.cost_per_call, limits.daily_budget):
            self._no_budget_on = day
            return self._budget_gone(moment)
        number = self._next_id
        self._next_id += 1
        start = self._keys[index].bucket.take(number, now)
        self._held[number] = _Held(client, index, start, day, self._breaker.enter())
        self._turn = index + 1
        self._granted += 1
        self._cost += limits.cost_per_call
        return Grant(number, index, start)

    def report(self, client: str, report: Report, moment: Moment) -> None:
        """A grant has ended; one that is not known (any more), or is another's, is passed over."""
        if report.id == NO_GRANT:
            if report.outcome is Outcome.THROTTLED:
                for key in self._keys:
                    self._slow(key, report.retry_after_s, moment.now, moment.now)
            return
        held = self._held.get(report.id)
        if held is None or held.client != client:
            return
        del self._held[report.id]
        key, outcome = self._keys[held.key], report.outcome
        used = outcome is not Outcome.UNUSED
        key.bucket.end(report.id, used=used)
        verdict = {Outcome.OK: True, Outcome.FAILED: False}.get(outcome)
        self._breaker.leave(held.probe, verdict, moment.now)
        if not used:
            self._take_back(held)
            return
        self._sent += 1
        if outcome is Outcome.OK and key.factor > 1.0:
            key.factor = max(1.0, key.factor * _RECOVERY)
            key.bucket.stretch(key.factor)
        elif outcome is Outcome.FAILED:
            self._failed += 1
            if report.retry_after_s is not None:
                self._pause(key, report.retry_after_s, moment.now)
        elif outcome is Outcome.THROTTLED:
            self._throttled += 1
            self._slow(key, report.retry_after_s, held.start, moment.now)
        elif outcome is Outcome.SPENT:
            rest = DAY - moment.wall % DAY
            if report.retry_after_s is not None:
                rest = int(_seconds(report.retry_after_s) * NS)
            key.spent_until = max(key.spent_until, moment.now + rest)

    def adopt(self, client: str, grants: Iterable[Grant]) -> None:
        """Grants of the limiter before this one, whose calls may be under way: they hold places here."""
        for grant in grants:
            if grant.id not in self._held and 0 <= grant.key < len(self._keys):
                self._keys[grant.key].bucket.hold()
                self._held[grant.id] = _Held(client, grant.key, grant.start_ns, -1, probe=False)

    def drop(self, client: str, moment: Moment) -> None:
        """Take back every grant of a client: what may have been sent counts as sent."""
        for number in [number for number, held in self._held.items() if held.client == client]:
            unused = self._held[number].start > moment.now
            self.report(client, Report(number, Outcome.UNUSED if unused else Outcome.ABANDONED), moment)

    def drop_overdue(self, age: int, moment: Moment) -> None:
        """Take back grants whose start is more than `age` ns ago: their report was lost."""
        overdue = [(number, held) for number, held in self._held.items() if moment.now - held.start > age]
        for number, held in overdue:
            self.report(held.client, Report(number, Outcome.ABANDONED), moment)

    def counts(self, moment: Moment, waiting: int) -> ServiceCounts:
        """Counts so far."""
        return ServiceCounts(
            granted=self._granted,
            sent=self._sent,
            unused=self._unused,
            failed=self._failed,
            throttled=self._throttled,
            waiting=waiting,
            under_way=len(self._held),
            keys_spent=sum(key.spent_until > moment.now for key in self._keys),
            breaker_opened=self._breaker.opened,
            cost_today=self._ledger.spent(self.service.name, moment.wall // DAY),
            cost_total=self._cost,
        )

    def _first_key(self, now: int) -> tuple[int, int | None] | None:
        """The key that can start first, and when (None: all places are taken); None: every key is spent.

        Among equals the one after the key that was taken last.
        """
        best: tuple[int, int | None] | None = None
        count = len(self._keys)
        for step in range(count):
            index = (self._turn + step) % count
            key = self._keys[index]
            if key.spent_until > now:
                continue
            start = key.bucket.earliest(now)
            if best is None or (start is not None and (best[1] is None or start < best[1])):
                best = (index, start)
        return best

    def _budget_gone(self, moment: Moment) -> Refused:
        words = (
            f"{self.service.name}: the daily budget of {self.service.limits.daily_budget:g} is spent; it begins anew "
            "at midnight UTC, or raise it"
        )
        return Refused(SearchFailure.UNAVAILABLE, words, (DAY - moment.wall % DAY) / NS)

    def _take_back(self, held: _Held) -> None:
        self._unused += 1
        if held.day >= 0:  # not one that a limiter before this one charged
            cost = self.service.limits.cost_per_call
            self._ledger.refund(self.service.name, held.day, cost)
            self._cost -= cost
            self._no_budget_on = -1

    def _slow(self, key: _Key, retry_after_s: float | None, start: int, now: int) -> None:
        """The service says "too many": a pause and fewer calls; what many calls of one moment are told counts once."""
        fresh = start > key.slowed_at
        if retry_after_s is not None:
            self._pause(key, retry_after_s, now)
        elif fresh:
            self._pause(key, _FIRST_PAUSE_S * key.factor, now)
        if fresh:
            key.slowed_at = now
            key.factor = min(_MAX_FACTOR, key.factor * 2)
            key.bucket.stretch(key.factor)

    def _pause(self, key: _Key, seconds: float, now: int) -> None:
        until = now + int(_seconds(seconds) * NS)
        if _seconds(seconds) > MAX_PAUSE_S:
            key.spent_until = max(key.spent_until, until)
        else:
            key.bucket.pause(until)


def _seconds(asked: float) -> float:
    """What a service asks for, in reason: it may say anything."""
    return min(max(0.0, asked), _MAX_SPENT_S) if asked == asked else 0.0
