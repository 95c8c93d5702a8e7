"""Posts to try on the page: MiniWorld's, and those of a folder of the user's.

Knows nothing of HTTP. Always holds: what is shown was read once, at the start; a name that was not shown leads to no
file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ExamplePost:
    """A post to try: its picture as it goes out."""

    text: str
    data: bytes
    media_type: str
    group: str
    note: str = ""


class Examples:
    """Posts by name."""

    def __init__(self, posts: Sequence[ExamplePost]) -> None:
        self._posts = {f"e{number}": post for number, post in enumerate(posts)}

    def shown(self) -> list[dict[str, Any]]:
        """What the page lists."""
        return [
            {
                "id": name, "text": post.text, "image": f"/v1/examples/{name}/image", "group": post.group,
                "note": post.note,
            }
            for name, post in self._posts.items()
        ]  # fmt: skip

    def picture(self, name: str) -> ExamplePost | None:
        """An example by its name."""
        return self._posts.get(name)
