"""Pairing of claims and gold: one to one, as large as possible, independent of order; and the F1 on top of it."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.entities import Claim, Gold, mentions
from rewards.f1 import TaskScores, f1_score, mixed_f1, task_scores
from rewards.matching import Task, candidates, greedy_pairs, is_right, maximum_pairs
from sake_ray.data.boxes import iou

_NAMES = st.sampled_from(["Ada", "ada ", "Bo", ""])
_TYPES = st.sampled_from(["PER", "ORG"])
_BOXES = st.sampled_from([(0, 0, 10, 10), (0, 0, 10, 9), (1, 1, 10, 10), (20, 20, 30, 30), (5, 5, 5, 5)])
_CLAIMS = st.lists(st.builds(Claim, _NAMES, _TYPES, st.none() | _BOXES), max_size=6)
_GOLD = st.lists(st.builds(Gold, _NAMES, _TYPES, st.lists(_BOXES, max_size=2).map(tuple)), max_size=6)


@st.composite
def _graphs(draw: st.DrawFn) -> tuple[list[list[int]], int]:
    n_gold = draw(st.integers(0, 5))
    options = st.lists(st.integers(0, n_gold - 1), unique=True) if n_gold else st.just([])
    return draw(st.lists(options, max_size=5)), n_gold


def brute_force(right: list[list[int]], n_gold: int) -> int:
    orders = itertools.permutations(range(n_gold)) if n_gold else [()]
    best = 0
    for order in orders:
        for chosen in itertools.combinations(range(len(right)), min(len(right), n_gold)):
            best = max(best, sum(entity in right[claim] for claim, entity in zip(chosen, order, strict=False)))
    return best


@given(_graphs())
def test_the_largest_pairing_is_found(graph: tuple[list[list[int]], int]) -> None:
    right, n_gold = graph
    assert maximum_pairs(right, n_gold) == brute_force(right, n_gold)
    assert greedy_pairs(right, n_gold) <= maximum_pairs(right, n_gold)


def test_a_long_chain_of_claims_needs_no_recursion() -> None:
    n = 3000
    assert maximum_pairs([*([i, i + 1] for i in range(n)), [0]], n + 1) == n + 1


@given(_CLAIMS, _GOLD, st.randoms())
def test_scores_do_not_depend_on_the_order_of_either_side(
    claims: list[Claim], gold: list[Gold], rng: random.Random
) -> None:
    scores = task_scores(claims, gold, 0.5, maximum_pairs)
    mixed_claims, mixed_gold = rng.sample(claims, len(claims)), rng.sample(gold, len(gold))
    assert task_scores(mixed_claims, mixed_gold, 0.5, maximum_pairs) == scores
    assert 0.0 <= scores.gmner <= min(scores.mner, scores.eeg) <= 1.0


@given(_GOLD)
def test_gold_answered_with_gold_scores_one(gold: list[Gold]) -> None:
    solid = [g for g in gold if (5, 5, 5, 5) not in g.boxes]
    claims = [Claim(g.text, g.type, g.boxes[-1] if g.boxes else None) for g in solid]
    assert task_scores(claims, solid, 0.5, maximum_pairs) == TaskScores(1.0, 1.0, 1.0)


def test_greedy_pairing_can_miss_what_the_largest_finds() -> None:
    gold = [Gold("a", "T", ((0, 0, 10, 10),)), Gold("a", "T", ((0, 0, 10, 7),))]
    claims = [Claim("a", "T", (0, 0, 10, 8)), Claim("a", "T", (0, 0, 10, 14))]
    right = candidates(claims, gold, Task.GMNER, 0.6)
    assert right == [[0, 1], [0]]
    assert (greedy_pairs(right, 2), maximum_pairs(right, 2)) == (1, 2)


def test_what_is_compared_and_how() -> None:
    gold = Gold("New York ", "LOC", ((0, 0, 10, 10), (50, 50, 60, 60)))
    assert is_right(Claim(" new york", "LOC ", (50, 50, 60, 59)), gold, Task.GMNER, 0.5)
    assert not is_right(Claim("New York", "loc", (0, 0, 10, 10)), gold, Task.GMNER, 0.5)
    assert is_right(Claim("New York", "loc", (0, 0, 10, 10)), gold, Task.EEG, 0.5)
    assert is_right(Claim("New York", "LOC", None), gold, Task.MNER, 0.5)
    assert not is_right(Claim("New York", "LOC", None), gold, Task.EEG, 0.5)
    assert is_right(Claim("x", "LOC", None), Gold("X", "LOC", ()), Task.GMNER, 0.5)


def test_overlap() -> None:
    assert iou((0, 0, 10, 10), (0, 0, 10, 5)) == 0.5
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0.0
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0.0
    assert iou((10, 10, 0, 0), (0, 0, 10, 10)) == 0.0  # corners the wrong way round


def test_f1_of_nothing() -> None:
    assert (f1_score(0, 0, 0), f1_score(0, 1, 0), f1_score(0, 0, 1)) == (1.0, 0.0, 0.0)


def test_the_mix() -> None:
    scores = TaskScores(mner=0.5, eeg=1.0, gmner=0.25)
    assert mixed_f1(scores, "EM", (0.25, 0.25, 0.5)) == 0.25
    assert mixed_f1(scores, "MultiEM", (0.25, 0.25, 0.5)) == 0.5
    with pytest.raises(ValueError, match="EM, MultiEM"):
        mixed_f1(scores, "em", (0.25, 0.25, 0.5))


def test_rows_of_one_text_and_type_are_one_entity_and_copies_of_a_row_are_mentions() -> None:
    one, two = (0, 0, 1, 1), (2, 2, 3, 3)
    rows = [Gold("A", "T", (one,)), Gold("B", "T", ()), Gold("A ", "T", (two,)), Gold("A", "U", ()), Gold("A", "T", ())]
    assert mentions(rows) == [Gold("A", "T", (one, two)), Gold("B", "T", ()), Gold("A", "U", ()), Gold("A", "T", ())]
    assert mentions([*rows[:2], rows[0], rows[1]]) == [rows[0], rows[1], rows[0], rows[1]]
