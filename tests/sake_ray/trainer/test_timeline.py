"""The timeline: what a worker does side by side is one row, and nothing is drawn that nobody timed."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from sake_ray.metrics import PhaseTimes, Span
from sake_ray.trainer.timeline import merged, phase_rows, worker_rows
from sake_ray.trajectory import Trajectory, Turn
from sake_ray.types import Answer, Observation, QueryResult, SearchKind, TextSearch
from tests.sake_ray.trainer.fakes import make_post

SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)).map(lambda pair: (pair[0], pair[0] + pair[1])))


@given(SPANS)
def test_merged_spans_cover_the_same_moments_once(spans: list[tuple[float, float]]) -> None:
    found = merged(spans)
    assert all(end < begin for (_, end), (begin, _) in itertools.pairwise(found))
    for moment in range(40):
        at = moment + 0.5
        assert sum(begin <= at <= end for begin, end in found) == any(begin <= at <= end for begin, end in spans)


def episode(worker: str, *turns: Turn, scored: float | None = None) -> Trajectory:
    return Trajectory("t", make_post("a"), turns=list(turns), worker=worker, score_began_s=scored, score_s=1.0)


def test_workers_generate_and_search_and_the_reward_actors_score() -> None:
    found = Observation(SearchKind.TEXT, (QueryResult("q", "success"),), latency_s=2.0)
    search = Turn("?", TextSearch(("q",)), found, generate_s=3.0, began_s=10.0, search_began_s=13.0)
    answer = Turn("!", Answer(()), generate_s=1.0, began_s=12.0)
    untimed = Turn("!", Answer(()))
    rows = worker_rows([episode("w0", search, scored=20.0), episode("w0", answer), episode("w1", untimed)], 4)
    assert [(row["name"], row["who"], row["begin_s"], row["end_s"]) for row in rows] == [
        ("generate", "w0", 10.0, 13.0),
        ("score", "rewards", 20.0, 21.0),
        ("search", "w0", 13.0, 15.0),
    ]
    assert {row["step"] for row in rows} == {4}


def test_phases_have_the_names_people_read() -> None:
    times = PhaseTimes()
    for name in ("rollout", "advantage", "update", "publish", "eval", "checkpoint"):
        with times.phase(name):
            pass
    assert [(row["name"], row["who"]) for row in phase_rows(times.spans, 1)] == [
        ("update", "learner"),
        ("publish", "learner"),
        ("evaluate", "rollout"),
        ("checkpoint", "learner"),
    ]
    assert phase_rows([Span("update", 1.0, 2.5)], 3) == [
        {"step": 3, "name": "update", "begin_s": 1.0, "end_s": 2.5, "who": "learner"}
    ]
