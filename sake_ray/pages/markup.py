"""HTML out of texts, so that a text can never become HTML.

Knows nothing of pages. Always holds: a `str` is escaped, only `Html` is not, and nothing but this module's functions
makes `Html` out of a text somebody else wrote; an attribute that would carry code or an address is refused.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*\Z")
_VOID = {"meta", "br", "hr", "input", "col"}
# Attributes whose value a browser runs or fetches; `style` is kept out by the page's policy.
_REFUSED = {"style", "srcdoc", "src", "action", "formaction", "ping", "background", "poster", "data"}
# What HTML and XML cannot hold; seen as what stands for the unknown.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Html:
    """Any value as text of a page."""
    return value if isinstance(value, Html) else Html(html.escape(_CONTROL.sub("\ufffd", str(value)), quote=True))


def el(tag: str, *children: object, **attributes: object) -> Html:
    """An element. None and False are left out, True is a bare attribute, `_` in a name stands for `-`.

    Raises:
        ValueError: a tag or attribute that this program must not write.
    """
    if not _NAME.match(tag) or tag in ("script", "style", "iframe", "object", "embed"):
        raise ValueError(f"<{tag}> is no element to be made here")
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        if key == "viewbox":
            key = "viewBox"
        if key.startswith("on") or key in _REFUSED or (key == "href" and not str(value).startswith("#")):
            raise ValueError(f"attribute {key}={value!r:.40} is not allowed on a page")
        parts.append(f" {key}" if value is True else f' {key}="{text(value)}"')
    parts.append(">")
    if tag not in _VOID:
        parts.extend(text(child) for child in children if child is not None)
        parts.append(f"</{tag}>")
    return Html("".join(parts))


def join(children: Iterable[object]) -> Html:
    """Children one after the other."""
    return Html("".join(text(child) for child in children if child is not None))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str, mark: int | None = None) -> Html:
    """A table that scrolls by itself where it is too wide; the first cell of a row is its heading.

    `mark` is the index of a row to stand out.
    """
    body, listed = [], list(rows)
    for index, row in enumerate(listed):
        cells = [el("th", row[0], scope="row"), *(_cell(value) for value in row[1:])]
        body.append(el("tr", *cells, class_="marked" if index == mark else None))
    numeric = [all(len(row) > at and _is_number(row[at]) for row in listed) for at in range(len(head))]
    heads = [el("th", value, scope="col", class_="n" if numeric[at] else None) for at, value in enumerate(head)]
    grid = el("table", el("caption", caption), el("thead", el("tr", *heads)), el("tbody", *body))
    return el("div", grid, class_="wide", tabindex="0", role="region", aria_label=caption)


def number(value: object, digits: int = 2) -> str:
    """A number as people read it; "–" for None."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    if value and abs(value) < 10.0**-digits:
        return f"{value:.2g}"
    return f"{value:,.{digits}f}"


def _cell(value: object) -> Html:
    if isinstance(value, Html):
        return el("td", value)
    return el("td", number(value), class_="n" if _is_number(value) else None)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
