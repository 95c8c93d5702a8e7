"""What each part of the method is worth, on MiniWorld: a table as in a paper.

    python benchmarks/ablation.py [seeds=0,1,2] [arms=full,…] [steps=40] [out=runs/ablation] [overrides='a=b c=d']

Arms: `full`; `no_cold_start` (RL from the base model); `random_tags` (difficulty tags dealt out at random before SeCoT
is built); `no_penalty` (searching costs nothing). Every arm is the main job with other settings, in a process of its
own, evaluated greedily on the 256 test posts (strict protocol). Runs that have ended are not run again, so a killed
call goes on. Always holds: the table is made from the runs' own metrics.jsonl and stages.json alone.
"""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs uninstalled

from benchmarks.script import words_or_exit  # noqa: E402
from sake_ray.data.json_files import write_lines  # noqa: E402
from sake_ray.report import Row, read_metrics  # noqa: E402

log = logging.getLogger("ablation")
ARMS = ("full", "no_cold_start", "random_tags", "no_penalty")
COLUMNS = (
    ("valid", "eval/answered"),
    ("F1", "eval/gmner_f1"),
    ("F1 never-seen", "eval/gmner_f1_unseen"),
    ("search unknown", "eval/search_on_unknown"),
    ("search known", "eval/search_on_known"),
)
BASE = ROOT / "sake_ray" / "assets" / "mini_base"


@dataclass(frozen=True)
class Plan:
    """Which runs to make, and where."""

    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    steps: int
    out: Path
    overrides: tuple[str, ...]

    @classmethod
    def of(cls, arguments: Sequence[str]) -> Plan:
        """Read the command line."""
        words = words_or_exit(arguments, ("seeds", "arms", "steps", "out", "overrides"), __doc__)
        return cls(
            seeds=tuple(int(seed) for seed in words.get("seeds", "0,1,2").split(",")),
            arms=tuple(words.get("arms", ",".join(ARMS)).split(",")),
            steps=int(words.get("steps", "40")),
            out=Path(words.get("out", "runs/ablation")).resolve(),
            overrides=tuple(words.get("overrides", "").split()),
        )

    def folder(self, arm: str, seed: int) -> Path:
        """A run's folder; `cache/` beside it is shared by all."""
        return self.out / f"{arm}-{seed}"


def run(plan: Plan, arm: str, seed: int) -> None:
    """One run, unless it is there already; its output goes to `RUN.log`."""
    folder = plan.folder(arm, seed)
    if ended(folder, plan.steps):
        log.info("%s seed %d: there already", arm, seed)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "launch" / "rl_twitter17.py"), "preset=mini", f"run.seed={seed}"]
    command += [f"run.dir={folder}", f"trainer.total_steps={plan.steps}", f"trainer.eval_every={plan.steps}"]
    command += ["eval.split=test", "eval.max_examples=0", "tracking.backends="]
    command += [*plan.overrides, *settings(plan, arm, seed)]
    began = time.monotonic()
    with folder.with_suffix(".log").open("w") as output:
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{arm} seed {seed} ended with status {done.returncode}; see {output.name}")
    log.info("%s seed %d: %.0f s", arm, seed, time.monotonic() - began)


def settings(plan: Plan, arm: str, seed: int) -> list[str]:
    """What an arm does differently."""
    if arm == "full":
        return []
    if arm == "no_cold_start":
        return [f"model.path={BASE}"]
    if arm == "no_penalty":
        return ["reward.search_weight=0"]
    if arm == "random_tags":
        tags = next(stage["folder"] for stage in stages(plan.folder("full", seed)) if stage["stage"] == "tags")
        return [f"tags.file={shuffled_tags(Path(tags) / 'tags.jsonl', plan.out / f'random-tags-{seed}.jsonl', seed)}"]
    raise ValueError(f"{arm!r} is no arm; they are {', '.join(ARMS)}")


def shuffled_tags(source: Path, target: Path, seed: int) -> Path:
    """The tags of a file dealt out anew among its entities: the same counts, on the wrong entities."""
    posts = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    names = ("entity", "type")
    tags = [{k: v for k, v in entity.items() if k not in names} for post in posts for entity in post["entities"]]
    random.Random(f"random-tags-{seed}").shuffle(tags)
    rest = iter(tags)
    for post in posts:
        post["entities"] = [{**{k: entity[k] for k in names}, **next(rest)} for entity in post["entities"]]
    write_lines(target, posts)
    return target


def ended(folder: Path, steps: int) -> bool:
    """Whether a run made its last step."""
    path = folder / "metrics.jsonl"
    rows = read_metrics(path) if path.exists() else []
    return bool(rows) and rows[-1]["step"] >= steps and (folder / "stages.json").exists()


def stages(folder: Path) -> list[dict[str, Any]]:
    """The stages of a run, as its report has them."""
    found: list[dict[str, Any]] = json.loads((folder / "stages.json").read_text(encoding="utf-8"))
    return found


def evaluations(folder: Path) -> tuple[Row, Row]:
    """The first and the last evaluation of a run."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "eval/gmner_f1" in row]
    return rows[0], rows[-1]


def table(plan: Plan) -> str:
    """Markdown: every run, and each arm's mean."""
    heads = [name for name, _ in COLUMNS]
    lines = ["| arm | seed | " + " | ".join(f"{name}, before → after RL" for name in heads) + " |"]
    lines.append("|---" * (len(heads) + 2) + "|")
    for arm in plan.arms:
        runs = {seed: evaluations(plan.folder(arm, seed)) for seed in plan.seeds}
        for seed, (first, last) in runs.items():
            lines.append(f"| {arm} | {seed} | {_cells(first, last)} |")
        if len(runs) > 1:
            first, last = (_mean([pair[index] for pair in runs.values()]) for index in (0, 1))
            lines.append(f"| **{arm}** | mean | {_cells(first, last)} |")
    return "\n".join(lines) + "\n"


def stage_table(plan: Plan) -> str:
    """Markdown: what the stages of each full run made, and their seconds."""
    lines = ["| seed | stage | seconds | what came of it |", "|---|---|---|---|"]
    for seed in plan.seeds:
        for stage in stages(plan.folder("full", seed)):
            facts = ", ".join(f"{name} {value:g}" for name, value in stage["facts"].items())
            seconds = "reused" if stage["reused"] else f"{stage['seconds']:.0f}"
            lines.append(f"| {seed} | {stage['stage']} | {seconds} | {facts} |")
        rows = read_metrics(plan.folder("full", seed) / "metrics.jsonl")
        spent = sum(row.get("time/step_s", 0.0) for row in rows)
        lines.append(f"| {seed} | RL | {spent:.0f} | {rows[-1]['step']:g} steps |")
    return "\n".join(lines) + "\n"


def _cells(first: Mapping[str, float], last: Mapping[str, float]) -> str:
    return " | ".join(f"{first[key]:.3f} → {last[key]:.3f}" for _, key in COLUMNS)


def _mean(rows: Sequence[Row]) -> dict[str, float]:
    return {key: mean(row[key] for row in rows) for _, key in COLUMNS}


def main(arguments: Sequence[str]) -> None:
    """Make the runs that are missing and write the tables."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    plan = Plan.of(arguments)
    for seed in plan.seeds:
        for arm in plan.arms:
            run(plan, arm, seed)
    text = f"{table(plan)}\n{stage_table(plan) if 'full' in plan.arms else ''}"
    (plan.out / "table.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main(sys.argv[1:])
