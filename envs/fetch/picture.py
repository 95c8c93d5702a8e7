"""From a stranger's bytes to a picture of our own: decoded under limits, upright, RGB, sized, encoded anew.

Knows nothing of where the bytes come from. Always holds: what is returned was written here, from pixels alone (no
byte of the original, no comment, profile or place survives), is the same for the same bytes, and can be shown to a
model. At most `THREADS` pictures are decoded at once in a process, as each may take some hundred MB for a moment. PIL
is imported on first use.
"""

from __future__ import annotations

import asyncio
import functools
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from envs.fetch.magic import HEAD_BYTES, looks_like_picture
from envs.fetch.refusal import FetchReason, FetchRefused
from sake_ray.data.images import FORMATS, MAX_IMAGE_BYTES, ImageError, check_shape, processed_size

if TYPE_CHECKING:
    from PIL.Image import Image

THREADS = 2
SUFFIX = ".jpg"
MAX_PIXELS = 32_000_000
"""Fewer than of a user's own picture: the worst kind (WEBP) takes 16 bytes a pixel while it is decoded, half a GB."""
MAX_SCANS = 64
"""Scans that a JPEG may have (about ten are usual). Each takes a pass over all pixels but needs only some bytes, so
that a small file could be hours of work."""
_QUALITY = 95
_ORIENTATION = 0x0112
_BMP_RLE = (1, 2)
# What PIL's decoders raise on broken data: more than `sake_ray.data.images` names, as strangers' files reach corners
# that a user's do not.
_BROKEN = (OSError, SyntaxError, struct.error, EOFError, ValueError, TypeError, LookupError, ArithmeticError,
           AttributeError, zlib.error)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PreparedPicture:
    """A JPEG or PNG written here, with its size in pixels; `source` is the upright original's."""

    data: bytes = field(repr=False)
    suffix: str
    width: int
    height: int
    source: tuple[int, int]


def prepare_picture(data: bytes, *, max_pixels: int, lossless: bool = False) -> PreparedPicture:
    """Decode a picture's first frame and write it anew, shrunk to `max_pixels` if it has more.

    As a PNG where it must be `lossless`: a model then sees the very pixels that it would see of the original.
    Transparency is shown over white, an EXIF orientation is applied. Smaller pictures keep their size.

    Raises:
        FetchRefused: BAD_PICTURE: it cannot be decoded whole, or is over the limits of `sake_ray.data.images`.
        ValueError: `max_pixels` is not positive.
    """
    if max_pixels < 1:
        raise ValueError(f"max_pixels={max_pixels} must be at least 1")
    _check_bytes(data)
    from PIL.Image import DecompressionBombError

    try:
        picture, source = _upright_rgb(data, max_pixels)
    except ImageError as error:
        raise _bad(str(error)) from None
    except (*_BROKEN, DecompressionBombError) as error:
        # Only the kind: the text may quote the file.
        raise _bad(f"it cannot be decoded ({type(error).__name__})") from None
    out = io.BytesIO()
    if lossless:
        picture.save(out, "PNG", compress_level=1)
    else:
        picture.save(out, "JPEG", quality=_QUALITY, subsampling=0)
    return PreparedPicture(out.getvalue(), ".png" if lossless else SUFFIX, *picture.size, source=source)


async def prepare_in_thread(data: bytes, *, max_pixels: int, lossless: bool = False) -> PreparedPicture:
    """`prepare_picture` without holding up the event loop.

    Raises:
        FetchRefused: as `prepare_picture`.
        ValueError: as `prepare_picture`.
    """
    work = functools.partial(prepare_picture, data, max_pixels=max_pixels, lossless=lossless)
    return await asyncio.get_running_loop().run_in_executor(_threads(), work)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="pictures")


def _bad(why: str) -> FetchRefused:
    return FetchRefused(FetchReason.BAD_PICTURE, why)


def _check_bytes(data: bytes) -> None:
    """What can be told before a decoder sees it."""
    if len(data) > MAX_IMAGE_BYTES:
        raise _bad(f"{len(data)} bytes are more than the {MAX_IMAGE_BYTES} a picture may have")
    if not looks_like_picture(data[:HEAD_BYTES]):
        raise FetchRefused(FetchReason.NOT_A_PICTURE, "no JPEG, PNG, WEBP, GIF or BMP")
    # In a JPEG's pixels these two bytes stand at the start of a scan and nowhere else.
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_SCANS:
        raise _bad(f"a JPEG of more than {MAX_SCANS} scans")
    # PIL decodes these in Python: seconds a picture, in which it holds up all other threads. Hardly anyone writes them.
    if data.startswith(b"BM") and int.from_bytes(data[30:34], "little") in _BMP_RLE:
        raise _bad("a run-length encoded BMP")


def _upright_rgb(data: bytes, max_pixels: int) -> tuple[Image, tuple[int, int]]:
    """The picture as people see it, shrunk, and its size before it was."""
    from PIL.Image import Resampling, Transpose
    from PIL.Image import new as new_image
    from PIL.Image import open as open_image

    with open_image(io.BytesIO(data), formats=FORMATS) as image:
        check_shape(*image.size)
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"{image.width} x {image.height} pixels; one that is fetched has at most {MAX_PIXELS}")
        image.load()  # the first frame, whole: a cut file raises
        orientation = image.getexif().get(_ORIENTATION)
        source = image.size
        size = processed_size(*image.size, min_pixels=1, max_pixels=max_pixels)
        # Nearest neighbour takes pixels as they are, so all that follows may work on the small picture.
        small = image.resize(size, Resampling.NEAREST) if size != image.size else image.copy()
    check_shape(*small.size)  # shrinking rounds each side
    # In the order of EXIF's orientations 2 to 8; what is none of them means nothing.
    turns = (
        Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE,
        Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90,
    )  # fmt: skip
    if isinstance(orientation, int) and 2 <= orientation <= 8:
        small = small.transpose(turns[orientation - 2])
        source = source if orientation <= 4 else (source[1], source[0])
    if small.mode.startswith("I;16"):
        small = small.point(lambda value: value / 256).convert("L")  # `convert` alone makes all but the darkest white
    # A fresh picture has nothing but pixels: PIL would write a comment that the old one brought.
    canvas = new_image("RGB", small.size, "white")
    if small.has_transparency_data:
        small = small.convert("RGBA")
        canvas.paste(small, mask=small)
    else:
        canvas.paste(small.convert("RGB"))
    return canvas, source
