"""What is drawn of time was measured, or says that it was not; lanes hold one thing at a time."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from sake_ray.pages.rows import RowView, TurnView
from sake_ray.pages.timeline import phases, spans_of, write_trace

METRICS = [
    {"step": 1, "time/rollout_s": 2.0, "time/update_s": 1.0, "time/weight_sync_s": 0.4, "time/step_s": 3.0},
    {"step": 2, "time/checkpoint_s": 0.5, "time/rollout_s": 1.0, "time/update_s": 1.0, "time/step_s": 2.5},
]


def episode(name: str, began: float, worker: str = "w0") -> RowView:
    turns = (
        TurnView("", "TextSearch", results=(), generate_s=1.0, search_s=0.5, began_s=began, search_began_s=began + 1.0),
    )
    return RowView(name, name, "", (), (), turns, worker=worker, step=1, score_began_s=began + 2.0, score_s=0.1)


def test_parts_of_a_phase_are_no_phase_and_a_step_is_in_its_order() -> None:
    assert phases(METRICS[0]) == {"rollout": 2.0, "update": 1.0}
    assert list(phases(METRICS[1])) == ["checkpoint", "rollout", "update"]


def test_without_a_timeline_phases_are_laid_end_to_end_and_say_so() -> None:
    spans, episodes = spans_of([], METRICS, [RowView("a", "a", "", (), ())])
    assert [(span.kind, span.began_s) for span in spans] == [
        ("rollout", 0.0), ("update", 2.0), ("checkpoint", 3.0), ("rollout", 3.5), ("update", 4.5),
    ]  # fmt: skip
    assert not any(span.measured for span in spans) and episodes == []


def test_stamps_are_drawn_from_the_first_and_episodes_at_once_get_lanes_of_their_own(tmp_path: Path) -> None:
    timeline = [{"step": 1, "name": "update", "who": "learner", "begin_s": 1_000.0, "end_s": 1_002.0}]
    rows = [episode(f"e{n}", 999.0 + n * 0.7) for n in range(12)] + [episode("other", 999.0, "w1")]
    spans, episodes = spans_of(timeline, METRICS, rows)
    assert [(s.process, s.began_s, s.seconds, s.measured) for s in spans] == [("learner", 1.0, 2.0, True)]
    lanes: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for span in episodes:
        lanes.setdefault((span.process, span.lane), []).append((span.began_s, span.began_s + span.seconds))
    assert len(lanes) > 2
    for held in lanes.values():
        assert all(before[1] <= after[0] + 1e-9 for before, after in pairwise(sorted(held)))
    write_trace(tmp_path / "trace.json", [*spans, *episodes])
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    drawn = [event for event in events if event["ph"] == "X"]
    assert len(drawn) == 1 + 13 * 3
    assert {event["name"] for event in drawn} == {"update", "generate", "search", "score"}
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    assert {(event["pid"], event["tid"]) for event in drawn} <= named
