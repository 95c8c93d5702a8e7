"""Evaluation: the strict protocol's promises, and the released evaluator by its golden vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.protocols import evaluate
from sake_ray.data.problems import FieldError

A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [500, 500, 600, 600]
_BOX = st.sampled_from([[], A, B, FAR])
_ROW = st.tuples(st.sampled_from(["Ada", "Bo"]), st.sampled_from(["PER", "ORG"]), _BOX)
_POSTS = st.lists(st.tuples(st.lists(_ROW, max_size=4), st.lists(_ROW, max_size=4)), max_size=5)


def entity(text: str, kind: str, box: list[int], start: int | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {"phrase": text, "entity_type": kind, "region_box": box}
    return row if start is None else {**row, "start": start, "end": start}


def posts(name: str, *rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"img_id": str(index), name: entities} for index, entities in enumerate(rows)]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_release_equals_the_golden_vectors(shared: Path, number: int) -> None:
    case = json.loads((shared / "golden" / "evaluator_cases.json").read_text(encoding="utf-8"))[number]
    scores = evaluate(case["predictions"], case["gold"], "release")
    for task, expected in case["expected"].items():
        assert scores[task] == pytest.approx(expected, abs=1e-6), task


def test_refusing_every_second_post_is_free_in_the_release_and_costs_half_in_strict(shared: Path) -> None:
    path = shared / "data" / "released_gold" / "twitter_gmner_gt.json"
    gold = json.loads(path.read_text(encoding="utf-8"))
    half = [
        {"img_id": post["img_id"], "pre_entities": post["gt_entities"] if index % 2 == 0 else []}
        for index, post in enumerate(gold)
    ]
    release = evaluate(half, gold, "release")
    assert (round(release["gmner"]["micro_f1"], 2), round(release["mner"]["micro_f1"], 2)) == (99.70, 65.24)
    assert evaluate(half, gold)["gmner"]["micro_recall"] < 51


def test_an_entity_with_two_boxes_is_one_and_any_box_will_do() -> None:
    gold = posts("gt_entities", [entity("Ada", "PER", A, 0), entity("Ada", "PER", B, 0)])
    assert evaluate(posts("pre_entities", [entity("ada", "PER", B)]), gold)["gmner"]["micro_f1"] == 100.0
    twice = evaluate(posts("pre_entities", [entity("Ada", "PER", B), entity("Ada", "PER", A)]), gold)
    assert twice["gmner"]["micro_precision"] == 50.0  # one entity cannot be found twice
    # Two mentions of one name are two entities.
    gold = posts("gt_entities", [entity("Ada", "PER", A, 0), entity("Ada", "PER", B, 5)])
    assert evaluate(posts("pre_entities", [entity("Ada", "PER", B)]), gold)["gmner"]["micro_recall"] == 50.0


def test_macro_is_the_mean_over_the_types_of_the_gold() -> None:
    gold = posts("gt_entities", [entity("Ada", "PER", []), entity("Bo", "PER", []), entity("X", "ORG", A)])
    scores = evaluate(posts("pre_entities", [entity("Ada", "PER", []), entity("X", "ORG", FAR)]), gold)
    assert scores["gmner"]["micro_precision"] == 50.0
    assert scores["gmner"]["micro_recall"] == pytest.approx(100 / 3)
    assert (scores["gmner"]["macro_precision"], scores["gmner"]["macro_recall"]) == (50.0, 25.0)
    assert scores["mner"]["macro_recall"] == 75.0
    assert scores["eeg"]["macro_f1"] == scores["eeg"]["micro_f1"] == 40.0


def test_a_post_that_was_not_answered_counts() -> None:
    gold = posts("gt_entities", [entity("Ada", "PER", [])], [entity("Bo", "PER", [])])
    said = posts("pre_entities", [entity("Ada", "PER", [])], [])
    assert evaluate(said, gold)["gmner"]["micro_recall"] == 50.0
    assert evaluate(said, gold, "release")["gmner"]["micro_recall"] == 100.0


@given(_POSTS)
def test_strict_scores_are_shares_and_bounded_by_their_parts(drawn: list[tuple[list[Any], list[Any]]]) -> None:
    said = posts("pre_entities", *([entity(*row) for row in rows] for rows, _ in drawn))
    true = posts("gt_entities", *([entity(*row) for row in rows] for _, rows in drawn))
    scores = evaluate(said, true)
    assert all(0.0 <= value <= 100.0 for task in scores.values() for value in task.values())
    assert scores["gmner"]["micro_f1"] <= min(scores["mner"]["micro_f1"], scores["eeg"]["micro_f1"]) + 1e-9
    evaluate(said, true, "release")  # never raises on well-formed posts


def test_posts_and_fields_are_checked() -> None:
    gold = posts("gt_entities", [entity("Ada", "PER", A)])
    with pytest.raises(FieldError, match="has 0 posts, gold has 1"):
        evaluate([], gold)
    with pytest.raises(FieldError, match=r"predictions\[0\].img_id: is 'x', gold has '0'"):
        evaluate([{"img_id": "x", "pre_entities": []}], gold)
    with pytest.raises(FieldError, match=r"predictions\[0\].pre_entities\[0\].region_box: must be"):
        evaluate(posts("pre_entities", [entity("Ada", "PER", [1, 2])]), gold)
    with pytest.raises(FieldError, match=r"gold\[0\].gt_entities: must be a list"):
        evaluate(posts("pre_entities", []), [{"img_id": "0"}])
    with pytest.raises(ValueError, match="is not one of strict, release"):
        evaluate([], [], "loose")
