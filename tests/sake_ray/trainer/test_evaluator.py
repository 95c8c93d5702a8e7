"""Held-out evaluation: every post counts once, whatever became of its episode, in its own slices and pixels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sake_ray.metrics import JsonlLog
from sake_ray.trainer.evaluator import GreedyEvaluator, Prediction, predictions
from sake_ray.trajectory import Trajectory, TrajectoryGroup, Turn
from sake_ray.types import (
    Answer,
    Box,
    Difficulty,
    Example,
    ImageRef,
    ImageSearch,
    Malformed,
    Observation,
    PredictedEntity,
    QueryResult,
    SearchKind,
    StopReason,
    TextSearch,
)
from tests.sake_ray.trainer.fakes import PIXELS, make_post

KNOWN = make_post("known", Difficulty.KNOWN, seen=True)
UNKNOWN = make_post("unknown", Difficulty.UNKNOWN, seen=False)
AMBIGUOUS = make_post("ambiguous", Difficulty.AMBIGUOUS, seen=True)
UNTAGGED = make_post("untagged")


def answered(post: Example, name: str, searches: Sequence[TextSearch | ImageSearch] = ()) -> Trajectory:
    trajectory = Trajectory(f"{post.id}-t", post)
    for action in searches:
        kind = SearchKind.TEXT if isinstance(action, TextSearch) else SearchKind.IMAGE
        found = Observation(kind, tuple(QueryResult(query, "success", "text") for query in action.queries), 0.5)
        trajectory.turns.append(Turn("search", action, found))
    trajectory.turns.append(Turn("answer", Answer((PredictedEntity(name, "PER", None),))))
    trajectory.finish(StopReason.ANSWER)
    return trajectory


def malformed(post: Example) -> Trajectory:
    trajectory = Trajectory(f"{post.id}-t", post)
    trajectory.turns.append(Turn("???", Malformed("no_reason")))
    trajectory.finish(StopReason.MALFORMED)
    return trajectory


def share_named(said: Sequence[Sequence[Prediction]], examples: Sequence[Example]) -> dict[str, float]:
    """The share of posts whose one entity was named, and that of those never seen."""
    right = [[p.text for p in ps] == [e.entities[0].text] for ps, e in zip(said, examples, strict=True)]
    unseen = [good for good, e in zip(right, examples, strict=True) if e.entities[0].seen is False]
    return {"gmner_f1": sum(right) / len(right)} | ({"gmner_f1_unseen": sum(unseen) / len(unseen)} if unseen else {})


@dataclass
class Scripted:
    """A rollout pool that has every post's trajectory ready."""

    ready: dict[str, Trajectory]
    asked: list[tuple[str, bool, int]] = field(default_factory=list)

    async def rollout(self, example: Example, *, seeds: Sequence[int], greedy: bool = False) -> TrajectoryGroup:
        self.asked.append((example.id, greedy, len(seeds)))
        return TrajectoryGroup(example, [self.ready[example.id]])


def evaluator(trajectories: Sequence[Trajectory], log: JsonlLog | None = None) -> tuple[GreedyEvaluator, Scripted]:
    pool = Scripted({t.example.id: t for t in trajectories})
    posts = [t.example for t in trajectories]
    return GreedyEvaluator(pool, posts, share_named, **PIXELS, trajectory_log=log), pool


async def test_scores_of_all_posts_and_of_slices_come_with_search_rates() -> None:
    once, twice = TextSearch(("who",)), ImageSearch(("face", "again"))
    run, pool = evaluator(
        [
            answered(KNOWN, "known"),
            answered(UNKNOWN, "wrong", [once, twice]),
            answered(AMBIGUOUS, "ambiguous", [once]),
            answered(UNTAGGED, "wrong"),
        ]
    )
    metrics = await run.evaluate(7)
    assert pool.asked == [(name, True, 1) for name in ("known", "unknown", "ambiguous", "untagged")]
    expected = {
        "eval/posts": 4.0,
        "eval/answered": 1.0,
        "eval/gmner_f1": 0.5,
        "eval/gmner_f1_unseen": 0.0,
        "eval/search_episodes": 0.5,
        "eval/search_per_episode": 0.75,
        "eval/search_text": 0.5,
        "eval/search_image": 0.25,
        "eval/search_on_unknown": 1.0,
        "eval/search_on_known": 0.0,
        "eval/search_no_result": 0.0,
        "eval/search_failed": 0.0,
        "eval/search_latency_s": 0.5,
    }
    assert metrics == expected


async def test_an_episode_without_an_answer_counts_as_an_empty_one() -> None:
    run, _ = evaluator([malformed(KNOWN), answered(UNKNOWN, "unknown")])
    metrics = await run.evaluate(0)
    assert (metrics["eval/gmner_f1"], metrics["eval/answered"], metrics["eval/posts"]) == (0.5, 0.5, 2.0)


async def test_a_slice_without_posts_has_no_metric_rather_than_a_made_up_one() -> None:
    run, _ = evaluator([answered(UNTAGGED, "untagged")])
    metrics = await run.evaluate(0)
    assert metrics["eval/gmner_f1"] == 1.0
    assert not {"eval/gmner_f1_unseen", "eval/search_on_unknown"} & set(metrics)


async def test_every_post_is_logged_and_shown(tmp_path: Path) -> None:
    log = JsonlLog(tmp_path / "eval.jsonl", resume_after=None)
    pool = Scripted({t.example.id: t for t in (malformed(KNOWN), answered(UNKNOWN, "unknown"))})
    shown: list[tuple[int, int]] = []
    run = GreedyEvaluator(
        pool,
        [KNOWN, UNKNOWN],
        share_named,
        **PIXELS,
        trajectory_log=log,
        on_post=lambda done, total: shown.append((done, total)),
    )
    await run.evaluate(3)
    written = [json.loads(line) for line in log.path.read_text().split("\n")[:-1]]
    assert [(row["step"], row["kind"], row["example"]) for row in written] == [
        (3, "eval", "known"),
        (3, "eval", "unknown"),
    ]
    assert shown == [(1, 2), (2, 2)]


async def test_one_post_that_fails_ends_the_evaluation_and_leaves_no_half_of_it(tmp_path: Path) -> None:
    log = JsonlLog(tmp_path / "eval.jsonl", resume_after=None)
    pool = Scripted({KNOWN.id: answered(KNOWN, "known")})
    run = GreedyEvaluator(pool, [KNOWN, UNKNOWN], share_named, **PIXELS, trajectory_log=log)
    with pytest.RaisesGroup(KeyError):
        await run.evaluate(3)
    assert log.path.read_text() == ""


def test_boxes_come_back_in_original_pixels() -> None:
    """A 400 x 200 picture is seen at 20 x 10: a predicted pixel is 20 original ones; no box stays no box."""
    post = Example("p", "text", ImageRef("p.png", 400, 200), ())
    trajectory = Trajectory("t", post)
    entities = (PredictedEntity("Ada", "PER", (1.0, 2.0, 10.0, 10.0)), PredictedEntity("Rome", "LOC", None))
    trajectory.turns.append(Turn("answer", Answer(entities)))
    trajectory.finish(StopReason.ANSWER)
    assert predictions(trajectory, min_pixels=1, max_pixels=200) == [
        Prediction("Ada", "PER", Box(20, 40, 200, 200)),
        Prediction("Rome", "LOC", None),
    ]
