"""Trajectories through JSON and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.trajectory import Segment, Trajectory, Turn
from sake_ray.trajectory_json import from_json, to_json
from sake_ray.types import (
    Answer,
    Box,
    Completion,
    Example,
    ImageRef,
    ImageSearch,
    Malformed,
    Observation,
    PredictedEntity,
    QueryResult,
    Reward,
    SearchFailure,
    SearchKind,
    StopReason,
    TextSearch,
)

POST = Example("p", "a post", ImageRef("p.png", 10, 10), ())
WORDS = st.text(max_size=8)
IMAGES = st.one_of(
    st.builds(ImageRef, st.just(""), st.just(3), st.just(4), data=st.binary(max_size=9)),
    st.builds(ImageRef, st.just(""), st.just(3), st.just(4), standin=st.just(((Box(0, 1, 2, 3), "PER x"),))),
)
RESULTS = st.builds(
    QueryResult, WORDS, st.sampled_from(["success", "failed"]), WORDS, st.lists(IMAGES, max_size=2).map(tuple),
    st.booleans(), st.none() | st.sampled_from(SearchFailure),
)  # fmt: skip
SEEN = st.builds(Observation, st.sampled_from(SearchKind), st.lists(RESULTS, max_size=2).map(tuple), st.floats(0, 9))
BOXES = st.none() | st.tuples(*[st.floats(0, 99)] * 4)
ACTIONS = st.one_of(
    st.builds(Answer, st.lists(st.builds(PredictedEntity, WORDS, WORDS, BOXES), max_size=2).map(tuple)),
    st.builds(TextSearch, st.lists(WORDS, max_size=2).map(tuple)),
    st.builds(ImageSearch, st.lists(WORDS, max_size=2).map(tuple)),
    st.builds(Malformed, WORDS),
)
TURNS = st.builds(Turn, WORDS, ACTIONS, st.none() | SEEN, st.floats(0, 9), st.none() | st.floats(0, 9))


@given(
    turns=st.lists(TURNS, max_size=3),
    logprobs=st.lists(st.floats(-50, 0, width=32), min_size=1, max_size=5),
    images=st.lists(IMAGES, max_size=2),
    scored=st.booleans(),
    reason=st.sampled_from(StopReason),
)
def test_what_is_read_is_what_was_written(
    turns: list[Turn], logprobs: list[float], images: list[ImageRef], scored: bool, reason: StopReason
) -> None:
    trajectory = Trajectory("p-1", POST, turns=turns, worker="rollout-0", score_s=0.5)
    trajectory.append_observation(Segment((1, 2), (1, 1, 2), tuple(images)))
    trajectory.append_completion(Completion(tuple(range(len(logprobs))), tuple(logprobs), "x", "stop", 3))
    trajectory.finish(reason)
    trajectory.reward = Reward(0.1, 0.2, 0.3, 0.4, 0.5, 1.0, 2, 0.05) if scored else None
    assert from_json(json.loads(json.dumps(to_json(trajectory))), POST) == trajectory


def test_a_picture_that_is_gone_and_a_row_that_is_none_are_refused(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"x")
    trajectory = Trajectory("p-1", POST, images=[ImageRef(str(picture), 1, 1)], stop_reason=StopReason.ANSWER)
    row: dict[str, Any] = to_json(trajectory)
    assert from_json(row, POST).images[0].path == str(picture)
    picture.unlink()
    with pytest.raises(ValueError, match=r"a\.png is gone"):
        from_json(row, POST)
    for broken in ({}, {**row, "images": [], "stop_reason": "bored"}, {**row, "images": [], "turns": [{}]}):
        with pytest.raises(ValueError):
            from_json(broken, POST)
