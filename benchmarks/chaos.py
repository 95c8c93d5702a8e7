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

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

TITLES = {
    "engine": "VLLM::EngineCore",
    "rollout": "ray::rollout-",
    "search": "ray::search-",
    "reward": "ray::reward-",
    "learner": "ray::learner-",
    "control": "ray::control-",
}
CLASSES = {
    "rollout": "ray::RolloutActor",
    "search": "ray::SearchActor",
    "reward": "ray::RewardActor",
    "learner": "ray::LearnerRank",
    "control": "ray::Control",
}
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
    facts: dict[str, Any] = field(default_factory=dict)


def main(arguments: Sequence[str]) -> int:
    """Run all seeds; returns the exit status."""
    if {"--help", "-h"} & set(arguments):
        sys.stdout.write(__doc__ or "")
        return 0
    settings = read(arguments)
    outcomes = [run(settings, seed) for seed in settings.seeds]
    kinds = sorted(CHANCES)
    lines = [f"| seed | {' | '.join(kinds)} | kills | starts | minutes | groups | books |"]
    lines.append("|" + "---|" * (len(kinds) + 6))
    for o in outcomes:
        cells = " | ".join(str(o.killed[kind]) for kind in kinds)
        books = "; ".join(o.problems) or "right"
        minutes = f"{o.seconds / 60:.1f}"
        lines.append(
            f"| {o.seed} | {cells} | {o.killed.total()} | {o.starts} | {minutes} | {o.facts.get('groups')} | {books} |"
        )
    lines.append(f"\n{sum(o.killed.total() for o in outcomes)} kills in {len(outcomes)} runs, {settings}")
    sys.stdout.write("\n".join(lines) + "\n")
    return int(any(o.problems for o in outcomes))


def read(arguments: Sequence[str]) -> Settings:
    """The command line's settings.

    Raises:
        SystemExit: a word that is no setting.
    """
    words = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if unknown := set(words) - set(Settings.__dataclass_fields__):
        raise SystemExit(f"chaos: {', '.join(sorted(unknown))}: not known; {__doc__}")
    values: dict[str, Any] = {}
    for name, text in words.items():
        kind = type(getattr(Settings, name))
        values[name] = tuple(int(seed) for seed in text.split(",")) if name == "seeds" else kind(text)
    return Settings(**values)


def command(settings: Settings, run_dir: Path) -> list[str]:
    """The job that is run, and run again."""
    model = settings.model or "mini"
    return [
        sys.executable, str(ROOT / "launch" / "rl_twitter17.py"), "preset=mini_fast", f"run.dir={run_dir}",
        f"model.path={model}", "world.train_posts=40", "world.dev_posts=8", "tracking.backends=",
        f"trainer.total_steps={settings.steps}", "trainer.groups_per_step=4", "rollout.group_size=4",
        f"trainer.max_staleness={settings.staleness}", "trainer.checkpoint_every=1", "trainer.eval_every=0",
        "trainer.export_best=false", "rollout.workers=2", "search.workers=2", "reward.workers=2", "learner.ranks=2",
        "learner.cpus_per_rank=1", "learner.max_restarts=20", "trainer.group_attempts=20",
    ]  # fmt: skip


def run(settings: Settings, seed: int) -> Outcome:
    """One run with its kills, and what the books say."""
    chance, outcome = random.Random(seed), Outcome(seed)
    run_dir = Path(tempfile.mkdtemp(prefix="chaos-"))
    began = last_kill = time.monotonic()
    with (run_dir / "log.txt").open("ab") as output:
        job, started = _start(settings, run_dir, output), time.time()
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
                    _kill_all(job)
                    job, started = _start(settings, run_dir, output), time.time()
                    outcome.starts += 1
                elif not _kill_one(job, kind, chance):
                    continue
                outcome.killed[kind] += 1
                _say(f"seed {seed}: kill {outcome.killed.total()}: {kind}")
                last_kill, wait = time.monotonic(), chance.uniform(settings.least_s, settings.most_s)
        finally:
            status = job.poll()
            if status is None:
                _kill_all(job)
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
    from launch.job_data import load_data
    from sake_ray.config.load import resolve
    from sake_ray.data.sampler import ExampleSampler
    from sake_ray.trainer.checkpoint import CheckpointStore

    config = resolve(command(settings, run_dir)[2:], job="rl_twitter17")
    found = CheckpointStore(run_dir / "checkpoints").find_latest()
    if found is None or found.step != settings.steps:
        outcome.problems.append(f"the last checkpoint is {found}")
        return
    groups, dealt = found.state["groups"], found.state["sampler"]["dealt"]
    train = load_data(config).train
    expected = Counter(post.id for post in ExampleSampler(train, config.run.seed).take(dealt))
    expected -= Counter(post for _, post, _ in groups["open"])
    rows = [json.loads(line) for line in (run_dir / "trajectories.jsonl").read_text().splitlines()]
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
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    if steps != sorted(set(steps)) or steps[-1] != settings.steps:
        outcome.problems.append(f"the log has steps {steps}")
    outcome.facts = {"groups": int(sum(played.values())), "given_up": given_up, **groups["ends"]}


def _start(settings: Settings, run_dir: Path, output: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(settings, run_dir), stdout=output, stderr=output, env=environment)


def _trains(run_dir: Path, since: float) -> bool:
    """Whether the job, this time, has begun to train."""
    try:
        progress = run_dir / "progress.json"
        return progress.stat().st_mtime > since and bool(json.loads(progress.read_text())["stage"] == "RL")
    except (FileNotFoundError, KeyError, json.JSONDecodeError):
        return False


def _kill_one(job: subprocess.Popen[bytes], kind: str, chance: random.Random) -> bool:
    """SIGKILL one process of a kind; False where there is none just now."""
    found = []
    for process in psutil.Process(job.pid).children(recursive=True):
        title = _title(process)
        if title.startswith(TITLES[kind]) or (kind in CLASSES and title.startswith(CLASSES[kind])):
            found.append(process)
    if not found:
        return False
    try:
        chance.choice(sorted(found, key=lambda process: process.pid)).send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


def _kill_all(job: subprocess.Popen[bytes]) -> None:
    """SIGKILL the driver alone, and see that all it had started ends by itself."""
    family = psutil.Process(job.pid).children(recursive=True)
    job.kill()
    job.wait()
    ours = tuple(TITLES.values()) + tuple(CLASSES.values())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        left = {process: _title(process) for process in family}
        if not any(title.startswith(ours) for title in left.values()):
            break
        time.sleep(0.2)
    for process, title in left.items():
        if title.startswith(ours):
            _say(f"outlived its driver by 60 s: {process.pid} {title[:60]}")
        if title:  # Ray's own agents notice after a minute
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _title(process: psutil.Process) -> str:
    """A process's command line; "" once it is dead."""
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
