"""Metrics and logs: what is counted, and that a log that goes on holds every row once."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sake_ray.interfaces import RolloutCounts
from sake_ray.metrics import (
    JsonlLog,
    JsonlTracker,
    PhaseTimes,
    engine_metrics,
    mean,
    needs_search,
    rollout_metrics,
    search_metrics,
    trajectory_rows,
)
from sake_ray.trajectory import Segment, Trajectory, TrajectoryGroup, Turn
from sake_ray.types import (
    Answer,
    Box,
    Completion,
    Difficulty,
    Entity,
    Example,
    ImageRef,
    ImageSearch,
    Malformed,
    Observation,
    QueryResult,
    Reward,
    SearchKind,
    StopReason,
    TextSearch,
)

# Any text a post or a policy can hold: line separators of all kinds, and lone surrogates out of JSON escapes.
# (Joined lists, because st.text would merge the two sets of characters and hardly ever draw the few.)
rare = st.sampled_from("\u2028\u2029\x85\x0c\x1e\r\n\ud800")
anything = st.lists(st.one_of(st.characters(), rare), max_size=12).map("".join)
row_texts = st.lists(st.tuples(st.integers(0, 5), anything), max_size=12)


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def post(*difficulties: Difficulty | None, name: str = "post") -> Example:
    entities = tuple(Entity(f"e{i}", "PER", (Box(1, 2, 3, 4),), difficulty=d) for i, d in enumerate(difficulties))
    return Example(name, "words", ImageRef("p.png", 10, 10), entities)


def episode(example: Example, *turns: Turn, stop: StopReason = StopReason.ANSWER, reward: float = 0.0) -> Trajectory:
    trajectory = Trajectory(f"{example.id}/0", example)
    trajectory.append_observation(Segment((7,), (7, 7, 7)))
    trajectory.append_completion(Completion((8, 9), (-1.0, -2.0), "text", "stop", 4))
    trajectory.turns.extend(turns)
    trajectory.finish(stop)
    trajectory.reward = Reward(reward, reward, 0.25, 0.5, 0.75, 1.0, len(turns) - 1, 0.05)
    return trajectory


def search(kind: type[TextSearch] | type[ImageSearch], *statuses: str, latency_s: float = 1.0) -> Turn:
    results = tuple(QueryResult(f"q{i}", status, "found") for i, status in enumerate(statuses))
    observed = Observation(SearchKind.TEXT if kind is TextSearch else SearchKind.IMAGE, results, latency_s)
    return Turn("search", kind(tuple(r.query for r in results)), observed)


ANSWER = Turn("answer", Answer(()))


# --- logs -----------------------------------------------------------------------------------------


@example(before=[], again=[(0, "\ud800\udc00")], after=0, half=0)
@given(before=row_texts, again=row_texts, after=st.integers(0, 5), half=st.integers(0, 30))
def test_going_on_keeps_the_rows_up_to_the_step_and_nothing_else(
    before: list[tuple[int, str]], again: list[tuple[int, str]], after: int, half: int
) -> None:
    """Whatever the texts hold, and wherever a killed run's last line was cut, inside a character too."""
    earlier, kept, later = (
        [{"step": step, "text": text} for step, text in texts]
        for texts in (before, [row for row in before if row[0] <= after], again)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        JsonlLog(path, resume_after=None).append(earlier)
        with path.open("ab") as file:
            file.write('{"step": 0, "text": "…………"}'.encode()[:half])
        log = JsonlLog(path, resume_after=after)
        log.append(later)
        # Two halves of a pair side by side are one character in JSON, however they came into the string.
        assert read(path) == [json.loads(json.dumps(row)) for row in kept + later]
        assert [child.name for child in Path(folder).iterdir()] == ["log.jsonl"]


def test_a_new_run_starts_with_an_empty_log_and_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "run" / "log.jsonl"
    JsonlLog(path, resume_after=None).append([{"step": 1}])
    assert read(JsonlLog(path, resume_after=None).path) == []
    assert read(JsonlLog(tmp_path / "other.jsonl", resume_after=3).path) == []


@pytest.mark.parametrize("broken", ['{"step": 1', '{"loss": 1}', "[1]", "", '{"step": "x"}'])
def test_a_broken_row_inside_a_log_is_named_and_nothing_is_cut(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "log.jsonl"
    text = f'{{"step": 1}}\n{broken}\n{{"step": 2}}\n'
    path.write_text(text)
    with pytest.raises(ValueError, match=r"log\.jsonl:2"):
        JsonlLog(path, resume_after=2)
    assert path.read_text() == text


class Kept:
    """A tracker that keeps what it gets."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.rows.append((step, dict(metrics)))


def test_the_tracker_writes_a_row_a_step_and_passes_it_on(tmp_path: Path) -> None:
    other = Kept()
    tracker = JsonlTracker(JsonlLog(tmp_path / "metrics.jsonl", resume_after=None), [other])
    tracker.log({"train/loss": 1, "eval/f1": 0.5}, 3)
    assert read(tmp_path / "metrics.jsonl") == [{"step": 3, "train/loss": 1.0, "eval/f1": 0.5}]
    assert other.rows == [(3, {"train/loss": 1, "eval/f1": 0.5})]


@pytest.mark.parametrize(("name", "value"), [("train/loss", math.nan), ("time/x_s", math.inf), ("loss", 1.0)])
def test_a_metric_that_would_hide_in_a_plot_is_refused_everywhere(tmp_path: Path, name: str, value: float) -> None:
    other = Kept()
    tracker = JsonlTracker(JsonlLog(tmp_path / "metrics.jsonl", resume_after=None), [other])
    with pytest.raises(ValueError, match=f"step 3: metric {name}="):
        tracker.log({"train/fine": 1.0, name: value}, 3)
    assert (read(tmp_path / "metrics.jsonl"), other.rows) == ([], [])


def test_phase_times_add_up_and_count_a_phase_that_fails() -> None:
    times = PhaseTimes()
    for _ in range(2):
        with times.phase("rollout"):
            pass
    with pytest.raises(KeyError), times.phase("update"):
        raise KeyError
    metrics = times.metrics()
    assert set(metrics) == {"time/rollout_s", "time/update_s", "time/step_s"}
    assert metrics["time/step_s"] == pytest.approx(metrics["time/rollout_s"] + metrics["time/update_s"])


# --- what is counted ------------------------------------------------------------------------------


def test_a_post_needs_a_search_by_its_entities() -> None:
    known, ambiguous, unknown = Difficulty.KNOWN, Difficulty.AMBIGUOUS, Difficulty.UNKNOWN
    assert needs_search(post(known, unknown)) is True
    assert needs_search(post(ambiguous, unknown)) is True
    assert needs_search(post(known, known)) is False
    assert needs_search(post(known, ambiguous)) is None
    assert needs_search(post(known, None)) is None
    assert needs_search(post()) is None


def test_rollout_metrics_are_means_over_episodes() -> None:
    known, unknown = post(Difficulty.KNOWN), post(Difficulty.UNKNOWN)
    metrics = rollout_metrics(
        [
            episode(known, ANSWER, reward=1.0),
            episode(unknown, search(TextSearch, "success", "no_result", latency_s=3.0), ANSWER, reward=0.5),
            episode(unknown, search(TextSearch, "failed"), search(ImageSearch, "success"), ANSWER),
            episode(post(), Turn("?", Malformed("no_reason")), stop=StopReason.MALFORMED, reward=0.5),
        ]
    )
    expected = {
        "reward/total": 0.5,
        "reward/mner_f1": 0.25,
        "reward/gmner_f1": 0.75,
        "rollout/turns": 7 / 4,
        "rollout/tokens": 5.0,
        "rollout/sampled_tokens": 2.0,
        "rollout/stop_answer": 0.75,
        "rollout/stop_malformed": 0.25,
        "rollout/stop_truncated": 0.0,
        "search/per_episode": 0.75,
        "search/episodes": 0.5,
        "search/text": 0.5,
        "search/image": 0.25,
        "search/on_unknown": 1.0,
        "search/on_known": 0.0,
        "search/no_result": 0.25,
        "search/failed": 0.25,
        "search/latency_s": pytest.approx(5 / 3),
    }
    assert {name: metrics[name] for name in expected} == expected
    assert sum(value for name, value in metrics.items() if name.startswith("rollout/stop_")) == 1.0


def test_engine_metrics_are_of_the_time_between_two_counts() -> None:
    before = RolloutCounts(2, 100, 50, prefix_queries=80, prefix_hits=80, preemptions=1, rebuilds=1, respawns=0)
    after = RolloutCounts(1, 300, 90, prefix_queries=180, prefix_hits=105, preemptions=4, rebuilds=1, respawns=2)
    assert engine_metrics(before, after) == {
        "rollout/prompt_tokens": 200.0,
        "rollout/generated_tokens": 40.0,
        "rollout/prefix_hit_rate": 0.25,
        "rollout/preemptions": 3.0,
        "rollout/rebuilds": 0.0,
        "rollout/respawns": 2.0,
        "rollout/workers": 1.0,
    }
    assert engine_metrics(after, after)["rollout/prefix_hit_rate"] == 0.0


def test_a_search_that_was_not_answered_is_no_search() -> None:
    """The last turn may ask for one that the episode's limits no longer allow."""
    refused = episode(post(), Turn("search", TextSearch(("q",))), stop=StopReason.SEARCH_LIMIT)
    assert search_metrics([refused])["search/per_episode"] == 0.0
    assert search_metrics([refused])["search/text"] == 0.0


def test_no_episodes_give_zeros_and_nothing_that_is_not_finite() -> None:
    assert mean([]) == 0.0
    assert all(value == 0.0 for value in rollout_metrics([]).values())


def test_a_trajectory_s_row_tells_its_story_in_json() -> None:
    trajectory = episode(post(Difficulty.UNKNOWN), search(TextSearch, "success"), ANSWER, reward=0.5)
    trajectory.advantage, trajectory.worker = -1.5, "rollout-0"
    trajectory.turns[0].began_s, trajectory.turns[0].search_began_s = 12.00001, 13.5
    malformed = episode(post(), Turn("?", Malformed("no_reason")), stop=StopReason.MALFORMED)
    made = trajectory_rows([TrajectoryGroup(trajectory.example, [trajectory, malformed])], 9, "train")
    row, other = json.loads(json.dumps(made))
    assert (row["step"], row["kind"], row["example"], row["id"]) == (9, "train", "post", "post/0")
    assert row["image_size"] == [10, 10]
    assert row["gold"] == [
        {
            "entity": "e0",
            "type": "PER",
            "boxes": [[1, 2, 3, 4]],
            "difficulty": "unknown",
            "coarse": "",
            "seen": None,
        }
    ]
    assert [turn["action"] for turn in row["turns"]] == ["TextSearch", "Answer"]
    assert row["turns"][0]["results"] == [
        {
            "query": "q0",
            "status": "success",
            "reason": None,
            "text": "found",
            "images": 0,
            "pictures": [],
            "cached": False,
        }
    ]
    assert (row["reward"]["total"], row["advantage"], row["stop_reason"]) == (0.5, -1.5, "answer")
    assert (row["tokens"], row["sampled_tokens"], row["version"]) == (5, 2, 4)
    assert (row["worker"], row["turns"][0]["began_s"], row["turns"][0]["search_began_s"]) == ("rollout-0", 12.0, 13.5)
    assert (other["worker"], other["turns"][0]["began_s"], other["score_began_s"]) == ("", None, None)
    assert (other["turns"][0]["reason"], other["turns"][0]["results"]) == ("no_reason", None)
