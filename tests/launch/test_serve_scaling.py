"""The service as a job on a cluster that was there before: a second engine comes with the load and goes after it."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from launch.make_train import free_ports, job_environment, ray_head

pytestmark = [pytest.mark.integration, pytest.mark.slow]

log = logging.getLogger(__name__)
ENGINE = "ray::ServeReplica:sake_ray:engine-a"
CLIENTS = 12
COMES_S, GOES_S = 180.0, 240.0


@dataclass
class ServedJob:
    """The service on a head; `submit` has another one tried beside it."""

    url: str
    jobs: Any

    def submit(self, words: str) -> str:
        """Submit a service and wait until it serves or has ended; returns its log."""
        job = self.jobs.submit_job(entrypoint=f"python launch/serve.py {words}", runtime_env=job_environment())
        deadline = time.monotonic() + 240
        while "serving at" not in (told := self.jobs.get_job_logs(job)):
            assert time.monotonic() < deadline, told[-4000:]
            if self.jobs.get_job_status(job).is_terminal():
                break
            time.sleep(0.5)
        return str(self.jobs.get_job_logs(job))


@contextmanager
def served_job(folder: Path) -> Iterator[ServedJob]:
    """The service, submitted to a head of its own."""
    (port,) = free_ports((8000,))
    with ray_head(4) as head:  # first: Ray reads how it is authenticated when it is loaded
        from ray.job_submission import JobSubmissionClient

        served = ServedJob(f"http://127.0.0.1:{port}", JobSubmissionClient(head))
        told = served.submit(f"model=mini run.dir={folder} serve.port={port} serve.engines=1:2 serve.per_engine=3")
        assert "serving at" in told, told[-4000:]
        yield served
        for job in served.jobs.list_jobs():
            served.jobs.stop_job(job.submission_id)
        deadline = time.monotonic() + 120
        while any(not job.status.is_terminal() for job in served.jobs.list_jobs()):
            assert time.monotonic() < deadline, "it does not stop"
            time.sleep(0.5)


def engines() -> int:
    """Processes that are engines of the service."""
    lines = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return sum(line.startswith(ENGINE) for line in lines)


async def until(count: int, limit_s: float) -> float:
    """Seconds until there are so many engines."""
    began = time.monotonic()
    while await asyncio.to_thread(engines) != count:
        assert time.monotonic() - began < limit_s, f"{engines()} engines after {limit_s:.0f} s"
        await asyncio.sleep(0.5)
    return time.monotonic() - began


async def test_a_second_engine_comes_with_the_load_and_goes_after_it(tmp_path: Path) -> None:
    with served_job(tmp_path / "service") as served:
        async with aiohttp.ClientSession(served.url, timeout=aiohttp.ClientTimeout(total=120)) as session:
            async with session.get("/v1/examples") as response:
                example = (await response.json())["examples"][0]
            async with session.get(example["image"]) as response:
                picture = base64.b64encode(await response.read()).decode("ascii")
            statuses: Counter[int] = Counter()
            stop = asyncio.Event()

            async def client(number: int) -> None:
                asked = 0
                while not stop.is_set():
                    asked += 1
                    body = {"text": f"{example['text']} {number}-{asked}", "image": picture}
                    async with session.post("/v1/extract", json=body) as response:
                        statuses[response.status] += 1
                        await response.read()

            assert await asyncio.to_thread(engines) == 1
            async with asyncio.TaskGroup() as group:
                for number in range(CLIENTS):
                    group.create_task(client(number))
                came = await until(2, COMES_S)
                await asyncio.sleep(20)  # it takes its share of the load
                stop.set()
            went = await until(1, GOES_S)
            async with session.post("/v1/extract", json={"text": example["text"], "image": picture}) as response:
                statuses[response.status] += 1
        (port,) = free_ports((8000,))
        refused = await asyncio.to_thread(served.submit, f"model=mini run.dir={tmp_path / 'other'} serve.port={port}")
        assert "Ray Serve runs in this cluster already" in refused and "Traceback" not in refused, refused
        log.info("a second engine after %.0f s, one again after %.0f s, %s", came, went, dict(statuses))
        assert set(statuses) == {200}, statuses
