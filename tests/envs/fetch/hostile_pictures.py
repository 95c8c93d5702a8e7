"""Pictures as strangers publish them: odd, broken, or made to do harm."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image

SECRET = b"taken at 52.5N 13.4E"


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def photo(width: int = 60, height: int = 40) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    return image


def jpeg(**options: Any) -> bytes:
    return encoded(photo(), "JPEG", **options)


def sideways_jpeg() -> bytes:
    """Held upright it is 40 x 60, red above; says so, and where it was taken, in its metadata."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = SECRET.decode()
    return jpeg(exif=exif, comment=SECRET)


def cmyk_jpeg() -> bytes:
    return encoded(photo().convert("CMYK"), "JPEG")


def deep_png() -> bytes:
    """16 bits a pixel: half as bright as can be."""
    return encoded(Image.frombytes("I;16", (40, 40), b"\x00\x80" * 1600), "PNG")


def see_through_png() -> bytes:
    """A palette whose colour 0, black, is transparent; the right half is blue."""
    image = Image.new("P", (40, 40), 0)
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.paste(1, (20, 0, 40, 40))
    return encoded(image, "PNG", transparency=0)


def many_frames_gif(frames: int = 300) -> bytes:
    """The first frame is red, all others are not."""
    others = [Image.new("RGB", (32, 32), (0, i % 256, i // 256)) for i in range(frames - 1)]
    return encoded(Image.new("RGB", (32, 32), "red"), "GIF", save_all=True, append_images=others)


def lopsided_png() -> bytes:
    return encoded(Image.new("RGB", (2000, 10)), "PNG")


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    return _png(width, height, zlib.compress(b"\0" * 1000))


def overflowing_png() -> bytes:
    """Says 8 x 8 pixels, holds 16 MB of zeros."""
    return _png(8, 8, zlib.compress(b"\0" * 16_000_000, 9))


def rle_bmp() -> bytes:
    """A run-length encoded BMP of many runs of one pixel."""
    runs = b"\x01\x00" * 1_000 + b"\x00\x01"
    start = 14 + 40 + 1_024
    header = struct.pack("<IiiHHIIiiII", 40, 1_000, 1_000, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + bytes(1_024) + runs


def scan_bomb(scans: int = 2_000) -> bytes:
    """A progressive JPEG of many scans, each a pass over all of the picture for some bytes of file."""
    whole = encoded(Image.new("L", (64, 64)), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * scans + whole[-2:]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _png(width: int, height: int, pixels: bytes, depth: int = 8) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
