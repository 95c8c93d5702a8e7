"""What every page has around its contents: header with provenance, sections to jump to, help, footer, gallery.

Knows nothing of runs or evaluations. Always holds: every section has a heading and is in the navigation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sake_ray.pages.markup import Html, el, join, text

STYLES = ("page.css",)
SCRIPTS = ("base.js",)
GALLERY_SCRIPTS = ("base.js", "card.js", "gallery.js")

_KEYS = (
    ("j / k", "next / previous post (also ↓ / ↑ on a post)"),
    ("g / G", "first / last post"),
    ("o", "open or close its turns"),
    ("[ / ]", "previous / next answer, where a post has several"),
    ("/", "search"),
    ("Esc", "leave the search field"),
    ("?", "this help"),
)


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page; one without a body is left out."""

    id: str
    title: str
    body: Html


def body(title: str, lead: str, facts: Mapping[str, object], sections: Sequence[Section], made_by: str) -> Html:
    """A page's body."""
    shown = [section for section in sections if section.body]
    links = [el("li", el("a", section.title, href=f"#{section.id}")) for section in shown]
    provenance = el(
        "dl",
        *[el("div", el("dt", name), el("dd", value)) for name, value in facts.items() if value not in (None, "")],
        class_="facts",
        id="provenance",
    )
    return join(
        [
            el("a", "Skip to the contents", href="#main", class_="skip"),
            el("header", el("h1", title), el("p", lead) if lead else None, provenance, class_="top"),
            el("nav", el("ul", *links, el("li", el("button", "Keys", type="button", data_help=True))),
               class_="sections", aria_label="Sections"),
            el("main", *[_section(section) for section in shown], id="main"),
            el("footer", el("p", made_by)),
            _help(),
        ]
    )  # fmt: skip


def gallery(intro: str, note: str) -> Html:
    """The places that the gallery's script fills."""
    return join(
        [
            el("p", intro),
            el("p", note, class_="note") if note else None,
            el("div", id="controls", class_="controls", role="search", aria_label="Filter the posts"),
            el("p", id="count", class_="count", role="status", aria_live="polite"),
            el("div", id="cards", class_="cards"),
        ]
    )


def tiles(values: Sequence[tuple[str, str, str]]) -> Html:
    """Headline numbers: name, number, and a few words on it."""
    return el(
        "div",
        *[
            el("div", el("span", name), el("b", shown), el("span", words), class_="tile")
            for name, shown, words in values
        ],
        class_="tiles",
    )


def plots(figures: Sequence[Html]) -> Html:
    """Figures side by side; "" without any."""
    shown = [figure for figure in figures if figure]
    return el("div", *shown, class_="plots") if shown else Html("")


def _section(section: Section) -> Html:
    heading = el("h2", section.title, id=f"{section.id}-title")
    return el("section", heading, section.body, id=section.id, aria_labelledby=f"{section.id}-title")


def _help() -> Html:
    rows = [el("tr", el("td", join(_kbd(keys))), el("td", what)) for keys, what in _KEYS]
    close = el("form", el("button", "Close"), method="dialog")
    return el("dialog", el("h2", "Keys"), el("table", el("tbody", *rows)), close, id="help", aria_label="Keys")


def _kbd(keys: str) -> list[Html]:
    parts: list[Html] = []
    for index, key in enumerate(keys.split(" / ") if keys != "/" else ["/"]):
        parts += ([text(" ")] if index else []) + [el("kbd", key)]
    return parts
