"""The files of the service's page, and the headers that go out with every one of them.

Knows nothing of HTTP servers: who serves `/` gives `index.html`, who serves `/assets/<name>` the file of that name.
Always holds: the files are read once and never change; with `SECURITY_HEADERS` a browser runs only the page's own
scripts, asks nothing outside the service's own origin and shows the page in no frame.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath
from types import MappingProxyType

INDEX = "index.html"
SECURITY_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    }
)
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """A file as it goes out."""

    content: bytes
    media_type: str


@functools.cache
def service_files() -> Mapping[str, ServiceFile]:
    """Every file of the page by its name; `INDEX` is the page itself."""
    found = {}
    for item in sorted(files("sake_ray.pages").joinpath("service").iterdir(), key=lambda item: item.name):
        media_type = _MEDIA_TYPES.get(PurePosixPath(item.name).suffix)
        if media_type is not None:
            found[item.name] = ServiceFile(item.read_bytes(), media_type)
    return MappingProxyType(found)
