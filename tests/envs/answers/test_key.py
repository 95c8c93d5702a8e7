"""Keys of answers: one for every way of writing a query, another for everything else."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from envs.answers.key import MAX_QUERY_CHARS, AnswerKey, normalised

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
plain = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | names
option_maps = st.dictionaries(names, plain | st.lists(plain, max_size=3), max_size=4)
parts = st.tuples(names, names, st.text(max_size=20), option_maps)


@given(st.text(max_size=60) | st.text("aA \u00a0\u1e9e\ufdfaİſ\u0345\ud800", min_size=900, max_size=1500))
@example("\u03d3\u0345")
def test_normalising_twice_changes_nothing(query: str) -> None:
    once = normalised(query)
    assert normalised(once) == once
    assert len(once) <= MAX_QUERY_CHARS
    once.encode("utf-8")


@pytest.mark.parametrize(
    "query", ["Ada Lovelace", "  ada\t lovelace\n", "ＡＤＡ lovelace", "ADA\u00a0LOVELACE", "ada\ud800 lovelace"]
)
def test_one_key_for_every_way_of_writing_a_query(query: str) -> None:
    options = {"shown": 1, "max_chars": 7}
    wanted = AnswerKey.of("serper", "text", "ada lovelace", dict(reversed(options.items())))
    assert AnswerKey.of("serper", "text", query, options) == wanted
    assert AnswerKey.of("serper", "text", query, options).digest == wanted.digest


@given(parts, parts)
def test_different_parts_never_share_a_digest(one: Any, other: Any) -> None:
    a, b = AnswerKey.of(*one), AnswerKey.of(*other)
    assert (a.digest == b.digest) == (dataclasses.astuple(a)[:4] == dataclasses.astuple(b)[:4])
    if json.dumps(one[3], sort_keys=True) != json.dumps(other[3], sort_keys=True):
        assert a.digest != b.digest


@given(st.lists(names, min_size=4, max_size=4), st.integers(0, 3), names)
def test_no_part_can_pass_for_its_neighbour(values: list[str], place: int, moved: str) -> None:
    """What is taken from one part and added to the next makes another key."""
    assume(normalised(values[2]) == values[2] and values[2])
    other = list(values)
    other[place], other[(place + 1) % 4] = other[place] + moved, other[(place + 1) % 4]
    a, b = AnswerKey(*values), AnswerKey(*other)
    assert a.digest != b.digest


@pytest.mark.parametrize(
    "options",
    [{"a": float("nan")}, {1: "a"}, {"a": object()}, {"a": {2: 3}}, {"a": b""}, {"a": "\ud800"}, {"a": "x" * 20_000}],
)
def test_options_that_json_would_change_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="options"):
        AnswerKey.of("serper", "text", "ada", options)


@pytest.mark.parametrize("name", ["", "\ud800"])
def test_a_provider_has_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="provider"):
        AnswerKey.of(name, "text", "ada", {})
