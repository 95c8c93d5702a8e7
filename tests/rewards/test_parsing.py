"""Raw turns are read under limits, an answer whole or not at all; no text makes the reader raise."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.entities import Claim
from rewards.format import released_format
from rewards.parsing import MAX_ITEMS, MAX_TEXT, answers_only, read_answer, search_kind
from sake_ray.types import SearchKind

_TAGS = [f"<{slash}{name}>" for name in ("reason", "answer", "text_search", "image_search") for slash in ("", "/")]
_BODIES = ['[{"query": "a"}]', "[]", '[{"entity":"a","type":"b","box2d":[1,2,3,4]}]', "[[[", "so ", '"']
_PIECES = st.sampled_from(_TAGS + _BODIES)
_TURNS = st.lists(_PIECES | st.text(max_size=8), max_size=12).map("".join)
_ENTITY = {"entity": "Ada", "type": "PER", "box2d": [1, 2, 3, 4]}


def answer(value: object, before: str = "<reason>r</reason>") -> str:
    return f"{before}<answer>{json.dumps(value)}</answer>"


def search(tag: str, value: object) -> str:
    return f"<reason>r</reason><{tag}>{json.dumps(value)}</{tag}>"


@given(st.lists(_TURNS, min_size=1, max_size=3))
def test_no_text_makes_a_reader_raise(turns: list[str]) -> None:
    claims = read_answer(turns[-1])
    assert claims is None or len(claims) <= MAX_ITEMS
    form, searches = released_format(turns)
    assert form <= int(claims is not None)
    assert searches == len(turns) - 1 or len(turns) == 1


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=9), st.none() | st.just((1.0, -2.0, 3.5, 4.0)))))
def test_what_was_written_is_read_back(
    entities: list[tuple[str, str, tuple[float, float, float, float] | None]],
) -> None:
    value = [{"entity": text, "type": kind, "box2d": list(box or [])} for text, kind, box in entities]
    # As a model writes it: a closing tag inside a text would end the block.
    if not any("</answer>" in part or "<answer>" in part for e in entities for part in e[:2]):
        assert read_answer(answer(value)) == [Claim(*entity) for entity in entities]


@pytest.mark.parametrize(
    "value",
    [
        {"entities": [_ENTITY]},
        [_ENTITY, 1],
        [{"entity": "Ada", "type": "PER", "bbox": [1, 2, 3, 4]}],
        [{**_ENTITY, "box2d": [1, 2]}],
        [{**_ENTITY, "box2d": [1, 2, 3, "4"]}],
        [{**_ENTITY, "box2d": [1, 2, 3, float("nan")]}],
        [{**_ENTITY, "box2d": [1, 2, 3, 10**400]}],
        [{**_ENTITY, "box2d": None}],
        [{**_ENTITY, "entity": 5}],
        [_ENTITY] * (MAX_ITEMS + 1),
    ],
)
def test_one_bad_item_spoils_the_answer(value: object) -> None:
    assert read_answer(answer(value)) is None
    assert not answers_only(answer(value))


def test_broken_deep_and_endless_texts_are_no_answer() -> None:
    for body in ("[", "[" * 100_000, "[" + "9" * 10_000 + "]", "[" + " " * MAX_TEXT + "]", '["' + "\\" * 99_999):
        assert read_answer(f"<answer>{body}</answer>") is None
    assert read_answer("<answer>" * 50_000) is None


def test_the_last_answer_counts_and_words_around_it_cost_only_the_form() -> None:
    turn = answer([_ENTITY]) + " so " + answer([], before="") + " done"
    assert read_answer(turn) == []
    assert not answers_only(turn)
    assert answers_only("  " + answer([], before="<reason>r</reason> so ") + "\n")


@pytest.mark.parametrize(
    "turn",
    [
        answer([], before=""),
        answer([], before="<reason>r"),
        answer([], before="<reason>r</reason><reason>s</reason>"),
        answer([], before="so <reason>r</reason>"),
        answer([], before='<reason>r</reason><text_search>[{"query":"a"}]</text_search>'),
        answer([]) + "!",
        "<answer>[]</answer><reason>r</reason>",
    ],
)
def test_turns_that_are_not_only_an_answer(turn: str) -> None:
    assert not answers_only(turn)


def test_searches() -> None:
    assert search_kind(search("text_search", [{"query": "a", "top_k": 3}])) is SearchKind.TEXT
    assert search_kind(search("image_search", [{"query": "a"}, {"query": "b"}])) is SearchKind.IMAGE
    for value in ({"query": "a"}, ["a"], [{"q": "a"}], [{"query": 1}], []):
        assert search_kind(search("text_search", value)) is None


def test_the_release_takes_two_searches_in_one_order_only() -> None:
    text, image = search("text_search", [{"query": "a"}]), search("image_search", [{"query": "a"}])
    last = answer([])
    assert [released_format(t)[0] for t in ([last], [text, last], [image, last])] == [1, 1, 1]
    assert [released_format(t)[0] for t in ([image, text, last], [text, image, last], [text, text, last])] == [1, 0, 0]


@pytest.mark.parametrize("turns", [0, 4])
def test_the_release_refuses_other_numbers_of_turns(turns: int) -> None:
    with pytest.raises(ValueError, match="1 to 3 turns"):
        released_format([answer([])] * turns)
