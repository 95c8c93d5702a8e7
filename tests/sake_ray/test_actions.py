"""`parse_action`: every text is an action or `Malformed` with a fixed reason; nothing raises or grows without bound."""

from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sake_ray.actions import ACTION_TAGS, ActionLimits, MalformedReason, parse_action
from sake_ray.types import Answer, ImageSearch, Malformed, PredictedEntity, TextSearch

REASON = "<reason>think</reason>"
ROW = '{"entity": "Ada", "type": "PER", "box2d": %s}'


def answer(rows: str) -> str:
    return f"{REASON}<answer>{rows}</answer>"


@pytest.mark.parametrize(
    ("text", "action"),
    [
        (answer("[]"), Answer(())),
        (f"  {REASON}\nso \n<answer> [] </answer>\n", Answer(())),
        (answer(f"[{ROW % '[]'}]"), Answer((PredictedEntity("Ada", "PER", None),))),
        (answer(f"[{ROW % '[1, 2.5, -3, 4]'}]"), Answer((PredictedEntity("Ada", "PER", (1.0, 2.5, -3.0, 4.0)),))),
        (f'{REASON}<text_search>[{{"query": " a "}}, {{"q": "b"}}, "c"]</text_search>', TextSearch(("a", "b", "c"))),
        (f'{REASON}<image_search>[{{"query": "a", "top_k": 3}}]</image_search>', ImageSearch(("a",))),
        ("<reason>a < b > c, [1]</reason><answer>[]</answer>", Answer(())),
    ],
)
def test_well_formed_texts_become_actions(text: str, action: object) -> None:
    assert parse_action(text) == action


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_reason"),
        ("<answer>[]</answer>", "no_reason"),
        ("<reason>never closed <answer>[]</answer>", "no_reason"),
        ("hello <reason>a</reason><answer>[]</answer>", "stray_text"),
        (f"{REASON}<answer>[]</answer> trailing", "stray_text"),
        (REASON, "no_action"),
        (f"{REASON}<answer>[]", "no_action"),
        (f"{REASON}<answer>[]</text_search>", "many_blocks"),
        (f"{REASON}</answer>[]<answer>", "many_blocks"),
        (f"{REASON}{REASON}<answer>[]</answer>", "many_blocks"),
        (f'{REASON}<text_search>["a"]</text_search><answer>[]</answer>', "many_blocks"),
        (answer("no json"), "bad_json"),
        (answer("[NaN]"), "bad_json"),
        (answer("[" + "9" * 5_000 + "]"), "bad_json"),
        (answer("{}"), "not_a_list"),
        (answer("[[]]"), "bad_entity"),
        (answer('[{"entity": "", "type": "PER", "box2d": []}]'), "bad_entity"),
        (answer('[{"entity": "a", "type": 3, "box2d": []}]'), "bad_entity"),
        (answer('[{"entity": "\\ud800", "type": "PER", "box2d": []}]'), "bad_entity"),
        (answer('[{"entity": "a", "type": "PER"}]'), "bad_box"),
        (f"{REASON}<text_search>[]</text_search>", "no_query"),
        (f"{REASON}<text_search>[{{}}]</text_search>", "bad_query"),
        (f'{REASON}<text_search>["  "]</text_search>', "bad_query"),
    ],
)
def test_other_texts_say_what_is_wrong(text: str, reason: str) -> None:
    assert parse_action(text) == Malformed(reason)


@pytest.mark.parametrize(
    "box", ["null", "[1, 2, 3]", "[1, 2, 3, true]", '[1, 2, 3, "4"]', "[1, 2, 3, 1e999]", "[1,2,3,[4]]"]
)
def test_a_box_is_four_finite_numbers_or_empty(box: str) -> None:
    assert parse_action(answer(f"[{ROW % box}]")) == Malformed("bad_box")


def test_huge_whole_numbers_are_no_coordinates() -> None:
    assert parse_action(answer(f"[{ROW % ('[1, 2, 3, 1' + '0' * 400 + ']')}]")) == Malformed("bad_box")


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '[{"a":' * 100_000, '"' * 100_000, '\\"' * 100_000, "<answer>" * 20_000, "9" * 100_000]
)
def test_adversarial_bodies_are_refused_quickly(body: str) -> None:
    limits = ActionLimits(max_chars=1_000_000)
    started = time.perf_counter()
    assert isinstance(parse_action(answer(body), limits), Malformed)
    assert isinstance(parse_action(body, limits), Malformed)
    assert time.perf_counter() - started < 2.0


def test_counts_and_lengths_are_bounded() -> None:
    limits = ActionLimits(max_chars=2_000, max_queries=2, max_query_chars=5, max_entities=2, max_field_chars=5)
    search = f"{REASON}<text_search>%s</text_search>"
    assert parse_action(search % '["a", "b", "c"]', limits) == Malformed("too_many_queries")
    assert parse_action(search % '["abcdef"]', limits) == Malformed("bad_query")
    assert parse_action(answer("[" + ", ".join([ROW % "[]"] * 3) + "]"), limits) == Malformed("too_many_entities")
    assert parse_action(answer('[{"entity": "abcdef", "type": "PER", "box2d": []}]'), limits) == Malformed("bad_entity")
    assert parse_action(answer("[" + " " * 2_000 + "]"), limits) == Malformed("too_long")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["query", "q", "entity", "type", "box2d", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
_PIECES = st.sampled_from(
    [f"<{slash}{tag}>" for tag in (*ACTION_TAGS, "reason") for slash in ("", "/")]
    + ["[", "]", '"', "\\", "{", "\ud800"]
)


@given(st.lists(_PIECES | st.text(max_size=6) | _JSON.map(json.dumps), max_size=14).map("".join))
@example("<reason></reason><answer>[{]</answer>")
def test_no_text_raises_and_every_reason_is_known(text: str) -> None:
    action = parse_action(text)
    if isinstance(action, Malformed):
        assert action.reason in set(MalformedReason)


@given(st.sampled_from(ACTION_TAGS), _JSON.map(json.dumps))
def test_whatever_stands_in_the_block_the_action_keeps_its_promises(tag: str, body: str) -> None:
    limits = ActionLimits(max_entities=3, max_queries=3)
    match parse_action(f"{REASON}<{tag}>{body}</{tag}>", limits):
        case Answer(entities):
            assert len(entities) <= limits.max_entities
            for entity in entities:
                assert entity.text.strip() == entity.text != ""
                entity.text.encode()
                assert entity.box is None or all(math.isfinite(side) for side in entity.box)
        case TextSearch(queries) | ImageSearch(queries):
            assert 1 <= len(queries) <= limits.max_queries
            assert all(query.strip() == query != "" for query in queries)
        case Malformed(reason):
            assert reason in set(MalformedReason)


_WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda text: text.strip() and "<" not in text
)
_SIDE = st.integers(-10_000, 10_000) | st.floats(-10_000, 10_000)


@given(st.lists(st.tuples(_WORDS, _WORDS, st.none() | st.tuples(_SIDE, _SIDE, _SIDE, _SIDE)), max_size=8))
def test_a_written_answer_is_read_back(rows: list[tuple[str, str, tuple[float, ...] | None]]) -> None:
    body = json.dumps([{"entity": text, "type": kind, "box2d": list(box or ())} for text, kind, box in rows])
    action = parse_action(answer(body))
    assert isinstance(action, Answer)
    assert [(e.text, e.type, e.box) for e in action.entities] == [(t.strip(), k.strip(), b) for t, k, b in rows]
