"""How many grants a second the limiter gives: in this process, and through its actor to clients in processes of theirs.

    python benchmarks/search_limiter.py [seconds=3] [clients=8] [callers=64]

Each client is a gate with `callers` callers that take a lease and give it back at once; the limits are far away. Always
holds: what is counted are leases that were used, not grants that were given.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs uninstalled

from benchmarks.script import own_ray, words_or_exit
from envs.limiter.lease import LeaseClient
from envs.limiter.messages import LimiterPort, Service, ServiceLimits
from envs.limiter.service import LimiterService

SERVICE = Service("bench", ServiceLimits(1e6, burst=500_000, concurrency=100_000, late_s=0.2))


@dataclass(frozen=True)
class Figures:
    """Leases a second of all clients together, and how long one caller alone waits for a lease (median, ms)."""

    in_process_per_second: float
    actor_per_second: float
    actor_late: int
    in_process_lease_ms: float
    actor_lease_ms: float


@dataclass(frozen=True)
class _Taken:
    leases: int
    late: int


async def _take(port: LimiterPort, name: str, callers: int, seconds: float) -> _Taken:
    """Leases that `callers` callers of one gate take in so many seconds."""
    gate = LeaseClient(port, name, SERVICE)
    count = 0

    async def call(until: float) -> None:
        nonlocal count
        while time.monotonic() < until:
            async with gate.lease():
                count += 1

    async with gate.lease():  # known, and warm
        pass
    until = time.monotonic() + seconds
    await asyncio.gather(*(call(until) for _ in range(callers)))
    late = gate.late
    await gate.close()
    return _Taken(count, late)


async def _wait_alone_ms(port: LimiterPort, calls: int = 300) -> float:
    """How long the only caller of the only gate waits for a lease: the median."""
    gate, waits = LeaseClient(port, "alone", SERVICE), []
    for _ in range(calls):
        async with gate.lease() as lease:
            waits.append(lease.waited_s)
    await gate.close()
    return sorted(waits)[len(waits) // 2] * 1e3


class _Client:
    """A client in a process of its own."""

    async def take(self, port: LimiterPort, name: str, callers: int, seconds: float) -> _Taken:
        return await _take(port, name, callers, seconds)

    async def wait_alone_ms(self, port: LimiterPort) -> float:
        return await _wait_alone_ms(port)

    async def ready(self) -> None:
        return None


async def _in_process(clients: int, callers: int, seconds: float) -> tuple[list[_Taken], float]:
    port = LimiterService()
    taken = await asyncio.gather(*(_take(port, f"client-{index}", callers, seconds) for index in range(clients)))
    return taken, await _wait_alone_ms(port)


async def _through_actor(clients: int, callers: int, seconds: float) -> tuple[list[_Taken], float]:
    import ray

    from actors.limiter import LimiterHandle

    actors = [ray.remote(_Client).options(num_cpus=0, max_concurrency=4).remote() for _ in range(clients)]
    await asyncio.gather(*(actor.ready.remote() for actor in actors))
    port = LimiterHandle(namespace="bench-limiter")
    tasks = [actor.take.remote(port, f"client-{index}", callers, seconds) for index, actor in enumerate(actors)]
    taken = await asyncio.gather(*tasks)
    return list(taken), await actors[0].wait_alone_ms.remote(port)


def measure(*, clients: int = 8, callers: int = 64, seconds: float = 3.0) -> Figures:
    """Measure both; Ray must be running."""
    here, here_ms = asyncio.run(_in_process(clients, callers, seconds))
    there, there_ms = asyncio.run(_through_actor(clients, callers, seconds))
    return Figures(
        in_process_per_second=sum(each.leases for each in here) / seconds,
        actor_per_second=sum(each.leases for each in there) / seconds,
        actor_late=sum(each.late for each in there),
        in_process_lease_ms=here_ms,
        actor_lease_ms=there_ms,
    )


def main() -> None:
    """Measure, and write the figures to standard output as JSON."""
    words = words_or_exit(sys.argv[1:], ("seconds", "clients", "callers"), __doc__)
    clients = int(words.get("clients", "8"))
    with own_ray(clients + 2):
        figures = measure(
            clients=clients, callers=int(words.get("callers", "64")), seconds=float(words.get("seconds", "3"))
        )
    sys.stdout.write(json.dumps(asdict(figures), indent=1) + "\n")


if __name__ == "__main__":
    main()
