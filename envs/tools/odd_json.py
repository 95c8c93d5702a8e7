"""Reading JSON of which nothing is promised: a field of the right type, or the nearest empty thing.

Knows nothing of any service. Always holds: no value raises; texts are bounded and can be encoded; an address is
http(s).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MAX_TEXT_CHARS = 4_000
MAX_URL_CHARS = 2_048

_ADDRESS = re.compile(r"https?://[^\s\x00-\x1f\x7f\\]+", re.IGNORECASE)


def object_in(value: object, name: str) -> Mapping[str, Any]:
    """The object in a field of an object; an empty one where there is none."""
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def objects_in(value: object, name: str) -> list[Mapping[str, Any]]:
    """The objects among the items of a list in a field; whatever else is in it is left out."""
    found = value.get(name) if isinstance(value, Mapping) else None
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def text_in(value: object, name: str) -> str:
    """The text in a field, stripped and cut; "" where there is none."""
    found = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(found, str):
        return ""
    return found[:MAX_TEXT_CHARS].encode("utf-8", "ignore").decode("utf-8").strip()


def address_in(value: object, name: str) -> str:
    """The http(s) address in a field; one without a scheme is https; "" where there is none."""
    found = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(found, str) or len(found) > MAX_URL_CHARS:
        return ""
    found = found.strip().encode("utf-8", "ignore").decode("utf-8")
    found = f"https:{found}" if found.startswith("//") else found
    return found if _ADDRESS.fullmatch(found) else ""
