"""Samples and tags come back from their files as they went in, and a file that is not right is named, not believed.

What would go unseen otherwise: tags of other posts or of gold that has changed since, a tag changed by hand that its
counts contradict, a broken gold row that counts as an entity nobody knows.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.coldstart.difficulty import EntityTag, Guess, tag_post
from sake_ray.coldstart.tag_files import (
    read_element,
    read_samples,
    read_tags,
    sample_row,
    tag_row,
    tags_of,
    with_difficulty,
)
from sake_ray.data.json_files import write_lines
from sake_ray.data.problems import DataError
from sake_ray.types import Box, Entity
from tests.sake_ray.coldstart.posts import ADA, AMBIGUOUS, KNOWN, OSLO, UNKNOWN, post

TWICE_SEEN = Entity("Ada \ud83d", "PER", (Box(1, 2, 30, 40), Box(50, 2, 80, 40)))
GUESS = st.builds(
    Guess,
    st.text(max_size=5),
    st.sampled_from(["PER", "LOC"]),
    st.none() | st.tuples(*[st.floats(-1e6, 1e6, allow_nan=False)] * 4),
)
GOLD = {"phrase": "Ada", "entity_type": "PER", "region_box": [1, 2, 30, 40]}
SAID = {"entity": "Ada", "type": "PER", "box2d": [1, 2, 30, 40]}


def element(**changes: Any) -> dict[str, Any]:
    return {"task": "gmner", "n": 2, "posts": [{"gold": [GOLD], "samples": [[SAID], [SAID]], **changes}]}


@given(samples=st.lists(st.none() | st.lists(GUESS, max_size=3).map(tuple), min_size=1, max_size=4))
def test_samples_come_back_as_they_went_in(samples: list[Any]) -> None:
    example = post(ADA, OSLO, TWICE_SEEN)
    row = json.loads(json.dumps(sample_row("gmner", 4, example, samples)))
    (found,) = read_element(row)
    assert (found.id, found.task, found.n, list(found.samples)) == ("p1", "gmner", 4, samples)
    assert [len(entry.boxes) for entry in found.gold] == [1, 0, 1, 1]  # a row a box


def test_a_samples_file_may_be_a_list_or_lines_and_an_element_may_be_long(tmp_path: Path) -> None:
    long = element(samples=[[{**SAID, "entity": "A" * 50_000}]] * 25)
    assert len(json.dumps(long)) > 2**20
    (tmp_path / "list.json").write_text(json.dumps([element(), long], indent=1))
    write_lines(tmp_path / "lines.jsonl", [element(), long])
    found = list(read_samples(tmp_path / "list.json"))
    assert found == list(read_samples(tmp_path / "lines.jsonl"))
    assert [len(sampled.samples) for sampled in found] == [2, 25]


@pytest.mark.parametrize(
    "sample",
    [
        None,
        "[]",
        5,
        {"entity": "Ada"},
        ["Ada"],
        [{**SAID, "box2d": None}],
        [{**SAID, "box2d": [1, 2, 3]}],
        [{**SAID, "box2d": [1, 2, 3, "4"]}],
        [{**SAID, "box2d": [1, 2, 3, True]}],
        [{**SAID, "box2d": [1, 2, 3, 1e300]}],
        [{**SAID, "entity": None}],
        [{"entity": "Ada", "box2d": []}],
        [SAID, None],
        [SAID] * 1001,
    ],
    ids=repr,
)
def test_a_malformed_sample_is_counted_and_hits_nothing(sample: Any) -> None:
    (found,) = read_element(element(samples=[[SAID], sample]))
    assert found.malformed == 1
    assert [tag.hits for tag in found.tags()] == [1]
    assert found.tags()[0].difficulty is AMBIGUOUS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gold": [GOLD, {**GOLD, "phrase": None}]}, r"posts\[0\].gold\[1\].phrase: None is not a string"),
        ({"gold": [{**GOLD, "entity_type": 3}]}, r"posts\[0\].gold\[0\].entity_type: 3 is not a string"),
        ({"gold": [{**GOLD, "region_box": None}]}, r"gold\[0\].region_box: None is neither four numbers nor \[\]"),
        ({"gold": [{**GOLD, "region_box": [1, 2, 3]}]}, r"gold\[0\].region_box"),
        ({"gold": ["Ada"]}, r"gold\[0\]: is str, not an object"),
        ({"gold": None}, r"posts\[0\].gold: is missing or not a list"),
        ({"samples": {}}, r"posts\[0\].samples: is missing, not a list"),
    ],
)
def test_bad_gold_names_file_element_and_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "samples.jsonl"
    write_lines(path, [element(), element(**change)])
    with pytest.raises(DataError, match=rf"samples\.jsonl:2: element 1: .*{message}"):
        list(read_samples(path))


@pytest.mark.parametrize("n", [None, 0, True, "4", 10**6])
def test_a_number_of_samples_that_is_none_is_named(tmp_path: Path, n: object) -> None:
    write_lines(tmp_path / "samples.jsonl", [{**element(), "n": n}])
    with pytest.raises(DataError, match=r"element 0: n: .* is not a number of samples"):
        list(read_samples(tmp_path / "samples.jsonl"))


# --- tags ------------------------------------------------------------------------------------------------

EXAMPLE = post(ADA, OSLO, TWICE_SEEN)
TAGS = (EntityTag(4, 4, 4, 4), EntityTag(4, 1, 0, 0), EntityTag(4, 3, 2, 1))


def write_tags(folder: Path, *rows: dict[str, Any]) -> Path:
    write_lines(folder / "tags.jsonl", rows or [tag_row(EXAMPLE, TAGS, n=4, malformed=1)])
    return folder / "tags.jsonl"


def test_tags_come_back_as_they_went_in_and_difficulties_with_them(tmp_path: Path) -> None:
    path = write_tags(tmp_path)
    tags = read_tags(path)
    assert tags_of(EXAMPLE, tags, str(path)) == TAGS
    untagged = replace(EXAMPLE, id="p2")
    (tagged,) = with_difficulty([untagged, EXAMPLE], tags, str(path))
    assert tagged.id == "p1"
    assert [entity.difficulty for entity in tagged.entities] == [KNOWN, UNKNOWN, AMBIGUOUS]
    assert replace(tagged, entities=EXAMPLE.entities) == EXAMPLE


def test_tags_of_the_samples_that_were_written_are_those_of_the_samples_in_memory() -> None:
    """In the files an entity with two boxes is two gold rows; its tag is counted over both."""
    samples = [(Guess("Ada \ud83d", "PER", (50.0, 2.0, 80.0, 40.0)),), None]
    (read,) = read_element(sample_row("gmner", 2, EXAMPLE, samples))
    assert tag_post(EXAMPLE, read.samples, 2) == tag_post(EXAMPLE, samples, 2)
    assert tag_post(EXAMPLE, read.samples, 2)[2].difficulty is AMBIGUOUS


@pytest.mark.parametrize(
    "other",
    [
        replace(EXAMPLE, entities=EXAMPLE.entities[:2]),
        replace(EXAMPLE, entities=(OSLO, *EXAMPLE.entities[1:])),
        replace(EXAMPLE, entities=(replace(ADA, type="ORG"), *EXAMPLE.entities[1:])),
    ],
    ids=["fewer", "another", "other type"],
)
def test_tags_of_other_gold_are_refused_and_the_post_is_named(tmp_path: Path, other: Any) -> None:
    path = write_tags(tmp_path)
    with pytest.raises(DataError, match=r"tags\.jsonl: the tags of post p1 .* make them anew"):
        with_difficulty([other], read_tags(path), str(path))


def test_tags_of_other_posts_are_refused(tmp_path: Path) -> None:
    path = write_tags(tmp_path)
    with pytest.raises(DataError, match=r"tags\.jsonl: none of its 1 posts is among the 1 training posts"):
        with_difficulty([replace(EXAMPLE, id="p2")], read_tags(path), str(path))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("difficulty", "known", r"entities\[1\].difficulty: 'known' does not follow from its counts: unknown"),
        ("is_search", "both", r"entities\[1\].is_search: 'both' does not follow from its counts: only_image"),
        ("hit_text", 5, r"entities\[1\].hit_text: 5 is not a count from 0 to n=4"),
        ("hits", 1, r"entities\[1\].hits: 1 are more than its hit_text or hit_image"),
        ("hits", None, r"entities\[1\].hits: None is not a count"),
        ("entity", None, r"entities\[1\].entity: None is not a string"),
    ],
)
def test_a_tag_changed_by_hand_is_refused(tmp_path: Path, field: str, value: object, message: str) -> None:
    row = copy.deepcopy(tag_row(EXAMPLE, TAGS, n=4, malformed=0))
    row["entities"][1][field] = value
    with pytest.raises(DataError, match=rf"tags\.jsonl:1: {message}"):
        read_tags(write_tags(tmp_path, row))


def test_broken_tag_files_are_named_without_advice_that_does_not_help(tmp_path: Path) -> None:
    row = tag_row(EXAMPLE, TAGS, n=4, malformed=0)
    with pytest.raises(DataError, match=r"tags\.jsonl:2: img_id: 'p1' occurs twice"):
        read_tags(write_tags(tmp_path, row, row))
    (tmp_path / "tags.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no tags"):
        read_tags(tmp_path / "tags.jsonl")
    (tmp_path / "tags.jsonl").write_text(json.dumps(row) + "\n{\n")
    with pytest.raises(DataError, match=r"tags\.jsonl:2: json") as caught:
        read_tags(tmp_path / "tags.jsonl")
    assert "on_bad" not in str(caught.value)
