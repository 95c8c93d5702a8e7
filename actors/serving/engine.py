"""The engine as a Ray Serve deployment: an `EpisodePlayer` in a replica of its own, which follows the policy board.

Knows nothing of HTTP. Always holds: a replica that is added or restarted begins with the policy that is served now; a
new one is swapped in without a restart; a replica whose engine cannot be brought back, or that has ceased to follow,
says that it is not healthy, and Serve replaces it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ray import serve

from actors.metrics_export import Exporter
from actors.placement import engine_env, process_env
from actors.rollout_actor import WorkerSettings, build_worker
from actors.rollout_metrics import RaySeries
from actors.rollout_worker import RolloutWorker, WorkerBroken
from actors.serving.player import EpisodePlayer
from actors.serving.search import ServedSearch
from actors.serving.series import EngineSeries
from actors.weight_sync import WeightSyncError
from sake_ray.serving.messages import Event, Order, PolicyCard

logger = logging.getLogger(__name__)

_POLL_S, _AGAIN_S = 30.0, 10.0


class EngineReplica:
    """Episodes of one policy: `first` until the board has another."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, first: PolicyCard, settings: WorkerSettings, search: ServedSearch, board: Any
    ) -> None:
        logging.basicConfig(level=logging.INFO)
        self._name = f"engine-{first.name}-{serve.get_replica_context().replica_id.unique_id}"
        self._board = board
        self._broken: str | None = None
        self._series = EngineSeries(first.name)
        card = await board.current.remote(first.name) or first
        settings = replace(settings, engine=replace(settings.engine, model=card.folder))
        # The folder that an engine was started from may be gone when it must be built anew.
        self._worker: RolloutWorker = build_worker(
            self._name, settings, search.client(), folder=lambda: self._player.card.folder
        )
        self._player = make_player(self._worker, card, settings)
        await self._player.start()
        await board.serves.remote(self._name, card.name, card.version)
        self._exporter = Exporter(self._worker.stats, RaySeries(self._name))
        self._exporter.start()
        self._following = asyncio.create_task(self._follow(), name=f"{self._name} follows the board")

    async def play(self, order: Order) -> Event:
        """The last event of an order."""
        with self._series.order():
            try:
                return self._counted(await self._player.play(order))
            except WorkerBroken as error:
                self._broken = str(error)
                raise

    async def events(self, order: Order) -> AsyncIterator[Event]:
        """All events of an order."""
        with self._series.order():
            try:
                async with aclosing(self._player.events(order)) as events:
                    async for event in events:
                        yield self._counted(event)
            except WorkerBroken as error:
                self._broken = str(error)
                raise

    async def card(self) -> PolicyCard:
        """The policy that is served."""
        return self._player.card

    async def facts(self) -> dict[str, Any]:
        """For people and tests: process, engine's counts, orders under way."""
        return {
            "pid": os.getpid(),
            "playing": self._player.playing,
            "version": self._player.card.version,
            "stats": asdict(await self._worker.stats()),
        }

    async def check_health(self) -> None:
        """Raise when only another replica helps."""
        if self._broken is not None:
            raise RuntimeError(f"{self._name}: {self._broken}")
        if self._following.done():
            raise RuntimeError(f"{self._name} follows the board no more") from self._following.exception()
        self._exporter.check()

    async def __del__(self) -> None:
        self._following.cancel()
        self._exporter.stop()
        await self._player.shutdown()
        await self._board.left.remote(self._name)

    def _counted(self, event: Event) -> Event:
        self._series.count(event)
        return event

    async def _follow(self) -> None:
        """Swap in what the board puts up, for ever."""
        while True:
            at = self._player.card
            card = await self._board.newer.remote(at.name, at.version, _POLL_S)
            if card is None:
                continue
            begin = time.monotonic()
            try:
                await self._player.swap(card)
            except (OSError, ValueError, WeightSyncError) as error:
                logger.error("%s cannot serve %s and goes on with %s: %s", self._name, card.folder, at.folder, error)
                await asyncio.sleep(_AGAIN_S)
                continue
            await self._board.serves.remote(self._name, card.name, card.version)
            logger.info("%s: %s of %s after %.1f s", self._name, card.checkpoint, card.model, time.monotonic() - begin)


def make_player(worker: RolloutWorker, card: PolicyCard, settings: WorkerSettings) -> EpisodePlayer:
    """A player on a worker that was built from these settings."""
    return EpisodePlayer(
        worker,
        card,
        limits=settings.limits,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        load_params=load_params,
    )


async def load_params(folder: str) -> dict[str, Any]:
    """The parameters in a Hugging Face folder, by name.

    Raises:
        OSError: there are none.
    """
    return await asyncio.to_thread(_load, Path(folder))


def _load(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no *.safetensors")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def engine_options(settings: WorkerSettings) -> dict[str, Any]:
    """Ray's options for the actor of a replica."""
    taken = settings.resources
    return {
        "num_cpus": taken.cpus,
        "num_gpus": taken.gpus,
        "runtime_env": {"env_vars": {**process_env(taken), **engine_env(taken)}},
    }
