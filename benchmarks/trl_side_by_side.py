"""Trajectories trained a minute, beside TRL's GRPOTrainer with a tool: the same policy, posts, groups and prompts.

    python benchmarks/trl_side_by_side.py model=FOLDER trl=PYTHON [steps=4] [posts=16] [group=8] [seed=0]
                                          [arms=ours,trl] [out=FILE]

`model` is a mini policy that searches (the folder `policy` of any finished run). `trl` is an interpreter that has TRL
1.16.0 beside this project's packages, in a venv of its own:

    python -m venv VENV
    echo "import site; site.addsitedir('PROJECT/.venv/lib/python3.11/site-packages')" \
        > VENV/lib/python3.11/site-packages/project.pth
    VENV/bin/python -m pip install --no-deps trl==1.16.0 jmespath

Each arm is a process of its own, one after the other, with one OpenMP thread a process: `ours` is the RL job as
shipped, strictly on-policy; `ours_async` (on request) the same with `trainer.max_staleness=1`; `trl` its trainer with
this project's prompts, tool and reward (`trl_child.py`), generating with transformers, TRL's default. Every arm takes
`posts` × `group` trajectories a step, samples at the same temperature, keeps a reference policy for the KL term
and computes in float32. The first step is left out (it warms up). Groups without a signal are not trained on here and
are there: both are counted. Always holds: an arm that fails is told, never left out in silence.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tables import markdown, spread
from envs.tools.local_index import ensure_local_index
from launch.words import UsageError, read_words
from sake_ray.config import load_config
from sake_ray.data.json_files import read_values
from sake_ray.data.miniworld_files import WorldSpec, ensure_world

ROOT = Path(__file__).resolve().parents[1]
KEYS = ("model", "trl", "steps", "posts", "group", "seed", "arms", "out")
MAX_TOKENS = 256
"""TRL's one bound for all turns and results of a trajectory; here a turn may take 192."""

MICRO_BATCHES = 4
TIMEOUT_S = 280


@dataclass(frozen=True)
class Settings:
    """What is compared."""

    model: str
    trl: str = ""
    steps: int = 4
    posts: int = 16
    group: int = 8
    seed: int = 0
    arms: str = "ours,trl"


@dataclass(frozen=True)
class Arm:
    """Seconds of each step but the first, the share of groups with a signal, searches a trajectory, and the whole."""

    seconds: tuple[float, ...]
    with_signal: float
    searches: float
    wall_s: float


def run_ours(settings: Settings, folder: Path, staleness: int) -> Arm:
    """The RL job, as a process."""
    run = folder / f"run-{staleness}"
    words = {
        "model.path": settings.model,
        "run.dir": run,
        "run.seed": settings.seed,
        "world.train_posts": settings.posts * settings.steps,
        "world.dev_posts": 1,
        "world.test_posts": 1,
        "rollout.group_size": settings.group,
        "learner.cpus_per_rank": 1,
        "trainer.groups_per_step": settings.posts,
        "trainer.total_steps": settings.steps,
        "trainer.max_staleness": staleness,
        "trainer.refill": 0,
        "trainer.eval_every": 0,
        "trainer.checkpoint_every": 0,
        "tracking.backends": "",
    }
    command = [sys.executable, "launch/rl_twitter17.py", *(f"{key}={value}" for key, value in words.items())]
    wall_s = _run(command, folder / f"ours-{staleness}.log")
    rows = [row for _, row in read_values(run / "metrics.jsonl") if row.get("step", 0) > 1 and "time/step_s" in row]
    signal = [row["rollout/groups"] / (row["rollout/groups"] + row["rollout/zero_signal_groups"]) for row in rows]
    # The last step's row holds the closing evaluation.
    seconds = tuple(row["time/step_s"] - row.get("time/eval_s", 0.0) for row in rows)
    return Arm(seconds, mean(signal), mean(row["search/per_episode"] for row in rows), wall_s)


def run_trl(settings: Settings, folder: Path) -> Arm:
    """TRL's trainer, by its interpreter."""
    world = asdict(load_config([], job="rl_twitter17").world)
    spec = WorldSpec(**world | {"train_posts": settings.posts * settings.steps, "dev_posts": 1, "test_posts": 1})
    root = ensure_world(folder / "world", spec)
    ensure_local_index(root)
    words = {
        **asdict(settings),
        "world": str(root),
        "max_tokens": MAX_TOKENS,
        "micro_batches": MICRO_BATCHES,
        "folder": str(folder / "trl"),
    }
    (folder / "trl.json").write_text(json.dumps(words), encoding="utf-8")
    result = folder / "trl-result.json"
    command = [settings.trl, "benchmarks/trl_child.py", str(folder / "trl.json"), str(result)]
    wall_s = _run(command, folder / "trl.log")
    found = json.loads(result.read_text(encoding="utf-8"))
    log = found["log"][1:]
    return Arm(
        seconds=tuple(found["seconds"][1:]),
        with_signal=1 - mean(row["frac_reward_zero_std"] for row in log),
        searches=mean(row["tools/call_frequency"] for row in log),
        wall_s=wall_s,
    )


def _run(command: list[str], log: Path) -> float:
    """Run a process to its end; returns its seconds.

    Raises:
        RuntimeError: it failed or took too long; the message has its last lines.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "PYTHONPATH": str(ROOT)}
    begin = time.perf_counter()
    with open(log, "w", encoding="utf-8") as file:
        try:
            done = subprocess.run(command, cwd=ROOT, env=env, stdout=file, stderr=file, timeout=TIMEOUT_S, check=False)
            failed = f"status {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            failed = f"not done after {TIMEOUT_S} s"
    if failed:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
        raise RuntimeError(f"{' '.join(command[:2])}: {failed}\n{last}")
    return time.perf_counter() - begin


def table(settings: Settings, found: Mapping[str, Arm]) -> str:
    """The arms in Markdown, and how many times as many trajectories the others train as TRL."""
    rows = []
    size = settings.posts * settings.group
    rates = {name: [60 * size / value for value in arm.seconds] for name, arm in found.items()}
    for name, arm in found.items():
        rows.append(
            [
                name,
                spread(arm.seconds),
                spread(rates[name], 0),
                spread([rate * arm.with_signal for rate in rates[name]], 0),
                f"{arm.searches:.2f}",
                f"{arm.wall_s:.0f}",
                f"{mean(rates[name]) / mean(rates['trl']):.2f}" if "trl" in found else "",
            ]
        )
    header = ("arm", "s a step", "trajectories/min", "of groups with a signal", "searches", "whole run s", "of TRL")
    return f"{size} trajectories a step, {settings.steps - 1} steps after a warm-up.\n\n{markdown(header, rows)}"


def main(arguments: list[str]) -> int:
    """Run the arms; returns the exit status."""
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(f"{__doc__}\n")
        return 0
    try:
        words = read_words(arguments, KEYS, required=("model",))
        out = words.pop("out", "")
        texts = ("model", "trl", "arms")
        values: dict[str, Any] = {key: value if key in texts else int(value) for key, value in words.items()}
        settings = Settings(**values)
        arms = settings.arms.split(",")
        if "trl" in arms and not settings.trl:
            raise UsageError("trl=PYTHON is missing: an interpreter that has TRL; --help tells how to make one")
        if unknown := set(arms) - {"ours", "ours_async", "trl"}:
            raise UsageError(f"arms={','.join(sorted(unknown))}: there are ours, ours_async and trl")
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    found: dict[str, Arm] = {}
    failures = []
    with tempfile.TemporaryDirectory(prefix="sake-bench-") as name:
        folder = Path(name)
        runs: dict[str, Callable[[], Arm]] = {
            "ours": lambda: run_ours(settings, folder, 0),
            "ours_async": lambda: run_ours(settings, folder, 1),
            "trl": lambda: run_trl(settings, folder),
        }
        for arm in arms:
            try:
                found[arm] = runs[arm]()
                sys.stderr.write(f"{arm}: {found[arm].wall_s:.0f} s, steps {found[arm].seconds}\n")
            except RuntimeError as error:  # told below; the other arms' figures still stand
                failures.append(f"{arm} failed: {error}\n")
    sys.stdout.write(table(settings, found) + "".join(failures))
    if out:
        report = {"settings": asdict(settings), "arms": {arm: asdict(value) for arm, value in found.items()}}
        Path(out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
