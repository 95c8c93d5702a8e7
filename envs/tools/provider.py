"""What a search service on the web is to us: one small class that asks it and reads its answer.

Knows nothing of limits, keys, retries, caches or pictures: all of that is around it, the same for every provider.
Always holds: a provider sends nothing but through the `Api` it was given, and returns what the service said, not what
the policy is shown.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

Headers = Callable[[str], Mapping[str, str]]
"""From a key ("" where the service takes none) to the headers of a request."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """One text result."""

    title: str
    text: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class TextHits:
    """What a service says to a text query, best first; `graph` is its knowledge-graph entry, if it has one."""

    snippets: tuple[Snippet, ...] = ()
    graph: Snippet | None = None


@dataclass(frozen=True, slots=True)
class ImageHits:
    """Addresses of pictures, best first; `graph_url` is that of the knowledge graph."""

    urls: tuple[str, ...] = ()
    graph_url: str = ""


class Failure(enum.StrEnum):
    """What a request that was not answered means for what comes next."""

    THROTTLED = "throttled"  # too many: all slow down, then again
    SPENT = "spent"  # this key has no quota left, or is not accepted: with another one
    FAILED = "failed"  # try again
    REFUSED = "refused"  # this query will never be answered


class ProviderError(Exception):
    """A query got no answer; the message is ours (a status, a kind of error), never the service's words."""

    def __init__(self, failure: Failure, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.failure = failure
        self.retry_after_s = retry_after_s


class Api(Protocol):
    """Sends requests for a provider: within the limits, with a key, again where it is worth it, reading bounded JSON.

    Raises:
        ProviderError: no answer, after all tries.
        envs.limiter.gate.GateClosed: no request may be sent.
    """

    async def get_json(self, url: str, params: Mapping[str, str], headers: Headers | None = None) -> Any:
        """The JSON that GET answers."""
        ...

    async def post_json(self, url: str, body: Mapping[str, Any], headers: Headers | None = None) -> Any:
        """The JSON that POST answers."""
        ...


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """What a provider is made from: the address of the service, and how many results a query asks for."""

    endpoint: str
    text_results: int = 5
    image_results: int = 5
    graph_image: bool = False
    """Spend a second request on the knowledge graph's picture, where the service needs one."""


class WebProvider(Protocol):
    """A search service. Third parties write one of these and name it in the entry point group `sake_ray.search`."""

    NAME: ClassVar[str]
    NEEDS_KEY: ClassVar[bool]
    DEFAULT_ENDPOINT: ClassVar[str]
    """"" where there is none: every user runs their own."""

    def __init__(self, settings: ProviderSettings, api: Api) -> None:
        """Keep both; nothing is sent yet."""
        ...

    async def text(self, query: str) -> TextHits:
        """Ask for texts."""
        ...

    async def images(self, query: str) -> ImageHits:
        """Ask for pictures."""
        ...

    @staticmethod
    def judge(status: int, body: Any) -> Failure | None:
        """What an error status of this service means; None: what it means everywhere."""
        ...
