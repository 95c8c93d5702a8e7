"""The job as people run it: submitted to a Ray head with the dashboard, followed, stopped, and gone on with."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch.make_train import job_environment, ray_head

pytestmark = pytest.mark.integration
STEPS = 3
SETTINGS = (
    "preset=mini_fast",
    "world.train_posts=32",
    "world.dev_posts=8",
    "world.test_posts=8",
    "sft.posts=16",
    "sft.steps=6",
    "rollout.group_size=4",
    "trainer.groups_per_step=2",
    "trainer.eval_every=0",
    "trainer.checkpoint_every=0",
    "eval.max_examples=4",
)
WORKERS = {"rollout-0", "learner-0", "search-0", "reward-0"}


class Cluster:
    """A Ray head and what a test asks of it."""

    def __init__(self, address: str) -> None:
        from ray.job_submission import JobSubmissionClient

        self.address = address
        self.client = JobSubmissionClient(address)

    def submit(self, run_dir: Path, *words: str) -> str:
        """Submit the Twitter-17 job with the small settings; returns its id."""
        command = " ".join(["python", "launch/rl_twitter17.py", *SETTINGS, f"run.dir={run_dir}", *words])
        job: str = self.client.submit_job(entrypoint=command, runtime_env=job_environment())
        return job

    def actors(self) -> dict[str, str]:
        """Name to class of the actors that are alive, from Ray's state API."""
        from ray.util.state import list_actors

        alive = list_actors(address=self.address, filters=[("state", "=", "ALIVE")])
        return {actor.name: actor.class_name for actor in alive if not actor.name.startswith("_ray_internal")}

    def wait(self, job: str, what: str, reached: Callable[[], Any], *, timeout_s: float = 400.0) -> None:
        """Wait until `reached()`; a job that ends before that fails the test with its log."""
        deadline = time.monotonic() + timeout_s
        while not reached():
            ended = self.client.get_job_status(job).is_terminal()
            if (ended and not reached()) or time.monotonic() > deadline:
                pytest.fail(f"{what}: not reached, job {self.client.get_job_status(job)}\n{self.log(job)[-4000:]}")
            time.sleep(0.2)

    def ended(self, job: str) -> str:
        """Wait for the job's end; returns its status."""
        self.wait(job, "the end of the job", lambda: self.client.get_job_status(job).is_terminal())
        return str(self.client.get_job_status(job).value)

    def log(self, job: str) -> str:
        """What the job has written so far."""
        text: str = self.client.get_job_logs(job)
        return text


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A Ray head as `make train` starts it."""
    from ray._raylet import Config

    before = dict(os.environ)
    try:
        with ray_head(num_cpus=8) as address:
            Config.initialize("")  # Ray read the authentication mode when a test before this one imported it
            deadline = time.monotonic() + 60
            while True:
                try:
                    made = Cluster(address)
                    break
                except (ConnectionError, RuntimeError):
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.5)
            yield made
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this module lie side by side, so that they share one cold start."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(cluster: Cluster, runs: Path) -> Path:
    """The folder of a run that went through without a stop; its actors' names were checked on the way."""
    folder = runs / "whole"
    job = cluster.submit(folder, f"trainer.total_steps={STEPS}")
    cluster.wait(job, "all actors alive", lambda: set(cluster.actors()) >= WORKERS)
    assert set(cluster.actors()) == WORKERS
    assert cluster.ended(job) == "SUCCEEDED", cluster.log(job)
    return folder


def test_a_job_names_its_actors_and_leaves_its_results(cluster: Cluster, whole: Path) -> None:
    assert [row["step"] for row in rows(whole / "metrics.jsonl")] == [1, 2, 3]
    assert (whole / "policy" / "model.safetensors").is_file()
    assert (whole / "curves.png").is_file()
    assert (whole / "checkpoints" / f"step-{STEPS:06d}" / "learner").is_dir()
    assert any((whole).glob("**/events.out.tfevents.*"))
    assert cluster.actors() == {}


def test_a_stopped_job_keeps_a_checkpoint_and_goes_on_as_if_never_stopped(
    cluster: Cluster, whole: Path, runs: Path
) -> None:
    folder = runs / "stopped"
    total = f"trainer.total_steps={STEPS}"
    job = cluster.submit(folder, total)
    cluster.wait(job, "the first step", lambda: steps(folder) >= 1)
    cluster.client.stop_job(job)
    assert cluster.ended(job) == "STOPPED"
    assert 1 <= steps(folder) < STEPS, "the stop came too late to show anything"
    assert (folder / "checkpoints" / f"step-{steps(folder):06d}" / "learner").is_dir()
    cluster_is_empty(cluster)

    job = cluster.submit(folder, total)
    assert cluster.ended(job) == "SUCCEEDED", cluster.log(job)
    assert f"resumed from {folder}" in cluster.log(job)
    assert [row["step"] for row in rows(folder / "metrics.jsonl")] == [
        row["step"] for row in rows(whole / "metrics.jsonl")
    ]
    assert said(folder) == said(whole)
    cluster_is_empty(cluster)


def cluster_is_empty(cluster: Cluster) -> None:
    """No actor is left; Ray hears of the last ones a moment after the job's end."""
    deadline = time.monotonic() + 20
    while cluster.actors() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert cluster.actors() == {}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def steps(folder: Path) -> int:
    """The last step in the run's metrics."""
    path = folder / "metrics.jsonl"
    return max((row["step"] for row in rows(path)), default=0) if path.exists() else 0


def said(folder: Path) -> list[tuple[int, str, list[str], float]]:
    """What every trajectory of the run said, with its step, post and reward."""
    return [
        (row["step"], row["example"], [turn["text"] for turn in row["turns"]], row["reward"]["total"])
        for row in rows(folder / "trajectories.jsonl")
    ]
