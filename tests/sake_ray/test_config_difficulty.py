"""`data.difficulty`: which tagged posts RL trains on, and how often.

What would go unseen otherwise: a misspelt difficulty that trains on other posts than were asked for, or a weight that
leaves none.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.config.difficulty import parse_weights, weights_of
from sake_ray.config.values import ConfigError
from sake_ray.types import Difficulty

KNOWN, AMBIGUOUS, UNKNOWN = Difficulty.KNOWN, Difficulty.AMBIGUOUS, Difficulty.UNKNOWN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ambiguous", (0, 1, 0)),
        ("ambiguous,unknown:0.5,known:0.25", (0.25, 1, 0.5)),
        (" known : 2 , , unknown:1e-3 ", (2, 0, 0.001)),
        ("known:0,unknown:3", (0, 0, 3)),
    ],
)
def test_what_is_not_named_has_no_weight(text: str, expected: tuple[float, float, float]) -> None:
    weights = parse_weights(text)
    assert (weights[KNOWN], weights[AMBIGUOUS], weights[UNKNOWN]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ambigous", r"data\.difficulty=ambigous: 'ambigous' is no difficulty; nearest: data\.difficulty=ambiguous"),
        ("Known", "nearest: data.difficulty=known"),
        (":0.5", "'' is no difficulty"),
        ("xyz", "'xyz' is no difficulty"),
        ("known,known:2", "known is named twice"),
        ("known:often", "'often' is no weight; write for instance known:0.5"),
        ("known:", "'' is no weight"),
        ("known:1:2", "'1:2' is no weight"),
        ("known:-1", "the weight of known must be a finite number from 0 on"),
        ("known:inf", "the weight of known must be a finite number from 0 on"),
        ("known:nan", "the weight of known must be a finite number from 0 on"),
        ("known:0", r"no difficulty has a weight above 0; the default is data\.difficulty=ambiguous"),
        ("", "no difficulty has a weight above 0"),
    ],
)
def test_a_slip_is_named_with_what_would_be_right(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_weights(text)


@given(text=st.text("knowuambiguous:,.0159 e-", max_size=30))
def test_any_text_is_weights_or_a_sentence(text: str) -> None:
    try:
        weights = parse_weights(text)
    except ConfigError as error:
        assert str(error).startswith("data.difficulty=")
    else:
        assert set(weights) == set(Difficulty)
        assert max(weights.values()) > 0


def test_each_post_has_the_weight_of_its_hardest_entity_and_one_without_any_counts_as_known() -> None:
    weights = parse_weights("ambiguous,known:0.5")
    assert weights_of([AMBIGUOUS, UNKNOWN, None, KNOWN], weights) == [1.0, 0.0, 0.5, 0.5]


def test_no_post_left_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"data\.difficulty=ambiguous:1: leaves no .*there are: unknown 2, known 1"):
        weights_of([UNKNOWN, UNKNOWN, None], parse_weights("ambiguous"))
    with pytest.raises(ConfigError, match="there are: none at all"):
        weights_of([], parse_weights("ambiguous"))
