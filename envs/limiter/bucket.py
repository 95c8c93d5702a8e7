"""The account of one key: when its next call may start, and how many are under way.

Knows nothing of clients, outcomes or clocks: it is told the time, in whole nanoseconds. Always holds: however late
within `late_s` of its start each granted call is sent, in any stretch of w seconds at most `burst + w * per_second`
are, and never more than `concurrency` are held.

Why: let I = 1/per_second and L = late_s. Grants are numbered in the order they are given; `full_at` grows by I' with
each and is never before its start, and a start is never before `full_at - S'`. So of any k grants the last given
starts at least (k-1)I' - S' after the first given, and since the first may be sent L late and the last at once, the k
calls span at least (k-1)I' - S' - L. They may span no less than (k - burst)I = (k-1)I - S with S = (burst-1)I.
Where S >= L that holds with I' = I and S' = S - L. Where S < L, with S' = 0 and I' = I + (L - S): for k >= 2 the
(k-1) deficits make up for the one that is missing, and a single call is always allowed. So full rate needs
burst >= 1 + late_s * per_second; below it the exact limit costs rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from envs.limiter.messages import ServiceLimits

NS = 1_000_000_000
_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast one key may be asked, in ns: the distance of calls, and how far ahead of it a start may be."""

    interval: int
    slack: int
    concurrency: int

    @classmethod
    def of(cls, limits: ServiceLimits) -> Pace:
        """The pace that keeps the limits with every lateness up to `late_s` (I' and S' of the module's proof)."""
        exact = Fraction(NS) / Fraction(limits.per_second)
        slack = math.floor(exact * (limits.burst - 1))
        late = math.ceil(limits.late_s * NS)
        return cls(math.ceil(exact) + max(0, late - slack), max(0, slack - late), limits.concurrency)


class Bucket:
    """Starts and places of one key."""

    def __init__(self, pace: Pace, now: int, horizon: int) -> None:
        """An empty bucket, as if an account before this one had just given all it could, `horizon` ns ahead.

        So a limiter that takes the place of another one needs to know nothing of it to stay within the limits.
        """
        self._pace = pace
        self._interval = pace.interval
        # When the bucket will be full again; `_base` is that before the remembered grants (start, interval).
        self._full_at = self._base = now + horizon + pace.slack + pace.interval
        self._recent: dict[int, tuple[int, int]] = {}
        self.under_way = 0

    def change(self, pace: Pace) -> None:
        """Keep other limits from now on."""
        self._pace = pace
        self._interval = pace.interval

    def stretch(self, factor: float) -> None:
        """Keep `factor` times the distance between calls (at least 1) from now on."""
        self._interval = max(self._pace.interval, math.ceil(self._pace.interval * factor))

    def earliest(self, now: int) -> int | None:
        """When a call could start; None: not before one that is under way has ended."""
        if self.under_way >= self._pace.concurrency:
            return None
        return max(now, self._full_at - self._pace.slack)

    def take(self, grant: int, now: int) -> int:
        """Take a place and the next start, which is returned.

        Raises:
            ValueError: there is no place; ask `earliest` first.
        """
        start = self.earliest(now)
        if start is None:
            raise ValueError(f"all {self._pace.concurrency} places are taken")
        self._full_at = max(self._full_at, start) + self._interval
        self._recent[grant] = (start, self._interval)
        if len(self._recent) > _REMEMBERED:
            began, interval = self._recent.pop(next(iter(self._recent)))
            self._base = max(self._base, began) + interval
        self.under_way += 1
        return start

    def end(self, grant: int, *, used: bool) -> None:
        """Give a place back, and the start too where the call was never sent and the grant is still remembered."""
        self.under_way -= 1
        if used or self._recent.pop(grant, None) is None:
            return
        full_at = self._base
        for start, interval in self._recent.values():
            full_at = max(full_at, start) + interval
        self._full_at = full_at

    def hold(self) -> None:
        """Take a place for a call that another account let start."""
        self.under_way += 1

    def pause(self, until: int) -> None:
        """Let nothing more start before `until`; after it calls start one by one, what was saved up is gone."""
        self._full_at = self._base = max(self._full_at, until + self._pace.slack)
        self._recent.clear()
