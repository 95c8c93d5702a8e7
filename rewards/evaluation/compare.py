"""Two evaluations of the same posts, side by side: is the difference more than luck?

Knows nothing of how either came about. Always holds: both are judged against one gold; posts are compared each with
itself; posts that only one side has are refused or counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rewards.evaluation.markdown import number, provenance_line, table
from rewards.evaluation.record_files import read_records
from rewards.evaluation.records import PostRecord
from rewards.evaluation.report import read_report
from rewards.evaluation.resample import Counts, Sign, paired, sign_test
from rewards.evaluation.scored import TASKS, Scored
from rewards.f1 import f1_score
from rewards.matching import Task
from rewards.protocols import PROTOCOLS
from sake_ray.data.problems import DataError

RESAMPLES = 10_000
_NAMED = 5


def compare_folders(
    a: Path, b: Path, *, unpaired: str = "stop", resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Compare the evaluations in two folders under every protocol.

    `unpaired` "drop" compares only posts that both have, and counts the others.

    Raises:
        DataError: a folder holds no evaluation, they are of other tasks, posts or gold.
    """
    reports = [_report(folder) for folder in (a, b)]
    if reports[0]["task"] != reports[1]["task"]:
        raise DataError(f"{a} is of task {reports[0]['task']}, {b} of {reports[1]['task']}; they cannot be compared")
    compared = compare_records(
        read_records(a),
        read_records(b),
        task=reports[0]["task"],
        unpaired=unpaired,
        resamples=resamples,
        seed=seed,
        names=(str(a), str(b)),
    )
    provenance = {"provenance": {side: one["provenance"] for side, one in zip("ab", reports, strict=True)}}
    return {"a": str(a), "b": str(b), **provenance, **compared}


def compare_records(
    a: Sequence[PostRecord],
    b: Sequence[PostRecord],
    *,
    task: str,
    unpaired: str = "stop",
    resamples: int = RESAMPLES,
    seed: int = 0,
    names: tuple[str, str] = ("A", "B"),
) -> dict[str, Any]:
    """Differences B less A in each protocol and task: paired bootstrap of micro F1, sign test of each post's F1.

    A post's F1 is the mean over its samples; nothing claimed where there is nothing is 1. A post that one side drops
    out of under "release" is a tie there.

    Raises:
        DataError: posts or gold differ.
    """
    sides = [_by_id(records) for records in (a, b)]
    alone = [[name for name in one if name not in other] for one, other in (sides, sides[::-1])]
    if any(alone) and unpaired != "drop":
        said = "; ".join(f"only {name} has {_some(posts)}" for name, posts in zip(names, alone, strict=True) if posts)
        raise DataError(f"{said}: compare evaluations of the same posts, or leave such posts out with unpaired=drop")
    shared = [name for name in sides[0] if name in sides[1]]
    if not shared:
        raise DataError(f"{names[0]} and {names[1]} have no post in common")
    for name in shared:
        if _gold(sides[0][name]) != _gold(sides[1][name]):
            raise DataError(f"post {name} has another gold in {names[0]} than in {names[1]}")
    scored = [Scored.of([record for name in shared for record in side[name]]) for side in sides]
    sides_of = {protocol: [_counts(one, protocol, task) for one in scored] for protocol in PROTOCOLS}
    tables = {
        f"{protocol} {one.value}": (a_side[one], b_side[one])
        for protocol, (a_side, b_side) in sides_of.items()
        for one in TASKS
    }
    boots = paired(tables, resamples=resamples, seed=seed)
    protocols = {
        protocol: {
            one.value: {
                "bootstrap": boots[f"{protocol} {one.value}"],
                "sign": asdict(
                    _sign(*tables[f"{protocol} {one.value}"], protocol == "release" and one is not Task.MNER)
                ),
            }
            for one in TASKS
        }
        for protocol in PROTOCOLS
    }
    return {
        "task": task,
        "posts": len(shared),
        "only_a": len(alone[0]),
        "only_b": len(alone[1]),
        "resamples": resamples,
        "seed": seed,
        "protocols": protocols,
    }


def compare_text(compared: Mapping[str, Any]) -> str:
    """A comparison as Markdown."""
    rows = []
    for protocol, tasks in compared["protocols"].items():
        for task, found in tasks.items():
            boot, sign = found["bootstrap"], found["sign"]
            interval = f"{boot['low']:+.2f} … {boot['high']:+.2f}"
            posts = f"{sign['a_better']} / {sign['b_better']} / {sign['ties']}"
            scores = [number(boot["a"]), number(boot["b"]), f"{boot['difference']:+.2f}", interval, _chance(boot["p"])]
            rows.append([protocol, task.upper(), *scores, posts, _chance(sign["p"])])
    head = ["protocol", "task", "A F1", "B F1", "B − A", "95 %", "p", "posts A / B / tie", "p (sign)"]
    alone = compared["only_a"] + compared["only_b"]
    left_out = f" {compared['only_a']} posts that only A has and {compared['only_b']} that only B has were left out."
    lines = [
        f"# Comparison: {compared['task']}, {compared['posts']} posts\n",
        f"A: `{compared['a']}`  \nB: `{compared['b']}`\n",
        *table(head, rows, words=(0, 1)),
        f"\nMicro F1 in percent; paired bootstrap over posts ({compared['resamples']} draws, seed {compared['seed']}, "
        "two-sided); sign test on each post's F1." + (left_out if alone else ""),
        "",
    ]
    for side in "ab":
        lines.append(f"{side.upper()}: {provenance_line({'provenance': compared['provenance'][side]})}\n")
    return "\n".join(lines)


_Side = dict[Task, list[list[Counts]]]


def _counts(scored: Scored, protocol: str, task: str) -> _Side:
    """For each task and sample the counts of each post, posts in the order they were paired in."""
    counts = scored.counts(protocol, task)
    samples = scored.by_sample()
    return {one: [[counts[at][one] for at in chosen] for chosen in samples] for one in TASKS}


def _sign(a: Sequence[Sequence[Counts]], b: Sequence[Sequence[Counts]], drops: bool) -> Sign:
    """The sign test of each post's F1; `drops` where a post without any counts was left out, not answered rightly."""
    posts: tuple[list[float], list[float]] = ([], [])
    for at in range(len(a[0])):
        sides = [[sample[at] for sample in side] for side in (a, b)]
        # A post that dropped out on one side is no win for either.
        tie = drops and any(not any(counts) for side in sides for counts in side)
        for scores, side in zip(posts, sides, strict=True):
            scores.append(0.0 if tie else sum(f1_score(*counts) for counts in side) / len(side))
    return sign_test(*posts)


def _by_id(records: Sequence[PostRecord]) -> dict[str, list[PostRecord]]:
    found: dict[str, list[PostRecord]] = {}
    for record in records:
        found.setdefault(record.id, []).append(record)
    return found


def _gold(records: Sequence[PostRecord]) -> list[Any]:
    return sorted((entity.text, entity.type, entity.boxes) for entity in records[0].gold)


def _report(folder: Path) -> dict[str, Any]:
    try:
        report = read_report(folder)
        known = isinstance(report, dict) and isinstance(report.get("provenance"), dict) and "task" in report
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: holds no evaluation ({error}); give the output= of one") from error
    if not known:
        raise DataError(f"{folder}: its report.json is not an evaluation's")
    return report


def _chance(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
