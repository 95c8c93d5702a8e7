"""The accounting of groups: which have been begun, which count against the staleness budget, how each ends.

Knows nothing of tasks, rollouts or rewards: pure bookkeeping, so that a property test can drive it. Always holds: a
group that was drawn is in exactly one place, and ends exactly once, as trained, without a signal, or given up; what is
under way, waiting to train or training never exceeds (max_staleness + 1) x groups_per_step + groups_ahead, so groups
that are trained in the order they were begun are at most `max_staleness` versions old; a group that fails, ages or is
cancelled gives its place back and is begun again, before any new one.
"""

from __future__ import annotations

import enum
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Draw:
    """One turn of a post: `index` counts what the sampler dealt, `failures` how often its group was lost."""

    index: int
    post: str
    failures: int = 0


class Place(enum.StrEnum):
    """Where a group is that has not ended."""

    WAITING = "waiting"
    """To be begun (again)."""
    RUNNING = "running"
    READY = "ready"
    """Played and scored, with a signal; waits to train."""
    TAKEN = "taken"
    """In the batch of the step in hand."""
    VOID = "void"
    """Played, without a signal; no step has reported it yet."""
    REPORTED = "reported"
    """Without a signal, in the report of the step in hand."""


class Return(enum.StrEnum):
    """Why a group gives its place back, to be begun again."""

    LOST = "lost"
    """Its workers were lost too often: the only one that counts as a failure of the group."""
    STALE = "stale"
    CANCELLED = "cancelled"


class End(enum.StrEnum):
    """How a group ends."""

    TRAINED = "trained"
    NO_SIGNAL = "no_signal"
    GIVEN_UP = "given_up"


_HELD = (Place.RUNNING, Place.READY, Place.TAKEN)
_RETURNS = {Return.LOST: Place.RUNNING, Return.STALE: Place.READY, Return.CANCELLED: Place.RUNNING}


class LedgerError(RuntimeError):
    """A group was moved from a place where it is not: a bug of ours, never a state to go on from."""


class GroupLedger:
    """Where every group is. Sizes are in groups."""

    def __init__(self, *, groups_per_step: int, max_staleness: int, groups_ahead: int = 0, attempts: int = 5) -> None:
        if groups_per_step < 1 or max_staleness < 0 or groups_ahead < 0 or attempts < 1:
            raise ValueError(
                f"groups_per_step={groups_per_step}, max_staleness={max_staleness}, groups_ahead={groups_ahead}, "
                f"attempts={attempts}: the first and last must be at least 1, the others at least 0"
            )
        self.limit = (max_staleness + 1) * groups_per_step + groups_ahead
        self.returns: Counter[str] = Counter()  # of this process, for people
        self.ends: Counter[str] = Counter()
        self._attempts = attempts
        self._place: dict[int, Place] = {}
        self._at: dict[Place, set[int]] = {place: set() for place in Place}
        self._draws: dict[int, Draw] = {}
        self._waiting: list[Draw] = []  # a heap: the oldest first

    @property
    def room(self) -> int:
        """How many groups may be begun now."""
        return max(0, self.limit - self.held)

    @property
    def held(self) -> int:
        """How many groups count against the budget."""
        return sum(len(self._at[place]) for place in _HELD)

    @property
    def drawn(self) -> int:
        """How many groups have been drawn in all, in earlier processes too."""
        return len(self._place) + self.ends.total()

    def at(self, place: Place) -> list[int]:
        """The indices of the groups in a place, the oldest first."""
        return sorted(self._at[place])

    def size(self, place: Place) -> int:
        """How many groups are in a place."""
        return len(self._at[place])

    def waiting(self) -> list[Draw]:
        """The groups to be begun (again), the oldest first."""
        return [self._draws[index] for index in self.at(Place.WAITING)]

    def counts(self) -> dict[str, int]:
        """How many groups are in each place, and how many ended how."""
        places = {str(place): len(self._at[place]) for place in Place}
        return {**places, **{str(end): self.ends[end] for end in End}, "room": self.room}

    def draw(self, index: int, post: str) -> Draw:
        """Enter a new group; it waits.

        Raises:
            LedgerError: it was drawn before.
        """
        if index in self._place:
            raise LedgerError(f"group {index} was drawn twice")
        draw = Draw(index, post)
        self._wait(draw)
        return draw

    def begin(self) -> Draw | None:
        """Begin the oldest group that waits, if there is one and room for it."""
        if not self._waiting or not self.room:
            return None
        draw = heapq.heappop(self._waiting)
        self._move(draw.index, Place.WAITING, Place.RUNNING)
        return draw

    def finish(self, index: int, *, signal: bool) -> None:
        """A group has been played and scored."""
        self._move(index, Place.RUNNING, Place.READY if signal else Place.VOID)

    def take(self, index: int) -> None:
        """A group goes into the step in hand."""
        self._move(index, Place.READY, Place.TAKEN)

    def report(self, index: int) -> None:
        """The step in hand reports a group without a signal."""
        self._move(index, Place.VOID, Place.REPORTED)

    def give_back(self, index: int, why: Return) -> bool:
        """A group that will not train as it is: begun again, or given up after too many failures.

        Returns whether it will be begun again.
        """
        if (place := self._place.get(index)) is not _RETURNS[why]:
            raise LedgerError(f"group {index} cannot be {why}: it is {place or 'nowhere'}")
        draw = self._draws[index]
        self.returns[why] += 1
        if why is Return.LOST:
            draw = replace(draw, failures=draw.failures + 1)
            if draw.failures >= self._attempts:
                self._end(index, End.GIVEN_UP)
                return False
        self._wait(draw)
        return True

    def close_step(self) -> None:
        """The step in hand is done: its groups are trained, and those without a signal reported."""
        for index in self.at(Place.TAKEN):
            self._end(index, End.TRAINED)
        for index in self.at(Place.REPORTED):
            self._end(index, End.NO_SIGNAL)

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state: whatever has not ended is to be begun again where this is loaded."""
        return {
            "open": [[d.index, d.post, d.failures] for d in sorted(self._draws.values())],
            "ends": {str(end): self.ends[end] for end in End},
        }

    def load_state_dict(self, state: Mapping[str, Any], ready: Sequence[int] = ()) -> None:
        """Go on where `state_dict` was taken; `ready` are groups whose trajectories were kept beside it.

        Raises:
            ValueError: the state is none of a ledger.
        """
        try:
            draws = [Draw(int(index), str(post), int(failures)) for index, post, failures in state["open"]]
            ends: Counter[str] = Counter({End(end): int(count) for end, count in state["ends"].items()})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"the state of the groups cannot be read: {error!r}; state {dict(state)!r:.200}"
            ) from error
        if len({draw.index for draw in draws}) < len(draws) or not set(ready) <= {draw.index for draw in draws}:
            raise ValueError(f"the state of the groups names one twice, or keeps one it does not name: {draws!r:.200}")
        self._place, self._draws, self._waiting, self.ends = {}, {}, [], ends
        self._at = {place: set() for place in Place}
        for draw in draws:
            if draw.index in ready:
                self._put(draw, Place.READY)
            else:
                self._wait(draw)

    def _wait(self, draw: Draw) -> None:
        self._put(draw, Place.WAITING)
        heapq.heappush(self._waiting, draw)

    def _put(self, draw: Draw, place: Place) -> None:
        if (before := self._place.get(draw.index)) is not None:
            self._at[before].remove(draw.index)
        self._draws[draw.index], self._place[draw.index] = draw, place
        self._at[place].add(draw.index)

    def _move(self, index: int, source: Place, target: Place) -> None:
        if self._place.get(index) is not source:
            raise LedgerError(f"group {index} cannot become {target}: it is {self._place.get(index) or 'nowhere'}")
        self._put(self._draws[index], target)

    def _end(self, index: int, end: End) -> None:
        self._at[self._place.pop(index)].remove(index)
        del self._draws[index]
        self.ends[end] += 1
