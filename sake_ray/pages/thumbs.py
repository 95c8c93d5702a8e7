"""Small pictures for a page: each once, as a `data:` address, under a bound of bytes for all.

Knows nothing of posts. Always holds: a picture is decoded under the limits of `sake_ray.data.images`; what cannot be
shown has a reason, and is never shown as another; the addresses together stay under the bound.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from sake_ray.data.images import ImageError, image_size, load_image
from sake_ray.types import ImageRef

LONG_SIDE = 256
REFERENCE_SIDE = 128
"""Pixels of the longer side of a post's picture and of one that a search found."""
_QUALITY = 62
_LOSSLESS_SIDE = 112


@dataclass(frozen=True, slots=True)
class Thumb:
    """A picture on the page: `name` is its block's id ("" where there is none, and `missing` says why)."""

    name: str
    missing: str = ""


class Thumbs:
    """Makes thumbnails as they are asked for and keeps their addresses by name."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._known: dict[tuple[str, int], Thumb] = {}
        self.addresses: dict[str, str] = {}
        self.left_out = 0

    def add(self, path: str, *, size: tuple[int, int] | None = None, side: int = LONG_SIDE) -> Thumb:
        """The thumbnail of a file; `size` is what it must measure (boxes are drawn on it)."""
        key = (path, side)
        if key not in self._known:
            self._known[key] = self._make(Path(path), size, side)
        return self._known[key]

    @property
    def failed(self) -> int:
        """How many pictures could not be read."""
        return sum(not thumb.name for thumb in self._known.values()) - self.left_out

    def _make(self, path: Path, size: tuple[int, int] | None, side: int) -> Thumb:
        if self._left <= 0:
            self.left_out += 1
            return Thumb("", "left out: the page has all the pictures it may have")
        try:
            address = _address(path, size, side)
        except ImageError as error:
            return Thumb("", str(error))
        if len(address) > self._left:
            self._left = 0  # and no smaller one slips in: which ones are shown stays easy to say
            self.left_out += 1
            return Thumb("", "left out: the page has all the pictures it may have")
        self._left -= len(address)
        name = f"t{len(self.addresses)}"
        self.addresses[name] = address
        return Thumb(name)


def thumbnail(ref: ImageRef, side: int) -> str:
    """A picture's `data:` address, its longer side at most `side` pixels.

    Raises:
        ImageError: it cannot be read.
    """
    picture = load_image(ref)
    picture.thumbnail((side, side))
    packed = io.BytesIO()
    small = max(picture.size) <= _LOSSLESS_SIDE  # enlarged on the page, where blurred edges would show
    picture.save(packed, "WEBP", quality=_QUALITY, method=2, lossless=small)
    return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode("ascii")


def _address(path: Path, size: tuple[int, int] | None, side: int) -> str:
    if not path.is_file():
        raise ImageError(f"{path}: no such file")
    return thumbnail(ImageRef(str(path), *(size or image_size(path))), side)
