"""Limits of a service: whether they can be kept, and what holds when several registrations differ.

Knows nothing of time or grants. Always holds: what is merged is at least as tight as each of its parts.
"""

from __future__ import annotations

import math

from envs.limiter.messages import Service, ServiceLimits


def checked(service: Service) -> Service:
    """The service as it is.

    Raises:
        ValueError: naming the service, the field and its value, where the limits let nothing through or mean nothing.
    """
    where = f"service {service.name!r}"
    if not service.name:
        raise ValueError("a service needs a name")
    if not service.keys or len(set(service.keys)) != len(service.keys):
        raise ValueError(f"{where}: keys={service.keys!r}: at least one, each once")
    limits = service.limits
    for name in ("per_second", "breaker_s"):
        value = getattr(limits, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{where}: {name}={value}: must be a number above 0")
    for name in ("burst", "concurrency"):
        value = getattr(limits, name)
        if value < 1:
            raise ValueError(f"{where}: {name}={value}: must be at least 1")
    for name in ("daily_budget", "cost_per_call", "late_s", "breaker_failures"):
        value = getattr(limits, name)
        if not 0 <= value < math.inf:
            raise ValueError(f"{where}: {name}={value}: must be a number of at least 0")
    if limits.daily_budget and limits.cost_per_call > limits.daily_budget:
        raise ValueError(
            f"{where}: cost_per_call={limits.cost_per_call} is above daily_budget={limits.daily_budget}: no call "
            "could ever be made"
        )
    return service


def merged(known: Service, other: Service) -> Service:
    """One service of two registrations, with the tightest of each limit.

    Raises:
        ValueError: they have different keys.
    """
    if known.keys != other.keys:
        raise ValueError(
            f"service {known.name!r}: keys={other.keys!r} differ from keys={known.keys!r} of an earlier "
            "registration; give every job of the cluster the same keys in the same order, or the service another name"
        )
    one, two = known.limits, other.limits
    return Service(
        known.name,
        ServiceLimits(
            per_second=min(one.per_second, two.per_second),
            burst=min(one.burst, two.burst),
            concurrency=min(one.concurrency, two.concurrency),
            daily_budget=_least(one.daily_budget, two.daily_budget),
            cost_per_call=max(one.cost_per_call, two.cost_per_call),
            late_s=max(one.late_s, two.late_s),
            breaker_failures=int(_least(one.breaker_failures, two.breaker_failures)),
            breaker_s=max(one.breaker_s, two.breaker_s),
        ),
        known.keys,
    )


def _least(one: float, two: float) -> float:
    """The tighter of two bounds of which 0 means none."""
    return min(one, two) if one and two else max(one, two)
