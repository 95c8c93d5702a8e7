"""The scripted teacher's episodes, played by the real loop over a real MiniWorld with its real search tool.

What would go unseen otherwise: a cold start that teaches needless searches, answers in another form than the base
model learnt, boxes in pixels of another picture, or episodes that the reward would not even pay.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sake_ray
from envs.actions import parse_action
from envs.episode import EpisodeLimits, run_episode
from envs.tools.base import ToolClient
from envs.tools.registry import make_tool
from rewards.composite import Scorer
from sake_ray.coldstart.demonstrations import DemonstrationError, choose_posts, demonstrate, judged, token_batches
from sake_ray.coldstart.teacher import ScriptedTeacher
from sake_ray.config import RewardConfig, SearchConfig
from sake_ray.data.codec import ChatCodec
from sake_ray.data.collate import TrainSample
from sake_ray.data.loading import load_split
from sake_ray.data.miniworld import SIDE, Mark, WorldEntity, make_world
from sake_ray.data.miniworld_files import WorldSpec, ensure_world, world_posts
from sake_ray.data.miniworld_texts import answer, reasoning
from sake_ray.interfaces import PolicyClient
from sake_ray.prompts import load_prompts
from sake_ray.trajectory import Trajectory
from sake_ray.types import Answer, Box, Difficulty, Entity, Example, ImageRef, StopReason, TextSearch

SPEC = WorldSpec(seed=1, known=12, long_tail=20, unseen=4, train_posts=24, dev_posts=1, test_posts=1)
MODEL = Path(sake_ray.__file__).parent / "assets" / "mini_base"
PIXELS = {"min_pixels": SIDE * SIDE, "max_pixels": SIDE * SIDE}
TWICE_AS_WIDE = {"min_pixels": 4 * SIDE * SIDE, "max_pixels": 4 * SIDE * SIDE}


class School:
    """A small world, and what is needed to play episodes in it."""

    def __init__(self, folder: Path) -> None:
        root = ensure_world(folder / "world", SPEC)
        self.posts = load_split(root, "train").examples
        rows = [json.loads(line) for line in (root / "entities.jsonl").read_text().splitlines()]
        self.looks = {row["name"]: row["look"] for row in rows}
        self.articles = {row["name"]: f"{row['name']} is a {row['type']} , a {row['look']}" for row in rows}
        self.search = ToolClient(make_tool(SearchConfig(), default_root=str(root)))
        self.codec = self.codec_for(PIXELS)
        self.ids = itertools.count()

    def codec_for(self, pixels: Mapping[str, int]) -> ChatCodec:
        return ChatCodec.from_pretrained(str(MODEL), prompts=load_prompts("gmner", "compact"), **pixels)

    def demonstrate(
        self, posts: list[Example], *, pixels: Mapping[str, int] = PIXELS, **limits: int
    ) -> list[Trajectory]:
        codec = self.codec if pixels is PIXELS else self.codec_for(pixels)

        async def play(example: Example, policy: PolicyClient) -> Trajectory:
            return await run_episode(
                example,
                policy=policy,
                codec=codec,
                search=self.search,
                limits=EpisodeLimits(**limits),
                seed=0,
                trajectory_id=f"t{next(self.ids)}",
            )

        return asyncio.run(demonstrate(posts, play, codec.tokenizer, looks=self.looks, **pixels))


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> School:
    return School(tmp_path_factory.mktemp("school"))


@pytest.fixture(scope="module")
def played(school: School) -> list[Trajectory]:
    return school.demonstrate(list(school.posts))


def unknown(example: Example) -> list[str]:
    return [entity.text for entity in example.entities if entity.difficulty is Difficulty.UNKNOWN]


def test_unknown_entities_are_searched_for_and_known_ones_are_not(school: School, played: list[Trajectory]) -> None:
    assert {bool(unknown(trajectory.example)) for trajectory in played} == {True, False}
    for trajectory in played:
        names = unknown(trajectory.example)
        asked = [turn.action for turn in trajectory.turns[:-1]]
        assert asked == ([TextSearch(tuple(names))] if names else [])
        for turn in trajectory.turns[:-1]:
            assert turn.observation is not None
            assert [result.text for result in turn.observation.results] == [school.articles[name] for name in names]


@pytest.mark.parametrize("pixels", [PIXELS, TWICE_AS_WIDE], ids=["as drawn", "enlarged"])
def test_a_demonstration_earns_all_there_is_less_the_price_of_its_search(
    school: School, pixels: Mapping[str, int]
) -> None:
    """In original pixels every box is right, whatever size the policy sees the picture at."""
    scorer = Scorer.from_config(RewardConfig(), **pixels)
    for trajectory in school.demonstrate(list(school.posts[:8]), pixels=pixels):
        reward = scorer.score(trajectory)
        assert (reward.f1, reward.mner_f1, reward.eeg_f1, reward.format) == (1.0, 1.0, 1.0, 1.0)
        assert reward.total == pytest.approx(0.95 if unknown(trajectory.example) else 1.0)


def test_the_teacher_speaks_as_the_base_models_lessons_do(school: School, played: list[Trajectory]) -> None:
    for trajectory, post in zip(played, world_posts(SPEC)[1]["train"], strict=True):
        names = unknown(trajectory.example)
        expected = ([search(post.entities)] if names else []) + [answer(post.entities)]
        assert [turn.text for turn in trajectory.turns] == expected


def test_only_the_teachers_words_are_learnt(school: School, played: list[Trajectory]) -> None:
    for trajectory in played:
        trajectory.advantage = 0.0
        sample = TrainSample.of(trajectory)
        learnt = school.codec.tokenizer.decode(sample.token_ids[sample.loss_mask])
        assert learnt == "".join(turn.text for turn in trajectory.turns)


def test_an_entity_named_twice_is_one_query_and_an_untagged_one_none() -> None:
    """Real posts repeat names; an entity whose difficulty nobody measured is answered from what is known."""
    entities = (
        Entity("Ada", "PER", difficulty=Difficulty.UNKNOWN),
        Entity("Rome", "LOC", (Box(1, 2, 3, 4), Box(5, 6, 7, 8))),
        Entity("Ada", "PER", difficulty=Difficulty.UNKNOWN),
    )
    example = Example("p", "Ada in Rome with Ada", ImageRef("p.png", SIDE, SIDE), entities)
    teacher = ScriptedTeacher(example, None, min_pixels=SIDE**2, max_pixels=SIDE**2)
    assert parse_action(teacher.turn_text(0)) == TextSearch(("Ada",))
    said = parse_action(teacher.turn_text(1))
    assert isinstance(said, Answer)
    assert [(e.text, e.box) for e in said.entities] == [("Ada", None), ("Rome", (1.0, 2.0, 3.0, 4.0)), ("Ada", None)]


def test_an_episode_that_does_not_end_in_an_answer_is_named(school: School) -> None:
    """It would otherwise be learnt as if it were a good one."""
    post = next(example for example in school.posts if unknown(example))
    with pytest.raises(DemonstrationError, match=f"{post.id}.*{StopReason.SEARCH_LIMIT}"):
        school.demonstrate([post], text_searches=0)
    with pytest.raises(ValueError, match=rf"{post.id}.*takes \d+ tokens, 8 are left"):
        school.demonstrate([post], max_turn_tokens=8)


def test_posts_are_chosen_by_seed_and_none_twice(school: School) -> None:
    posts = list(school.posts)
    few = choose_posts(posts, 7, seed=0)
    assert few == choose_posts(posts, 7, seed=0) == choose_posts(posts, 0, seed=0)[:7]
    assert few != choose_posts(posts, 7, seed=1)
    assert Counter(post.id for post in choose_posts(posts, 0, seed=0)) == Counter(post.id for post in posts)


def tagged_posts(count: int) -> list[Example]:
    """Every other post names a stranger beside a known entity; the rest name a known one only."""
    known = Entity("Rome", "LOC", (Box(1, 2, 3, 4),), difficulty=Difficulty.KNOWN)
    stranger = Entity("Ada", "PER", difficulty=Difficulty.UNKNOWN)
    image = ImageRef("p.png", SIDE, SIDE)
    return [Example(f"post-{n}", "Ada in Rome", image, (known, stranger) if n % 2 else (known,)) for n in range(count)]


def test_a_teacher_may_search_too_rarely_and_too_often_and_still_answers_gold() -> None:
    posts = tagged_posts(2000)
    assert judged(posts, search_unknown=1.0, search_known=0.0, seed=0) == posts
    made = judged(posts, search_unknown=0.7, search_known=0.2, seed=0)
    assert made == judged(posts, search_unknown=0.7, search_known=0.2, seed=0)
    assert made != judged(posts, search_unknown=0.7, search_known=0.2, seed=1)
    searched = [bool(unknown(post)) for post in made]
    assert sum(searched[1::2]) == pytest.approx(700, abs=60)
    assert sum(searched[0::2]) == pytest.approx(200, abs=60)
    for before, after in zip(posts, made, strict=True):
        assert [(e.text, e.type, e.boxes) for e in after.entities] == [
            (e.text, e.type, e.boxes) for e in before.entities
        ]
        if not unknown(before):
            assert len({entity.difficulty for entity in after.entities}) == 1


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30), budget=st.integers(1, 120), epochs=st.integers(1, 3)
)
def test_every_epoch_takes_every_demonstration_once(lengths: list[int], budget: int, epochs: int) -> None:
    """Batches close as soon as they hold the asked tokens; only an epoch's last one may hold fewer."""
    batches = list(token_batches(lengths, budget, epochs, seed=0))
    assert batches == list(token_batches(lengths, budget, epochs, seed=0))
    rest: list[Any] = list(batches)
    for _ in range(epochs):
        taken: list[int] = []
        while len(taken) < len(lengths):
            batch = rest.pop(0)
            taken += batch
            tokens = [lengths[index] for index in batch]
            assert sum(tokens[:-1]) < budget
            assert sum(tokens) >= budget or len(taken) == len(lengths)
        assert sorted(taken) == list(range(len(lengths)))
    assert not rest


def test_a_search_is_read_as_a_query_a_stranger() -> None:
    world = make_world(0)
    entities = [(world.known[0], 3), (world.unseen[0], None), (world.long_tail[0], 1)]
    assert parse_action(search(entities)) == TextSearch((world.unseen[0].name, world.long_tail[0].name))


def search(entities: Sequence[tuple[WorldEntity, int | None]]) -> str:
    """The turn before it: what is known, who is not, and a text search for those."""
    strangers = [entity.name for entity, _ in entities if entity.mark is not Mark.KNOWN]
    reasons = [
        reasoning([(entity, cell)]) if entity.mark is Mark.KNOWN else f"{entity.name} unknown"
        for entity, cell in entities
    ]
    queries = json.dumps([{"query": name} for name in strangers])
    return f"<reason>{' ; '.join(reasons)}</reason><text_search>{queries}</text_search>"
