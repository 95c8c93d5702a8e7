"""Pictures: reading them under limits, the size a model sees them at, and boxes between the two sizes.

The one place that converts between original and processed pixels. Knows nothing of gold, models or files
of posts. Always holds: a loaded picture is RGB, complete, within the limits and exactly of its reference's
size; no size in use is so lopsided that a model's processor refuses it; a box is scaled by the two sizes' ratio
and truncated (the released code's rule). PIL is imported on first use, so that importing this module stays cheap.
"""

from __future__ import annotations

import io
import math
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sake_ray.types import Answer, Box, ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGE_PIXELS = 64_000_000
MAX_IMAGE_BYTES = 32 * 1024 * 1024
MAX_ASPECT = 100
"""How many times as long as the other a side may be. Qwen's image processors refuse a ratio over 200, and truncating
the sides of a sized picture to whole pixels can make its ratio half as large again."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
MAX_STANDIN_BOXES = 500
_LABEL_CHARS = 40
_MAX_COORDINATE = 1e12

Size = tuple[int, int]


class ImageError(ValueError):
    """A picture cannot be used; the text names it and says why."""


def processed_size(width: int, height: int, *, min_pixels: int, max_pixels: int) -> Size:
    """The (width, height) a model sees: shrunk when over `max_pixels`, enlarged when under `min_pixels`.

    Both sides become `int(side * sqrt(limit / (width * height)))`, at least 1, as in the released code.

    Raises:
        ValueError: a side is not positive, or the limits are not 0 < min <= max.
    """
    if width <= 0 or height <= 0:
        raise ValueError(f"{width} x {height} is no image size")
    if not 0 < min_pixels <= max_pixels:
        raise ValueError(f"min_pixels={min_pixels} and max_pixels={max_pixels} must satisfy 0 < min <= max")
    pixels = width * height
    limit = min(max(pixels, min_pixels), max_pixels)
    if limit == pixels:
        return width, height
    factor = math.sqrt(limit / pixels)
    return max(1, int(width * factor)), max(1, int(height * factor))


def scale_box(box: Sequence[float], from_size: Size, to_size: Size) -> tuple[int, int, int, int]:
    """`[x1, y1, x2, y2]` in pixels of `from_size` as pixels of `to_size`, truncated towards zero.

    Raises:
        ValueError: not four numbers within a million million (so neither NaN nor infinite).
    """
    if len(box) != 4 or not all(abs(side) <= _MAX_COORDINATE for side in box):
        raise ValueError(f"{list(box)!r:.80} is not a box of four numbers of a sensible size")
    x, y = to_size[0] / from_size[0], to_size[1] / from_size[1]
    return int(box[0] * x), int(box[1] * y), int(box[2] * x), int(box[3] * y)


def to_processed(box: Box, original: Size, processed: Size) -> tuple[int, int, int, int]:
    """A gold box as a model would have to write it."""
    return scale_box(box.as_list(), original, processed)


def to_original(box: Sequence[float], processed: Size, original: Size) -> Box:
    """A predicted box in original pixels; corners stay in the order the model wrote them."""
    return Box(*scale_box(box, processed, original))


def answer_in_original(
    answer: Answer, original: Size, *, min_pixels: int, max_pixels: int
) -> list[tuple[str, str, tuple[int, int, int, int] | None]]:
    """(text, type, box or None) of each entity of an answer, boxes in original pixels."""
    processed = processed_size(*original, min_pixels=min_pixels, max_pixels=max_pixels)
    return [
        (entity.text, entity.type, None if entity.box is None else scale_box(entity.box, processed, original))
        for entity in answer.entities
    ]


def check_shape(width: int, height: int) -> None:
    """Refuse a size that cannot be shown to a model: of no or too many pixels, or too long and thin.

    Raises:
        ImageError: saying which.
    """
    if min(width, height) <= 0 or width * height > MAX_IMAGE_PIXELS:
        raise ImageError(f"{width} x {height} pixels; a picture has 1 to {MAX_IMAGE_PIXELS}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(f"{width} x {height} pixels: one side is more than {MAX_ASPECT} times the other")


def image_size(source: Path | bytes, *, name: str = "") -> Size:
    """(width, height) from the header of a file or of encoded bytes; pixels are not decoded.

    Raises:
        ImageError: no picture of a known format, or over the limits.
    """
    with _reading(_name(source, name)), _open(source) as image:
        return image.size


def decoded_size(source: Path | bytes, *, name: str = "") -> Size:
    """(width, height) of a picture that has been decoded whole, as `load_image` will do.

    Raises:
        ImageError: as `image_size`, or the pixels are damaged or cut off.
    """
    with _reading(_name(source, name)), _open(source) as image:
        size = image.size
        image.convert("RGB")
        return size


def image_ref(path: Path) -> ImageRef:
    """A reference to a picture file that has been decoded once, so that it can be shown.

    Raises:
        ImageError: as `decoded_size`.
    """
    return ImageRef(str(path), *decoded_size(path))


def load_image(ref: ImageRef) -> Image:
    """The picture at its original size, RGB; a stand-in is drawn.

    Raises:
        ImageError: it is missing, truncated, of an unknown format, over the limits, or not of the
            reference's size (its boxes would be wrong).
    """
    if ref.standin is not None:
        return _draw(ref)
    with _reading(ref.path), _open(ref.data if ref.data is not None else Path(ref.path)) as image:
        if image.size != (ref.width, ref.height):
            real, noted = "{} x {}".format(*image.size), f"{ref.width} x {ref.height}"
            raise ImageError(f"the picture is {real}, but its reference says {noted}")
        return image.convert("RGB")


def processed_image(ref: ImageRef, min_pixels: int, max_pixels: int) -> Image:
    """The picture as a model sees it: RGB, resized by `processed_size`, nearest neighbour.

    Recent results are kept (a group's trajectories share a post's picture) and shared between callers and
    threads: do not draw on what this returns.

    Raises:
        ImageError: as `load_image`.
    """
    return _CACHE.get(ref, min_pixels, max_pixels)


class ImageCache:
    """The most recently used processed pictures, at most `capacity`; safe to use from many threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._images: OrderedDict[tuple[ImageRef, int, int], Image] = OrderedDict()

    def __len__(self) -> int:
        return len(self._images)

    def get(self, ref: ImageRef, min_pixels: int, max_pixels: int) -> Image:
        """As `processed_image`."""
        key = (ref, min_pixels, max_pixels)
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
                return self._images[key]
        # Decoded outside the lock: two threads may do it twice, none waits for another's disk.
        image = _processed(ref, min_pixels, max_pixels)
        with self._lock:
            self._images[key] = image
            self._images.move_to_end(key)
            while len(self._images) > self._capacity:
                self._images.popitem(last=False)
        return image


_CACHE = ImageCache(capacity=64)  # at the release's max_pixels: 64 x 2.7 MB


def _processed(ref: ImageRef, min_pixels: int, max_pixels: int) -> Image:
    from PIL.Image import Resampling

    image = load_image(ref)
    size = processed_size(*image.size, min_pixels=min_pixels, max_pixels=max_pixels)
    return image if size == image.size else image.resize(size, Resampling.NEAREST)


def _name(source: Path | bytes, name: str) -> str:
    return name or (str(source) if isinstance(source, Path) else "picture")


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what PIL raises on a bad picture into an `ImageError` that names the picture."""
    from PIL.Image import DecompressionBombError

    try:
        yield
    # What PIL's decoders raise on broken data: OSError (unknown format, truncated, missing), SyntaxError
    # (PNG chunks), struct.error and EOFError (cut headers), ValueError (nonsense in headers).
    except (OSError, SyntaxError, struct.error, EOFError, ValueError, DecompressionBombError) as error:
        raise ImageError(f"{name}: {error}") from error


def _open(source: Path | bytes) -> Image:
    """Open a picture lazily and check what its header says."""
    from PIL.Image import open as open_image

    count = len(source) if isinstance(source, bytes) else source.stat().st_size
    if count > MAX_IMAGE_BYTES:
        raise ImageError(f"{count} bytes are more than the {MAX_IMAGE_BYTES} a picture may have")
    image = open_image(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    try:
        check_shape(*image.size)
    except ImageError:
        image.close()
        raise
    return image


def _draw(ref: ImageRef) -> Image:
    from PIL import ImageDraw
    from PIL.Image import new as new_image

    assert ref.standin is not None
    try:
        check_shape(ref.width, ref.height)
    except ImageError as error:
        raise ImageError(f"{ref.path}: its stand-in cannot be drawn: {error}") from error
    if len(ref.standin) > MAX_STANDIN_BOXES:
        raise ImageError(f"{ref.path}: a stand-in of {len(ref.standin)} boxes (at most {MAX_STANDIN_BOXES}) is refused")
    image = new_image("RGB", (ref.width, ref.height), (224, 224, 224))
    draw = ImageDraw.Draw(image)
    for box, label in ref.standin:
        # The label picks the colour, so that one entity looks the same in every stand-in.
        seed = zlib.crc32(label.encode("utf-8", errors="replace"))
        colour = (seed & 0x7F, seed >> 8 & 0x7F, seed >> 16 & 0x7F)
        draw.rectangle((box.x1, box.y1, max(box.x1, box.x2 - 1), max(box.y1, box.y2 - 1)), outline=colour, width=3)
        shown = label[:_LABEL_CHARS].encode("ascii", errors="replace").decode("ascii")
        draw.text((box.x1 + 5, box.y1 + 4), shown, fill=colour)
    return image
