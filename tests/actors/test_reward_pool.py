"""Rewards come back in order; a crash in scoring is an error with its trajectory saved, never a number or a step."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import os
import signal
import time
import traceback
from pathlib import Path

import pytest

from actors.reward_pool import Crash, RewardError, RewardPool, RewardWorker, save_trajectories
from sake_ray.trajectory import Segment, Trajectory, Turn
from sake_ray.types import Completion, Entity, Example, ImageRef, Reward, StopReason, TextSearch
from tests.actors.names import until_free
from tests.sake_ray.trainer.fakes import SETTINGS, Outcome, Run, make_post
from tests.waiting import until, until_states


class LengthScorer:
    """A reward that tells which trajectory it was given; crashes on ids that ask for it."""

    def score(self, trajectory: Trajectory) -> Reward:
        if "crash" in trajectory.id:
            raise ZeroDivisionError("a bug of ours")
        if "die" in trajectory.id:
            os._exit(1)
        return Reward(float(len(trajectory.token_ids)), 0, 0, 0, 0, 0, 0, 0)


class SecondStepCrash:
    """A reward by the tokens, until the weights have been updated once."""

    def score(self, trajectory: Trajectory) -> Reward:
        if trajectory.oldest_version == 1:
            raise ZeroDivisionError("a bug of ours")
        return Reward(float(trajectory.token_ids[-1]), 0, 0, 0, 0, 0, 0, 0)


class SlowScorer(LengthScorer):
    """Takes its time, and leaves its process's id in a file named after the trajectory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def score(self, trajectory: Trajectory) -> Reward:
        (self.folder / trajectory.id).write_text(str(os.getpid()))
        time.sleep(0.05)
        return super().score(trajectory)


def trajectory(name: str, tokens: int = 1) -> Trajectory:
    image = ImageRef("post.png", 40, 40, data=b"\x89PNG...")
    record = Trajectory(name, Example("17_1", "a post", image, (Entity("a", "PER"),)))
    record.append_observation(Segment(tuple(range(tokens)), tuple(range(tokens)), (image,)))
    return record


async def test_the_worker_names_the_first_member_that_crashed() -> None:
    worker = RewardWorker("reward-0", LengthScorer)
    answer = await worker.score([trajectory("a"), trajectory("crash"), trajectory("crash")])
    assert isinstance(answer, Crash) and answer.index == 1 and "ZeroDivisionError: a bug of ours" in answer.traceback


def test_a_saved_trajectory_is_readable_json_and_its_name_stays_in_the_folder(tmp_path: Path) -> None:
    record = trajectory("../../etc/x\n")
    record.append_completion(Completion((5,), (-0.5,), "sampled \ud800", "stop", 3))
    record.turns.append(Turn("sampled \ud800", TextSearch(("q",))))
    record.finish(StopReason.MALFORMED)
    path = save_trajectories([record], tmp_path / "crashes")
    assert path.parent == tmp_path / "crashes"
    saved = json.loads(path.read_text())[0]
    assert saved["id"] == "../../etc/x\n" and saved["stop_reason"] == "malformed"
    assert saved["turns"][0]["action"] == {"kind": "TextSearch", "queries": ["q"]}
    assert saved["images"][0]["data"] == "<7 bytes>" and saved["versions"] == [-1, 3]


@pytest.mark.integration
async def test_the_pool_scores_in_order_and_a_crash_stops_with_the_trajectory_saved(
    local_ray: None, tmp_path: Path
) -> None:
    pool = RewardPool.start(LengthScorer, workers=2, crash_folder=tmp_path, batch=3)
    assert await pool.score([]) == []
    rewards = await pool.score([trajectory(f"t{n}", tokens=n) for n in range(10)])
    assert [reward.total for reward in rewards] == [float(n) for n in range(10)]

    with pytest.raises(RewardError, match="crashed on trajectory crash-1") as crash:
        await pool.score([trajectory("t1"), trajectory("crash-1"), trajectory("t2")])
    assert "ZeroDivisionError: a bug of ours" in str(crash.value)
    assert [json.loads(path.read_text())[0]["id"] for path in tmp_path.iterdir()] == ["crash-1"]  # noqa: ASYNC240

    with pytest.raises(RewardError, match="died 4 times over 1 trajectories"):
        await pool.score([trajectory("die")])
    assert len(os.listdir(tmp_path)) == 2
    await pool.shutdown()


@pytest.mark.integration
async def test_a_crash_ends_the_run_and_leaves_neither_a_row_nor_a_checkpoint_of_its_step(
    local_ray: None, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, eval_every=0, checkpoint_every=1)
    run = await Run.start(tmp_path, settings, posts=[make_post(name) for name in "abcd"])
    pool = RewardPool.start(SecondStepCrash, workers=1, crash_folder=tmp_path / "crashes")
    run.trainer.producer._rewards = pool
    try:
        with pytest.raises(RewardError) as ended:
            await run.trainer.run()
    finally:
        await pool.shutdown()
    told = "".join(traceback.format_exception(ended.value))
    assert "a bug of ours" in told
    saved = list((tmp_path / "crashes").iterdir())
    assert any(str(path) in told for path in saved)
    for path in saved:
        assert set(json.loads(path.read_text())[0]["versions"]) == {-1, 1}
    left = Outcome.of(tmp_path)
    assert left.step == run.learner.updates == 1
    assert {row["step"] for row in left.metrics} == {row["step"] for row in left.trajectories} == {1}


@pytest.mark.integration
async def test_a_killed_worker_loses_nothing_and_the_pool_changes_its_size_while_it_scores(
    local_ray: None, tmp_path: Path
) -> None:
    await until_free("reward-0", "reward-1")
    pool = RewardPool.start(functools.partial(SlowScorer, tmp_path), workers=2, crash_folder=tmp_path, batch=10)
    scoring = asyncio.create_task(pool.score([trajectory(f"t{n}", tokens=n) for n in range(40)]))
    for victim in ("t3", "t13"):
        await until((tmp_path / victim).exists, every_s=0.01)
        await asyncio.sleep(0.02)  # in the middle of it, and the file is written
        os.kill(int((tmp_path / victim).read_text()), signal.SIGKILL)
    assert [reward.total for reward in await scoring] == [float(n) for n in range(40)]

    for size in (3, 1):
        scoring = asyncio.create_task(pool.score([trajectory(f"u{n}", tokens=n) for n in range(40)]))
        await pool.resize(size)
        assert [reward.total for reward in await scoring] == [float(n) for n in range(40)]
        await until_states(pool, ["serving"] * size)
    (state,) = await pool.states()
    assert (state.name, state.numbers["pending"]) == ("reward-0", 0.0) and state.numbers["scored"] >= 10 and state.node
    await pool.shutdown()
