"""From tags to what a teacher must search for.

What would go unseen otherwise: a known entity that is taught to be searched for, an unknown one that is not, or posts
that RL should explore taught away.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.coldstart.briefs import draw, make_briefs
from sake_ray.coldstart.difficulty import EntityTag
from sake_ray.coldstart.teaching import Brief, Need
from sake_ray.data.problems import DataError
from sake_ray.types import Example
from tests.sake_ray.coldstart.posts import ADA, AMBIGUOUS, KNOWN, OSLO, UNKNOWN, post, tags_of

EntityTags = tuple[EntityTag, ...]

NONE, TEXT, IMAGE, BOTH = Need.NONE, Need.TEXT, Need.IMAGE, Need.BOTH
RIGHT, ONCE = EntityTag(2, 2, 2, 2), EntityTag(2, 1, 1, 1)
NO_TYPE, NO_BOX, NEITHER, HALVES = (
    EntityTag(2, 0, 1, 0),
    EntityTag(2, 1, 0, 0),
    EntityTag(2, 0, 0, 0),
    EntityTag(2, 1, 1, 0),
)


def tagged(*tags: EntityTag, name: str = "p1") -> tuple[Example, EntityTags]:
    entities = [replace(ADA, text=f"Ada{at}", difficulty=tag.difficulty) for at, tag in enumerate(tags)]
    return post(*entities, name=name), tags


def briefs_of(*posts: tuple[Example, EntityTags], tools: str = "tags", ambiguous: str = "skip") -> list[Brief]:
    tags = {example.id: tags_of(example, *found) for example, found in posts}
    return make_briefs([example for example, _ in posts], tags, "tags.jsonl", tools=tools, ambiguous=ambiguous)


def needs(*tags: EntityTag, tools: str = "tags", ambiguous: str = "skip") -> tuple[Need, ...] | None:
    found = briefs_of(tagged(*tags), tools=tools, ambiguous=ambiguous)
    return found[0].needs if found else None


def test_tags_name_the_tools() -> None:
    assert needs(NO_TYPE, NO_BOX, NEITHER, RIGHT) == (TEXT, IMAGE, BOTH, NONE)
    assert needs(HALVES) == (BOTH,)  # unknown, though each half was hit once


@pytest.mark.parametrize(("tools", "need"), [("text", TEXT), ("image", IMAGE)])
def test_or_it_is_always_the_same_tool(tools: str, need: Need) -> None:
    assert needs(NO_TYPE, NO_BOX, RIGHT, tools=tools) == (need, need, NONE)


def test_an_ambiguous_post_is_left_to_rl_or_taught_either_way() -> None:
    assert needs(RIGHT, ONCE) is None
    assert needs(RIGHT, ONCE, ambiguous="search", tools="text") == (NONE, TEXT)
    assert needs(RIGHT, ONCE, ambiguous="search") == (NONE, BOTH)  # its halves were hit: no tag names a tool
    assert needs(RIGHT, ONCE, ambiguous="answer") == (NONE, NONE)


def test_beside_an_unknown_entity_an_ambiguous_one_is_free() -> None:
    for ambiguous, free, second in (
        ("skip", frozenset({1}), NONE),
        ("search", frozenset(), BOTH),
        ("answer", frozenset(), NONE),
    ):
        (brief,) = briefs_of(tagged(NEITHER, ONCE, RIGHT), ambiguous=ambiguous)
        assert (brief.needs, brief.free) == ((BOTH, second, NONE), free)


def test_posts_without_a_difficulty_are_left_out_and_those_without_entities_are_not() -> None:
    half = post(replace(ADA, difficulty=UNKNOWN), OSLO)
    assert make_briefs([post(ADA), half], {}, "", tools="tags", ambiguous="search") == []
    (brief,) = make_briefs([post()], {}, "", tools="tags", ambiguous="skip")
    assert not brief.searches


def test_a_data_sets_own_marks_do_without_tags() -> None:
    marked = post(*(replace(ADA, difficulty=mark) for mark in (KNOWN, UNKNOWN, AMBIGUOUS)))
    (brief,) = make_briefs([marked], {}, "", tools="tags", ambiguous="skip")
    assert (brief.needs, brief.free) == ((NONE, BOTH, NONE), frozenset({2}))


def test_tags_of_other_gold_are_refused() -> None:
    example, tags = tagged(NEITHER)
    other = post(replace(OSLO, difficulty=UNKNOWN))
    with pytest.raises(DataError, match="the tags of post p1"):
        make_briefs([other], {"p1": tags_of(example, *tags)}, "tags.jsonl", tools="text", ambiguous="skip")


def test_a_brief_has_a_need_an_entity() -> None:
    with pytest.raises(ValueError, match="post p1: 1 needs for 2 entities"):
        Brief(post(ADA, OSLO), (NONE,))


def test_posts_are_drawn_by_seed_and_none_twice() -> None:
    briefs = briefs_of(*(tagged(NEITHER, name=f"p{number}") for number in range(20)))
    few = draw(briefs, 7, seed=0)
    assert few == draw(briefs, 7, seed=0) == draw(briefs, 0, seed=0)[:7]
    assert few != draw(briefs, 7, seed=1)
    assert sorted(brief.example.id for brief in draw(briefs, 0, seed=0)) == sorted(brief.example.id for brief in briefs)


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from([0.25, 0.5, 0.8, 1.0]))
def test_a_mix_of_searches_and_direct_answers_is_as_asked_for(searching: int, direct: int, share: float) -> None:
    example, _ = tagged(RIGHT)
    briefs = [Brief(replace(example, id=f"s{at}"), (Need.TEXT,)) for at in range(searching)]
    briefs += [Brief(replace(example, id=f"d{at}"), (Need.NONE,)) for at in range(direct)]
    made = draw(briefs, 0, 0, share)
    searches = sum(brief.searches for brief in made)
    assert abs(searches - share * len(made)) <= 1
    assert len({brief.example.id for brief in made}) == len(made)
    assert searches == searching or len(made) - searches == direct, "more was left out than the mix needs"
    assert draw(briefs, 0, 0, share) == made
