"""The producer: what is in flight, what a step is made of, and that no loss, age or stop upsets the count."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sake_ray.data.sampler import ExampleSampler
from sake_ray.interfaces import GroupLost
from sake_ray.trainer.ledger import Place
from sake_ray.trainer.producer import GroupProducer, ProducerSettings
from sake_ray.trajectory import Segment, Trajectory, TrajectoryGroup
from sake_ray.types import Completion, Example, Reward, StopReason
from tests.sake_ray.trainer.fakes import make_post, make_reward
from tests.waiting import until

POSTS = tuple(make_post(f"p{i}") for i in range(7))
SETTINGS = ProducerSettings(groups_per_step=2, group_size=2, seed=1, max_staleness=1, refills=4)


@dataclass
class Pool:
    """Plays groups when told to, or after some turns of the loop; those beyond its places take longer."""

    version: int = 0
    places: int = 100
    turns: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    loses: float = 0.0
    flat: float = 0.0
    running: int = 0
    most: int = 0
    asked: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    cancelled: int = 0

    async def rollout(self, example: Example, *, seeds: Sequence[int], greedy: bool = False) -> TrajectoryGroup:
        self.asked.append((example.id, tuple(seeds)))
        self.running += 1
        self.most = max(self.most, self.running)
        version = self.version
        try:
            if (gate := self.gates.get(example.id)) is not None:
                await gate.wait()
            for _ in range(self.chance.randint(0, self.turns * (3 if self.running > self.places else 1))):
                await asyncio.sleep(0)
            if self.chance.random() < self.loses:
                raise GroupLost("its workers died")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        flat = self.chance.random() < self.flat
        return TrajectoryGroup(example, [_played(example, seed, version, flat) for seed in seeds])


def _played(example: Example, seed: int, version: int, flat: bool) -> Trajectory:
    trajectory = Trajectory(f"{example.id}-{seed}", example)
    trajectory.append_observation(Segment((1,), (1,)))
    trajectory.append_completion(Completion((0 if flat else seed % 97 + 1,), (-0.5,), "x", "stop", version))
    trajectory.finish(StopReason.ANSWER)
    return trajectory


class Rewards:
    async def score(self, trajectories: Sequence[Trajectory]) -> list[Reward]:
        return [make_reward(t.token_ids[-1] / 100) for t in trajectories]


def make(pool: Pool, how: ProducerSettings = SETTINGS, posts: Sequence[Example] = POSTS) -> GroupProducer:
    return GroupProducer(
        how, pool, Rewards(), ExampleSampler(posts, how.seed), {post.id: post for post in posts}.__getitem__
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    step=st.integers(1, 4),
    staleness=st.integers(0, 3),
    ahead=st.integers(0, 3),
    loses=st.sampled_from([0.0, 0.1, 0.5]),
    flat=st.sampled_from([0.0, 0.2, 0.7]),
)
async def test_every_group_that_is_begun_ends_exactly_once_whatever_happens(
    seed: int, step: int, staleness: int, ahead: int, loses: float, flat: float
) -> None:
    """Random completions, failures, resizes, stops and resumes; a step is always made, and never of what is too old."""
    chance = random.Random(seed)
    how = ProducerSettings(step, 2, 1, max_staleness=staleness, groups_ahead=ahead, attempts=4, refills=step)
    pool = Pool(turns=4, chance=chance, loses=loses, flat=flat)
    producer, version = make(pool, how), 0
    given_up = 0
    ended: Counter[str] = Counter()
    for _ in range(12):
        pool.places = chance.randint(1, 8)
        if chance.random() < 0.2:  # a stop, and another process that goes on
            await producer.stop()
            assert pool.running == 0
            state = json.loads(json.dumps(producer.state_dict()))
            producer = make(pool, how)
            producer.load_state_dict(state)
        try:
            async with asyncio.timeout(20):
                groups = await producer.collect(version)
        except GroupLost:
            assert loses == 0.5
            return
        given_up += groups.given_up
        assert pool.most <= producer.ledger.limit
        assert all(0 <= age <= staleness for age in groups.staleness)
        assert len(groups.kept) <= step
        ended.update(t.id for group in groups.all for t in group.trajectories)
        for _ in range(chance.randint(0, 6)):  # the update
            await asyncio.sleep(0)
        if groups.kept:
            version += 1
        pool.version = version
        producer.close_step()
        counts = producer.ledger.counts()
        assert producer.ledger.drawn == producer.sampler.dealt
        assert counts["trained"] + counts["no_signal"] == sum(ended.values()) // 2
    await producer.stop()
    assert all(count == 1 for count in ended.values()), "a group was in two steps"


async def test_generation_goes_on_while_the_learner_updates_and_within_the_budget() -> None:
    pool = Pool()
    producer = make(pool)
    first = await producer.collect(0)
    assert len(first.kept) == 2
    await until(lambda: producer.ledger.size(Place.READY) == 2, every_s=0)  # no step was closed meanwhile
    assert (producer.ledger.room, len(pool.asked)) == (0, 4)
    pool.version = 1
    producer.close_step()
    second = await producer.collect(1)
    assert second.staleness == [1, 1] and second.held_s > 0
    await producer.stop()


async def test_strictly_on_policy_begins_nothing_before_the_weights_are_out() -> None:
    pool = Pool()
    producer = make(pool, replace(SETTINGS, max_staleness=0))
    await producer.collect(0)
    for _ in range(20):
        await asyncio.sleep(0)
    producer.close_step()
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(pool.asked) == 2


async def test_what_is_too_old_is_sampled_anew_with_its_own_seeds() -> None:
    pool = Pool()
    producer = make(pool)
    await producer.collect(0)
    await until(lambda: producer.ledger.size(Place.READY) == 2, every_s=0)
    old = list(pool.asked[2:])
    producer.close_step()
    pool.version = 2
    groups = await producer.collect(2)  # two versions later: one too many
    assert groups.returned["stale"] == 2
    assert set(old) <= set(pool.asked[4:]), "a post was lost with its group"
    assert groups.staleness == [0, 0]
    await producer.stop()


async def test_what_was_played_before_a_stop_trains_after_it() -> None:
    producer = make(Pool())
    await producer.collect(0)
    await until(lambda: producer.ledger.size(Place.READY) == 2, every_s=0)
    producer.close_step()
    await producer.stop()
    state = json.loads(json.dumps(producer.state_dict()))
    pool = Pool(version=1)
    second = make(pool)
    second.load_state_dict(state)
    groups = await second.collect(1)
    assert groups.staleness == [1, 1], "they were sampled anew"
    assert not {seeds for _, seeds in pool.asked} & {
        tuple(int(t.id.rpartition("-")[2]) for t in group.trajectories) for group in groups.kept
    }
    await second.stop()


async def test_groups_ahead_keep_a_slow_one_from_holding_the_step() -> None:
    pool = Pool(gates={"slow": asyncio.Event()})
    posts = [make_post(name) for name in ("slow", "b", "c")]
    how = replace(SETTINGS, max_staleness=0, groups_ahead=1)
    producer = make(pool, how, posts)
    first = await producer.collect(0)
    assert sorted(group.example.id for group in first.kept) == ["b", "c"]
    assert (pool.cancelled, first.returned) == (1, {"lost": 0, "stale": 0, "cancelled": 1})
    pool.gates["slow"].set()
    producer.close_step()
    second = await producer.collect(0)
    assert second.kept[0].example.id == "slow", "it is first in line the next time"


async def test_with_a_deadline_passed_a_trajectory_is_in_nobody_s_baseline() -> None:
    class Cut(Pool):
        async def rollout(self, example: Example, *, seeds: Sequence[int], greedy: bool = False) -> TrajectoryGroup:
            group = await super().rollout(example, seeds=seeds, greedy=greedy)
            late = Trajectory("late", example)
            late.finish(StopReason.DEADLINE)
            return TrajectoryGroup(example, [*group.trajectories, late])

    producer = make(Cut())
    groups = await producer.collect(0)
    assert [t.reward is None for t in groups.kept[0].trajectories] == [False, False, True]
    await producer.stop()


async def test_a_task_that_dies_of_a_bug_ends_the_step_with_its_own_traceback() -> None:
    class Broken(Pool):
        async def rollout(self, example: Example, *, seeds: Sequence[int], greedy: bool = False) -> TrajectoryGroup:
            if len(self.asked) == 3:
                raise ZeroDivisionError("a bug of ours")
            return await super().rollout(example, seeds=seeds, greedy=greedy)

    producer = make(Broken())
    with pytest.raises(ZeroDivisionError, match="a bug of ours") as caught:
        for version in range(3):
            await producer.collect(version)
            producer.close_step()
    assert any(frame.name == "rollout" for frame in caught.traceback)
    await producer.stop()


async def test_when_everything_is_lost_the_run_ends_and_says_of_what() -> None:
    producer = make(Pool(loses=1.0), replace(SETTINGS, attempts=2))
    with pytest.raises(GroupLost, match=r"groups of one step were given up, each after 2 attempts.*workers died"):
        await producer.collect(0)
    await producer.stop()
