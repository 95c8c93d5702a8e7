"""A picture with the boxes and names of an answer drawn on it, and below it what the lines mean.

Known entities have a solid line, searched ones a dashed one. Knows nothing of files or services. Always holds: a box
stands at the very pixels it names, times the whole number by which a small picture is enlarged; whatever a name holds
is drawn as text, cut where it is long, with what the font lacks shown as "?"; the picture handed in is not drawn on.
"""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

    Font = FreeTypeFont | BitmapFont

LEAST_SIDE = 640
"""Pixels of the longer side up to which a small picture is enlarged, so that its labels can be read."""
COLOURS = ("#62b6ff", "#ff9f40", "#3fdc5e", "#c9a6ff", "#ff7ac6", "#ffd75e", "#e3e8ee", "#4fd6e6")
"""The service's page draws the four usual types in the first four, others in the rest."""
PAPER, INK, QUIET = "#0d1117", "#e6edf3", "#9aa4af"
_TYPES = ("PER", "ORG", "LOC", "MISC")
_NAME_CHARS, _TYPE_CHARS, _MOST_LINES = 24, 16, 24
_FONTS = ("DejaVuSans.ttf",)  # knows more letters than PIL's own
_LACKED = "?"

Rectangle = tuple[int, int, int, int]


def annotate(picture: Image, entities: Sequence[Mapping[str, Any]]) -> Image:
    """A copy of `picture` with `entities` ("text", "type", "box" in its pixels or None, "searched") drawn on it."""
    from PIL.Image import Resampling
    from PIL.ImageDraw import Draw

    scale = enlarged(picture.size)
    canvas = picture.convert("RGB").resize((picture.width * scale, picture.height * scale), Resampling.NEAREST)
    drawing = Draw(canvas)
    taken: list[Rectangle] = []
    size = max(14, min(round(canvas.width / 48), 64))
    font = _font(size)
    for entity in entities:
        if (box := drawn_box(entity.get("box"), picture.size, scale)) is not None:
            _frame(drawing, box, max(3, size // 5), colour_of(entity), dashed=bool(entity.get("searched")))
    # After all frames, so that none runs through a name.
    for number, entity in enumerate(entities, start=1):
        if (box := drawn_box(entity.get("box"), picture.size, scale)) is not None:
            _label(drawing, box, _title(number, entity, font), font, colour_of(entity), canvas.size, taken)
    return _with_legend(canvas, entities, _font(15))


def enlarged(size: tuple[int, int]) -> int:
    """The whole number by which a picture of this size is enlarged."""
    return max(1, math.ceil(LEAST_SIDE / max(size)))


def drawn_box(box: object, size: tuple[int, int], scale: int) -> Rectangle | None:
    """First and last pixels of a box in the enlarged picture; None for what has no area within it."""
    if not isinstance(box, Sequence) or len(box) != 4 or not all(isinstance(side, int | float) for side in box):
        return None
    if not all(math.isfinite(side) for side in box):
        return None
    x1, x2 = (min(max(0, int(side)), size[0]) for side in (box[0], box[2]))
    y1, y2 = (min(max(0, int(side)), size[1]) for side in (box[1], box[3]))
    if x1 >= x2 or y1 >= y2:
        return None
    return x1 * scale, y1 * scale, x2 * scale - 1, y2 * scale - 1


def colour_of(entity: Mapping[str, Any]) -> str:
    """The colour of an entity's type: a usual one has its own, others one by their letters."""
    kind = str(entity.get("type", ""))
    if kind in _TYPES:
        return COLOURS[_TYPES.index(kind)]
    total = 0
    for character in kind:
        total = (total * 31 + ord(character)) % 4
    return COLOURS[4 + total]


def plain(text: object, font: Font, most: int) -> str:
    """A text on one line that the font can draw, at most `most` characters of it."""
    said = " ".join(str(text)[: 20 * most].split())
    kept = [character for character in said if not unicodedata.category(character).startswith("C")]
    shown = "".join(character if _can_draw(font, character) else _LACKED for character in kept)
    return shown if len(shown) <= most else shown[: most - 1].rstrip() + "…"


def _title(number: int, entity: Mapping[str, Any], font: Font) -> str:
    name, kind = plain(entity.get("text"), font, _NAME_CHARS), plain(entity.get("type"), font, _TYPE_CHARS)
    return f"{number} {name} · {kind}"


def _frame(drawing: ImageDraw, box: Rectangle, width: int, colour: str, *, dashed: bool) -> None:
    """The outline of a box, its outer edge on the box's own pixels, within a dark one."""
    x1, y1, x2, y2 = box
    width = max(1, min(width, (x2 - x1) // 3, (y2 - y1) // 3))
    dark = max(1, width // 2)
    drawing.rectangle((x1 - dark, y1 - dark, x2 + dark, y2 + dark), outline=PAPER, width=width + 2 * dark)
    if not dashed:
        drawing.rectangle(box, outline=colour, width=width)
        return
    dash, step = 4 * width, 7 * width
    for at in range(x1, x2 + 1, step):
        end = min(at + dash, x2)
        drawing.rectangle((at, y1, end, y1 + width - 1), fill=colour)
        drawing.rectangle((at, y2 - width + 1, end, y2), fill=colour)
    for at in range(y1, y2 + 1, step):
        end = min(at + dash, y2)
        drawing.rectangle((x1, at, x1 + width - 1, end), fill=colour)
        drawing.rectangle((x2 - width + 1, at, x2, end), fill=colour)


def _label(
    drawing: ImageDraw,
    box: Rectangle,
    words: str,
    font: Font,
    colour: str,
    edge: tuple[int, int],
    taken: list[Rectangle],
) -> None:
    """A name on a ground of its colour: above its box, else in it or below, where no other name stands."""
    while len(words) > 2 and drawing.textlength(words, font) > edge[0] - 8:
        words = words[:-2] + "…"
    left, top, right, bottom = drawing.textbbox((0, 0), words, font)
    width, height = int(right - left) + 8, int(bottom - top) + 8
    x = max(0, min(box[0], edge[0] - width))
    places = [(x, y) for y in (box[1] - height, box[1], box[3] + 1, box[3] - height) if 0 <= y <= edge[1] - height]
    places = places or [(x, max(0, min(box[1], edge[1] - height)))]
    free = (place for place in places if not any(_overlap(place, (width, height), other) for other in taken))
    x, y = next(free, places[0])
    taken.append((x, y, x + width, y + height))
    drawing.rectangle((x, y, x + width - 1, y + height - 1), fill=colour, outline=PAPER)
    drawing.text((x + 4 - left, y + 4 - top), words, font=font, fill=PAPER)


def _overlap(place: tuple[int, int], size: tuple[int, int], other: Rectangle) -> bool:
    across = place[0] < other[2] and other[0] < place[0] + size[0]
    return across and place[1] < other[3] and other[1] < place[1] + size[1]


def _with_legend(canvas: Image, entities: Sequence[Mapping[str, Any]], font: Font) -> Image:
    """The picture, and below it a line for each entity: how it is drawn, its name, type and where it comes from."""
    from PIL.Image import new as new_image
    from PIL.ImageDraw import Draw

    line, left = 24, 60
    shown = list(enumerate(entities, start=1))[:_MOST_LINES]
    rest = len(entities) - len(shown)
    notes = ["no entity"] if not entities else [f"and {rest} more"] if rest else []
    width = max(canvas.width, LEAST_SIDE // 2)
    whole = new_image("RGB", (width, canvas.height + line * (len(shown) + len(notes)) + 16), PAPER)
    whole.paste(canvas)
    drawing, y = Draw(whole), canvas.height + 8
    most = max(_NAME_CHARS, (width - left) // 9 - 40)
    for number, entity in shown:
        middle = y + line // 2
        searched, boxed = bool(entity.get("searched")), entity.get("box") is not None
        for at in range(12, 48, 14 if searched else 36):
            drawing.rectangle((at, middle - 2, at + (8 if searched else 36), middle + 1), fill=colour_of(entity))
        name, kind = plain(entity.get("text"), font, most), plain(entity.get("type"), font, _TYPE_CHARS)
        words = f"{number} {name} · {kind} · {'searched' if searched else 'known'}{'' if boxed else ' · no box'}"
        drawing.text((left, middle), words, font=font, fill=INK, anchor="lm")
        y += line
    for note in notes:
        drawing.text((12, y + line // 2), note, font=font, fill=QUIET, anchor="lm")
        y += line
    return whole


@functools.cache
def _font(size: int) -> Font:
    from PIL import ImageFont

    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=4_096)
def _can_draw(font: Font, character: str) -> bool:
    """Whether the font has a shape of its own for a character."""
    if character.isspace():
        return True
    if "\ud800" <= character <= "\udfff":
        return False
    shape, none = font.getmask(character), font.getmask("\U0010fffe")
    return (shape.size, bytes(shape)) != (none.size, bytes(none))
