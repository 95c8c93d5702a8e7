"""Tags are the released code's to the last entity, and the paper's difficulty follows from the same samples.

What would go unseen otherwise: an entity that is taught to be searched for although the model knows it, or the other
way round, for a rule that is off by one, by a letter's case or by a box at the threshold.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.coldstart.difficulty import EntityTag, Guess, Sample, post_difficulty, tag_entity, tag_post
from sake_ray.coldstart.tag_files import read_samples
from sake_ray.coldstart.teaching import Need
from sake_ray.data.boxes import Quad
from sake_ray.types import Box, Difficulty, Entity
from tests.sake_ray.coldstart.posts import ADA, AMBIGUOUS, KNOWN, OSLO, UNKNOWN, post

BOX, OTHER = (0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 30.0, 30.0)
RIGHT = Guess("Ada", "PER", BOX)

GUESSES = st.builds(
    Guess, st.sampled_from(["Ada", "ada", "Oslo"]), st.sampled_from(["PER", "LOC"]), st.sampled_from([None, BOX, OTHER])
)
SAMPLES = st.lists(st.none() | st.lists(GUESSES, max_size=4), min_size=1, max_size=6)
GOLD = st.sampled_from([(), (BOX,), (BOX, OTHER)])


def ada(*samples: Sample, boxes: tuple[Quad, ...] = (BOX,), n: int | None = None) -> EntityTag:
    return tag_entity("Ada", "PER", boxes, samples, n or len(samples))


def test_equal_to_the_released_tags_in_every_entity(shared: Path) -> None:
    path = shared / "golden" / "search_tag_cases.json"
    expected = [post["expected"] for case in json.loads(path.read_text()) for post in case["posts"]]
    found = [
        [{"is_search": str(t.is_search), "hit_text": t.hit_text, "hit_image": t.hit_image} for t in sampled.tags()]
        for sampled in read_samples(path)
    ]
    assert found == expected
    assert sum(map(len, found)) == 188


@given(samples=SAMPLES, boxes=GOLD)
def test_counts_are_bounded_and_the_two_rules_agree(samples: list[Sample], boxes: tuple[Quad, ...]) -> None:
    tag = ada(*samples, boxes=boxes)
    assert 0 <= tag.hits <= min(tag.hit_text, tag.hit_image) <= max(tag.hit_text, tag.hit_image) <= tag.n
    assert (tag.is_search.text, tag.is_search.image) == (tag.hit_text == 0, tag.hit_image == 0)
    assert (tag.difficulty is UNKNOWN) == (tag.hits == 0)
    assert (tag.difficulty is KNOWN) == (tag.hits == len(samples))
    if tag.difficulty is not UNKNOWN:
        assert tag.is_search is Need.NONE
    assert tag == ada(*reversed(samples), boxes=boxes)


@given(samples=SAMPLES, boxes=GOLD)
def test_an_answer_that_did_not_parse_hits_nothing_and_still_counts(
    samples: list[Sample], boxes: tuple[Quad, ...]
) -> None:
    before, after = ada(*samples, boxes=boxes), ada(*samples, None, boxes=boxes)
    assert after.difficulty is not KNOWN
    assert after.hits == before.hits
    assert after.n == before.n + 1


@given(samples=SAMPLES)
def test_any_of_an_entitys_boxes_will_do(samples: list[Sample]) -> None:
    def at(boxes: tuple[Quad, ...]) -> list[int]:
        return [ada(sample, boxes=boxes).hits for sample in samples]

    assert at((BOX, OTHER)) == [max(pair) for pair in zip(at((BOX,)), at((OTHER,)), strict=True)]


@pytest.mark.parametrize(
    ("guess", "hits"),
    [
        (RIGHT, (1, 1, 1)),
        (replace(RIGHT, text="ada"), (0, 0, 0)),
        (replace(RIGHT, type="LOC"), (0, 1, 0)),
        (replace(RIGHT, box=None), (1, 0, 0)),
        (replace(RIGHT, box=(0.0, 0.0, 10.0, 5.0)), (1, 1, 1)),
        (replace(RIGHT, box=(0.0, 0.0, 10.0, 4.9)), (1, 0, 0)),
        (replace(RIGHT, box=(10.0, 10.0, 0.0, 0.0)), (1, 0, 0)),
    ],
    ids=["right", "case", "type", "not visible", "IoU at 0.5", "IoU below", "corners swapped"],
)
def test_what_a_guess_hits(guess: Guess, hits: tuple[int, int, int]) -> None:
    tag = ada([guess])
    assert (tag.hit_text, tag.hit_image, tag.hits) == hits


def test_saying_it_often_in_one_answer_is_capped_and_does_not_make_it_known() -> None:
    """The released counts are over all predicted entities; the paper's is over samples."""
    tag = ada([RIGHT] * 5, [], [])
    assert (tag.hit_text, tag.hit_image, tag.hits, tag.difficulty) == (3, 3, 1, AMBIGUOUS)


def test_halves_from_different_guesses_are_not_the_whole() -> None:
    tag = ada([replace(RIGHT, box=OTHER), replace(RIGHT, type="LOC")])
    assert (tag.is_search, tag.difficulty) == (Need.NONE, UNKNOWN)


def test_an_entity_that_is_not_visible_is_matched_by_saying_so() -> None:
    assert ada([replace(RIGHT, box=None)], boxes=()).difficulty is KNOWN
    assert ada([RIGHT], boxes=()).is_search is Need.IMAGE


def test_a_post_has_a_tag_an_entity_in_order() -> None:
    example = post(ADA, replace(OSLO, text="Rome"), ADA)
    tags = tag_post(example, [[Guess("Ada", "PER", (1.0, 2.0, 30.0, 40.0))]], 1)
    assert [tag.difficulty for tag in tags] == [KNOWN, UNKNOWN, KNOWN]
    assert tag_post(post(Entity("Ada", "PER", (Box(50, 50, 60, 60),))), [[RIGHT]], 1)[0].is_search is Need.IMAGE


@pytest.mark.parametrize(
    ("found", "hardest"),
    [
        ((), None),
        ((KNOWN, None), None),
        ((KNOWN, KNOWN), KNOWN),
        ((KNOWN, AMBIGUOUS), AMBIGUOUS),
        ((AMBIGUOUS, UNKNOWN, KNOWN), UNKNOWN),
    ],
)
def test_a_post_is_as_hard_as_its_hardest_entity(
    found: tuple[Difficulty | None, ...], hardest: Difficulty | None
) -> None:
    assert post_difficulty(post(*(replace(ADA, difficulty=difficulty) for difficulty in found))) is hardest
