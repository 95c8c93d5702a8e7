"""Every group comes back exactly once, whatever happens to its worker, and no worker serves old weights."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.placement import Resources, actor_name, actor_options
from actors.rollout_pool import RolloutError, RolloutPool
from actors.rollout_stats import WorkerStats
from sake_ray.interfaces import GroupLost, RolloutCounts
from sake_ray.trajectory import Trajectory, TrajectoryGroup
from sake_ray.types import Example, ImageRef
from tests.waiting import until, until_states

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]


def example(name: str) -> Example:
    """A post; its name says what the worker does with it."""
    return Example(name, "text", ImageRef("none.png", 40, 40), ())


class ScriptedWorker:
    """Does what a post's id says: "die-once" and "die" kill its process, "slow" takes a while, "bug" raises."""

    def __init__(self, name: str, diary: Any, fail_start: bool = False) -> None:
        self.name, self.diary, self.version, self.fail_start, self.running = name, diary, -1, fail_start, 0
        self.tokens = 0

    async def start(self, params: dict[str, Any] | None = None, version: int = 0) -> None:
        if self.fail_start:
            os._exit(1)
        self.version = version if params else 0

    async def rollout_group(
        self, post: Example, seeds: list[int], greedy: bool = False, group_id: str = ""
    ) -> TrajectoryGroup:
        first = await self.diary.note.remote(group_id, self.name, self.version)
        self.running += len(seeds)
        if post.id == "die" or (post.id == "die-once" and first):
            os._exit(1)
        if post.id == "other-dies":
            await ray.remote(Diary).options(num_cpus=0).remote().die.remote()
        if post.id == "bug":
            raise KeyError("a bug of ours")
        await asyncio.sleep(2.0 if post.id.startswith("slow") else 0.05)
        self.running -= len(seeds)
        self.tokens += len(seeds)
        return TrajectoryGroup(post, [Trajectory(f"{group_id}.{i}", post) for i in range(len(seeds))])

    async def update_weights(self, params: dict[str, Any], version: int) -> dict[str, float]:
        if params.get("die") == self.name and self.version < version:
            os._exit(1)
        self.version = version
        return {"pause_s": 0.1, "load_s": 0.2, "bytes": 1.0}

    async def stats(self) -> WorkerStats:
        return WorkerStats(self.name, self.version, self.running, 0, 0, 2 * self.tokens, self.tokens, 0, 0, 0, 0)

    async def pid(self) -> int:
        return os.getpid()

    async def shutdown(self) -> None:
        pass


class Diary:
    """Outlives the workers: who ran which group, with which weights."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, int]] = []

    def note(self, group: str, worker: str, version: int) -> bool:
        self.entries.append((group, worker, version))
        return sum(entry[0] == group for entry in self.entries) == 1

    def die(self) -> dict[str, Any]:
        os._exit(1)

    def read(self) -> list[tuple[str, str, int]]:
        return self.entries


class Scene:
    """A pool of scripted workers and the diary they write."""

    def __init__(self, workers: int, **options: Any) -> None:
        self.diary = ray.remote(Diary).options(num_cpus=0).remote()
        self.spawned = 0
        self.fail_after = options.pop("fail_after", 10**6)
        self.pool = RolloutPool(self.spawn, workers, **options)

    def spawn(self, index: int) -> Any:
        name = actor_name("rollout", index)
        self.spawned += 1
        options = actor_options(name, Resources(cpus=0.1))
        return ray.remote(ScriptedWorker).options(**options).remote(name, self.diary, self.spawned > self.fail_after)

    async def __aenter__(self) -> Scene:
        await self.pool.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.pool.shutdown()
        ray.kill(self.diary)

    async def runs(self) -> list[tuple[str, str, int]]:
        entries: list[tuple[str, str, int]] = await self.diary.read.remote()
        return entries

    async def four_runs(self) -> bool:
        return len(await self.runs()) >= 4


def is_there(pid: int) -> bool:
    """Whether a process runs, or could."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "(zombie)" not in status.read_text()


async def test_groups_are_spread_by_load_and_stay_whole() -> None:
    async with Scene(2) as scene:
        groups = await asyncio.gather(*(scene.pool.rollout(example(f"slow{i}"), seeds=[i, i + 1]) for i in range(4)))
        assert [group.example.id for group in groups] == [f"slow{i}" for i in range(4)]
        assert [len(group.trajectories) for group in groups] == [2] * 4
        workers = [worker for _, worker, _ in await scene.runs()]
        assert sorted(workers) == ["rollout-0", "rollout-0", "rollout-1", "rollout-1"]


async def test_groups_of_a_lost_worker_are_rerun_with_current_weights_and_come_back_once() -> None:
    async with Scene(2) as scene:
        metrics = await scene.pool.update_weights({"w": 1}, 4)
        assert metrics["time/weight_pause_s"] == 0.1
        names = ["die-once", *(f"slow{i}" for i in range(5))]
        groups = await asyncio.gather(*(scene.pool.rollout(example(n), seeds=[i]) for i, n in enumerate(names)))
        assert [group.example.id for group in groups] == names
        ids = [trajectory.id for group in groups for trajectory in group.trajectories]
        assert len(set(ids)) == len(names)
        runs = await scene.runs()
        assert all(version == 4 for _, _, version in runs)
        assert sum(group.startswith("die-once") for group, _, _ in runs) == 2
        for _ in range(100):
            if len(stats := await scene.pool.stats()) == 2:
                break
            await asyncio.sleep(0.1)
        assert [(worker.name, worker.version) for worker in stats] == [("rollout-0", 4), ("rollout-1", 4)]
        assert scene.spawned == 3


async def test_what_a_lost_worker_had_counted_stays_counted_and_its_successor_starts_at_nought() -> None:
    async with Scene(1) as scene:
        await scene.pool.rollout(example("post"), seeds=[1, 2, 3])
        assert await scene.pool.counts() == RolloutCounts(1, 6, 3)
        assert await scene.pool.counts() == RolloutCounts(1, 6, 3)
        await scene.pool.rollout(example("die-once"), seeds=[4])
        await scene.pool.rollout(example("post"), seeds=[5, 6, 7, 8])
        assert await scene.pool.counts() == RolloutCounts(1, 16, 8, respawns=1)


async def test_a_worker_lost_in_an_update_serves_again_only_with_the_new_weights() -> None:
    async with Scene(1) as scene:
        await scene.pool.update_weights({"die": "rollout-0"}, 1)
        await scene.pool.rollout(example("post"), seeds=[0])
        assert [version for _, _, version in await scene.runs()] == [1]


async def test_a_group_that_kills_every_worker_ends_with_an_error_that_names_it() -> None:
    async with Scene(1, max_attempts=2) as scene:
        with pytest.raises(GroupLost, match="group die-0000000000000007 lost its worker 2 times"):
            await scene.pool.rollout(example("die"), seeds=[7])


async def test_workers_that_do_not_come_back_end_the_wait_with_an_error() -> None:
    async with Scene(1, fail_after=1, max_respawns=2) as scene:
        with pytest.raises(RolloutError, match="no rollout worker is left"):
            await asyncio.wait_for(scene.pool.rollout(example("die"), seeds=[7]), 60)
        assert scene.spawned == 3


async def test_a_bug_goes_through_at_once_and_a_cancelled_group_is_cancelled_in_the_worker() -> None:
    async with Scene(1) as scene:
        with pytest.raises(KeyError, match="a bug of ours"):
            await scene.pool.rollout(example("bug"), seeds=[1])
        task = asyncio.create_task(scene.pool.rollout(example("slow"), seeds=[2]))
        for _ in range(200):
            if len(await scene.runs()) == 2:
                break
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert scene.spawned == 1 and len(await scene.runs()) == 2


async def test_the_death_of_some_other_actor_is_not_the_workers(local_ray: None) -> None:
    async with Scene(1) as scene:
        with pytest.raises(ray.exceptions.RayActorError):
            await scene.pool.rollout(example("other-dies"), seeds=[1])
        other = ray.remote(Diary).options(num_cpus=0).remote()
        with pytest.raises(ray.exceptions.RayActorError):
            await scene.pool.update_weights(other.die.remote(), 1)
        assert scene.spawned == 1


async def test_a_worker_that_hangs_is_replaced_and_its_groups_run_elsewhere() -> None:
    async with Scene(2, health_every_s=0.2, health_limit_s=2.0) as scene:
        hung = await scene.pool._roster.slots[0].handle.pid.remote()
        names = [f"slow{i}" for i in range(4)]
        groups = [asyncio.create_task(scene.pool.rollout(example(n), seeds=[i])) for i, n in enumerate(names)]
        await until(scene.four_runs)
        os.kill(hung, signal.SIGSTOP)
        try:
            assert len(await scene.pool.states()) == 2, "looked at while one does not answer"
            answers = await asyncio.gather(*groups)
            await until_states(scene.pool, ["serving"] * 2)
            await until(lambda: not is_there(hung))
        finally:
            if is_there(hung):
                os.kill(hung, signal.SIGKILL)
        assert [group.example.id for group in answers] == names
        assert sorted(worker for _, worker, _ in await scene.runs())[:2] == ["rollout-0"] * 2
        assert scene.spawned == 3


async def test_the_pool_grows_and_shrinks_while_groups_run() -> None:
    async with Scene(1) as scene:
        await scene.pool.update_weights({"w": 1}, 4)
        groups = [asyncio.create_task(scene.pool.rollout(example(f"slow{i}"), seeds=[i])) for i in range(2)]
        await scene.pool.resize(3)
        await until_states(scene.pool, ["serving"] * 3)
        groups += [asyncio.create_task(scene.pool.rollout(example(f"slow{i}"), seeds=[i])) for i in range(2, 8)]
        await asyncio.sleep(0)
        await scene.pool.resize(1)
        answers = await asyncio.gather(*groups)
        assert [group.example.id for group in answers] == [f"slow{i}" for i in range(8)]
        runs = await scene.runs()
        assert len(runs) == 8 and {version for *_, version in runs} == {4}
        assert {worker for _, worker, _ in runs} == {"rollout-0", "rollout-1", "rollout-2"}
        await until_states(scene.pool, ["serving"])
        assert (await scene.pool.counts()) == RolloutCounts(1, 16, 8)


def test_a_lost_node_shrinks_the_pool_and_one_that_joins_regrows_it() -> None:
    project = Path(__file__).parents[2]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="sr-") as folder:  # short: sockets lie in it
        ended = subprocess.run(
            [sys.executable, "-m", "tests.actors.lose_a_node", folder],
            cwd=project,
            env=env | {"PYTHONPATH": str(project)},
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert ended.returncode == 0, ended.stderr[-4000:]
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["answers"] == [f"slow{n}" for n in range(14)], "each group comes back once"
    assert told["versions"] == [4], "no worker served without the current weights"
    assert len(told["placing"]) == 1 and told["regrown"] == ["rollout-0", "rollout-1"]
