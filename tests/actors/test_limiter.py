"""One limiter for a cluster: eight workers against a real server that counts, and a limiter that dies or is not needed.

The server tells when each call arrived. A machine that is too busy may bring a call there later than the half of
`late_s` that is kept for its way; by how much is measured, and the stretches of time are taken so much longer.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import pytest
import ray
from ray.util import list_named_actors

from actors.limiter import NAME, LimiterHandle
from envs.limiter.lease import LeaseClient
from envs.limiter.messages import Outcome, Service, ServiceLimits
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]

NS = 1_000_000_000
WORKERS = 8
LIMITS = ServiceLimits(per_second=60.0, burst=20, concurrency=6, late_s=0.2)
SENT = "X-Sent"


@dataclass(frozen=True)
class Seen:
    """What the server saw: per call which worker sent it, when it was sent, when it arrived; how many at once."""

    calls: tuple[tuple[str, int, int], ...]
    most: int
    throttled_at: int


class Server:
    """An HTTP server that takes a while for each call, and on request answers one with 429."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, int, int]] = []
        self._under_way = self._most = 0
        self._throttle_s = 0
        self._throttled_at = 0

    async def start(self) -> str:
        from aiohttp import web

        async def answer(request: web.Request) -> web.Response:
            now = time.monotonic_ns()
            self._calls.append((request.query["worker"], int(request.headers[SENT]), now))
            if self._throttle_s:
                headers, self._throttle_s = {"Retry-After": str(self._throttle_s)}, 0
                self._throttled_at = now
                return web.Response(status=429, headers=headers)
            self._under_way += 1
            self._most = max(self._most, self._under_way)
            try:
                await asyncio.sleep(0.02)
            finally:
                self._under_way -= 1
            return web.Response(text="{}")

        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/"

    async def throttle(self, seconds: int) -> None:
        self._throttle_s = seconds

    async def seen(self) -> Seen:
        return Seen(tuple(self._calls), self._most, self._throttled_at)


class Worker:
    """Asks the server through the limiter, all the time, more often than it is allowed to."""

    def __init__(self) -> None:
        import aiohttp  # noqa: F401  # now, not when the clock runs

        self._stopped = False

    async def ask(self, port: LimiterHandle, name: str, url: str, callers: int) -> int:
        import aiohttp

        gate = LeaseClient(port, name, Service("counted", LIMITS))
        done = 0

        async def caller(session: aiohttp.ClientSession) -> None:
            nonlocal done
            while not self._stopped:
                async with gate.lease() as lease:
                    headers = {SENT: str(time.monotonic_ns())}
                    async with session.get(url, params={"worker": name}, headers=headers) as response:
                        await response.read()
                        if response.status == 429:
                            lease.outcome = Outcome.THROTTLED
                            lease.retry_after_s = float(response.headers["Retry-After"])
                done += 1

        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(caller(session) for _ in range(callers)))
        await gate.close()
        return done

    async def ready(self) -> None:
        return None

    async def stop(self) -> None:
        self._stopped = True


def begun(seen: Seen, names: list[str]) -> int:
    """When every worker had made a call; later than all calls before that."""
    firsts = [next((arrived for name, _, arrived in seen.calls if name == each), None) for each in names]
    return max(time.monotonic_ns() if first is None else first for first in firsts)


def worst_excess(times: list[int], window: float | None, stretched_ns: int) -> float:
    """By how many calls the fullest stretch of `window` seconds (None: any) is over the limit."""
    ordered, worst = sorted(times), -1.0
    for first, begin in enumerate(ordered):
        for last in range(first, len(ordered)):
            length = ordered[last] - begin
            if window is not None and length > window * NS:
                break
            allowed = (
                LIMITS.burst + ((length if window is None else window * NS) + stretched_ns) / NS * LIMITS.per_second
            )
            worst = max(worst, last - first + 1 - allowed)
    return worst


async def test_eight_workers_never_pass_the_limits_share_alike_and_all_stop_when_one_is_told_to() -> None:
    port = LimiterHandle(namespace="limits", linger_s=30.0)
    server: Any = ray.remote(Server).options(num_cpus=0, max_concurrency=100).remote()
    url = await server.start.remote()
    workers: list[Any] = [ray.remote(Worker).options(num_cpus=0, max_concurrency=4).remote() for _ in range(WORKERS)]
    await asyncio.gather(*(worker.ready.remote() for worker in workers))
    names = [f"worker-{index}" for index in range(WORKERS)]
    # Some want far more than others.
    tasks = [
        worker.ask.remote(port, name, url, 2 + 4 * (index % 2))
        for index, (worker, name) in enumerate(zip(workers, names, strict=True))
    ]

    async def enough() -> bool:
        seen: Seen = await server.seen.remote()
        first = begun(seen, names)
        return sum(first <= arrived for _, _, arrived in seen.calls) > 200

    async def throttled() -> int:
        seen: Seen = await server.seen.remote()
        return seen.throttled_at

    async def on_again() -> bool:
        seen: Seen = await server.seen.remote()
        return sum(arrived >= seen.throttled_at + 2 * NS for _, _, arrived in seen.calls) > 40

    await until(enough)
    await server.throttle.remote(2)
    await until(throttled)
    await until(on_again)
    await asyncio.gather(*(worker.stop.remote() for worker in workers))
    done = await asyncio.gather(*tasks)
    seen: Seen = await server.seen.remote()

    on_its_way = max(arrived - sent for _, sent, arrived in seen.calls)
    stretched = max(0, on_its_way - int(LIMITS.late_s / 2 * NS))
    arrivals = [arrived for _, _, arrived in seen.calls]
    assert sum(done) == len(arrivals) > 100
    for window in (0.1, 0.5, 1.0, None):
        assert worst_excess(arrivals, window, stretched) <= 0, window
        assert worst_excess([sent for _, sent, _ in seen.calls], window, 0) <= 0, window
    assert seen.most <= LIMITS.concurrency

    # What was let go before the limiter heard of it may arrive still; then nothing for two seconds.
    assert seen.throttled_at
    heard = seen.throttled_at + int(0.6 * NS) + stretched
    assert not [arrived for arrived in arrivals if heard < arrived < seen.throttled_at + 2 * NS]
    assert [arrived for arrived in arrivals if arrived >= seen.throttled_at + 2 * NS], "and then on"

    first = begun(seen, names)
    before = [name for name, _, arrived in seen.calls if first <= arrived < seen.throttled_at]
    shares = [before.count(name) / len(before) * WORKERS for name in names]
    assert min(shares) > 0.5 and max(shares) < 1.6, shares


async def test_a_limiter_that_dies_gets_a_successor_that_gives_no_burst_and_it_goes_when_all_have_left() -> None:
    port = LimiterHandle(namespace="dying", linger_s=30.0)
    gate = LeaseClient(port, "a", Service("s", ServiceLimits(50.0, burst=10, late_s=0.1)))
    async with gate.lease():
        pass
    assert (await port.counts())["s"].granted == 1
    ray.kill(ray.get_actor(NAME, namespace="dying"))
    began = time.monotonic()
    async with gate.lease():
        assert time.monotonic() - began > 5, "nothing starts before all have said what they hold"
    assert (await port.counts())["s"].granted == 1, "another limiter"
    await gate.close()
    await gone("dying")
    async with LeaseClient(port, "b", Service("s", ServiceLimits(50.0))).lease():  # one that went is no loss
        pass


async def test_a_limiter_of_which_nobody_is_heard_goes_by_itself() -> None:
    port = LimiterHandle(namespace="silent", lease_s=0.2, linger_s=0.5)
    await port.register("a", Service("s", LIMITS))
    await gone("silent")


async def gone(namespace: str) -> None:
    async with asyncio.timeout(30):
        while {"namespace": namespace, "name": NAME} in list_named_actors(all_namespaces=True):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
