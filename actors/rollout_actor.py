"""The rollout worker as a Ray actor: what it is built from, how it builds itself, how it is placed.

Knows nothing of routing or replacement. Always holds: the settings are plain values that travel to any node;
engine, codec and image reader are made in the actor's own process; its numbers are on Ray's metrics port from its
start to its end, and where that breaks its next call fails.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from actors.metrics_export import Exporter
from actors.placement import ROLLOUT, Resources, actor_name, actor_options, engine_env
from actors.rollout_metrics import RaySeries
from actors.rollout_stats import WorkerStats
from actors.rollout_worker import RolloutWorker
from actors.vllm_build import EngineConfig
from actors.vllm_engine import VllmEngine
from actors.weight_sync import Params, make_weight_sync
from envs.episode import EpisodeLimits
from sake_ray.interfaces import Codec, SearchClient
from sake_ray.trajectory import TrajectoryGroup
from sake_ray.types import Example


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


def build_worker(
    name: str, settings: WorkerSettings, search: SearchClient, folder: Callable[[], str] | None = None
) -> RolloutWorker:
    """A worker in this very process, with the parts that its settings name; its engine is not started yet.

    `folder` says where the model is each time an engine is made, where that changes.
    """
    return RolloutWorker(name, *_parts(settings, folder), search, **_limits(settings))


def _parts(settings: WorkerSettings, folder: Callable[[], str] | None = None) -> tuple[Callable[[], VllmEngine], Codec]:
    from sake_ray.data.codec import ChatCodec

    sync = make_weight_sync(settings.weight_sync)
    codec = ChatCodec.from_pretrained(
        settings.engine.model,
        prompts=settings.prompts,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        max_result_chars=settings.max_result_chars,
    )

    def make_engine() -> VllmEngine:
        model = settings.engine.model if folder is None else folder()
        return VllmEngine(replace(settings.engine, model=model), sync)

    return make_engine, codec


def _limits(settings: WorkerSettings) -> dict[str, Any]:
    from sake_ray.data.images import processed_image

    return {
        "limits": settings.limits,
        "load_image": functools.partial(
            processed_image, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels
        ),
        "max_rebuilds": settings.max_rebuilds,
    }


class RolloutActor(RolloutWorker):
    """A `RolloutWorker` that builds its own parts, in the process Ray gave it."""

    def __init__(self, name: str, settings: WorkerSettings, search: SearchClient) -> None:
        super().__init__(name, *_parts(settings), search, **_limits(settings))
        self._node = ray.get_runtime_context().get_node_id()
        self._exporter = Exporter(self.stats, RaySeries(name))

    async def start(self, params: Params | None = None, version: int = 0) -> None:
        """Start the engine, and show the worker's numbers from then on."""
        await super().start(params, version)
        self._exporter.start()

    async def rollout_group(
        self, example: Example, seeds: Sequence[int], greedy: bool = False, group_id: str = ""
    ) -> TrajectoryGroup:
        """Run one episode per seed, all at once; see `RolloutWorker`."""
        self._exporter.check()
        return await super().rollout_group(example, seeds, greedy, group_id)

    async def update_weights(self, params: Params, version: int) -> Mapping[str, float]:
        """Give the engine new weights; see `RolloutWorker`."""
        self._exporter.check()
        return await super().update_weights(params, version)

    async def stats(self) -> WorkerStats:
        """How the worker stands, and on which node."""
        self._exporter.check()
        return replace(await super().stats(), node=self._node)

    async def shutdown(self) -> None:
        """Stop the engine and the export."""
        self._exporter.stop()
        await super().shutdown()


def spawn_rollout_actor(settings: WorkerSettings, search: SearchClient, index: int) -> Any:
    """Place one rollout actor and return its handle; its engine is not started yet."""
    name = actor_name(ROLLOUT, index)
    options = actor_options(name, settings.resources, engine_env(settings.resources))
    return ray.remote(RolloutActor).options(**options).remote(name, settings, search)
