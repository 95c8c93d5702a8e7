"""Why something a stranger published was not taken.

Knows nothing of how it is fetched. Always holds: `detail` is our own words: at most a host's name is the stranger's,
never a path or a query (which may hold a key), and no error chain leads back to a message that quotes them.
"""

from __future__ import annotations

import enum


class FetchReason(enum.StrEnum):
    """Why a fetch gave nothing."""

    BAD_URL = "bad_url"
    """No http(s) address, or one written in a way that two programs may read differently."""
    ADDRESS = "address"
    """It leads to where nothing may be fetched from: this machine, its network, a cloud's metadata."""
    UNRESOLVED = "unresolved"
    """The host's name has no address."""
    CONNECTION = "connection"
    """No connection, or one that broke before an answer began; TLS that cannot be trusted, too."""
    PROTOCOL = "protocol"
    """What came is not HTTP as it should be, or its headers are over the limits."""
    REDIRECTS = "redirects"
    """Too many, or to nowhere."""
    STATUS = "status"
    """Answered with anything but 200."""
    TIMEOUT = "timeout"
    """Not there whole within the time."""
    TOO_LARGE = "too_large"
    LENGTH = "length"
    """Fewer bytes than were announced, or none."""
    ENCODING = "encoding"
    """Compressed, though that was not asked for: it might unpack to anything."""
    NOT_A_PICTURE = "not_a_picture"
    """Its first bytes are of no known kind of picture, whatever it is called."""
    BAD_PICTURE = "bad_picture"
    """Broken or cut off, too many pixels, or too long and thin to be shown."""


class FetchRefused(Exception):
    """Nothing was taken; the message is for the log."""

    def __init__(self, reason: FetchReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
