"""Which part of a long document is shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from envs.tools.local_passage import ELLIPSIS, passage

FILLER = "Nothing of interest is said here. " * 40


def test_the_part_with_most_of_the_words_is_shown_from_where_its_sentence_begins() -> None:
    text = f"{FILLER}A lake. {FILLER}The lake of Zürich is deep. {FILLER}"
    assert passage(text, ["zurich", "lake"], 60).startswith(f"{ELLIPSIS}The lake of Zürich is deep.")
    assert "A lake." in passage(text, ["lake"], 60), "the earliest of equal places"
    assert passage(text, ["nowhere"], 60) == passage(text, [], 60) == text[:60]
    assert passage("Deep lake. " + text, ["lake"], 60) == ("Deep lake. " + text)[:60], "near enough to the beginning"


@given(
    st.text("ab .\n_é", max_size=120),
    st.lists(st.sampled_from(["a", "ab", "é", "b_a", ""]), max_size=3),
    st.integers(0, 60),
)
def test_a_part_is_never_too_long_and_a_short_text_is_whole(text: str, words: list[str], max_chars: int) -> None:
    shown = passage(text, words, max_chars)
    assert len(shown) <= max_chars
    assert shown == text if len(text) <= max_chars else shown.removeprefix(ELLIPSIS) in text
