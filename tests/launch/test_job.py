"""The job as people run it: submitted to a Ray head, followed, stopped, gone on with, trained on real posts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launch.make_train import STOPPED, job_environment, ray_head
from sake_ray.data.twitter import subset_of
from tests import dashboard
from tests.launch import made_train

pytestmark = pytest.mark.integration
STEPS = 6
PORT = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print(ray.nodes()[0]['MetricsExportPort'])"
GROUP = 4
SETTINGS = (
    "preset=mini_fast",
    "world.train_posts=32",
    "world.dev_posts=8",
    "world.test_posts=8",
    "secot.posts=16",
    "sft.steps=6",
    f"rollout.group_size={GROUP}",
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
        """Name to class of the actors that are alive and not Ray's own, from Ray's state API."""
        from ray.util.state import list_actors

        alive = list_actors(address=self.address, filters=[("state", "=", "ALIVE")])
        # The coordinator is Ray Train's: one a cluster, which takes nothing and stays.
        own = ("_ray_internal", "AutoscalingCoordinator", "control-")  # the last: see `status`
        return {actor.name: actor.class_name for actor in alive if not actor.name.startswith(own)}

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
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Ray head as `make train` starts it on a new machine, whose user has no token for Ray yet."""
    from ray._raylet import AuthenticationTokenLoader, Config

    before = dict(os.environ)
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    try:
        with ray_head(num_cpus=8) as address:
            # Ray read the authentication mode and the token when a test before this one imported it.
            Config.initialize("")
            AuthenticationTokenLoader.instance().reset_cache()
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
        AuthenticationTokenLoader.instance().reset_cache()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this module lie side by side, so that they share one cold start."""
    return tmp_path_factory.mktemp("runs")


@dataclass
class Watched:
    """A run that went through without a stop, and what could be seen from outside while it trained."""

    folder: Path
    status: dict[str, Any]
    series: set[str]


def from_outside(*words: str) -> str:
    """What a fresh Python process writes, with Ray's settings of no test."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    environment["RAY_AUTH_MODE"] = "token"
    return subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=120, check=True
    ).stdout


@pytest.fixture(scope="module")
def watched(cluster: Cluster, runs: Path) -> Watched:
    """Its actors' names were checked on the way."""
    folder, series = runs / "whole", set[str]()
    job = cluster.submit(folder, f"trainer.total_steps={STEPS}")
    cluster.wait(job, "all actors alive", lambda: set(cluster.actors()) >= WORKERS)
    assert set(cluster.actors()) == WORKERS
    cluster.wait(job, "a step", lambda: steps(folder) >= 1)
    status = json.loads(from_outside("launch/status.py", f"run={folder}", "--json"))
    address = json.loads((folder / "ray.json").read_text())["address"]
    port = from_outside("-c", PORT, address).split()[-1]

    def ended() -> bool:
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        series.update(re.findall(r"^(ray_\w+)", page, re.MULTILINE))
        return bool(cluster.client.get_job_status(job).is_terminal())

    cluster.wait(job, "the end of the job", ended)
    assert cluster.ended(job) == "SUCCEEDED", cluster.log(job)
    return Watched(folder, status, series)


@pytest.fixture(scope="module")
def whole(watched: Watched) -> Path:
    """The folder of a run that went through without a stop."""
    return watched.folder


def test_a_submitted_job_is_watched_by_its_folder(watched: Watched) -> None:
    status = watched.status
    assert status["trainer"]["step"] >= 1 and status["run_dir"] == str(watched.folder)
    actors = [actor for pool in (*status["pools"].values(), status["learner"]) for actor in pool["actors"]]
    assert {actor["name"]: actor["state"] for actor in actors} == dict.fromkeys(WORKERS, "serving")
    assert all(actor["node"] for actor in actors)
    assert {"version", "running", "waiting", "generated_tokens", "kv_usage"} <= set(
        status["pools"]["rollout"]["actors"][0]["numbers"]
    )
    assert not (watched.folder / "ray.json").exists(), "the note of a job that has ended"


def test_each_series_of_the_dashboard_is_exported(watched: Watched) -> None:
    searched = any(len(row["turns"]) > 1 for row in rows(watched.folder / "trajectories.jsonl"))
    wanted = dashboard.series() - dashboard.RARE - (frozenset() if searched else dashboard.OF_SEARCHES)
    assert wanted - watched.series == set()


def test_a_job_names_its_actors_and_leaves_its_results(cluster: Cluster, whole: Path) -> None:
    metrics = rows(whole / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, STEPS + 1))
    for row in metrics:
        episodes = GROUP * (row["rollout/groups"] + row["rollout/zero_signal_groups"])
        assert row["rollout/generated_tokens"] == pytest.approx(episodes * row["rollout/sampled_tokens"])
        assert row["rollout/workers"] == 1 and row["rollout/preemptions"] == row["rollout/respawns"] == 0
    assert (whole / "policy" / "model.safetensors").is_file()
    assert (whole / "curves.png").is_file()
    assert (whole / "checkpoints" / f"step-{STEPS:06d}" / "learner").is_dir()
    assert any((whole).glob("**/events.out.tfevents.*"))
    assert cluster.actors() == {}


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_nothing_running_and_the_run_goes_on_as_if_never_stopped(
    cluster: Cluster, whole: Path, runs: Path
) -> None:
    folder = runs / "stopped"
    total = f"trainer.total_steps={STEPS}"
    with made_train.make_train(*SETTINGS, f"run.dir={folder}", total) as made:  # a cluster of its own
        made.wait(lambda: steps(folder) >= 1)
        assert made.signal(signal.SIGINT) == STOPPED, made.said()
        assert made.left_behind() == []
        assert "stopping the job; it writes a checkpoint first" in made.said()
    assert 1 <= steps(folder) < STEPS, "the stop came too late to show anything"
    assert (folder / "checkpoints" / f"step-{steps(folder):06d}" / "learner").is_dir()

    job = cluster.submit(folder, total)
    assert cluster.ended(job) == "SUCCEEDED", cluster.log(job)
    assert f"resumed from {folder}" in cluster.log(job)
    assert [row["step"] for row in rows(folder / "metrics.jsonl")] == [
        row["step"] for row in rows(whole / "metrics.jsonl")
    ]
    assert said(folder) == said(whole)
    first, second = weights(whole), weights(folder)
    assert first.keys() == second.keys()
    assert max(float(abs(first[name] - second[name]).max()) for name in first) <= 1e-6
    cluster_is_empty(cluster)


@pytest.mark.slow
def test_real_posts_go_the_whole_way(cluster: Cluster, whole: Path, runs: Path, shared: Path) -> None:
    """Real texts and boxes, full-size pictures drawn from them, the released search cache."""
    folder = runs / "real"
    words = [f"data.root={shared}/data/twitter_gmner", "data.images=standin", "data.max_examples=8"]
    words += ["search.provider=offline", f"search.cache={shared}/data/search_cache_sample", "trainer.total_steps=1"]
    job = cluster.submit(folder, *words)
    assert cluster.ended(job) == "SUCCEEDED", cluster.log(job)
    (metrics,) = rows(folder / "metrics.jsonl")
    assert metrics["step"] == 1 and metrics["eval/posts"] == 4
    assert 0 < metrics["rollout/prefix_hit_rate"] < 1, "a group shares a prompt with a picture"
    assert {subset_of(name) for _, name, _, _ in said(folder)} == {"twitter17"}
    assert (folder / "policy" / "model.safetensors").is_file()
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


def weights(folder: Path) -> dict[str, Any]:
    """The exported policy of the run, by parameter."""
    from safetensors.numpy import load_file

    found: dict[str, Any] = load_file(folder / "policy" / "model.safetensors")
    return found


def said(folder: Path) -> list[tuple[int, str, list[str], float]]:
    """What every trajectory of the run said, with its step, post and reward."""
    return [
        (row["step"], row["example"], [turn["text"] for turn in row["turns"]], row["reward"]["total"])
        for row in rows(folder / "trajectories.jsonl")
    ]
