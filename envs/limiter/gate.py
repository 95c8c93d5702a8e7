"""What whoever sends calls holds of a limiter: the way to one lease at a time.

Knows nothing of how limits are kept. Always holds: a call is sent only while its lease is held.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from envs.limiter.messages import Lease
from sake_ray.types import SearchFailure


class GateClosed(Exception):
    """No call may be made now; the message is for the log, `reason` for the policy."""

    def __init__(self, reason: SearchFailure, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Gate(Protocol):
    """The way to one service."""

    def lease(self) -> AbstractAsyncContextManager[Lease]:
        """Wait for the turn of one call; send it at once when it has come, and set the lease's outcome.

        Raises:
            GateClosed: on entering: no call may be made (budget or keys spent, the service is down).
        """
        ...


class OpenGate:
    """A gate without limits."""

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Lease]:
        """See `Gate.lease`."""
        yield Lease(key=0)
