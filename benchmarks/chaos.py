"""Kills something at random every few seconds of a mini run, and then checks the books.

    python benchmarks/chaos.py                                   four runs, 26 kills each, about half an hour
    python benchmarks/chaos.py seeds=7 kills=10 staleness=0

Each run is the real job (`launch/rl_twitter17.py`) with two rollout workers, two search workers, two reward workers
and two learner ranks. What is killed (SIGKILL, by process): an EngineCore, a rollout worker, a search worker, a reward
worker, a learner rank, the limiter and the notice board where there are any, or the whole driver, which is then started
again with the same command. Afterwards: the run finished; every step is in the log once; every post was played and
reported exactly as often as the sampler dealt it, whatever was killed; no trajectory is there twice.

Knows the job by its command line, its processes and the files it leaves. Ends with status 1 where the books are wrong.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import job as jobs
from benchmarks.script import words_or_exit
from benchmarks.tables import markdown
from launch.job_data import load_data
from sake_ray.config.load import resolve
from sake_ray.data.sampler import ExampleSampler
from sake_ray.trainer.checkpoint import CheckpointStore

CHANCES = {"engine": 3, "rollout": 3, "search": 4, "reward": 4, "learner": 3, "control": 1, "driver": 1}
STUCK_S = 600.0


@dataclass(frozen=True)
class Settings:
    """`seeds` are of the chaos; a kill comes every `least_s` to `most_s` seconds once the run trains."""

    seeds: tuple[int, ...] = (0, 1, 2, 3)
    kills: int = 26
    staleness: int = 1
    steps: int = 12
    least_s: float = 0.5
    most_s: float = 4.0
    model: str = ""
    keep: bool = False


@dataclass
class Outcome:
    """What a run went through."""

    seed: int
    killed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    starts: int = 1
    problems: list[str] = field(default_factory=list)
    groups: int = 0


def main(arguments: Sequence[str]) -> int:
    """Run all seeds; returns the exit status."""
    settings = read(words_or_exit(arguments, Settings.__dataclass_fields__, __doc__))
    outcomes = [run(settings, seed) for seed in settings.seeds]
    kinds = sorted(CHANCES)
    rows = [
        [
            str(o.seed),
            *(str(o.killed[kind]) for kind in kinds),
            str(o.killed.total()),
            str(o.starts),
            f"{o.seconds / 60:.1f}",
            str(o.groups),
            "; ".join(o.problems) or "right",
        ]
        for o in outcomes
    ]
    sys.stdout.write(markdown(("seed", *kinds, "kills", "starts", "minutes", "groups", "books"), rows))
    sys.stdout.write(f"\n{sum(o.killed.total() for o in outcomes)} kills in {len(outcomes)} runs, {settings}\n")
    return int(any(o.problems for o in outcomes))


def read(words: Mapping[str, str]) -> Settings:
    """The settings that a command line's words make."""
    values: dict[str, Any] = {}
    for name, text in words.items():
        kind = type(getattr(Settings, name))
        values[name] = tuple(int(seed) for seed in text.split(",")) if name == "seeds" else kind(text)
    return Settings(**values)


def command(settings: Settings, run_dir: Path) -> list[str]:
    """The job that is run, and run again."""
    words = {
        "model.path": settings.model or "mini",
        "world.train_posts": 40,
        "world.dev_posts": 8,
        "trainer.total_steps": settings.steps,
        "trainer.groups_per_step": 4,
        "trainer.max_staleness": settings.staleness,
        "trainer.checkpoint_every": 1,
        "trainer.eval_every": 0,
        "trainer.export_best": "false",
        "trainer.group_attempts": 20,
        "rollout.group_size": 4,
        "rollout.workers": 2,
        "search.workers": 2,
        "reward.workers": 2,
        "learner.ranks": 2,
        "learner.cpus_per_rank": 1,
        "learner.max_restarts": 20,
    }
    return jobs.command(run_dir, "mini_fast", words)


def run(settings: Settings, seed: int) -> Outcome:
    """One run with its kills, and what the books say."""
    chance, outcome = random.Random(seed), Outcome(seed)
    run_dir = Path(tempfile.mkdtemp(prefix="chaos-"))
    began = last_kill = time.monotonic()
    with (run_dir / "log.txt").open("ab") as output:
        job, started = jobs.begin(command(settings, run_dir), output), time.time()
        try:
            wait = chance.uniform(settings.least_s, settings.most_s)
            while job.poll() is None:
                time.sleep(0.2)
                now = time.monotonic()
                if now - last_kill > STUCK_S:
                    outcome.problems.append(f"nothing ended in {STUCK_S:.0f} s after the last kill")
                    break
                if outcome.killed.total() >= settings.kills or now - last_kill < wait or not _trains(run_dir, started):
                    continue
                kind = chance.choices(list(CHANCES), list(CHANCES.values()))[0]
                if kind == "driver":
                    _kill_driver(job)
                    job, started = jobs.begin(command(settings, run_dir), output), time.time()
                    outcome.starts += 1
                elif not _kill_one(job, kind, chance):
                    continue
                outcome.killed[kind] += 1
                _say(f"seed {seed}: kill {outcome.killed.total()}: {kind}")
                last_kill, wait = time.monotonic(), chance.uniform(settings.least_s, settings.most_s)
        finally:
            status = job.poll()
            if status is None:
                _kill_driver(job)
    outcome.seconds = time.monotonic() - began
    if status != 0:
        outcome.problems.append(f"the job ended with status {status}: see {run_dir}/log.txt")
    else:
        check(settings, run_dir, outcome)
    if not (settings.keep or outcome.problems):
        shutil.rmtree(run_dir)
    _say(f"seed {seed}: {outcome.killed.total()} kills, {'; '.join(outcome.problems) or 'the books are right'}")
    return outcome


def check(settings: Settings, run_dir: Path, outcome: Outcome) -> None:
    """Compare what the sampler dealt with what was played and reported."""
    config = resolve(command(settings, run_dir)[2:], job="rl_twitter17")
    found = CheckpointStore(run_dir / "checkpoints").find_latest()
    if found is None or found.step != settings.steps:
        outcome.problems.append(f"the last checkpoint is {found}")
        return
    groups, dealt = found.state["groups"], found.state["sampler"]["dealt"]
    train = load_data(config).train
    expected = Counter(post.id for post in ExampleSampler(train, config.run.seed).take(dealt))
    expected -= Counter(post for _, post, _ in groups["open"])
    rows = jobs.rows(run_dir, "trajectories.jsonl")
    ids = Counter(row["id"] for row in rows)
    if twice := [name for name, count in ids.items() if count > 1]:
        outcome.problems.append(f"{len(twice)} trajectories are there twice, as {twice[0]}")
    played = Counter(
        {name: count / config.rollout.group_size for name, count in Counter(r["example"] for r in rows).items()}
    )
    given_up = groups["ends"]["given_up"]
    if given_up == 0 and played != Counter({k: float(v) for k, v in expected.items() if v}):
        outcome.problems.append(f"posts were not played as often as dealt: {expected - played} {played - expected}")
    if sum(played.values()) + given_up != dealt - len(groups["open"]):
        outcome.problems.append(f"{sum(played.values())} groups played and {given_up} given up of {dealt} dealt")
    steps = [row["step"] for row in jobs.rows(run_dir, "metrics.jsonl")]
    if steps != sorted(set(steps)) or steps[-1] != settings.steps:
        outcome.problems.append(f"the log has steps {steps}")
    outcome.groups = int(sum(played.values()))


def _trains(run_dir: Path, since: float) -> bool:
    """Whether the job, this time, has begun to train."""
    try:
        progress = run_dir / "progress.json"
        return progress.stat().st_mtime > since and bool(json.loads(progress.read_text())["stage"] == "RL")
    except (FileNotFoundError, KeyError, json.JSONDecodeError):
        return False


def _kill_one(job: subprocess.Popen[bytes], kind: str, chance: random.Random) -> bool:
    """SIGKILL one process of a kind; False where there is none just now."""
    processes = psutil.Process(job.pid).children(recursive=True)
    found = [process for process in processes if jobs.title_of(process).startswith(jobs.OURS[kind])]
    return bool(found) and jobs.end(chance.choice(sorted(found, key=lambda process: process.pid)))


def _kill_driver(job: subprocess.Popen[bytes]) -> None:
    for late in jobs.kill_driver(job):
        _say(f"outlived its driver by a minute: {late}")


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
