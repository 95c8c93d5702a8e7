"""Where names stand in a post: in code points, the right one of several, and never an exception."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sake_ray.serving.spans import find_spans

WORDS = st.lists(
    st.sampled_from(["York", "new", "New", "Élan", "ß", "東京", "é", "👩\u200d🚀", "a.b*", "x"]), min_size=1
)
BLANKS = st.sampled_from([" ", "\t", "\n", "\u00a0", "\u3000", " \n "])


def same(left: str, right: str) -> bool:
    """Equal but for case and the kind of blanks."""
    return left.lower().split() == right.lower().split()


@given(st.text(), st.lists(st.text()))
def test_any_texts_give_places_within_the_post_or_none(text: str, names: list[str]) -> None:
    spans = find_spans(text, names)
    assert len(spans) == len(names)
    for name, span in zip(names, spans, strict=True):
        assert span is None or (0 <= span[0] < span[1] <= len(text) and text[slice(*span)].strip() != "")
        assert span is not None or not name.strip() or name not in text


@given(WORDS, st.data())
def test_a_part_of_the_post_is_found_whatever_its_case_and_blanks(words: list[str], data: st.DataObject) -> None:
    text = data.draw(BLANKS).join(words)
    start = data.draw(st.integers(0, len(words) - 1))
    taken = words[start : data.draw(st.integers(start + 1, len(words)))]
    upper = data.draw(st.booleans())
    name = data.draw(BLANKS).join(word.upper() if upper and len(word.upper()) == len(word) else word for word in taken)
    (span,) = find_spans(text, [name])
    assert span is not None and same(text[slice(*span)], name)


@given(st.lists(st.sampled_from(["Ada", "Adas", "Ada B", "Bo", "ada"]), min_size=1, max_size=6), st.integers(1, 6))
def test_names_of_one_text_get_places_of_their_own_while_there_are_some(words: list[str], count: int) -> None:
    text = " | ".join(words)
    spans = find_spans(text, ["Bo"] * count)
    places = words.count("Bo")
    assert len({span for span in spans if span is not None}) == min(count, places)
    assert all((span is None) == (places == 0) for span in spans)


def test_longer_names_choose_first_and_whole_words_are_preferred() -> None:
    text = "New Yorkers of New York love York"
    assert find_spans(text, ["York", "New York"]) == [(29, 33), (15, 23)]
    assert find_spans("New York", ["York", "New York"]) == [(4, 8), (0, 8)], "one inside another where all else is gone"
    assert find_spans("york, York", ["York"]) == [(6, 10)], "the very letters before others"


def test_spans_count_code_points_of_the_post_as_it_is() -> None:
    text = "👩\u200d🚀 Ade\u0301le & 🇫🇷 Ade\u0301le"
    first, second = find_spans(text, ["Ade\u0301le", "Ade\u0301le"])
    assert (first, second) == ((4, 10), (16, 22)), "an astronaut is three code points, a flag two, an é here two"
    assert find_spans("half \ud83d Ada", ["Ada"]) == [(7, 10)]
    assert find_spans("ADA\u00a0 LOVE", ["Ada Love"]) == [(0, 9)]
