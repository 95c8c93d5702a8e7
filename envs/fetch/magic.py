"""What the first bytes of a file say it is.

Knows nothing of names and headers, which anyone can write. Always holds: yes only to the formats that
`sake_ray.data.images` opens; no to SVG, HTML and everything else.
"""

from __future__ import annotations

HEAD_BYTES = 26
"""As many of the first bytes as decide it."""

# Sizes of the headers that follow a BMP's file header; "BM" alone is the beginning of many texts.
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


def looks_like_picture(head: bytes) -> bool:
    """Whether a file with these first bytes (at least `HEAD_BYTES`, where it has so many) may be a picture."""
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")):
        return True
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    return head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS
