"""A turn in pieces: wherever it is cut, it is the turn it would have been."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from actors.vllm_requests import Piece, TurnInPieces
from sake_ray.actions import STOP_STRINGS

TOKENS = (
    "<",
    "/",
    "answer>",
    "</answ",
    "er",
    ">",
    "</answer>",
    "a",
    "text_search",
    "</",
    "image",
    "r>",
    "</text_search>",
)
"""Tokens in which stop strings fall apart in many ways."""


def decode(ids: Sequence[int]) -> str:
    return "".join(TOKENS[i] for i in ids)


def engine(ids: list[int], begin: int, room: int, stops: list[str], cut: int | None) -> Piece:
    """What an engine gives that would sample `ids`, from `begin` on, with `cut` more tokens before it is cut off."""
    text = ""
    taken: list[int] = []
    for index in ids[begin : begin + room]:
        if cut is not None and len(taken) == cut:
            return Piece(tuple(taken), (0.0,) * len(taken), (1,) * len(taken), text, "abort")
        taken.append(index)
        text += TOKENS[index]
        for stop in stops:
            if stop in text:
                end = text.index(stop) + len(stop)
                return Piece(tuple(taken), (0.0,) * len(taken), (1,) * len(taken), text[:end], "stop", stop)
    if cut is not None and len(taken) == cut and len(taken) < room:
        return Piece(tuple(taken), (0.0,) * len(taken), (1,) * len(taken), text, "abort")
    return Piece(tuple(taken), (0.0,) * len(taken), (1,) * len(taken), text, "length")


@given(
    ids=st.lists(st.integers(0, len(TOKENS) - 1), min_size=1, max_size=24),
    cuts=st.lists(st.integers(0, 5), max_size=5),
)
def test_a_turn_cut_anywhere_has_the_tokens_text_and_end_of_an_uncut_one(ids: list[int], cuts: list[int]) -> None:
    whole = engine(ids, 0, len(ids), list(STOP_STRINGS), None)
    turn, left = TurnInPieces(STOP_STRINGS, len(ids), decode), list(cuts)
    while not turn.done:
        cut = left.pop(0) if left else None
        turn.add(engine(ids, len(turn.token_ids), turn.room, turn.stops(), cut))
    completion = turn.completion()
    assert completion.token_ids == whole.token_ids
    assert (completion.text, completion.finish_reason) == (whole.text, whole.finish_reason)
    assert len(completion.logprobs) == len(completion.token_versions) == len(whole.token_ids)


def test_versions_are_named_only_where_they_differ() -> None:
    turn = TurnInPieces(STOP_STRINGS, 4, decode)
    turn.add(Piece((7, 7), (-1.0, -2.0), (3, 3), "aa", "abort"))
    turn.add(Piece((7, 6), (-3.0, -4.0), (4, 4), "a</answer>", "stop", "</answer>"))
    completion = turn.completion()
    assert (completion.policy_version, completion.versions) == (3, (3, 3, 4, 4))
    assert completion.logprobs == (-1.0, -2.0, -3.0, -4.0)
    single = TurnInPieces(STOP_STRINGS, 4, decode)
    single.add(Piece((7,), (-1.0,), (3,), "a", "stop", 2))
    assert (single.completion().versions, single.completion().token_versions) == ((), (3,))
