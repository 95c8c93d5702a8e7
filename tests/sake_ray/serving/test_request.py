"""What a client may send: every limit is kept, what is wrong is named, and nothing but a `Problem` is raised."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.serving.problems import Problem
from sake_ray.serving.request import (
    Asked,
    RequestLimits,
    read_base64,
    read_batch,
    read_extract,
    read_json,
    read_options,
)

LIMITS = RequestLimits(max_text_chars=20, max_batch=3, text_searches=2, image_searches=1, deadline_s=30.0)
GOOD: dict[str, Any] = {"text": "Ada", "image": "AAAA"}
ANYTHING = st.text(st.characters(exclude_categories=()), max_size=30)  # lone surrogates too
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANYTHING,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANYTHING, inner, max_size=4),
    max_leaves=8,
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("search", "thumbnails"), st.booleans()),
        **dict.fromkeys(("text_searches", "image_searches", "seed"), st.integers(-1, 3) | VALUES),
        **dict.fromkeys(("temperature", "deadline_s"), st.floats() | st.integers(0, 40)),
        "policy": ANYTHING,
    },
)
ALMOST = st.fixed_dictionaries(
    {"text": st.text(max_size=25) | VALUES},
    optional={
        "image": st.sampled_from(["", "AAAA", "data:image/png;base64,AAAA", "data:,x", "é"]) | VALUES,
        "image_url": st.just("https://example.org/a.png") | VALUES,
        "options": OPTIONS | VALUES,
        "stream": st.booleans() | VALUES,
        "more": VALUES,
    },
)


def problem(value: Any, limits: RequestLimits = LIMITS) -> Problem:
    with pytest.raises(Problem) as raised:
        read_extract(value, limits)
    return raised.value


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"text": ""}, "text"),
        ({"text": " \n "}, "text"),
        ({"text": "x" * 21}, "text"),
        ({"text": 5}, "text"),
        ({"text": "half \ud83d"}, "text"),
        ({"image": None}, "image"),
        ({"image_url": "https://example.org"}, "image"),
        ({"image": "no base64!"}, "image"),
        ({"image": "data:image/png,AAAA"}, "image"),
        ({"image": ["AAAA"]}, "image"),
        ({"image": None, "image_url": "https://e.org/" + "x" * 2048}, "image_url"),
        ({"stream": "true"}, "stream"),
        ({"colour": 1}, "colour"),
        ({"options": []}, "options"),
        ({"options": {"serach": True}}, "options.serach"),
        ({"options": {"search": 1}}, "options.search"),
        ({"options": {"text_searches": 3}}, "options.text_searches"),
        ({"options": {"text_searches": -1}}, "options.text_searches"),
        ({"options": {"image_searches": 2}}, "options.image_searches"),
        ({"options": {"seed": 2**31}}, "options.seed"),
        ({"options": {"seed": 1.5}}, "options.seed"),
        ({"options": {"temperature": 2.1}}, "options.temperature"),
        ({"options": {"temperature": float("nan")}}, "options.temperature"),
        ({"options": {"deadline_s": 30.5}}, "options.deadline_s"),
        ({"options": {"deadline_s": 0}}, "options.deadline_s"),
        ({"options": {"policy": "x" * 65}}, "options.policy"),
    ],
)
def test_what_cannot_be_is_named_by_its_field(change: dict[str, Any], field: str) -> None:
    refused = problem({**GOOD, **change})
    assert (refused.status, refused.field) == (422, field) and refused.detail


def test_a_service_that_fetches_nothing_says_so() -> None:
    value = {"text": "Ada", "image_url": "https://example.org/a.png"}
    assert read_extract(value, LIMITS).image_url == value["image_url"]
    assert problem(value, dataclasses.replace(LIMITS, urls=False)).field == "image_url"


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({}, (2, 1)),
        ({"text_searches": 1}, (1, 1)),
        ({"image_searches": 0}, (2, 0)),
        ({"search": False, "text_searches": 2}, (0, 0)),
    ],
)
def test_searches_are_those_of_training_unless_fewer_are_wanted(
    options: dict[str, Any], allowed: tuple[int, int]
) -> None:
    asked = read_extract({**GOOD, "options": options}, LIMITS)
    assert (asked.text_searches, asked.image_searches) == allowed


@given(st.binary(max_size=60), st.sampled_from(["", "data:image/png;base64,", "data:;base64,"]), st.booleans())
def test_base64_gives_its_bytes_with_line_breaks_or_as_a_data_url(data: bytes, head: str, lines: bool) -> None:
    text = (base64.encodebytes(data) if lines else base64.b64encode(data)).decode()
    assert read_base64(head + text) == data


@given(ALMOST | VALUES)
def test_any_value_is_a_request_within_the_limits_or_a_problem(value: Any) -> None:
    try:
        asked = read_extract(value, LIMITS)
    except Problem as refused:
        assert refused.status == 422 and json.dumps(refused.shown())
        return
    assert isinstance(asked, Asked) and asked.text.strip() and len(asked.text) <= 20
    assert asked.text.encode() and (asked.image is None) != (asked.image_url == "" and value.get("image_url") is None)
    assert asked.text_searches in range(3) and asked.image_searches in range(2) and 0 < asked.deadline_s <= 30.0
    assert 0 <= asked.options.temperature <= 2 and set(value) <= {"text", "image", "image_url", "options", "stream"}


@given(VALUES)
def test_any_value_is_options_or_a_problem_of_options(value: Any) -> None:
    try:
        read_options(value)
    except Problem as refused:
        assert refused.status == 422 and refused.field.startswith("options")


@given(st.binary() | VALUES.map(lambda value: json.dumps(value).encode()) | st.sampled_from([b"[" * 9, b"9" * 9999]))
def test_any_bytes_are_a_value_or_bad_json(raw: bytes) -> None:
    try:
        read_json(raw, LIMITS)
    except Problem as refused:
        assert (refused.code, refused.status) == ("bad-json", 400) and len(refused.detail) < 1_000


def test_a_key_twice_and_no_number_are_bad_json() -> None:
    for raw in (b'{"text": "a", "text": "b"}', b'{"seed": NaN}', b"", b"\xff", b"{} {}"):
        with pytest.raises(Problem):
            read_json(raw, LIMITS)


def test_a_batch_is_a_list_of_objects_of_at_most_so_many() -> None:
    assert read_batch({"items": [GOOD, {"any": 1}]}, LIMITS) == [GOOD, {"any": 1}]
    values: list[Any] = [
        {"items": [GOOD] * 4},
        {"items": []},
        {"items": [1]},
        {"items": {}},
        [],
        {"items": [GOOD], "a": 1},
    ]
    for value in values:
        with pytest.raises(Problem) as refused:
            read_batch(value, LIMITS)
        assert refused.value.status == 422
