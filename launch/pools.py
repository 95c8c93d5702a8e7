"""From the configuration to running actors, and their orderly end.

Knows nothing of training. Always holds: whatever was started is stopped, in reverse order, however the
job ends.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, cast

from actors.learner_group import LearnerGroup, make_learner_group
from actors.placement import Resources
from actors.policy import PublishingLearner
from actors.reward_pool import RewardPool
from actors.rollout_actor import WorkerSettings, spawn_rollout_actor
from actors.rollout_pool import RolloutPool
from actors.search_build import ToolSpec
from actors.search_pool import PoolSettings, SearchPool
from actors.vllm_build import EngineConfig
from envs.episode import EpisodeLimits
from launch.search_tool import cache_dir
from rewards.composite import Scorer
from sake_ray.config.config import Config
from sake_ray.interfaces import LearnerLost, SearchClient
from sake_ray.prompts import Prompts, load_direct_prompts, load_prompts

log = logging.getLogger(__name__)


@dataclass
class Pools:
    """The running actors of an RL job."""

    rollout: RolloutPool
    rewards: RewardPool
    learner: PublishingLearner
    search: SearchPool


def worker_settings(config: Config, model: Path, prompts: Prompts | None = None) -> WorkerSettings:
    """What each rollout worker is built from; `prompts` default to the configured ones."""
    rollout, episode = config.rollout, config.episode
    return WorkerSettings(
        engine=EngineConfig(
            model=str(model),
            dtype=rollout.dtype,
            max_model_len=episode.max_tokens,
            max_num_seqs=rollout.max_num_seqs,
            max_images=episode.max_images,
            kv_cache_gib=rollout.kv_cache_gib,
            picture_cache_gib=rollout.picture_cache_gib,
            gpu_memory_utilization=rollout.gpu_memory_utilization,
            tensor_parallel=rollout.tensor_parallel,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            seed=config.run.seed,
            ray_metrics=True,
            pause=cast(Literal["wait", "abort", "keep"], rollout.pause),
            stall_timeout_s=rollout.stall_timeout_s,
        ),
        limits=EpisodeLimits(**asdict(episode), deadline_s=rollout.deadline_s),
        prompts=prompts or load_prompts(config.data.task, config.prompts.set, config.prompts.dir),
        min_pixels=config.data.min_pixels,
        max_pixels=config.data.max_pixels,
        max_result_chars=config.search.max_chars,
        resources=worker_resources(config),
    )


def worker_resources(config: Config) -> Resources:
    """What a rollout worker takes of its node."""
    return Resources(config.rollout.cpus_per_worker, config.rollout.gpus_per_worker)


@asynccontextmanager
async def search_pool(config: Config, data_root: Path) -> AsyncIterator[SearchPool]:
    """Start the search actors; `data_root` is where the local tool looks by default."""
    settings = config.search
    spec = ToolSpec(settings, str(data_root), cache_dir(config), config.data.max_pixels)
    search = SearchPool.start(
        spec,
        PoolSettings(settings.timeout_s, max_pending=settings.max_pending, per_query=spec.web),
        workers=settings.workers,
        resources=Resources(settings.cpus_per_worker),
        together=spec.web,  # around one cache
    )
    try:
        await search.ready()
        yield search
    finally:
        await search.shutdown()


@asynccontextmanager
async def rollout_pool(settings: WorkerSettings, search: SearchClient, workers: int) -> AsyncIterator[RolloutPool]:
    """Start rollout workers alone."""
    rollout = RolloutPool(
        functools.partial(spawn_rollout_actor, settings, search), workers=workers, resources=settings.resources
    )
    try:
        await rollout.start()
        yield rollout
    finally:
        await rollout.shutdown()


def direct_settings(config: Config, model: Path) -> WorkerSettings:
    """Workers for stage 1a: one turn, no tools, the instruction without tools, `tags.temperature`."""
    config = replace(
        config,
        episode=replace(config.episode, max_turns=1, text_searches=0, image_searches=0),
        rollout=replace(config.rollout, temperature=config.tags.temperature),
    )
    prompts = load_direct_prompts(config.data.task, config.prompts.set, config.prompts.dir)
    return worker_settings(config, model, prompts)


async def _start(group: LearnerGroup, restarts: int) -> None:
    """Start the ranks; one that dies while it starts is no reason to give up at once."""
    for attempt in range(restarts + 1):
        try:
            await (group.restart() if attempt else group.start())
            return
        except LearnerLost as lost:
            if attempt == restarts:
                raise
            log.error("%s while the ranks were starting; they are started again", lost)


@asynccontextmanager
async def running_pools(config: Config, *, model: Path, data_root: Path, run_dir: Path) -> AsyncIterator[Pools]:
    """Start search, rewards, rollout and learner for `model`; stop them on leaving.

    Raises:
        RuntimeError: an actor did not start; says which and why.
    """
    async with AsyncExitStack() as stack:
        search = await stack.enter_async_context(search_pool(config, data_root))
        pixels = {"min_pixels": config.data.min_pixels, "max_pixels": config.data.max_pixels}
        rewards = RewardPool.start(
            functools.partial(Scorer.from_config, config.reward, **pixels),
            workers=config.reward.workers,
            crash_folder=run_dir / "crashes",
            resources=Resources(config.reward.cpus_per_worker),
        )
        stack.push_async_callback(rewards.shutdown)
        settings = worker_settings(config, model)
        rollout = RolloutPool(
            functools.partial(spawn_rollout_actor, settings, search),
            workers=config.rollout.workers,
            resources=settings.resources,
        )
        stack.push_async_callback(rollout.shutdown)
        group = make_learner_group(config, model)
        stack.callback(group.shutdown)
        await _start(group, config.learner.max_restarts)
        await rollout.start()
        yield Pools(rollout, rewards, PublishingLearner(group, rollout), search)
