"""Boxes at the pixels they name, known and searched told apart, and names of any kind on a picture of any size."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image
from PIL.ImageFont import load_default

from sake_ray.pages.annotate import COLOURS, annotate, colour_of, drawn_box, enlarged, plain

GREY = (128, 128, 128)


def entity(box: Any = None, text: str = "Ada", kind: str = "PER", searched: bool = False) -> dict[str, Any]:
    return {"text": text, "type": kind, "box": box, "searched": searched}


def picture(width: int = 700, height: int = 400, colour: Any = GREY) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


@pytest.mark.parametrize("ground", ["white", "black", "#62b6ff"])
def test_a_known_box_stands_at_its_pixels_within_a_dark_line(ground: str) -> None:
    drawn = annotate(picture(colour=ground), [entity([100, 150, 300, 350])])
    blue = rgb(COLOURS[0])
    for place in ((100, 250), (299, 250), (200, 150), (200, 349)):
        assert drawn.getpixel(place) == blue
    for beside in ((99, 250), (300, 250), (200, 350)):
        assert drawn.getpixel(beside) == rgb("#0d1117")
    assert drawn.getpixel((200, 250)) == drawn.getpixel((600, 200)), "within and far from it nothing is drawn"


def test_a_searched_box_is_dashed_and_a_known_one_is_not() -> None:
    for searched in (False, True):
        drawn = annotate(picture(), [entity([100, 150, 300, 350], searched=searched)])
        line = {drawn.getpixel((100, y)) for y in range(160, 340)}
        assert line == {rgb(COLOURS[0])} | ({rgb("#0d1117")} if searched else set())


def test_a_small_picture_is_enlarged_by_a_whole_number() -> None:
    assert (enlarged((84, 56)), enlarged((640, 10)), enlarged((4_000, 3_000)), enlarged((1, 1))) == (8, 1, 1, 640)
    small = picture(84, 56)
    drawn = annotate(small, [entity([21, 14, 42, 28])])
    assert drawn.width == 672 and drawn.getpixel((21 * 8, 180)) == drawn.getpixel((42 * 8 - 1, 180)) == rgb(COLOURS[0])
    assert drawn.getpixel((42 * 8, 180)) == rgb("#0d1117")
    assert small.getpixel((21, 20)) == GREY, "the picture handed in is as it was"


@pytest.mark.parametrize(
    ("box", "drawn"),
    [
        ([0, 0, 10, 10], (0, 0, 19, 19)),
        ([-5, 2, 400, 9], (0, 4, 199, 17)),
        ([5, 5, 5, 9], None),
        ([9, 9, 5, 5], None),
        ([200, 0, 300, 10], None),
        ([0, 0, float("nan"), 3], None),
        ([0, 0, "9", 3], None),
        ([1, 2, 3], None),
        (None, None),
    ],
)
def test_only_what_lies_in_the_picture_is_drawn(box: Any, drawn: Any) -> None:
    assert drawn_box(box, (100, 50), 2) == drawn


@pytest.mark.parametrize("size", [(1, 1), (30, 3_000), (3_000, 30), (641, 9)])
@pytest.mark.parametrize(
    "name", ["", "x" * 9_000, "Ада 漢字 مرحبا", "🎉👩‍👩‍👧", "a\nb\x1b[31m\x00", "\ud83d", "<b>&amp;[red]"]
)
def test_any_name_on_any_picture(size: tuple[int, int], name: str) -> None:
    boxes = [[0, 0, *size], [0, 0, 1, 1], None]
    drawn = annotate(picture(*size), [entity(box, name, name or "T", bool(box)) for box in boxes])
    assert drawn.width >= 320 and drawn.height > size[1]


def test_what_the_font_lacks_is_replaced_and_what_is_long_is_cut() -> None:
    font = load_default(14)
    assert plain("Ada\u200b  漢\n\x1b🎉", font, 24) == "Ada ? ?"
    assert plain("x" * 30, font, 24) == "x" * 23 + "…" and plain("x" * 24, font, 24) == "x" * 24


def test_names_do_not_cover_each_other_where_there_is_room() -> None:
    one = annotate(picture(), [entity([100, 150, 300, 350], "Ada")])
    two = annotate(picture(), [entity([100, 150, 300, 350], "Ada"), entity([100, 150, 300, 350], "Bob")])
    above = (100, 125, 180, 149)
    assert one.crop(above).tobytes() == two.crop(above).tobytes()


def test_types_have_the_colours_of_the_services_page() -> None:
    assert [colour_of({"type": kind}) for kind in ("PER", "ORG", "LOC", "MISC")] == list(COLOURS[:4])
    assert colour_of({"type": "person"}) in COLOURS[4:] and colour_of({}) in COLOURS[4:]
