"""What somebody wrote stays text on a page, whatever it is."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sake_ray.pages.markup import el, number, table


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.words: list[str] = []
        self.values: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


@given(st.text(), st.text())
def test_a_text_is_read_back_as_it_was_and_makes_no_element(inside: str, attribute: str) -> None:
    found = read(el("p", inside, title=attribute))
    unseen = set(map(chr, [*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)])) - set("\t\n\r")

    def shown(text: str) -> str:
        return "".join("\ufffd" if character in unseen else character for character in text)

    assert found.tags == ["p"]
    assert "".join(found.words) == shown(inside)
    assert found.values == [shown(attribute)]


def test_code_and_addresses_are_refused() -> None:
    for attributes in (
        {"onclick": "x"},
        {"style": "x"},
        {"href": "https://a.b"},
        {"href": "javascript:x"},
        {"src": "x"},
    ):
        with pytest.raises(ValueError, match="not allowed"):
            el("a", "text", **attributes)
    for tag in ("script", "iframe", "a b", "style"):
        with pytest.raises(ValueError, match="no element"):
            el(tag)
    assert el("a", "there", href="#types") == '<a href="#types">there</a>'


def test_a_table_has_headings_for_those_who_hear_it_and_a_dash_for_what_is_not_known() -> None:
    page = table(["type", "F1"], [["PER", 71.5], ["<b>", None]], caption="by type", mark=0)
    assert "<caption>by type</caption>" in page and '<th scope="row">PER</th>' in page
    assert page.count("<td") == 2 and "–" in page and "<b>" not in page


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (1234567, "1,234,567"), (0.5, "0.50"), (0.00012, "0.00012"), (2500.4, "2,500"), (0, "0")],
)
def test_numbers_are_written_for_people(value: float | None, shown: str) -> None:
    assert number(value) == shown
