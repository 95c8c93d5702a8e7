"""The gallery keeps to its bounds, says what it left out, and can be filtered by what happened."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sake_ray.data.problems import FieldError
from sake_ray.pages import cards as cards_module
from sake_ray.pages.cards import Card, Gallery
from sake_ray.pages.marks import Mark
from sake_ray.pages.rows import ClaimView, GoldView, ResultView, RowView, TurnView
from sake_ray.pages.thumbs import Thumbs
from tests.sake_ray.pages.page_case import make_pictures

GOLD = (GoldView("Ann", "PER", ((1, 1, 9, 9),), difficulty="unknown", seen=False),)
RIGHT = (Mark("right", 0, 0),)
MISSED = (Mark("missed", 0, None),)
SEARCHED = TurnView("…", "TextSearch", results=(ResultView("who is Ann", "success"),))


def row(name: str, marks: tuple[Mark, ...], *turns: TurnView, **more: Any) -> RowView:
    claims = (ClaimView("Ann", "PER", (1, 1, 9, 9)),) if marks == RIGHT else ()
    fields: dict[str, Any] = {"stop_reason": "answer", "image_size": (200, 100), **more}
    return RowView(name, name, "Ann was here", GOLD, claims, turns, marks=marks, **fields)


def card(*rows: RowView) -> Card:
    return Card(rows[0].id, rows[0].id, rows, tuple(f"#{n}" for n in range(len(rows))))


def block(gallery: Gallery, name: str) -> Any:
    page = "".join(gallery.blocks())
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


def test_cards_are_filtered_by_what_happened() -> None:
    index = block(Gallery([card(row("a", RIGHT, SEARCHED)), card(row("b", MISSED))]), "gallery-index")
    assert [item["facets"]["error"] for item in index] == [["all right"], ["any error", "missed"]]
    assert [item["facets"]["search"] for item in index] == [["any", "text"], ["none"]]
    assert index[0]["facets"] | {"error": []} == {
        "error": [], "type": ["PER"], "search": ["any", "text"], "ended": ["answer"], "seen": ["some not seen"],
        "difficulty": ["some unknown"],
    }  # fmt: skip
    assert "who is Ann" in index[0]["words"]
    assert [item["values"]["f1"] for item in index] == [1.0, 0.0]


def test_a_group_is_one_card_that_says_how_much_its_answers_differ() -> None:
    members = [row("g.0", RIGHT, reward={"total": 1.0}), row("g.1", MISSED, reward={"total": 0.25})]
    gallery = Gallery([card(*members)])
    assert block(gallery, "gallery-index")[0]["values"] == {"f1": 0.5, "reward": 0.625, "spread": 0.75}
    assert [member["marks"] for member in block(gallery, "d0")["members"]] == [[["right", 0, 0]], [["missed", 0, None]]]


def test_the_posts_with_errors_are_kept_when_not_all_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards_module, "MAX_CARDS", 2)
    given = [card(row(name, marks)) for name, marks in (("a", RIGHT), ("b", MISSED), ("c", RIGHT), ("d", MISSED))]
    gallery = Gallery(given)
    assert [kept.id for kept in gallery.cards] == ["b", "d"], "and in the order of the file"
    assert "2 of 4 posts" in gallery.limits_note


def test_pictures_end_where_their_bytes_do_and_are_shared(tmp_path: Path) -> None:
    first, second = make_pictures(tmp_path, 2)
    whole = Thumbs(10**9)
    assert whole.add(first) == whole.add(first) and len(whole.addresses) == 1
    size = len(whole.addresses["t0"])
    small = Thumbs(size)
    assert small.add(first).name == "t0"
    assert "left out" in small.add(second).missing and small.left_out == 1 and small.failed == 0


def test_a_picture_that_cannot_be_shown_says_why_and_a_folder_helps(tmp_path: Path) -> None:
    make_pictures(tmp_path, 1)
    (tmp_path / "post_1.jpg").write_bytes(b"no picture")
    rows = [
        row("post_0", RIGHT),
        row("post_1", RIGHT),
        row("post_2", RIGHT),
        row("post_3", RIGHT, image="/not/there.png"),
    ]
    gallery = Gallery([card(one) for one in rows], images=tmp_path)
    details = [block(gallery, f"d{number}") for number in range(4)]
    assert [detail["pic"] for detail in details] == ["t0", None, None, None]
    assert "cannot identify" in details[1]["missing"] and "images=FOLDER" in details[2]["missing"]
    assert "no such file" in details[3]["missing"] and "2 pictures could not be read" in gallery.limits_note


def test_pictures_that_a_search_found_are_small_and_a_lost_one_says_so(tmp_path: Path) -> None:
    found = (*make_pictures(tmp_path, 1), str(tmp_path / "gone.png"))
    turn = TurnView("…", "ImageSearch", results=(ResultView("Ann", "success", pictures=found),))
    gallery = Gallery([card(row("a", RIGHT, turn))])
    shown, lost = block(gallery, "d0")["members"][0]["turns"][0]["results"][0]["pics"]
    picture = base64.b64decode(gallery.thumbs.addresses[shown["pic"]].partition(",")[2])
    assert Image.open(io.BytesIO(picture)).size == (128, 64)
    assert lost["pic"] is None and "no such file" in lost["missing"]


def test_a_row_without_verdicts_is_refused_unless_somebody_decides_them() -> None:
    bare = RowView("a", "a", "Ann", GOLD, ())
    with pytest.raises(FieldError, match="has none"):
        Gallery([card(bare)])
    assert Gallery([card(bare)], mark=lambda _: MISSED).cards
