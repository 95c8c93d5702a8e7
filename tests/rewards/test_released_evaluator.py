"""The released evaluator's oddities, one by one, and the fast counts against nested loops that spell them out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.evaluation import naive_release
from rewards.entities import Claim, Gold
from rewards.matching import Task
from rewards.protocols import PROTOCOLS, evaluate
from rewards.released_evaluator import released_counts
from sake_ray.data.boxes import Quad

A: Quad = (0, 0, 10, 10)
B: Quad = (20, 0, 30, 10)
FAR: Quad = (500, 500, 600, 600)


def counts(claims: list[tuple[str, str, Quad | None]], gold: list[tuple[str, str, Quad | None]]) -> tuple[int, ...]:
    rows = [Gold(text, kind, () if box is None else (box,)) for text, kind, box in gold]
    return released_counts([([Claim(*claim) for claim in claims], rows)])[0][Task.GMNER]


@pytest.mark.parametrize(
    ("claims", "gold", "expected"),
    [
        pytest.param([("Ada", "PER", A)], [("Ada", "PER", A), ("Ada", "PER", A)], (1, 1, 2), id="boxed rows are two"),
        pytest.param([("Ada", "PER", None)], [("Ada", "PER", None)] * 2, (1, 1, 1), id="bare rows are one"),
        pytest.param([("Ada", "PER", FAR)], [("Ada", "PER", A)], (0, 2, 1), id="a wrong box is wrong twice"),
        pytest.param([("Ada", "PER", FAR)], [("Ada", "PER", None)], (1, 2, 1), id="and right where gold has none"),
        pytest.param([("Ada", "PER", FAR), ("Ada", "PER", B)], [("Ada", "PER", A)], (0, 2, 1), id="nowhere is one"),
        pytest.param([("Bo", "PER", FAR), ("Bo", "PER", None)], [("Ada", "PER", A)], (0, 2, 1), id="not in gold"),
        pytest.param([("Ada", "PER", A)], [("Ada", "ORG", A), ("Ada", "PER", A)], (0, 2, 2), id="first row, any type"),
        pytest.param([], [("Ada", "PER", A)], (0, 0, 0), id="nothing claimed drops the post"),
        pytest.param([("ada", "PER", A)], [("Ada", "PER", A)], (0, 1, 1), id="case counts"),
    ],
)
def test_how_names_and_boxes_are_counted(claims: Any, gold: Any, expected: tuple[int, int, int]) -> None:
    assert counts(claims, gold) == expected


def test_a_type_the_task_does_not_have_is_left_out_before_anything_else() -> None:
    post = ([Claim("Ada", "HUMAN", A)], [Gold("Ada", "PER", (A,))])
    assert released_counts([post])[0][Task.EEG] == (1, 1, 1)
    assert released_counts([post], {"PER"})[0] == {Task.MNER: (0, 0, 1), Task.EEG: (0, 0, 0), Task.GMNER: (0, 0, 0)}


FAR_BOX = [500, 500, 600, 600]
_BOX = st.sampled_from(
    [[], [0, 0, 10, 10], [0, 0, 10, 15], [0, 0, 10, 20], [0, 0, 10, 20.000001], [500, 500, 600, 600]]
)
_ROW = st.builds(
    lambda text, kind, box: {"phrase": text, "entity_type": kind, "region_box": box},
    st.sampled_from(["Ada", "ada", "Bo"]),
    st.sampled_from(["PER", "ORG", "HUMAN"]),
    _BOX,
)
_POSTS = st.lists(st.tuples(st.lists(_ROW, max_size=5), st.lists(_ROW, max_size=5)), max_size=4)


@given(_POSTS, st.sampled_from([None, ("PER", "ORG", "HUMAN"), ("PER", "ORG")]))
def test_fast_counts_equal_nested_loops(drawn: list[tuple[Any, Any]], types: tuple[str, ...] | None) -> None:
    said = [{"img_id": str(at), "pre_entities": claims} for at, (claims, _) in enumerate(drawn)]
    true = [{"img_id": str(at), "gt_entities": rows} for at, (_, rows) in enumerate(drawn)]
    assert "release" in PROTOCOLS
    ours, loops = evaluate(said, true, "release", types), naive_release(said, true, types)
    for task, expected in loops.items():
        assert ours[task] == pytest.approx(expected, abs=1e-9), task
