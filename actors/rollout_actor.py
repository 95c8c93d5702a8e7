"""The rollout worker as a Ray actor: what it is built from, how it builds itself, how it is placed.

Knows nothing of routing or replacement. Always holds: the settings are plain values that travel to any node;
engine, codec and image reader are made in the actor's own process.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import ray

from actors.placement import ROLLOUT, Resources, actor_name, actor_options, engine_env
from actors.rollout_worker import RolloutWorker
from actors.vllm_build import EngineConfig
from actors.vllm_engine import VllmEngine
from actors.weight_sync import make_weight_sync
from envs.episode import EpisodeLimits
from sake_ray.interfaces import SearchClient


@dataclass(frozen=True)
class WorkerSettings:
    """What every rollout worker is built from. `prompts` is a `Prompts`; pixels bound the processed image."""

    engine: EngineConfig
    limits: EpisodeLimits
    prompts: Any
    min_pixels: int
    max_pixels: int
    max_result_chars: int = 2_000
    weight_sync: str = "shm"
    max_rebuilds: int = 3
    resources: Resources = field(default_factory=Resources)


class RolloutActor(RolloutWorker):
    """A `RolloutWorker` that builds its own parts, in the process Ray gave it."""

    def __init__(self, name: str, settings: WorkerSettings, search: SearchClient) -> None:
        from sake_ray.data.codec import ChatCodec
        from sake_ray.data.images import processed_image

        sync = make_weight_sync(settings.weight_sync)
        super().__init__(
            name,
            lambda: VllmEngine(settings.engine, sync),
            ChatCodec.from_pretrained(
                settings.engine.model,
                prompts=settings.prompts,
                min_pixels=settings.min_pixels,
                max_pixels=settings.max_pixels,
                max_result_chars=settings.max_result_chars,
            ),
            search,
            limits=settings.limits,
            load_image=functools.partial(
                processed_image, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels
            ),
            max_rebuilds=settings.max_rebuilds,
        )


def spawn_rollout_actor(settings: WorkerSettings, search: SearchClient, index: int) -> Any:
    """Place one rollout actor and return its handle; its engine is not started yet."""
    name = actor_name(ROLLOUT, index)
    options = actor_options(name, settings.resources, engine_env(settings.resources))
    return ray.remote(RolloutActor).options(**options).remote(name, settings, search)
