"""What the tests of the store share: a clock they set, a store in a folder, pictures and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envs.answers.key import AnswerKey
from envs.answers.store import AnswerStore
from envs.answers.stored import StoredPicture


class Clock:
    """Seconds since 1970, set by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def open_store(folder: Path, clock: Clock | None = None, **changed: Any) -> AnswerStore:
    settings = {"mode": "on", "max_bytes": 1 << 30, "ttl_s": 1000.0, **changed}
    return AnswerStore(folder, clock=clock or Clock(), **settings)


def key(query: str = "ada", kind: str = "text", **options: Any) -> AnswerKey:
    return AnswerKey.of("serper", kind, query, {"shown": 1, **options})


def picture(store: AnswerStore, data: bytes = b"a picture") -> StoredPicture:
    return store.add_picture(data, ".jpg", 30, 20)
