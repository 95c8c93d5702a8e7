"""Kills a run with SIGKILL, goes on, and compares with one that was never touched.

    python benchmarks/resume.py                     six steps against three, kill -9 of the driver, and three more
    python benchmarks/resume.py steps=8 kill_after=5 ranks=1,2       goes on with two learner ranks instead of one

Both are the real job (`launch/rl_twitter17.py`) with trainer.max_staleness=0. Compared are what the policy wrote in
every episode, every reward, and the parameters of the final policy: bit for bit with the same number of ranks, to 1e-5
with another. Ends with status 1 where they differ.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import job as jobs
from benchmarks.script import words_or_exit
from launch.starting import base_model_folder

START_S = 600.0


def main(arguments: Sequence[str]) -> int:
    """Run both; returns the exit status."""
    words = {"steps": "6", "kill_after": "3", "ranks": "1,1", "model": str(base_model_folder())}
    words |= words_or_exit(arguments, words, __doc__)
    steps, kill_after = int(words["steps"]), int(words["kill_after"])
    before, after = (int(ranks) for ranks in words["ranks"].split(","))
    model = words["model"]
    folder = Path(tempfile.mkdtemp(prefix="resume-"))
    jobs.finish(_command(folder / "straight", model, steps, before), folder / "straight.log")
    killed_in = _kill(folder / "killed", _command(folder / "killed", model, steps, before), kill_after)
    jobs.finish(_command(folder / "killed", model, steps, after), folder / "resumed.log")
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
    words = {
        "model.path": model,
        "world.train_posts": 64,
        "world.dev_posts": 8,
        "trainer.total_steps": steps,
        "trainer.groups_per_step": 4,
        "trainer.checkpoint_every": 2,
        "trainer.refill": 2,
        "trainer.eval_every": 0,
        "trainer.export_best": "false",
        "rollout.temperature": 1.2,
        "learner.ranks": ranks,
        "learner.cpus_per_rank": 2 / ranks,
    }
    return jobs.command(run_dir, "mini_fast", words)


def _kill(run_dir: Path, command: list[str], kill_after: int) -> int:
    """Start the job and kill its driver while it is in the step after `kill_after`; returns that step."""
    log = run_dir.with_suffix(".log")
    with log.open("wb") as output:
        job = jobs.begin(command, output)
        deadline = time.monotonic() + START_S
        while _steps(run_dir) < kill_after:
            if job.poll() is not None or time.monotonic() > deadline:
                job.kill()
                raise SystemExit(f"resume: the job ended, or hung, before it could be killed; see {log}")
            time.sleep(0.05)
        time.sleep(0.3)
        if late := jobs.kill_driver(job):
            raise SystemExit(f"resume: outlived their driver: {late}")
    return _steps(run_dir) + 1


def _steps(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def _left(run_dir: Path) -> dict[str, Any]:
    rows = jobs.rows(run_dir, "trajectories.jsonl")
    episodes = [
        (row["step"], row["id"], row["stop_reason"], [turn["text"] for turn in row["turns"]], row["reward"])
        for row in rows
    ]
    metrics = jobs.rows(run_dir, "metrics.jsonl")
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
