"""What a web tool needs of the store, of single flight and of whoever fetches pictures.

Knows nothing of how they do it: `envs.answers` and `envs.fetch` do, tests use small fakes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from typing import Any, Protocol

from envs.answers.key import AnswerKey
from envs.answers.stored import Stored, StoredPicture
from sake_ray.types import QueryResult


class Answers(Protocol):
    """A store of answers, safe from any thread; `envs.answers.store.AnswerStore` is one."""

    def get(self, key: AnswerKey) -> Stored | None:
        """The answer that stands; quick enough for an event loop."""
        ...

    def put(
        self, key: AnswerKey, value: Mapping[str, Any], *, pictures: Sequence[StoredPicture] = (), post: str = ""
    ) -> Stored:
        """Keep an answer; returns what stands afterwards, which while recording is the first one."""
        ...

    def add_picture(self, data: bytes, suffix: str, width: int, height: int) -> StoredPicture:
        """Keep a picture for an answer that is put soon."""
        ...

    def note_asked(self, key: AnswerKey, post: str) -> None:
        """Say that a post asked for an answer that stands."""
        ...


class Flight(Protocol):
    """Joins calls of one key; `envs.answers.single_flight.SingleFlight` is one."""

    async def run(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, QueryResult]]) -> QueryResult:
        """The result of the task under way for `key`, or of a new one that runs `make()`."""
        ...


class Fetcher(Protocol):
    """Gets pictures from strangers; `envs.fetch` has one."""

    async def fetch(self, url: str) -> bytes:
        """The bytes of what may be a picture.

        Raises:
            FetchRefused: there is none that may be shown.
        """
        ...


class Prepared(Protocol):
    """A picture that was decoded whole, and written anew at the size it is kept at."""

    @property
    def data(self) -> bytes:
        """Encoded bytes."""

    @property
    def suffix(self) -> str:
        """Of a file of them, like ".jpg"."""

    @property
    def width(self) -> int:
        """In pixels."""

    @property
    def height(self) -> int:
        """In pixels."""


Prepare = Callable[[bytes], Awaitable[Prepared]]
"""Decodes and prepares a picture beside the event loop; raises what a `Fetcher` does."""

Trace = Callable[[str, Mapping[str, Any]], None]
"""Told of each step of a query: its name, and what there is to say."""
