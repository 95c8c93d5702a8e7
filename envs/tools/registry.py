"""From the search settings to a tool: the one place that knows every provider.

Knows nothing of Ray or of the rest of the configuration. Always holds: an impossible setting is refused
here, before any episode starts.
"""

from __future__ import annotations

from typing import Protocol

from envs.tools.base import SearchTool
from envs.tools.local import LocalSearchTool
from envs.tools.local_index import ensure_local_index
from envs.tools.offline import OfflineSearchTool

PROVIDERS = ("offline", "local")


class ToolSettings(Protocol):
    """The fields a tool is made from; the configuration's `search` section has them all."""

    @property
    def provider(self) -> str:
        """One of `PROVIDERS`."""

    @property
    def cache(self) -> str:
        """Folder of the released search cache (offline)."""

    @property
    def root(self) -> str:
        """Folder of the local encyclopaedia (local)."""

    @property
    def matching(self) -> str:
        """Offline: "strict" or "release"."""

    @property
    def threshold(self) -> float:
        """Offline, strict: the least similarity."""

    @property
    def images_per_query(self) -> int:
        """How many images a query may give, a knowledge-graph image not counted."""

    @property
    def max_chars(self) -> int:
        """How many characters of a text result are kept."""


def make_tool(settings: ToolSettings, *, default_root: str = "") -> SearchTool:
    """The tool that `settings` describe; `default_root` is the data set's own encyclopaedia, if it has one.

    A local folder with an `encyclopaedia.jsonl` gets its index built here when it is absent or outdated.

    Raises:
        ValueError: an unknown provider, or a folder that is missing, not set or broken.
    """
    if settings.provider == "offline":
        if not settings.cache:
            raise ValueError("search.provider=offline needs search.cache=FOLDER, the released search cache")
        return OfflineSearchTool(
            settings.cache,
            matching=settings.matching,
            threshold=settings.threshold,
            images_per_query=settings.images_per_query,
            max_chars=settings.max_chars,
        )
    if settings.provider == "local":
        root = settings.root or default_root
        if not root:
            raise ValueError("search.provider=local needs search.root=FOLDER, or data with an encyclopaedia of its own")
        ensure_local_index(root)
        return LocalSearchTool(root, images_per_query=settings.images_per_query, max_chars=settings.max_chars)
    raise ValueError(f"search.provider={settings.provider!r}: must be one of {', '.join(PROVIDERS)}")
