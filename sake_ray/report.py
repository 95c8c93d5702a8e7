"""What a run gives people at its end: a table of the evaluations and a picture of the curves.

Reads only `metrics.jsonl`. Knows nothing of how the numbers came about. Always holds: every number shown
stands in that file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

Row = Mapping[str, float]

TABLE = (
    ("GMNER F1", "eval/gmner_f1"),
    ("  never-seen entities", "eval/gmner_f1_unseen"),
    ("  only known entities", "eval/gmner_f1_known"),
    ("MNER F1", "eval/mner_f1"),
    ("EEG F1", "eval/eeg_f1"),
    ("valid answers", "eval/answered"),
    ("searched, unknown entity", "eval/search_on_unknown"),
    ("searched, known only", "eval/search_on_known"),
    ("searches an episode", "eval/search_per_episode"),
)
CURVES = (
    ("Reward (training groups)", ("reward/total", "reward/gmner_f1")),
    ("Held-out GMNER F1 (strict)", ("eval/gmner_f1", "eval/gmner_f1_unseen", "eval/gmner_f1_known")),
    ("Share of posts searched", ("search/on_unknown", "search/on_known")),
    ("Seconds a step", ("time/rollout_s", "time/update_s", "time/publish_s")),
)


def read_metrics(path: Path) -> list[Row]:
    """The rows of `metrics.jsonl`, in order.

    Raises:
        ValueError: a line is not JSON; names file and line.
    """
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not JSON ({error.msg})") from error
    return rows


def table_text(rows: Sequence[Row]) -> str:
    """The first and the last evaluation as aligned text; one column where a run evaluated only once."""
    evaluated = [row for row in rows if "eval/gmner_f1" in row]
    if not evaluated:
        return "no evaluation was made\n"
    first, last = evaluated[0], evaluated[-1]
    if first is last:
        lines = [f"{'held-out posts':<28}{_when(last):>14}"]
        lines += [f"{name:<28}{last[key]:>14.3f}" for name, key in TABLE if key in last]
    else:
        lines = [f"{'held-out posts':<28}{_when(first):>14}{_when(last):>14}{'change':>10}"]
        for name, key in TABLE:
            if key in first and key in last:
                lines.append(f"{name:<28}{first[key]:>14.3f}{last[key]:>14.3f}{last[key] - first[key]:>+10.3f}")
    return "\n".join(lines) + "\n"


def _when(row: Row) -> str:
    return f"RL step {row['step']:.0f}" if row["step"] else "cold start"


def draw_curves(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write the curves as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), constrained_layout=True)
    for axis, (heading, keys) in zip(axes.flat, CURVES, strict=True):
        for key in keys:
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                axis.plot(*zip(*points, strict=True), label=key, marker="o" if len(points) < 12 else None, markersize=3)
        axis.set_title(heading)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if not heading.startswith("Seconds"):
            axis.set_ylim(-0.02, 1.02)
        if axis.lines:
            axis.legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
