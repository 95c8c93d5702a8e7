"""The ingress as a Ray Serve deployment: the app behind its guard, over the handles of the engines.

Knows nothing of how HTTP or episodes work. Always holds: an engine that died under an order is `EngineGone`, whatever
Serve calls it; leaving an order ends it in the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import DeploymentUnavailableError

from actors.serving.app import build_app
from actors.serving.desk import Desk, EngineGone
from actors.serving.examples import Examples
from actors.serving.guard import Guard
from actors.serving.metrics_text import gather
from actors.serving.series import IngressSeries
from actors.serving.settings import IngressSettings
from envs.fetch.fetcher import FetchLimits, PictureFetcher
from sake_ray.data.images import MAX_IMAGE_BYTES
from sake_ray.serving.messages import Event, Order, PolicyCard

_GONE = (RayActorError, DeploymentUnavailableError)


@serve.ingress()
class Ingress:
    """Takes requests. `engines` are handles by the policies' names."""

    def __init__(self, settings: IngressSettings, engines: Mapping[str, Any]) -> None:
        self._settings = settings
        self._engines = {name: ServedEngines(handle) for name, handle in engines.items()}

    def __serve_build_asgi_app__(self) -> Any:
        settings = self._settings
        fetcher = None
        if settings.limits.urls:
            limits = FetchLimits(timeout_s=settings.fetch_s, max_bytes=MAX_IMAGE_BYTES)
            fetcher = PictureFetcher(limits, allow_private=settings.allow_private)
        desk = Desk(
            dict(self._engines),
            settings.limits,
            max_concurrent=settings.max_concurrent,
            max_pixels=settings.max_pixels,
            fetcher=fetcher,
        )
        app = build_app(desk, Examples(settings.examples), _metrics, body_s=settings.body_s, token=bool(settings.token))
        return Guard(app, settings.token, IngressSeries().count)


class ServedEngines:
    """`Engines` over the handle of a deployment."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)

    async def play(self, order: Order) -> Event:
        """See `Engines.play`."""
        response = self._handle.play.remote(order)
        try:
            event: Event = await response
            return event
        except asyncio.CancelledError:
            response.cancel()
            raise
        except _GONE as error:
            raise EngineGone(str(error)) from error
        except TaskCancelledError as error:  # by its replica's shutdown: we did not ask for it
            raise EngineGone("the engine was shut down") from error
        except RayTaskError as error:
            raise _told(error) from error

    async def events(self, order: Order) -> AsyncGenerator[Event, None]:
        """See `Engines.events`."""
        response = self._streaming.events.remote(order)
        ended = False
        try:
            async for event in response:
                yield event
            ended = True
        except _GONE as error:
            raise EngineGone(str(error)) from error
        except TaskCancelledError as error:
            raise EngineGone("the engine was shut down") from error
        except RayTaskError as error:
            raise _told(error) from error
        finally:
            if not ended:
                response.cancel()

    async def card(self) -> PolicyCard:
        """See `Engines.card`."""
        try:
            card: PolicyCard = await self._handle.card.remote()
            return card
        except _GONE as error:
            raise EngineGone(str(error)) from error


def _told(error: RayTaskError) -> BaseException:
    """What a replica raised: an engine that cannot be brought back is as good as gone, all else is a fault of ours."""
    from actors.rollout_worker import WorkerBroken

    cause = error.cause
    return EngineGone(str(cause)) if isinstance(cause, WorkerBroken) else error


async def _metrics() -> str:
    nodes = [node for node in ray.nodes() if node["Alive"] and node.get("MetricsExportPort")]
    return await gather([f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in nodes])
