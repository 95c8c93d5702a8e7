"""The real job as a process of its own, for benchmarks that look at what it leaves or kill it.

Knows the job by its command line, its processes and the files in its run folder. Always holds: a job has one OpenMP
thread a process; one that fails is told with the place of its log, never left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from sake_ray.data.json_files import read_values

ROOT = Path(__file__).resolve().parents[1]

OURS = {
    "engine": ("VLLM::EngineCore",),
    "rollout": ("ray::rollout-", "ray::RolloutActor"),
    "search": ("ray::search-", "ray::SearchActor"),
    "reward": ("ray::reward-", "ray::RewardActor"),
    "learner": ("ray::learner-", "ray::LearnerRank"),
    "control": ("ray::control-", "ray::Control"),
}
"""How the command lines of a job's processes begin, by kind."""


def command(run_dir: Path, preset: str, settings: Mapping[str, object]) -> list[str]:
    """The job's command line."""
    words = {"preset": preset, "run.dir": run_dir, "tracking.backends": "", **settings}
    script = str(ROOT / "launch" / "rl_twitter17.py")
    return [sys.executable, script, *(f"{key}={value}" for key, value in words.items())]


def begin(words: Sequence[str], log: Any) -> subprocess.Popen[bytes]:
    """Start the job; what it says goes to the open file `log`."""
    return subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(words: Sequence[str], log: Path) -> None:
    """Run the job to its end.

    Raises:
        SystemExit: it failed.
    """
    with log.open("wb") as output:
        status = begin(words, output).wait()
    if status:
        raise SystemExit(f"the job ended with status {status}; see {log}")


def rows(run_dir: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one of a run's logs."""
    return [row for _, row in read_values(run_dir / name)]


def kill_driver(job: subprocess.Popen[bytes], wait_s: float = 60.0) -> list[str]:
    """SIGKILL the driver alone, and see that all it had started ends by itself; returns what did not in time.

    Ray's own agents notice after a minute or two: they are ended here.
    """
    family = psutil.Process(job.pid).children(recursive=True)
    job.kill()
    job.wait()
    ours = tuple(title for titles in OURS.values() for title in titles)
    deadline = time.monotonic() + wait_s
    while True:
        left = {process: title for process in family if (title := title_of(process))}
        late = [f"{process.pid} {title[:60]}" for process, title in left.items() if title.startswith(ours)]
        if not late or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    for process in left:
        end(process)
    return late


def title_of(process: psutil.Process) -> str:
    """A process's command line; "" once it is dead."""
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def end(process: psutil.Process) -> bool:
    """SIGKILL a process; False where it was dead already."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True
