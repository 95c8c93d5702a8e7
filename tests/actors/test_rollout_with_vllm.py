"""The rollout pool on the real vLLM: a killed engine and a killed worker change nothing about the result."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
import ray

from actors.placement import Resources
from actors.rollout_actor import WorkerSettings, spawn_rollout_actor
from actors.rollout_pool import RolloutPool
from actors.vllm_build import EngineConfig
from envs.episode import EpisodeLimits
from sake_ray.prompts import load_prompts
from sake_ray.seeding import derive_seed
from sake_ray.trajectory import TrajectoryGroup
from sake_ray.types import Box, Entity, Example, ImageRef, ImageSearch, Observation, TextSearch
from tests.tiny_model import make_tiny_model

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

SEEDS = [derive_seed(0, "step", 0, "17_1", sample) for sample in range(4)]
BOX = Box(10, 10, 60, 50)
POST = Example(
    "17_1",
    "Kora Belmont at the stadium",
    ImageRef("", 90, 70, standin=((BOX, "PER"),)),
    (Entity("Kora", "PER", (BOX,)),),
)


class NoSearch:
    """A random model asks no well-formed search; one that does fails the test."""

    async def search(self, example: Example, action: TextSearch | ImageSearch) -> Observation:
        raise AssertionError(f"unexpected search: {action}")


class Stage:
    """A pool of one real worker, and the processes behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        settings = WorkerSettings(
            engine=EngineConfig(str(folder), max_model_len=1400, kv_cache_gib=0.25, ray_metrics=True),
            limits=EpisodeLimits(max_tokens=1400, max_turn_tokens=900),
            prompts=load_prompts("gmner", "compact"),
            min_pixels=84 * 84,
            max_pixels=112 * 112,
            resources=Resources(cpus=1),
        )
        self.handles: list[Any] = []

        def spawn(index: int) -> Any:
            self.handles.append(spawn_rollout_actor(settings, NoSearch(), index))
            return self.handles[-1]

        self.pool = RolloutPool(spawn, 1)

    async def worker(self) -> psutil.Process:
        return psutil.Process(await self.handles[-1].__ray_call__.remote(lambda actor: os.getpid()))

    async def run(self) -> TrajectoryGroup:
        return await asyncio.wait_for(self.pool.rollout(POST, seeds=SEEDS), 900)

    async def run_and_kill(self, victim: psutil.Process) -> TrajectoryGroup:
        """Run the group, and kill a process while the engine is at work on it."""
        task = asyncio.create_task(self.run())
        for _ in range(1000):
            stats = await self.pool.stats()
            if stats and stats[0].running == len(SEEDS):
                break
            await asyncio.sleep(0.005)
        assert not task.done(), "the group ended before anything could be killed"
        victim.kill()
        return await task


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    stage = Stage(make_tiny_model(tmp_path_factory.mktemp("model")))
    await stage.pool.start()
    yield stage
    await stage.pool.shutdown()


def content(group: TrajectoryGroup) -> list[tuple[list[int], list[int], list[int]]]:
    return [(t.token_ids, t.loss_mask, t.versions) for t in group.trajectories]


async def within(call: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(call, 300)


@pytest.mark.slow
async def test_no_group_is_lost_with_an_engine_or_a_worker_and_the_weights_stay_current(stage: Stage) -> None:
    first = await stage.run()
    assert content(first) == content(await stage.run()), "same seeds, same trajectories"
    assert {version for _, _, versions in content(first) for version in versions} == {-1, 0}

    model = await asyncio.to_thread(noisy_params, stage.folder)
    metrics = await within(stage.pool.update_weights(ray.put(model), 7))
    assert metrics["time/weight_sync_s"] > 0
    undisturbed = content(await stage.run())
    assert {version for _, _, versions in undisturbed for version in versions} == {-1, 7}
    assert undisturbed != content(first)

    worker = await stage.worker()
    engine = [child for child in worker.children(recursive=True) if "EngineCore" in " ".join(child.cmdline())]
    assert len(engine) == 1
    assert content(await stage.run_and_kill(engine[0])) == undisturbed
    stats = await stage.pool.stats()
    assert stats[0].rebuilds == 1 and stats[0].version == 7
    counted = await stage.pool.counts()
    assert (counted.rebuilds, counted.respawns, counted.workers) == (1, 0, 1)
    assert counted.prompt_tokens > 0 and counted.prefix_queries > 0
    assert counted.generated_tokens >= 3 * sum(t.trained_tokens for t in first.trajectories)

    children = worker.children(recursive=True)
    assert content(await stage.run_and_kill(worker)) == undisturbed
    assert len(stage.handles) == 2 and (await stage.pool.stats())[0].version == 7
    after = await stage.pool.counts()
    assert (after.rebuilds, after.respawns) == (1, 1) and after.generated_tokens > counted.generated_tokens
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, 30)
    assert not alive, "no engine outlives its worker"


def noisy_params(folder: Path) -> dict[str, Any]:
    """The tiny model's parameters with noise, as the learner publishes them."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    return {
        name: (parameter.detach() + 0.05 * torch.randn(parameter.shape, generator=generator)).numpy()
        for name, parameter in model.named_parameters()
    }
