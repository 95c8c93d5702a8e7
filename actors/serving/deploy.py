"""From settings to a running Serve application: its deployments, how each grows, and a new policy for one of them.

Knows nothing of command lines. Always holds: ingress, engines and search grow on their own, by their own queues; a new
policy restarts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, HTTPOptions
from ray.serve.schema import LoggingConfig

from actors.placement import Resources, process_env
from actors.serving.board import start_board
from actors.serving.engine import EngineReplica, engine_options
from actors.serving.ingress import Ingress
from actors.serving.search import SearchReplica, ServedSearch
from actors.serving.settings import ServedPolicy, ServiceSettings
from sake_ray.serving.messages import PolicyCard

APP = "sake_ray"
_HEALTH_S, _HEALTH_LIMIT_S = 5.0, 30.0
_DRAIN_S = 120.0
SWAP_S = 120.0
_AT_ONCE = 1_000


class ServeTaken(RuntimeError):
    """Ray Serve is in use."""


class RunningService:
    """An application that serves, from `start` to `stop`."""

    def __init__(self, board: Any) -> None:
        self._board = board

    @staticmethod
    def start(settings: ServiceSettings) -> RunningService:
        """Start Serve's proxy and the application; returns when it serves.

        Raises:
            ServeTaken: the cluster serves something else, which would end with this service.
            RuntimeError: a deployment did not come up; says which and why.
        """
        if others := sorted(serve.status().applications):
            raise ServeTaken(
                f"Ray Serve runs in this cluster already, for {', '.join(others)}, and would end with this service; "
                "start this one in a cluster of its own (without RAY_ADDRESS), or end the other (serve shutdown)"
            )
        board = start_board()
        quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
        http = HTTPOptions(host=settings.host, port=settings.port)
        serve.start(http_options=http, proxy_location="HeadOnly", logging_config=quiet)
        serve.run(_application(settings, board), name=APP, route_prefix="/", logging_config=quiet)
        return RunningService(board)

    def swap(self, card: PolicyCard) -> list[str]:
        """Serve another policy under a name; returns the engines that do not after `SWAP_S` seconds."""
        ray.get(self._board.put.remote(card))
        behind: list[str] = ray.get(self._board.behind.remote(card, SWAP_S))
        return behind

    def stop(self) -> None:
        """End the service, with what is under way."""
        serve.shutdown()
        ray.kill(self._board)


def _application(settings: ServiceSettings, board: Any) -> Any:
    engines = {policy.card.name: _engine(settings, policy, board) for policy in settings.policies}
    low, high = settings.ingresses
    ingress = _deployment(
        Ingress, "ingress", low, high, target=settings.ingress.max_concurrent / 2,
        actor={"num_cpus": 0, "runtime_env": {"env_vars": process_env(Resources(cpus=0))}},
    )  # fmt: skip
    return ingress.bind(settings.ingress, engines)


def _engine(settings: ServiceSettings, policy: ServedPolicy, board: Any) -> Any:
    low, high = settings.engines
    deployment = _deployment(
        EngineReplica,
        f"engine-{policy.card.name}",
        low,
        high,
        target=settings.per_engine,
        actor=engine_options(policy.settings),
    )
    search = ServedSearch(_search(settings, policy), settings.pool)
    return deployment.bind(policy.card, policy.settings, search, board)


def _search(settings: ServiceSettings, policy: ServedPolicy) -> Any:
    low, high = settings.searches
    deployment = _deployment(
        SearchReplica,
        f"search-{policy.card.name}",
        low,
        high,
        target=settings.pool.max_pending / 4,
        actor={"num_cpus": settings.search_cpus, "runtime_env": {"env_vars": process_env(Resources(cpus=0))}},
    )
    return deployment.bind(policy.tool, settings.pool.max_pending)


def _deployment(made: Any, name: str, low: int, high: int, *, target: float, actor: Mapping[str, Any]) -> Any:
    """A deployment of `low` to `high` replicas, grown when a replica has more than `target` requests."""
    size: dict[str, Any] = {"num_replicas": low}
    if high > low:
        size = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=low,
                max_replicas=high,
                initial_replicas=low,
                target_ongoing_requests=target,
                upscale_delay_s=3.0,
                downscale_delay_s=60.0,
            )
        }
    return serve.deployment(
        made,
        name=name,
        max_ongoing_requests=_AT_ONCE,
        health_check_period_s=_HEALTH_S,
        health_check_timeout_s=_HEALTH_LIMIT_S,
        graceful_shutdown_timeout_s=_DRAIN_S,
        ray_actor_options=dict(actor),
        **size,
    )
