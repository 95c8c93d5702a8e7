"""What a service is built from.

Knows nothing of Ray Serve, and never loads it: Serve reads its environment once, when it is loaded, and the settings
of a service say what that is to be. Always holds: it travels to other processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.rollout_actor import WorkerSettings
from actors.search_build import ToolSpec
from actors.search_pool import PoolSettings
from actors.serving.examples import ExamplePost
from sake_ray.serving.messages import PolicyCard
from sake_ray.serving.request import RequestLimits

Range = tuple[int, int]
"""Least and most replicas."""


@dataclass(frozen=True)
class IngressSettings:
    """What each ingress is built from. `token` empty: none is asked for."""

    limits: RequestLimits
    max_concurrent: int
    max_pixels: int
    body_s: float
    fetch_s: float
    allow_private: bool
    token: str
    examples: tuple[ExamplePost, ...] = ()


@dataclass(frozen=True)
class ServedPolicy:
    """A policy and what its engines are built from."""

    card: PolicyCard
    settings: WorkerSettings
    tool: ToolSpec


@dataclass(frozen=True)
class ServiceSettings:
    """The whole service."""

    policies: Sequence[ServedPolicy]
    ingress: IngressSettings
    pool: PoolSettings
    host: str
    port: int
    ingresses: Range
    engines: Range
    searches: Range
    per_engine: int
    search_cpus: float
