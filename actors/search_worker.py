"""One search worker: a search tool and a deadline.

Knows nothing of Ray, limits or caches. Always holds: what `envs.tools.base.ask` promises: a tool that
fails or is late gives "failed" results, a bug of ours raises.
"""

from __future__ import annotations

from collections.abc import Callable

from envs.tools.base import SearchTool, ask
from sake_ray.types import ImageSearch, Observation, TextSearch


class SearchWorker:
    """Answers searches for any number of episodes at once."""

    def __init__(self, name: str, make_tool: Callable[[], SearchTool], timeout_s: float) -> None:
        self.name = name
        self._tool = make_tool()
        self._timeout_s = timeout_s
        self._searches = 0

    def __repr__(self) -> str:
        return self.name

    async def search(self, example_id: str, action: TextSearch | ImageSearch) -> Observation:
        """Ask the tool on behalf of a post."""
        self._searches += 1
        return await ask(self._tool, example_id, action, timeout_s=self._timeout_s)

    async def stats(self) -> dict[str, float]:
        """How many searches were asked of it."""
        return {"searches": float(self._searches)}
