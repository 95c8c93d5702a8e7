"""From the search settings to the tool of one search actor.

Knows nothing of episodes. Always holds: keys are read on the machine that uses them, and never travel; nothing on the
web is asked but through the one limiter of the cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from envs.tools.base import SearchTool
from envs.tools.registry import is_web, make_tool
from sake_ray.config.search_section import SearchConfig


@dataclass(frozen=True)
class ToolSpec:
    """All a search actor needs to build its tool, and what builds it there.

    `default_root` is the data set's own encyclopaedia; `folder` where answers are kept; `max_pixels` the size to which
    pictures are shrunk before they are kept.
    """

    settings: SearchConfig
    default_root: str
    folder: Path
    max_pixels: int

    @property
    def provider(self) -> str:
        """The provider's name, for metrics."""
        return self.settings.provider

    @property
    def web(self) -> bool:
        """Whether the tool asks a service on the web, query by query."""
        return is_web(self.settings.provider)

    def __call__(self) -> SearchTool:
        """Build the tool, in the process that will use it.

        Raises:
            ValueError: a setting that cannot be.
        """
        if not self.web:
            return make_tool(self.settings, default_root=self.default_root)
        from actors.limiter import LimiterHandle
        from envs.tools.web_build import LEDGER, make_web_tool

        port = LimiterHandle(ledger=str(self.folder / LEDGER))
        return make_web_tool(self.settings, folder=self.folder, max_pixels=self.max_pixels, port=port, client="search")
