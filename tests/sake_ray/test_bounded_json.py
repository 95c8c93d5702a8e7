"""Text nobody vouches for reads as what JSON says it is, or is refused with a fixed word, in linear time."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.bounded_json import JsonRefused, decode_strictly, parse_json

LIMITS: dict[str, Any] = {"max_chars": 1_000, "max_depth": 8}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=8
)


@given(VALUES, st.text(alphabet=" \t\r\n", max_size=3), st.sampled_from(["", ",", "]", " 1"]))
def test_a_value_is_read_and_its_end_found_whatever_follows(value: Any, blanks: str, rest: str) -> None:
    text = json.dumps(value)
    limits: dict[str, Any] = {"max_chars": len(text) + 8, "max_depth": 16}
    assert parse_json(blanks + text + blanks, **limits) == value
    assert decode_strictly(blanks + text + rest, len(blanks), **limits) == (value, len(blanks + text))


@given(st.text(alphabet='[]{}",:\\ntrue0-1.eE \u2028', max_size=60))
def test_any_text_is_what_pythons_reader_makes_of_it_or_refused(text: str) -> None:
    try:
        value = parse_json(text, **LIMITS, constants=True)
    except JsonRefused as error:
        assert error.why in ("too_deep", "bad_json")
        if error.why == "bad_json":
            with pytest.raises(ValueError):
                json.loads(text)
    else:
        assert json.loads(text) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 9 + "]" * 9, "too_deep"),
        ("[" + " " * 1_000 + "]", "too_long"),
        ("[NaN]", "bad_json"),
        ("[1] [2]", "bad_json"),
        ("", "bad_json"),
    ],
)
def test_what_is_refused_and_the_word_for_it(text: str, why: str) -> None:
    with pytest.raises(JsonRefused) as caught:
        parse_json(text, **LIMITS)
    assert caught.value.why == why


def test_a_key_given_twice_counts_last_unless_keys_must_be_unique() -> None:
    assert parse_json('{"a": 1, "a": 2}', **LIMITS) == {"a": 2}
    with pytest.raises(JsonRefused, match="'a' occurs twice"):
        parse_json('{"a": 1, "a": 2}', **LIMITS, unique_keys=True)


@pytest.mark.parametrize("text", ['"' + '\\"' * 500_000, "[" * 1_000_000, '["' * 500_000, '"\\' * 500_000])
def test_no_text_takes_longer_than_its_length(text: str) -> None:
    began = time.process_time()
    with pytest.raises(JsonRefused):
        parse_json(text, max_chars=len(text), max_depth=32)
    assert time.process_time() - began < 2, "a reader that starts over at every quote takes hours"
