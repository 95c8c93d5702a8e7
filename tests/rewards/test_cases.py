"""A saved rollout is checked before it is scored: what is wrong is named by field."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rewards.cases import read_case
from rewards.composite import PaperRule, ReleaseRule, Sizes
from rewards.entities import Gold
from sake_ray.data.problems import FieldError

CASE: dict[str, Any] = {
    "responses": ["<reason>r</reason><answer>[]</answer>"],
    "gold": [{"entity": "Ada", "type": "PER", "bbox": [1, 2, 3, 4]}, {"entity": "Bo", "type": "PER", "bbox": []}],
    "config": {
        "reward_mode": "MultiEM",
        "format_penalty": 0.2,
        "image_size_info": [{"original_size": [20, 10], "processed_size": [10, 5]}],
    },
}


def test_a_good_case() -> None:
    case = read_case(CASE, "release")
    assert case.gold == (Gold("Ada", "PER", ((1, 2, 3, 4),)), Gold("Bo", "PER", ()))
    assert case.sizes == Sizes(processed=(10, 5), original=(20, 10))
    assert case.rule == ReleaseRule("MultiEM", 0.2)
    paper = read_case({**CASE, "config": {"search_weight": 0.3, "gamma": 1}}, "paper")
    assert paper.rule == PaperRule(search_weight=0.3, gamma=1.0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("responses",), "text", "responses: must be a list, not text"),
        (("responses",), [], "responses: is empty"),
        (("responses", 0), None, r"responses\[0\]: must be text, not nothing"),
        (("gold",), "[]", "gold: must be a list, not text"),
        (("gold", 1, "bbox"), None, r"gold\[1\].bbox: must be a list"),
        (("gold", 0, "bbox"), [1, 2, 3], r"gold\[0\].bbox: must be empty or four numbers"),
        (("gold", 0, "type"), 3, r"gold\[0\].type: must be text, not a number"),
        (("config", "reward_mode"), "F1", "config.reward_mode: must be EM or MultiEM"),
        (("config", "format_penalty"), 2, "config.format_penalty: must be a number from 0 to 1"),
        (("config", "iou_threshold"), True, "config.iou_threshold: must be a number"),
        (("config", "iou_treshold"), 0.5, "did you mean 'iou_threshold'"),
        (("config", "search_weight"), 0.5, "is not a field of this preset"),
        (("config", "use_search_count_penalty"), 1, "must be true or false"),
        (("config", "image_size_info"), [], "config.image_size_info: is empty"),
        (("config", "image_size_info", 0, "processed_size"), [0, 5], r"processed_size: must be \[width, height\]"),
        (("respnses",), [], "did you mean 'responses'"),
    ],
)
def test_what_is_wrong_is_named(path: tuple[str | int, ...], value: object, message: str) -> None:
    case = copy.deepcopy(CASE)
    target: Any = case
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(FieldError, match=message):
        read_case(case, "release")


@pytest.mark.parametrize("value", [None, [], 3, {"gold": []}, {"responses": [""]}])
def test_things_that_are_no_case(value: object) -> None:
    with pytest.raises(FieldError, match=r"case: must be an object|is missing"):
        read_case(value, "paper")
