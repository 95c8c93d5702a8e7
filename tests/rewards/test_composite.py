"""The two rewards: the paper's formula part by part, the released behaviour by its golden vectors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.cases import read_case
from rewards.composite import PaperRule, ReleaseRule, Scorer, ScoringError, Sizes, gold_rows, rule_of
from sake_ray.config import RewardConfig
from sake_ray.trajectory import Trajectory, Turn
from sake_ray.types import (
    Action,
    Answer,
    Box,
    Entity,
    Example,
    ImageRef,
    ImageSearch,
    Malformed,
    Observation,
    PredictedEntity,
    SearchKind,
    StopReason,
    TextSearch,
)
from tests.rewards.episodes import episode_texts, gold_entities, played

PIXELS = {"min_pixels": 100 * 100, "max_pixels": 100 * 100}
SEEN = Observation(SearchKind.TEXT, ())
GOLD = (Entity("Ada", "PER", (Box(0, 0, 100, 100), Box(100, 100, 200, 200))), Entity("Rome", "LOC"))
RIGHT = Answer((PredictedEntity("rome", "LOC", None), PredictedEntity("ADA", "PER", (50.0, 50.0, 100.0, 100.0))))


def trajectory(*turns: tuple[Action, Observation | None], stop: StopReason = StopReason.ANSWER) -> Trajectory:
    example = Example("post-7", "Ada in Rome", ImageRef("", 200, 200), GOLD)
    record = Trajectory("post-7/3", example)
    record.turns.extend(Turn(text_of(action), action, seen) for action, seen in turns)
    record.finish(stop)
    return record


def text_of(action: Action) -> str:
    match action:
        case Answer(entities):
            items = [{"entity": e.text, "type": e.type, "box2d": list(e.box or [])} for e in entities]
            return f"<reason>r</reason><answer>{json.dumps(items)}</answer>"
        case TextSearch(queries) | ImageSearch(queries):
            tag = "text_search" if isinstance(action, TextSearch) else "image_search"
            return f"<reason>r</reason><{tag}>{json.dumps([{'query': q} for q in queries])}</{tag}>"
        case Malformed():
            return "no tags at all"


def test_a_right_answer_after_two_searches_in_either_order() -> None:
    scorer = Scorer(PaperRule(search_weight=0.05), **PIXELS)
    text, image = (TextSearch(("a",)), SEEN), (ImageSearch(("b",)), SEEN)
    for first, second in ((text, image), (image, text)):
        reward = scorer.score(trajectory(first, second, (RIGHT, None)))
        assert reward.total == pytest.approx(0.9 + 0.1 - 0.1)
        assert dataclasses.astuple(reward)[1:] == (1.0, 1.0, 1.0, 1.0, 1.0, 2, 0.1)


def test_searching_costs_nothing_when_the_answer_was_wrong() -> None:
    wrong = Answer((PredictedEntity("Ada", "ORG", None),))
    reward = Scorer(PaperRule(), **PIXELS).score(trajectory((TextSearch(("a",)), SEEN), (wrong, None)))
    assert (reward.total, reward.f1, reward.format, reward.searches, reward.retrieval_penalty) == (
        0.1,
        0.0,
        1.0,
        1,
        0.0,
    )


def test_boxes_are_scored_in_original_pixels() -> None:
    # The policy saw 100 x 100 of 200 x 200: (50, 50, 100, 100) there is the second gold box.
    unscaled = Answer((RIGHT.entities[0], dataclasses.replace(RIGHT.entities[1], box=(100.0, 100.0, 200.0, 200.0))))
    scorer = Scorer(PaperRule(), **PIXELS)
    assert scorer.score(trajectory((RIGHT, None))).gmner_f1 == 1.0
    assert scorer.score(trajectory((unscaled, None))).gmner_f1 == 0.5


@pytest.mark.parametrize(
    ("action", "stop"),
    [
        (Malformed("bad_json"), StopReason.MALFORMED),
        (Malformed("no_action"), StopReason.TRUNCATED),
        (TextSearch(("a",)), StopReason.SEARCH_LIMIT),
        (ImageSearch(("a",)), StopReason.TURN_LIMIT),
    ],
)
def test_an_episode_without_an_answer_is_worth_nothing(action: Action, stop: StopReason) -> None:
    reward = Scorer(PaperRule(), **PIXELS).score(trajectory((TextSearch(("a",)), SEEN), (action, None), stop=stop))
    assert (reward.total, reward.mner_f1, reward.format) == (0.0, 0.0, 0.0)
    assert reward.searches == 1  # a search that was refused was not run


@given(st.permutations(range(4)))
def test_the_paper_reward_does_not_depend_on_the_order_of_the_answer(order: list[int]) -> None:
    entities = (
        *RIGHT.entities,
        PredictedEntity("Ada", "PER", (0.0, 0.0, 50.0, 50.0)),
        PredictedEntity("Ada", "PER", None),
    )
    mixed = Answer(tuple(entities[i] for i in order))
    # Two of the claims fit the one gold entity "Ada", so one of them is too many: 2 of 4 claims, 2 of 2 entities.
    assert Scorer(PaperRule(), **PIXELS).score(trajectory((mixed, None))).gmner_f1 == pytest.approx(2 / 3)


@settings(max_examples=150)
@given(texts=episode_texts, entities=gold_entities(), room=st.sampled_from([10_000, 60, 60, 60]))
def test_raw_turns_score_as_the_episode_they_came_from(
    texts: tuple[str, ...], entities: tuple[Entity, ...], room: int
) -> None:
    """What `launch/score.py preset=paper` says of saved turns is what training said, whatever a policy wrote."""
    episode = played(texts, entities, room)
    rows = [row for entity in entities for row in gold_rows(entity)]
    turns = [turn.text for turn in episode.turns]
    for mode in ("EM", "MultiEM"):
        rule = PaperRule(mode=mode, gamma=0.0)  # so that each search counts
        assert rule.score_responses(turns, rows, Sizes((100, 100), (200, 200))) == Scorer(rule, **PIXELS).score(episode)


def test_two_mentions_answered_twice_are_right() -> None:
    twice = (Entity("Ada", "PER"), Entity("Ada", "PER"))
    answer = text_of(Answer(tuple(PredictedEntity("Ada", "PER", None) for _ in twice)))
    rows = [row for entity in twice for row in gold_rows(entity)]
    assert PaperRule().score_responses([answer], rows).f1 == 1.0


def test_the_release_takes_each_gold_box_for_an_entity() -> None:
    reward = Scorer(ReleaseRule(), **PIXELS).score(trajectory((RIGHT, None)))
    assert reward.gmner_f1 == pytest.approx(0.8)  # 2 of 2 claims, 2 of 3 rows
    assert reward.total == pytest.approx(0.9 * 0.8 + 0.1)


def test_a_crash_names_the_trajectory() -> None:
    scorer = Scorer(ReleaseRule(), **PIXELS)
    four_turns = trajectory(*[(TextSearch(("a",)), SEEN)] * 3, (RIGHT, None))
    with pytest.raises(ScoringError, match=r"post-7/3 \(post post-7\): 4 responses"):
        scorer.score_batch([trajectory((RIGHT, None)), four_turns])
    unfinished = Trajectory("post-7/4", four_turns.example)
    with pytest.raises(ScoringError, match=r"post-7/4 .*has not ended"):
        scorer.score(unfinished)


def test_the_configuration_gives_the_rule() -> None:
    assert rule_of(RewardConfig()) == PaperRule()
    release = RewardConfig(preset="release", mode="MultiEM", f1_weight=0.8, format_weight=0.2)
    assert rule_of(release) == ReleaseRule(mode="MultiEM", format_penalty=0.2)
    weights = RewardConfig(preset="release", mner_weight=0.1, eeg_weight=0.2, gmner_weight=0.7)
    flagged = dataclasses.replace(weights, use_search_count_penalty=True)
    assert rule_of(flagged) == ReleaseRule(use_search_count_penalty=True, mix=(0.1, 0.2, 0.7))
    assert rule_of(dataclasses.replace(weights, preset="paper")) == PaperRule(mix=(0.1, 0.2, 0.7))
    with pytest.raises(ValueError, match=r"use_search_count_penalty=true.*search_weight"):
        rule_of(RewardConfig(use_search_count_penalty=True))
    with pytest.raises(ValueError, match=r"reward.f1_weight=0.5 .* add up to 1"):
        rule_of(RewardConfig(preset="release", f1_weight=0.5))


def test_no_setting_of_the_reward_is_dead() -> None:
    other = {"preset": "release", "mode": "MultiEM", "use_search_count_penalty": True}
    for field in dataclasses.fields(RewardConfig):
        if field.name in ("workers", "cpus_per_worker"):
            continue
        changed: dict[str, Any] = {field.name: other.get(field.name, 0.75)}
        base = RewardConfig(preset="release" if field.name == "use_search_count_penalty" else "paper")
        assert rule_of(dataclasses.replace(base, **changed)) != rule_of(base), field.name


def test_release_equals_the_golden_vectors(shared: Path) -> None:
    cases = json.loads((shared / "golden" / "reward_cases.json").read_text(encoding="utf-8"))
    names = {"mner_f1_score": "mner_f1", "eeg_f1_score": "eeg_f1", "gmner_f1_score": "gmner_f1"}
    names |= {"score": "total", "format": "format", "search_count": "searches"}
    compared = 0
    for index, case in enumerate(cases):
        reward = dataclasses.asdict(read_case(case, "release").score())
        for field, value in case["expected"].items():
            if field != "error":
                assert abs(reward[names[field]] - value) <= 1e-9, (index, field)
                compared += 1
    assert compared == 7_184
