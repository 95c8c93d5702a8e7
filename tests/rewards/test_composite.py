"""The two rewards: the paper's formula part by part, the released behaviour by its golden vectors."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.episode import EpisodeLimits, run_episode
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
from tests.envs.test_episode import PadCodec, PictureSearch, ScriptedPolicy

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


BOXES = [Box(40 * i, 0, 40 * i + 40, 60) for i in range(3)]
_types = st.sampled_from(["PER", "LOC"])


@st.composite
def gold_entities(draw: st.DrawFn) -> tuple[Entity, ...]:
    """Mentions, some of one text and type: what one of those shows, the next shows too or shows less of."""
    found = []
    for name in draw(st.lists(st.tuples(st.sampled_from(["Ada", "Rome"]), _types), unique=True, max_size=2)):
        found += [Entity(*name, tuple(BOXES[:count])) for count in draw(st.lists(st.integers(0, 3), max_size=3))]
    return tuple(draw(st.permutations(found)))


def mostly(usual: st.SearchStrategy[str], *odd: str) -> st.SearchStrategy[str]:
    return st.integers(0, 9).flatmap(lambda draw: st.sampled_from(odd) if draw == 0 else usual)


_claims = st.fixed_dictionaries(
    {
        "entity": st.sampled_from(["Ada", " ada", "Rome"]),
        "type": _types,
        "box2d": st.sampled_from([[], [0, 0, 20, 30], [20.5, 0, 40, 29.9]]),
    }
)
_answers = mostly(
    st.lists(_claims, min_size=1, max_size=4).map(json.dumps),
    *(f'[{{"entity": "Ada", "type": "PER", "box2d": {box}}}]' for box in ("[1e9, 0, 1, 1]", "[1]", "null", "[NaN]")),
    '[{"entity": " ", "type": "PER", "box2d": []}]', '[{"entity": "Ada"}]', "[]", "{}", "[",
)  # fmt: skip
_queries = mostly(
    st.sampled_from(['[{"query": "a"}]', '["Ada"]', '[{"q": "a"}]']),
    '[{"query": " "}]', "[]", '"a"', '["a", "b", "c", "d", "e", "f"]', '[{"query": 1}]',
)  # fmt: skip


def turn(tag: str) -> st.SearchStrategy[str]:
    body = _answers if tag == "answer" else _queries
    reason = mostly(st.just("<reason>r</reason>"), "", "so <reason>r</reason>", "<reason>r", "<reason>r</reason>" * 2)
    words = mostly(st.just(""), " so ", "<answer>[]</answer>", '<text_search>["b"]</text_search>')
    end = mostly(st.just(""), "\n", "done", "<answer>[]</answer>")
    return st.builds(lambda r, w, b, e: f"{r}{w}<{tag}>{b}</{tag}>{e}", reason, words, body, end)


_searches = st.lists(st.sampled_from(["text_search", "image_search"]), max_size=2)
_texts = _searches.flatmap(lambda tags: st.tuples(*map(turn, [*tags, "answer", "answer", "answer"][:3])))


@settings(max_examples=200)
@given(texts=_texts, entities=gold_entities(), room=st.sampled_from([10_000, 60, 60, 60]))
def test_raw_turns_score_as_the_episode_they_came_from(
    texts: tuple[str, ...], entities: tuple[Entity, ...], room: int
) -> None:
    """What `launch/score.py preset=paper` says of saved turns is what training said, whatever a policy wrote."""
    episode = asyncio.run(
        run_episode(
            Example("post", "words", ImageRef("", 200, 200), entities),
            policy=ScriptedPolicy(*texts),
            codec=PadCodec(answer=room),
            search=PictureSearch(),
            limits=EpisodeLimits(max_tokens=2_000),
            seed=0,
            trajectory_id="t",
        )
    )
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
