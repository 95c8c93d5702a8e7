"""When a run did what: spans of time out of its timeline, trajectories and metrics, and the same as a Chrome trace.

Knows nothing of pages. Times are seconds since the first thing that has a time. Always holds: a run without
timeline.jsonl has only the phases of its steps, laid end to end in their order and not `measured`; nothing is drawn
for an episode without times.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sake_ray.data.json_files import write_whole
from sake_ray.pages.rows import RowView

Metrics = Mapping[str, float]
TRAINER = "trainer"
_ORDER = ("checkpoint", "rollout", "advantage", "update", "publish", "eval")


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time: by whom (`process`, and which of its `lane`s), what, and facts about it."""

    process: str
    lane: str
    kind: str
    began_s: float
    seconds: float
    measured: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)


def phases(row: Metrics) -> dict[str, float]:
    """Seconds of each phase of a step, in the order of a step; parts of a phase (`weight_…`) are not phases."""
    found = {
        name: seconds
        for key, seconds in row.items()
        if key.startswith("time/") and key.endswith("_s")
        for name in [key[len("time/") : -len("_s")]]
        if name != "step" and not name.startswith("weight_")
    }
    known = {name: found.pop(name) for name in _ORDER if name in found}
    return known | found


def spans_of(
    timeline: Sequence[Mapping[str, Any]], metrics: Sequence[Metrics], episodes: Iterable[RowView]
) -> tuple[list[Span], list[Span]]:
    """What parts of the run did, and what single episodes did.

    Args:
        timeline: rows of timeline.jsonl (`step`, `name`, `who`, `begin_s`, `end_s`, seconds since the epoch).
        metrics: rows of training steps, which take its place where there is none.
        episodes: rows of trajectories, those with times.
    """
    stamped = [row for row in timeline if _is_time(row.get("begin_s")) and _is_time(row.get("end_s"))]
    parts = [(row, list(_turn_spans(row))) for row in episodes]
    begins = [row["begin_s"] for row in stamped] + [begin for _, found in parts for _, begin, _ in found]
    origin = min(begins, default=0.0)
    busy = [
        Span(
            str(row.get("who")), str(row.get("name")), str(row.get("name")), row["begin_s"] - origin,
            max(0.0, row["end_s"] - row["begin_s"]), True, {"step": row.get("step")},
        )
        for row in stamped
    ]  # fmt: skip
    return busy or _end_to_end(metrics), _episode_spans(parts, origin)


def write_trace(path: Path, spans: Sequence[Span]) -> None:
    """The spans as a Chrome trace (ui.perfetto.dev, chrome://tracing): whole, or not at all."""
    processes = {name: number for number, name in enumerate(dict.fromkeys(span.process for span in spans), start=1)}
    lanes: dict[tuple[str, str], int] = {}
    for span in spans:
        lanes.setdefault((span.process, span.lane), len(lanes) + 1)
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": number, "tid": 0, "args": {"name": name}}
        for name, number in processes.items()
    ]
    events += [
        {"ph": "M", "name": "thread_name", "pid": processes[process], "tid": number, "args": {"name": lane}}
        for (process, lane), number in lanes.items()
    ]
    events += [
        {
            "ph": "X",
            "name": span.kind,
            "cat": span.kind if span.measured else f"{span.kind},laid end to end",
            "ts": round(span.began_s * 1e6, 1),
            "dur": round(span.seconds * 1e6, 1),
            "pid": processes[span.process],
            "tid": lanes[span.process, span.lane],
            "args": {**span.facts, "measured": span.measured},
        }
        for span in spans
    ]
    write_whole(path, json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))


def _end_to_end(rows: Iterable[Metrics]) -> list[Span]:
    spans, now = [], 0.0
    for row in rows:
        for name, seconds in phases(row).items():
            spans.append(Span(TRAINER, TRAINER, name, now, seconds, False, {"step": row.get("step")}))
            now += seconds
    return spans


def _episode_spans(rows: Iterable[tuple[RowView, list[tuple[str, float, float]]]], origin: float) -> list[Span]:
    """Generate, search and score of episodes with times; episodes at once get lanes of their own."""
    episodes = [(min(begin for _, begin, _ in parts), row, parts) for row, parts in rows if parts]
    ends: dict[str, list[float]] = {}
    spans = []
    for began, row, parts in sorted(episodes, key=lambda episode: episode[0]):
        process = f"episodes of {row.worker}" if row.worker else "episodes"
        busy = ends.setdefault(process, [])
        lane = next((index for index, end in enumerate(busy) if end <= began), len(busy))
        if lane == len(busy):
            busy.append(0.0)
        busy[lane] = max(begin + seconds for _, begin, seconds in parts)
        facts = {"step": row.step, "episode": row.id}
        spans += [
            Span(process, f"{lane:03d}", kind, begin - origin, seconds, True, facts) for kind, begin, seconds in parts
        ]
    return spans


def _turn_spans(row: RowView) -> Iterable[tuple[str, float, float]]:
    for turn in row.turns:
        if turn.began_s is None:
            continue
        yield "generate", turn.began_s, turn.generate_s or 0.0
        if turn.search_s is not None and turn.search_began_s is not None:
            yield "search", turn.search_began_s, turn.search_s
    if row.score_began_s is not None:
        yield "score", row.score_began_s, row.score_s or 0.0


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
