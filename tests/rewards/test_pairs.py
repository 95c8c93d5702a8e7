"""The fast pairing: the pairs are right ones, none twice, and as many as augmenting paths over everything find."""

from __future__ import annotations

from hypothesis import given

from rewards.entities import Claim
from rewards.evaluation.records import GoldEntity
from rewards.matching import Task, candidates, is_right, maximum_pairs
from rewards.pairs import pair_post
from tests.rewards.evaluation.made_records import CLAIMS, GOLDS


@given(CLAIMS, GOLDS)
def test_pairs_are_right_and_as_many_as_possible(claims: list[Claim], entities: list[GoldEntity]) -> None:
    gold = [entity.gold for entity in entities]
    pairs = pair_post(claims, gold)
    for task in Task:
        found = [(at, entity) for at, entity in enumerate(pairs.of(task)) if entity >= 0]
        assert all(is_right(claims[at], gold[entity], task, 0.5) for at, entity in found)
        assert len({entity for _, entity in found}) == len(found)
        assert len(found) == maximum_pairs(candidates(claims, gold, task, 0.5), len(gold))
