"""What a run wrote of its trajectories scores as the trajectories themselves did; a row that tells less is refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.episode import EpisodeLimits
from rewards.composite import PaperRule, ReleaseRule, Scorer
from rewards.rows import is_row, read_row
from sake_ray.data.problems import FieldError
from sake_ray.metrics import trajectory_rows
from sake_ray.trajectory import Trajectory, TrajectoryGroup
from sake_ray.types import Box, Entity
from tests.rewards.episodes import BOXES, episode_texts, gold_entities, played

PIXELS = {"min_pixels": 100 * 100, "max_pixels": 100 * 100}
TEXT = '<reason>r</reason><text_search>["a", "b", "c", "d", "e", "f"]</text_search>'
ANSWER = '<reason>r</reason><answer>[{"entity": "Ada", "type": "PER", "box2d": [20, 0, 40, 30]}]</answer>'
ADA = Entity("Ada", "PER", (Box(40, 0, 80, 60),))


def written(trajectory: Trajectory) -> dict[str, Any]:
    (row,) = trajectory_rows([TrajectoryGroup(trajectory.example, [trajectory])], 3, "train")
    read: dict[str, Any] = json.loads(json.dumps(row))
    return read


@settings(max_examples=60)
@given(texts=episode_texts, entities=gold_entities(), room=st.sampled_from([10_000, 60, 60]), odd=st.booleans())
def test_a_row_scores_as_its_trajectory(
    texts: tuple[str, ...], entities: tuple[Entity, ...], room: int, odd: bool
) -> None:
    if odd:  # mentions that differ in what they show, which gold in rows of one box could not tell apart
        entities = (*entities, Entity("Ada", "PER", (BOXES[1],)), Entity("Ada", "PER", (BOXES[0],)))
    trajectory = played(texts, entities, room)
    row = written(trajectory)
    assert is_row(row)
    for rule in (PaperRule(gamma=0.0), PaperRule(mode="MultiEM"), ReleaseRule(use_search_count_penalty=True)):
        scorer = Scorer(rule, **PIXELS)
        assert scorer.score(read_row(row)) == scorer.score(trajectory)


def test_the_limits_of_the_run_hold_not_those_of_this_reader() -> None:
    limits = EpisodeLimits(max_turns=4, text_searches=3, max_queries=6)
    trajectory = played([TEXT, TEXT, TEXT, ANSWER], (ADA,), limits=limits)
    reward = Scorer(PaperRule(), **PIXELS).score(read_row(written(trajectory)))
    assert reward == Scorer(PaperRule(), **PIXELS).score(trajectory)
    assert (reward.f1, reward.format, reward.searches) == (1.0, 1.0, 3)


ROW = written(played([TEXT.replace(', "f"', ""), ANSWER], (ADA,)))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("image_size",), None, "image_size: is null"),
        (("image_size",), [0, 3], "image_size: 0 x 3 is no image size"),
        (("gold",), {}, "gold: must be a list, not an object"),
        (("gold", 0, "entity"), 3, r"gold\[0\].entity: must be text, not a number"),
        (("gold", 0, "boxes", 0), [0, 0, 999, 9], r"gold\[0\].boxes\[0\]: box .* outside"),
        (("gold", 0, "boxes", 0), [], r"gold\[0\].boxes: holds an empty box"),
        (("turns", 1), "text", r"turns\[1\]: must be an object, not text"),
        (("turns", 1, "text"), None, r"turns\[1\].text: must be text, not nothing"),
        (("turns", 1, "results"), [], r"turns\[1\].results: are those of a search, but the text is none"),
        (("stop_reason",), "bored", "stop_reason: 'bored' is not one of answer, malformed"),
        (("stop_reason",), ["answer"], "stop_reason: .* is not one of"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(path: tuple[str | int, ...], value: object, message: str) -> None:
    row = copy.deepcopy(ROW)
    target: Any = row
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(FieldError, match=message):
        read_row(row)


@pytest.mark.parametrize("name", ["image_size", "gold", "turns", "id", "example", "stop_reason"])
def test_a_row_that_lacks_what_scoring_needs_is_refused(name: str) -> None:
    with pytest.raises(FieldError, match=f"{name}: .*(is missing|is not one of)"):
        read_row({key: value for key, value in ROW.items() if key != name})
