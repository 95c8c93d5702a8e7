"""How many rollout workers a run should have, from who waited for whom.

Knows nothing of pools or Ray: numbers in, a size out. Always holds: the size stays within its bounds, changes by one
at a time, and not again before the last change has had `cooldown` steps to show in the measurements.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AutoscaleSettings:
    """`low` and `high` bound the size.

    More workers where the learner waits for more than `grow_above` of a step; fewer where it waits for less than
    `shrink_below` and the staleness budget holds the workers back for more than `idle_above` of the time. Between
    the two nothing changes, so that a pool does not swing to and fro.
    """

    low: int
    high: int
    grow_above: float = 0.3
    shrink_below: float = 0.05
    idle_above: float = 0.5
    cooldown: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError(f"a size from {self.low} to {self.high}: must be 1 <= low <= high")


class Autoscaler:
    """Call `next` once a step."""

    def __init__(self, settings: AutoscaleSettings) -> None:
        self.settings = settings
        self._rest = 0

    def next(self, wait_share: float, held_share: float, size: int) -> int:
        """The size for the next step.

        Args:
            wait_share: share of the step in which the learner waited for groups, 0..1.
            held_share: share of the time in which the staleness budget let no new group begin, 0..1.
            size: workers there are now.
        """
        settings = self.settings
        bounded = min(max(size, settings.low), settings.high)
        if bounded != size:
            return bounded
        if self._rest:
            self._rest -= 1
            return size
        if wait_share > settings.grow_above and size < settings.high:
            wanted = size + 1
        elif wait_share < settings.shrink_below and held_share > settings.idle_above and size > settings.low:
            wanted = size - 1
        else:
            return size
        self._rest = settings.cooldown
        return wanted
