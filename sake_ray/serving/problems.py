"""What went wrong with a request, in the form of RFC 9457: a status, words for people, the field at fault.

Knows nothing of HTTP libraries. Always holds: the words are ours; of what a client sent only a short piece is quoted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MEDIA_TYPE = "application/problem+json"
_KINDS = {
    "bad-json": (400, "The body is no JSON"),
    "bad-request": (400, "The request cannot be understood"),
    "unauthorized": (401, "A token is needed"),
    "forbidden": (403, "This origin may not ask"),
    "not-found": (404, "Nothing is here"),
    "method": (405, "Not with this method"),
    "timeout-body": (408, "The body did not come in time"),
    "too-large": (413, "The body is too large"),
    "unsupported": (415, "This kind of body is not understood"),
    "invalid": (422, "A field cannot be used"),
    "busy": (429, "The service is busy"),
    "internal": (500, "The service failed"),
    "unavailable": (503, "The service cannot answer now"),
    "deadline": (504, "There was no answer in time"),
}


@dataclass(eq=False)
class Problem(Exception):
    """A request that gets no answer. `code` is one of a fixed set; `retry_s` says when to ask again."""

    code: str
    detail: str
    field: str = ""
    retry_s: float | None = None

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _KINDS[self.code][0]

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers that go with it."""
        headers = {} if self.retry_s is None else {"Retry-After": str(max(1, round(self.retry_s)))}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.code == "unauthorized" else {})

    def shown(self) -> dict[str, Any]:
        """The body."""
        status, title = _KINDS[self.code]
        body = {"type": f"urn:sake-ray:problem:{self.code}", "title": title, "status": status, "detail": self.detail}
        return body | ({"field": self.field} if self.field else {})


def invalid(field: str, detail: str) -> Problem:
    """A field that cannot be used."""
    return Problem("invalid", detail, field)
