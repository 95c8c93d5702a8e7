"""A teacher's episodes, played by the real loop over a real MiniWorld with its real search tool.

What would go unseen otherwise: a cold start that teaches needless searches, answers in another form than the base
model learnt, boxes in pixels of another picture, words that are no tokens of a policy's turn, or episodes that the
reward would not even pay.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import sake_ray
from envs.episode import EpisodeLimits
from envs.replay import replay
from envs.taught_episode import cut_at_stop, teach
from envs.tools.base import ToolClient
from envs.tools.registry import make_tool
from rewards.composite import Scorer
from sake_ray.actions import parse_action
from sake_ray.coldstart.briefs import make_briefs
from sake_ray.coldstart.checker import CheckRules, check
from sake_ray.coldstart.teacher import ScriptedTeacher
from sake_ray.coldstart.teaching import Brief, Demonstration, Need, TaughtTurn, Teacher, TeacherError
from sake_ray.config import RewardConfig, SearchConfig
from sake_ray.data.codec import ChatCodec
from sake_ray.data.collate import TrainSample
from sake_ray.data.loading import load_split
from sake_ray.data.miniworld import SIDE, Mark, WorldEntity
from sake_ray.data.miniworld_files import WorldSpec, ensure_world, world_posts
from sake_ray.data.miniworld_texts import answer, reasoning
from sake_ray.prompts import load_prompts
from sake_ray.trajectory import Trajectory
from sake_ray.types import Answer, Box, Entity, Example, ImageRef, ImageSearch, StopReason, TextSearch

SPEC = WorldSpec(seed=1, known=12, long_tail=20, unseen=4, train_posts=24, dev_posts=1, test_posts=1)
MODEL = Path(sake_ray.__file__).parent / "assets" / "mini_base"
PIXELS = {"min_pixels": SIDE * SIDE, "max_pixels": SIDE * SIDE}
TWICE_AS_WIDE = {"min_pixels": 4 * SIDE * SIDE, "max_pixels": 4 * SIDE * SIDE}


class Reciter:
    """A teacher that says what it was given, and notes what it was shown."""

    name = "reciter"

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.shown: list[tuple[TaughtTurn, ...]] = []
        self.feedback: list[str] = []

    async def write_turn(self, brief: Brief, turns: Sequence[TaughtTurn], feedback: str = "") -> str:
        self.shown.append(tuple(turns))
        self.feedback.append(feedback)
        return self.texts[len(turns)]


class School:
    """A small world, and what is needed to play episodes in it."""

    def __init__(self, folder: Path) -> None:
        root = ensure_world(folder / "world", SPEC)
        posts = load_split(root, "train").examples
        self.briefs = make_briefs(posts, {}, "", tools="text", ambiguous="skip")
        rows = [json.loads(line) for line in (root / "entities.jsonl").read_text().splitlines()]
        self.looks = {row["name"]: row["look"] for row in rows}
        self.articles = {row["name"]: f"{row['name']} is a {row['type']} , a {row['look']}" for row in rows}
        self.search = ToolClient(make_tool(SearchConfig(), default_root=str(root)))
        self.codec = self.codec_for(PIXELS)

    def codec_for(self, pixels: Mapping[str, int]) -> ChatCodec:
        return ChatCodec.from_pretrained(str(MODEL), prompts=load_prompts("gmner", "compact"), **pixels)

    def teach(
        self,
        briefs: Sequence[Brief],
        teacher: Teacher | None = None,
        *,
        pixels: Mapping[str, int] = PIXELS,
        feedback: str = "",
        **limits: int,
    ) -> list[Trajectory]:
        codec = self.codec if pixels is PIXELS else self.codec_for(pixels)
        chosen = teacher or ScriptedTeacher(looks=self.looks, **pixels)

        async def all_of_them() -> list[Trajectory]:
            return [
                await teach(
                    brief,
                    chosen,
                    codec=codec,
                    tokenizer=codec.tokenizer,
                    search=self.search,
                    limits=EpisodeLimits(**limits),
                    trajectory_id=f"t{number}",
                    feedback=feedback,
                )
                for number, brief in enumerate(briefs)
            ]

        return asyncio.run(all_of_them())


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> School:
    return School(tmp_path_factory.mktemp("school"))


@pytest.fixture(scope="module")
def played(school: School) -> list[Trajectory]:
    return school.teach(school.briefs)


@pytest.fixture
def stranger(school: School) -> Brief:
    """A brief with one entity to search for."""
    return next(brief for brief in school.briefs if len(strangers(brief)) == 1)


def strangers(brief: Brief) -> list[str]:
    return [entity.text for entity, need in zip(brief.example.entities, brief.needs, strict=True) if need.text]


# --- the scripted teacher --------------------------------------------------------------------------------


def test_unknown_entities_are_searched_for_and_known_ones_are_not(school: School, played: list[Trajectory]) -> None:
    assert {brief.searches for brief in school.briefs} == {True, False}
    for brief, trajectory in zip(school.briefs, played, strict=True):
        names = strangers(brief)
        asked = [turn.action for turn in trajectory.turns[:-1]]
        assert asked == ([TextSearch(tuple(names))] if names else [])
        for turn in trajectory.turns[:-1]:
            assert turn.observation is not None
            assert [result.text for result in turn.observation.results] == [school.articles[name] for name in names]


@pytest.mark.parametrize("pixels", [PIXELS, TWICE_AS_WIDE], ids=["as drawn", "enlarged"])
def test_its_episodes_pass_the_checker_and_earn_all_there_is_less_the_price_of_a_search(
    school: School, pixels: Mapping[str, int]
) -> None:
    """In original pixels every box is right, whatever size the policy sees the picture at."""
    scorer = Scorer.from_config(RewardConfig(), **pixels)
    briefs = school.briefs[:8]
    for brief, trajectory in zip(briefs, school.teach(briefs, pixels=pixels), strict=True):
        assert check(trajectory, brief, CheckRules(pixels["min_pixels"], pixels["max_pixels"])) == []
        reward = scorer.score(trajectory)
        assert (reward.f1, reward.mner_f1, reward.eeg_f1, reward.format) == (1.0, 1.0, 1.0, 1.0)
        assert reward.total == pytest.approx(0.95 if brief.searches else 1.0)


def test_it_speaks_as_the_base_models_lessons_do(school: School, played: list[Trajectory]) -> None:
    for brief, trajectory, post in zip(school.briefs, played, world_posts(SPEC)[1]["train"], strict=True):
        expected = ([search(post.entities)] if brief.searches else []) + [answer(post.entities)]
        assert [turn.text for turn in trajectory.turns] == expected


def search(entities: Sequence[tuple[WorldEntity, int | None]]) -> str:
    """The turn before it: what is known, who is not, and a text search for those."""
    names = [entity.name for entity, _ in entities if entity.mark is not Mark.KNOWN]
    reasons = [
        reasoning([(entity, cell)]) if entity.mark is Mark.KNOWN else f"{entity.name} unknown"
        for entity, cell in entities
    ]
    queries = json.dumps([{"query": name} for name in names])
    return f"<reason>{' ; '.join(reasons)}</reason><text_search>{queries}</text_search>"


async def test_it_asks_for_pictures_before_texts_and_for_a_name_once() -> None:
    """Real posts repeat names."""
    ada, rome = Entity("Ada", "PER"), Entity("Rome", "LOC", (Box(1, 2, 3, 4), Box(5, 6, 7, 8)))
    example = Example("p", "Ada in Rome with Ada", ImageRef("p.png", SIDE, SIDE), (ada, rome, ada))
    brief = Brief(example, (Need.BOTH, Need.IMAGE, Need.TEXT))
    teacher = ScriptedTeacher(min_pixels=SIDE * SIDE, max_pixels=SIDE * SIDE)
    turns = [TaughtTurn("")] * 2
    actions = [parse_action(await teacher.write_turn(brief, turns[:number])) for number in range(3)]
    assert actions[:2] == [ImageSearch(("Ada", "Rome")), TextSearch(("Ada",))]
    assert isinstance(actions[2], Answer)
    said = [(entity.text, entity.box) for entity in actions[2].entities]
    assert said == [("Ada", None), ("Rome", (1.0, 2.0, 3.0, 4.0)), ("Ada", None)]


# --- what becomes of a teacher's words -------------------------------------------------------------------


def test_only_the_teachers_words_are_learnt(school: School, played: list[Trajectory]) -> None:
    for trajectory in played:
        trajectory.advantage = 0.0
        sample = TrainSample.of(trajectory)
        learnt = school.codec.tokenizer.decode(sample.token_ids[sample.loss_mask])
        assert learnt == "".join(turn.text for turn in trajectory.turns)


async def test_what_was_played_is_what_is_replayed(school: School, played: list[Trajectory]) -> None:
    for brief, trajectory in zip(school.briefs[:6], played, strict=False):
        turns = tuple(TaughtTurn(turn.text, turn.observation) for turn in trajectory.turns)
        again = await replay(
            Demonstration(brief.example, brief.needs, turns), codec=school.codec, limits=EpisodeLimits()
        )
        assert (again.token_ids, again.loss_mask) == (trajectory.token_ids, trajectory.loss_mask)


ASK = '<reason>who ?</reason><text_search>[{"query": "NAME"}]</text_search>'
SAY = "<reason>nobody</reason><answer>[]</answer>"


def test_the_teacher_is_shown_what_its_searches_found_and_why_it_was_rejected(school: School, stranger: Brief) -> None:
    (name,) = strangers(stranger)
    ask = ASK.replace("NAME", name)
    teacher = Reciter(ask, SAY)
    school.teach([stranger], teacher, feedback="Oslo is a city")
    assert teacher.feedback == ["Oslo is a city"] * 2
    first, second = teacher.shown
    assert first == ()
    assert second[0].text == ask
    assert second[0].observation is not None
    assert second[0].observation.results[0].text == school.articles[name]


def test_a_turn_is_cut_where_an_engine_would_have_stopped(school: School, stranger: Brief) -> None:
    (trajectory,) = school.teach([stranger], Reciter(f"\n {SAY}\nI hope that helps ! <answer>[]</answer>"))
    assert trajectory.stop_reason is StopReason.ANSWER
    assert [turn.text for turn in trajectory.turns] == [SAY]
    assert cut_at_stop("a</text_search>b</answer>") == "a</text_search>"
    assert cut_at_stop("no action") == "no action"


def test_a_turn_that_is_too_long_ends_the_episode_as_an_engines_would(school: School, stranger: Brief) -> None:
    (trajectory,) = school.teach([stranger], max_turn_tokens=8)
    assert trajectory.stop_reason is StopReason.TRUNCATED
    assert trajectory.trained_tokens == 8
    (trajectory,) = school.teach([stranger], text_searches=0)
    assert trajectory.stop_reason is StopReason.SEARCH_LIMIT


@pytest.mark.parametrize("word", ["<|im_end|>", "<|image_pad|>", "<|any_mark|>", "\ud83d"])
def test_a_turn_with_words_that_no_turn_may_hold_is_no_turn(school: School, stranger: Brief, word: str) -> None:
    with pytest.raises(TeacherError, match="the turn holds"):
        school.teach([stranger], Reciter(SAY.replace("nobody", word)))


def test_a_teachers_own_refusal_goes_through(school: School, stranger: Brief) -> None:
    class Silent(Reciter):
        async def write_turn(self, *_: Any, **__: Any) -> str:
            raise TeacherError("no answer in time")

    with pytest.raises(TeacherError, match="no answer in time"):
        school.teach([stranger], Silent())
