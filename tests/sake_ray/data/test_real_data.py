"""What the real files hold, as counted: if a reader starts to drop or bend real gold, these figures move."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

import pytest

from rewards.composite import gold_of, gold_rows
from rewards.entities import mentions
from sake_ray.data.fmnerg import FMNERG_COARSE, FMNERG_TYPES
from sake_ray.data.loading import ReadOptions, load_split, read_released
from sake_ray.data.problems import LoadResult

POSTS = {"train": 7000, "dev": 1500, "test": 1500}
TWITTER17 = {"train": 2988, "dev": 623, "test": 662}
ENTITIES_AND_BOXES = {"train": (11779, 5723), "dev": (2450, 1171), "test": (2543, 1254)}


@functools.cache
def whole(shared: Path, split: str) -> LoadResult:
    return load_split(shared / "data" / "twitter_gmner", split, images="standin")


@pytest.mark.parametrize("split", POSTS)
def test_twitter_gmner_breaks_no_rule(shared: Path, split: str) -> None:
    counts = whole(shared, split).counts
    assert (counts["posts"], counts["kept"], counts["skipped"]) == (POSTS[split], POSTS[split], 0)
    assert (counts["entities"], counts["boxes"]) == ENTITIES_AND_BOXES[split]
    assert counts["boxes_unchecked"] == 0


@pytest.mark.parametrize("split", POSTS)
def test_the_two_subsets_are_the_whole(shared: Path, split: str) -> None:
    folder = shared / "data" / "twitter_gmner"
    counts = {
        name: load_split(folder, split, subset=name, images="standin").counts["kept"]
        for name in ("twitter15", "twitter17")
    }
    assert counts["twitter17"] == TWITTER17[split]
    assert sum(counts.values()) == POSTS[split]


def test_the_released_gold_of_both_tasks_marks_the_same_spans(shared: Path) -> None:
    folder = shared / "data" / "released_gold"
    coarse = read_released(folder / "twitter_gmner_gt.json", ReadOptions(images="standin"))
    fine = read_released(folder / "twitter_fmnerg_gt.json", ReadOptions(images="standin", task="fmnerg"))
    assert coarse.counts == fine.counts
    assert (coarse.counts["kept"], coarse.counts["entities"], coarse.counts["boxes"]) == (1500, 2497, 1228)
    for one, other in zip(coarse.examples, fine.examples, strict=True):
        assert (one.id, one.text) == (other.id, other.text)
        assert [(e.text, e.boxes) for e in one.entities] == [(e.text, e.boxes) for e in other.entities]
    assert {entity.type for example in fine.examples for entity in example.entities} == set(FMNERG_TYPES)
    assert (len(FMNERG_TYPES), len(FMNERG_COARSE)) == (51, 8)


def test_the_original_layout_gives_the_same_examples_as_the_converted_gold(shared: Path) -> None:
    original = load_split(shared / "data" / "nustm_sample", "dev", images="standin").examples
    converted = whole(shared, "dev").examples
    by_id = {example.id: example for example in converted}
    assert len(original) == 60
    for example in original:
        twin = by_id[example.id]
        assert (example.text, example.entities) == (twin.text, twin.entities)
        assert (example.image.width, example.image.height) == (twin.image.width, twin.image.height)


@pytest.mark.parametrize("split", POSTS)
def test_real_gold_without_spans_tells_the_same_entities_apart(shared: Path, split: str) -> None:
    """What re-scoring a saved rollout and the RL parquet rely on."""
    for example in whole(shared, split).examples:
        rows = [row for entity in example.entities for row in gold_rows(entity)]
        assert Counter(mentions(rows)) == Counter(map(gold_of, example.entities)), example.id
