"""Errors: what each kind is, and that everything lands in exactly one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given

from rewards.entities import Claim
from rewards.evaluation.errors import ErrorKind, error_report, judge
from rewards.evaluation.records import GoldEntity, PostRecord
from rewards.evaluation.scored import Scored
from rewards.pairs import pair_post
from tests.rewards.evaluation.made_records import FAR, RECORDS, A, B, claim, gold

_TWO_SIDED = {"right", "box", "type", "type_box", "boundary"}


def kinds(claims: list[Claim], golds: list[GoldEntity]) -> Counter[str]:
    true = [entity.gold for entity in golds]
    return Counter(verdict.kind.value for verdict in judge(claims, true, pair_post(claims, true)))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param([claim("ada ", "PER", A)], ["right"], id="right"),
        pytest.param([claim("Ada", "PER", FAR)], ["box"], id="box elsewhere"),
        pytest.param([claim("Ada", "PER", None)], ["box"], id="said not visible"),
        pytest.param([claim("Ada", "ORG", A)], ["type"], id="type"),
        pytest.param([claim("Ada", "ORG", None)], ["type_box"], id="both"),
        pytest.param([claim("Ada Lovelace", "ORG", FAR)], ["boundary"], id="shares a word"),
        pytest.param([claim("#Ada", "PER", A)], ["boundary"], id="one is part of the other"),
        pytest.param([claim("Bo", "PER", A)], ["missed", "spurious"], id="nothing in common"),
        pytest.param([], ["missed"], id="missed"),
        pytest.param([claim("Ada", "PER", A)] * 2, ["right", "duplicate"], id="said twice"),
        pytest.param([claim("Ada", "ORG", A), claim("Ada", "PER", B)], ["box", "duplicate"], id="a pair each only"),
    ],
)
def test_each_kind(said: list[Claim], expected: list[str]) -> None:
    assert kinds(said, [gold("Ada", "PER", A)]) == Counter(expected)


@given(RECORDS)
def test_every_gold_entity_and_every_claim_is_in_exactly_one_kind(records: list[PostRecord]) -> None:
    scored = Scored.of(records)
    verdicts = [judge(*post, pair) for post, pair in zip(scored.posts, scored.pairs, strict=True)]
    for (claims, golds), found in zip(scored.posts, verdicts, strict=True):
        assert sorted(v.claim for v in found if v.claim is not None) == list(range(len(claims)))
        assert sorted(v.gold for v in found if v.gold is not None) == list(range(len(golds)))
    report = error_report(scored, verdicts)
    counts = report["kinds"]
    assert sum(count["gold"] for count in counts.values()) == report["gold"] == len(scored.gold)
    assert sum(count["claims"] for count in counts.values()) == report["claims"] == len(scored.claims)
    for kind in ErrorKind:
        if kind.value in _TWO_SIDED:
            assert counts[kind]["gold"] == counts[kind]["claims"]
    assert not counts["missed"]["claims"] and not counts["spurious"]["gold"] and not counts["duplicate"]["gold"]
    assert sum(report["box_kinds"].values()) == counts["box"]["gold"] + counts["type_box"]["gold"]
    assert sum(report["boundary_kinds"].values()) == counts["boundary"]["gold"]
    assert sum(pair["count"] for pair in report["confusion"]) == counts["type"]["gold"] + counts["type_box"]["gold"]
    assert sum(n for kinds in report["by_type"].values() for n in kinds.values()) == report["gold"]
    # Right is what GMNER counts, and right in MNER are at least those with a wrong box only.
    assert counts["right"]["gold"] == sum(at >= 0 for pair in scored.pairs for at in pair.gmner)
