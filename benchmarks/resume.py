"""Kills a run with SIGKILL, goes on, and compares with one that was never touched.

    python benchmarks/resume.py                     six steps against three, kill -9 of the driver, and three more
    python benchmarks/resume.py steps=8 kill_after=5 ranks=1,2       goes on with two learner ranks instead of one

Both are the real job (`launch/rl_twitter17.py`) with trainer.max_staleness=0. Compared are what the policy wrote in
every episode, every reward, and the parameters of the final policy: bit for bit with the same number of ranks, to 1e-5
with another. Ends with status 1 where they differ.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
START_S = 600.0


def main(arguments: Sequence[str]) -> int:
    """Run both; returns the exit status."""
    words = {"steps": "6", "kill_after": "3", "ranks": "1,1", "model": ""}
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if {"--help", "-h"} & set(arguments) or set(given) - set(words):
        sys.stdout.write(__doc__ or "")
        return 0 if {"--help", "-h"} & set(arguments) else 2
    words |= given
    steps, kill_after = int(words["steps"]), int(words["kill_after"])
    before, after = (int(ranks) for ranks in words["ranks"].split(","))
    model = words["model"] or str(ROOT / "sake_ray" / "assets" / "mini_base")
    folder = Path(tempfile.mkdtemp(prefix="resume-"))
    _finish(_command(folder / "straight", model, steps, before), folder / "straight.log")
    killed_in = _kill(_command(folder / "killed", model, steps, before), folder / "killed.log", kill_after)
    _finish(_command(folder / "killed", model, steps, after), folder / "resumed.log")
    straight, killed = _left(folder / "straight"), _left(folder / "killed")
    same_texts = straight["episodes"] == killed["episodes"]
    apart = _apart(folder / "straight", folder / "killed")
    good = same_texts and (apart == 0.0 if before == after else apart <= 1e-5)
    sys.stdout.write(
        f"{steps} steps; the second run's driver was killed in step {killed_in}, ranks {before} then {after}\n"
        f"episodes: {len(straight['episodes'])} and {len(killed['episodes'])}; texts, stop reasons and rewards "
        f"{'the same' if same_texts else 'NOT the same'}\n"
        f"searched: {straight['searches']}; steps that trained: {straight['trained']}\n"
        f"parameters: largest difference {apart:g}{' (bitwise equal)' if apart == 0.0 else ''}\n{folder}\n"
    )
    return 0 if good else 1


def _command(run_dir: Path, model: str, steps: int, ranks: int) -> list[str]:
    return [
        sys.executable, str(ROOT / "launch" / "rl_twitter17.py"), "preset=mini_fast", f"run.dir={run_dir}",
        f"model.path={model}", "world.train_posts=64", "world.dev_posts=8", "tracking.backends=",
        f"trainer.total_steps={steps}", "trainer.groups_per_step=4", "trainer.checkpoint_every=2", "trainer.refill=2",
        "trainer.eval_every=0", "trainer.export_best=false", "rollout.temperature=1.2", f"learner.ranks={ranks}",
        f"learner.cpus_per_rank={2 / ranks:g}",
    ]  # fmt: skip


def _finish(command: Sequence[str], log: Path) -> None:
    with log.open("wb") as output:
        status = subprocess.run(command, stdout=output, stderr=output, env=_environment(), check=False).returncode
    if status:
        raise SystemExit(f"resume: the job ended with status {status}; see {log}")


def _kill(command: Sequence[str], log: Path, kill_after: int) -> int:
    """Start the job and kill its driver while it is in the step after `kill_after`; returns that step."""
    metrics = Path(next(word for word in command if word.startswith("run.dir=")).removeprefix("run.dir="))
    with log.open("wb") as output:
        job = subprocess.Popen(command, stdout=output, stderr=output, env=_environment())
        try:
            deadline = time.monotonic() + START_S
            while _steps(metrics / "metrics.jsonl") < kill_after:
                if job.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"resume: the job ended, or hung, before it could be killed; see {log}")
                time.sleep(0.05)
            time.sleep(0.3)
            family = psutil.Process(job.pid).children(recursive=True)
        finally:
            job.send_signal(signal.SIGKILL)
            job.wait()
    if alive := outlived(family):
        raise SystemExit(f"resume: outlived their driver: {alive}")
    return _steps(metrics / "metrics.jsonl") + 1


def outlived(family: Sequence[psutil.Process], wait_s: float = 90.0) -> list[str]:
    """What of `family` still runs after at most `wait_s`; the dead that nobody has reaped yet do not count."""
    psutil.wait_procs(family, timeout=wait_s, callback=None)
    alive = []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
    return alive


def _steps(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def _left(run_dir: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (run_dir / "trajectories.jsonl").read_text().splitlines()]
    episodes = [
        (row["step"], row["id"], row["stop_reason"], [turn["text"] for turn in row["turns"]], row["reward"])
        for row in rows
    ]
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {
        "episodes": episodes,
        "searches": sum(len(row["turns"]) > 1 for row in rows),
        "trained": sum(row.get("train/skipped") == 0.0 for row in metrics),
    }


def _apart(one: Path, other: Path) -> float:
    """The largest difference of any parameter of the two final policies."""
    from safetensors.torch import load_file

    first, second = (load_file(run / "policy" / "model.safetensors") for run in (one, other))
    if first.keys() != second.keys():
        raise SystemExit("resume: the two policies have other parameters")
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
