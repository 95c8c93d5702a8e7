"""A page shows a run's rows and an evaluation's alike, boxes in original pixels, and names what is wrong with one."""

from __future__ import annotations

from typing import Any

import pytest

from rewards.evaluation.record_files import record_row, records_of_rows
from sake_ray.data.problems import FieldError
from sake_ray.pages.rows import MAX_TEXT, read_view
from tests.sake_ray.pages.page_case import PIXELS, make_row

LIMITS = (PIXELS["min_pixels"], PIXELS["max_pixels"])


def test_a_runs_row_and_the_evaluations_record_of_it_look_the_same() -> None:
    for number in range(6):
        row = make_row(number)
        run = read_view(row, LIMITS)
        evaluation = read_view(record_row(records_of_rows([row], **PIXELS)[0]))
        for name in ("example", "post", "gold", "claims", "searched", "stop_reason", "tokens", "image_size"):
            assert getattr(run, name) == getattr(evaluation, name), name
        assert [turn.text for turn in run.turns] == [turn.text for turn in evaluation.turns]


def test_boxes_of_a_turn_are_brought_from_the_sized_picture_to_the_original() -> None:
    row = make_row(0) | {"image_size": [42, 42]}  # enlarged to 84 x 84, where the answer's box was written
    said = '<reason>r</reason><answer>[{"entity": "a", "type": "PER", "box2d": [20, 40, 60, 80]}]</answer>'
    row["turns"] = [row["turns"][-1] | {"text": said}]
    assert read_view(row, LIMITS).claims[0].box == (10, 20, 30, 40)
    with pytest.raises(FieldError, match="min_pixels"):
        read_view(row)


def test_an_episode_without_an_answer_claims_nothing() -> None:
    row = make_row(0) | {"stop_reason": "malformed"}
    assert read_view(row).claims == ()


def test_a_long_text_is_cut_and_says_so() -> None:
    shown = read_view(make_row(0) | {"post": "x" * (MAX_TEXT + 5)}, LIMITS).post
    assert shown.endswith("5 more characters are not shown)")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"turns": 3}, "turns"),
        ({"gold": [{"entity": "a", "type": "PER", "boxes": [[1, 2, 3]]}]}, r"gold\[0\]\.boxes"),
        ({"reward": {"total": "much"}}, "total"),
        ({"image_size": [0, 5]}, "image_size"),
        ({"claims": [{"entity": "a", "type": "PER", "box2d": [1, 2, 3, True]}]}, r"claims\[0\]\.box2d"),
        ({"verdicts": [{"kind": "right"}]}, r"verdicts\[0\]"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(FieldError, match=named):
        read_view(make_row(0) | change, LIMITS)
