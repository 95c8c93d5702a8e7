"""What it gains that generation does not wait for the update: steps with trainer.max_staleness=1 against 0.

    python benchmarks/staleness.py model=POLICY [steps=14] [repeats=3] [staleness=0,1]

Runs the real job (`launch/rl_twitter17.py`) in turns with either setting, from the same policy, on the same posts, with
the same number of groups a step, and reads what it wrote: seconds a step (`metrics.jsonl`), and how much of the time
engine and learner were busy, each and both (`timeline.jsonl`). The first steps, which begin with everything cold, are
left out. Figures are of this machine; where both share two cores the most that can be gained is what each leaves idle.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import job as jobs
from benchmarks.script import words_or_exit
from benchmarks.tables import markdown, spread
from sake_ray.trainer.timeline import merged

COLD = 3
Spans = list[tuple[float, float]]


def main(arguments: Sequence[str]) -> int:
    """Run all arms; returns the exit status."""
    words = {"model": "", "steps": "14", "repeats": "3", "staleness": "0,1"}
    words |= words_or_exit(arguments, words, __doc__, required=("model",))
    arms = [int(each) for each in words["staleness"].split(",")]
    found: dict[int, list[dict[str, float]]] = {arm: [] for arm in arms}
    for repeat in range(int(words["repeats"])):
        for arm in arms if repeat % 2 == 0 else reversed(arms):
            found[arm].append(measure(words["model"], int(words["steps"]), arm))
            sys.stderr.write(f"max_staleness={arm}: {found[arm][-1]}\n")
    rows = [[name, *(spread([each[name] for each in found[arm]]) for arm in arms)] for name in found[arms[0]][0]]
    sys.stdout.write(markdown(["", *(f"max_staleness={arm}" for arm in arms)], rows))
    return 0


def measure(model: str, steps: int, staleness: int) -> dict[str, float]:
    """One run's figures."""
    run_dir = Path(tempfile.mkdtemp(prefix="staleness-"))
    words = {
        "model.path": model,
        "world.dev_posts": 8,
        "trainer.total_steps": steps,
        "trainer.max_staleness": staleness,
        "trainer.eval_every": 0,
        "trainer.checkpoint_every": 0,
        "trainer.export_best": "false",
        "learner.decay_steps": 0,
    }
    jobs.finish(jobs.command(run_dir, "mini", words), run_dir / "log.txt")
    metrics = jobs.rows(run_dir, "metrics.jsonl")[COLD:-1]
    timeline = jobs.rows(run_dir, "timeline.jsonl")
    shutil.rmtree(run_dir)
    updates = [(row["begin_s"], row["end_s"]) for row in timeline if row["name"] == "update" and row["step"] > COLD]
    begin, end = updates[0][0], updates[-1][1]
    learner = clipped(updates, begin, end)
    engine = clipped([(r["begin_s"], r["end_s"]) for r in timeline if r["name"] == "generate"], begin, end)
    whole = end - begin
    return {
        "seconds a step": statistics.median(row["time/step_s"] for row in metrics),
        "steps a minute": 60 * (len(updates) - 1) / whole,
        "learner waits, share of a step": statistics.median(row["time/wait_share"] for row in metrics),
        "learner busy": length(learner) / whole,
        "engine busy": length(engine) / whole,
        "both busy": overlap(learner, engine) / whole,
        "mean staleness": statistics.mean(row["rollout/staleness"] for row in metrics),
        "effective sample size": statistics.mean(row["train/is_ess"] for row in metrics if "train/is_ess" in row),
    }


def clipped(spans: Spans, begin: float, end: float) -> Spans:
    """The spans' union within [begin, end], in order."""
    return merged((max(b, begin), min(e, end)) for b, e in spans if e > begin and b < end)


def length(spans: Spans) -> float:
    """The seconds that spans apart from each other take."""
    return sum(e - b for b, e in spans)


def overlap(one: Spans, other: Spans) -> float:
    """The seconds that lie in both."""
    return length(one) + length(other) - length(merged([*one, *other]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
