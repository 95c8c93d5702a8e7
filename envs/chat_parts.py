"""A prompt's pieces as the content of chat messages, and the turn in what a chat model answered.

For whoever plays episodes through an OpenAI-compatible endpoint. Knows nothing of requests, episodes or what is asked.
Always holds: a picture goes out at the very size the policy sees it at, as a data URL; a turn ends where an engine
would have stopped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from sake_ray.actions import ACTION_TAGS, STOP_STRINGS
from sake_ray.data.images import processed_image
from sake_ray.prompts import Part
from sake_ray.types import ImageRef

JPEG_QUALITY = 92


class PartEncoder:
    """Encodes the parts of one conversation; a picture that stands in it several times is encoded once."""

    def __init__(self, *, min_pixels: int, max_pixels: int) -> None:
        self._pixels = (min_pixels, max_pixels)
        self._encoded: dict[ImageRef, str] = {}

    def content(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        """Parts in the form of the API. Reads and encodes pictures: not for the event loop's own thread.

        Raises:
            ImageError: a picture cannot be read.
        """
        return [{"type": "text", "text": part} if isinstance(part, str) else self._picture(part) for part in parts]

    def _picture(self, ref: ImageRef) -> dict[str, Any]:
        if ref not in self._encoded:
            buffer = io.BytesIO()
            processed_image(ref, *self._pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
            self._encoded[ref] = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
        return {"type": "image_url", "image_url": {"url": self._encoded[ref]}}


def turn_of(text: str, finish_reason: str) -> str:
    """The turn in a model's answer: without its own thinking, up to and with the first closing action tag.

    A server that leaves stop strings out of the text ends it before that tag, which is then put back.
    """
    text = text.rpartition("</think>")[2]
    ends = [at + len(stop) for stop in STOP_STRINGS if (at := text.find(stop)) >= 0]
    if ends:
        return text[: min(ends)].strip()
    text = text.strip()
    at, tag = max((text.rfind(f"<{tag}>"), tag) for tag in ACTION_TAGS)
    return f"{text}</{tag}>" if at >= 0 and finish_reason == "stop" else text
