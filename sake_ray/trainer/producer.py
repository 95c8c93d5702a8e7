"""Keeps rollouts in flight within the staleness budget, and gives each step its groups.

Knows the rollout and reward Protocols, nothing of learners or checkpoints; the accounting is `ledger.py`'s. Always
holds: every group runs in a task of its own, and a task that dies of anything but lost workers stops the run with its
own traceback; the groups of a step come in the order they were drawn; with max_staleness=0 and no groups ahead a
step's groups are the same whatever finishes first, and nothing runs between two steps; with more, groups go on running
while the learner updates.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sake_ray.algorithms.advantage import has_signal
from sake_ray.interfaces import GroupLost, RewardClient, RolloutClient
from sake_ray.seeding import derive_seed
from sake_ray.trainer.ledger import Draw, End, GroupLedger, Place, Return
from sake_ray.trainer.parts import Sampler
from sake_ray.trajectory import TrajectoryGroup
from sake_ray.trajectory_json import from_json, to_json
from sake_ray.types import Example

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProducerSettings:
    """What the producer needs of the configuration; `refills` in groups a step."""

    groups_per_step: int
    group_size: int
    seed: int
    max_staleness: int = 0
    groups_ahead: int = 0
    attempts: int = 5
    refills: int = 0


@dataclass(frozen=True)
class StepGroups:
    """What a step is made of: groups to train on, those without a signal, and what happened to others meanwhile.

    `returned` counts, by reason, groups that gave their place back since the step before; `held_s` are the seconds in
    which the budget let nothing new begin, of `seconds` since the step before.
    """

    kept: list[TrajectoryGroup]
    void: list[TrajectoryGroup]
    staleness: list[int]
    returned: Mapping[str, int] = field(default_factory=dict)
    given_up: int = 0
    held_s: float = 0.0
    seconds: float = 0.0

    @property
    def all(self) -> list[TrajectoryGroup]:
        """Every group that was played for the step."""
        return self.kept + self.void


class GroupProducer:
    """Begins groups as the ledger allows, and hands them out. One event loop only."""

    def __init__(
        self,
        settings: ProducerSettings,
        rollout: RolloutClient,
        rewards: RewardClient,
        sampler: Sampler,
        find_post: Callable[[str], Example],
    ) -> None:
        self.settings = settings
        self.sampler = sampler
        self.ledger = GroupLedger(
            groups_per_step=settings.groups_per_step,
            max_staleness=settings.max_staleness,
            groups_ahead=settings.groups_ahead,
            attempts=settings.attempts,
        )
        self._rollout = rollout
        self._rewards = rewards
        self._find_post = find_post
        self._posts: dict[int, Example] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._played: dict[int, TrajectoryGroup] = {}
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._lost: GroupLost | None = None
        self._open = False
        self._version = 0
        self._stopwatch = _Stopwatch()
        self._reported: Counter[str] = Counter()
        self._given_up = 0

    # --- what the trainer calls ----------------------------------------------------------------------

    async def collect(self, version: int, on_group: Callable[[int], None] = lambda kept: None) -> StepGroups:
        """The groups of the next step, for the policy `version`; `on_group(n)` is told how many there are so far.

        As many as `groups_per_step`, or fewer where too many had no signal. They are the step's until `close_step`.

        Raises:
            GroupLost: so many groups were given up that something must be wrong with all of them.
            BaseException: what a group's task died of.
        """
        self._version, self._open = version, True
        taken: list[int] = []
        while True:
            self._return_stale()
            for index in self.ledger.at(Place.READY)[: self.settings.groups_per_step - len(taken)]:
                self.ledger.take(index)
                taken.append(index)
                on_group(len(taken))
            self._check()
            if len(taken) == self.settings.groups_per_step:
                break
            self._fill()
            if not self._tasks and not self.ledger.size(Place.READY):
                break  # nothing more may be begun for this step
            self._changed.clear()
            await self._changed.wait()
        if not self.settings.max_staleness:
            self._open = False
            await self._cancel()  # those ahead: the next weights sample them anew
        return self._step(sorted(taken))

    def close_step(self) -> None:
        """The step is trained and published: its groups end, and their places are free."""
        for index in (*self.ledger.at(Place.TAKEN), *self.ledger.at(Place.REPORTED)):
            del self._played[index], self._posts[index]
        self.ledger.close_step()
        if self._open:
            self._fill()

    async def stop(self) -> None:
        """Cancel what is under way; all that has not ended will be begun again where the state is loaded."""
        self._open = False
        await self._cancel()

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state, of the sampler and of every group that has not ended.

        Where groups may be older than the policy, those that were played are in it whole, and train after a resume.
        """
        kept = (*self.ledger.at(Place.READY), *self.ledger.at(Place.TAKEN)) if self.settings.max_staleness else ()
        buffer = [[index, [to_json(t) for t in self._played[index].trajectories]] for index in kept]
        return {"sampler": self.sampler.state_dict(), "groups": self.ledger.state_dict(), "buffer": buffer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: the state is of another data set, or none of a producer.
        """
        self.sampler.load_state_dict(state["sampler"])
        posts = {int(index): self._find_post(post) for index, post, _ in state["groups"]["open"]}
        played: dict[int, TrajectoryGroup] = {}
        for index, rows in state["buffer"]:
            try:
                played[index] = TrajectoryGroup(posts[index], [from_json(row, posts[index]) for row in rows])
            except ValueError as error:
                log.warning("group %d is sampled anew: %s", index, error)
        self.ledger.load_state_dict(state["groups"], ready=list(played))
        self._posts, self._played = posts, played
        self._given_up = self.ledger.ends[End.GIVEN_UP]

    def ages(self) -> dict[int, int]:
        """How many groups that wait to train are how many versions old."""
        return dict(Counter(self._age(index) for index in self.ledger.at(Place.READY)))

    # --- inside --------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Begin as many groups as there is room for, and refills left in this step."""
        while self._failure is None and self.ledger.room:
            if not self.ledger.size(Place.WAITING):
                if self._refilled() > self.settings.refills:
                    break
                (post,) = self.sampler.take(1)
                draw = self.ledger.draw(self.sampler.dealt - 1, post.id)
                self._posts[draw.index] = post
            begun = self.ledger.begin()
            assert begun is not None
            task = asyncio.create_task(self._play(begun), name=f"group {begun.index} ({begun.post})")
            self._tasks[begun.index] = task
        self._stopwatch.set(held=self._open and not self.ledger.room)

    def _refilled(self) -> int:
        """How many groups of the step in hand came to nothing."""
        return self.ledger.size(Place.VOID) + self.ledger.ends[End.GIVEN_UP] - self._given_up

    async def _play(self, draw: Draw) -> None:
        """Sample a post's group and score it as soon as it is whole; says how that ended, and raises nothing."""
        try:
            group = await self._sample(draw)
        except asyncio.CancelledError:
            raise
        except GroupLost as lost:
            self._lost = lost
            again = self.ledger.give_back(draw.index, Return.LOST)
            log.warning(
                "group %d (post %s) %s: %s", draw.index, draw.post, "is begun again" if again else "given up", lost
            )
            if not again:
                self._posts.pop(draw.index)
        except BaseException as error:  # noqa: BLE001  # handed on: the step in hand raises it
            self._failure = self._failure or error
        else:
            self._played[draw.index] = group
            self.ledger.finish(draw.index, signal=has_signal(group.rewards))
        self._tasks.pop(draw.index, None)
        if self._open:
            self._fill()
        self._changed.set()

    async def _sample(self, draw: Draw) -> TrajectoryGroup:
        post = self._posts[draw.index]
        seeds = [
            derive_seed(self.settings.seed, draw.index, post.id, sample) for sample in range(self.settings.group_size)
        ]
        group = await self._rollout.rollout(post, seeds=seeds)
        members = group.trainable
        began, started = time.time(), time.perf_counter()
        rewards = await self._rewards.score(members) if members else []
        took = time.perf_counter() - started
        for trajectory, reward in zip(members, rewards, strict=True):
            trajectory.reward, trajectory.score_began_s, trajectory.score_s = reward, began, took
        return group

    def _return_stale(self) -> None:
        for index in self.ledger.at(Place.READY):
            if (age := self._age(index)) > self.settings.max_staleness:
                log.info("group %d is %d versions old: it is sampled anew", index, age)
                del self._played[index]
                self.ledger.give_back(index, Return.STALE)

    def _age(self, index: int) -> int:
        return self._version - self._played[index].oldest_version

    def _check(self) -> None:
        """Raise what a task died of, or that nothing gets through."""
        if self._failure is not None:
            raise self._failure
        given_up = self.ledger.ends[End.GIVEN_UP] - self._given_up
        if given_up >= max(2, self.settings.groups_per_step):
            raise GroupLost(
                f"{given_up} groups of one step were given up, each after {self.settings.attempts} attempts; the last: "
                f"{self._lost}"
            ) from self._lost

    async def _cancel(self) -> None:
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for index in tasks:
            if index in self.ledger.at(Place.RUNNING):
                self.ledger.give_back(index, Return.CANCELLED)
        self._stopwatch.set(held=False)

    def _step(self, taken: Sequence[int]) -> StepGroups:
        void = self.ledger.at(Place.VOID)
        for index in void:
            self.ledger.report(index)
        returned = {str(why): self.ledger.returns[why] - self._reported[why] for why in Return}
        self._reported = Counter(self.ledger.returns)
        given_up, self._given_up = self.ledger.ends[End.GIVEN_UP] - self._given_up, self.ledger.ends[End.GIVEN_UP]
        held_s, seconds = self._stopwatch.lap()
        return StepGroups(
            kept=[self._played[index] for index in taken],
            void=[self._played[index] for index in void],
            staleness=[self._age(index) for index in taken],
            returned=returned,
            given_up=given_up,
            held_s=held_s,
            seconds=seconds,
        )


class _Stopwatch:
    """Seconds in which the budget held everything back, between two laps."""

    def __init__(self) -> None:
        self._lap = self._since = time.monotonic()
        self._held = False
        self._held_s = 0.0

    def set(self, *, held: bool) -> None:
        """From now on it does, or does not."""
        now = time.monotonic()
        if self._held:
            self._held_s += now - self._since
        self._held, self._since = held, now

    def lap(self) -> tuple[float, float]:
        """The seconds held and the seconds passed since the lap before."""
        self.set(held=self._held)
        passed, held = self._since - self._lap, self._held_s
        self._lap, self._held_s = self._since, 0.0
        return held, passed
