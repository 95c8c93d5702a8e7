"""A web tool in this very process, without Ray: for trying a search and for filling the cache before a run.

Knows nothing of what is asked. Always holds: the limits are kept by a limiter of this process, and the budget of the
day is the one that jobs with the same cache folder spend from; whatever was opened is closed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from envs.limiter.ledger import Ledger
from envs.limiter.service import LimiterService
from envs.tools.web_build import LEDGER, make_web_tool
from envs.tools.web_tool import Trace, WebTool
from sake_ray.config.config import Config
from sake_ray.config.search_section import SearchConfig

CACHE_FOLDER = "search_cache"


def default_cache_dir() -> Path:
    """Where answers are kept when nothing is set: beside the run folders."""
    return Path("runs") / CACHE_FOLDER


def cache_dir(config: Config) -> Path:
    """Where a job keeps what searches answered."""
    if config.search.cache_dir:
        return Path(config.search.cache_dir).resolve()
    return config.run_dir.resolve().parent / CACHE_FOLDER


@asynccontextmanager
async def open_web_tool(
    settings: SearchConfig, folder: Path, max_pixels: int, trace: Trace | None = None
) -> AsyncIterator[WebTool]:
    """The configured web tool, until the context is left.

    Raises:
        ValueError: a setting that cannot be.
    """
    limiter = LimiterService(ledger=_ledger(settings, folder))
    tool = make_web_tool(settings, folder=folder, max_pixels=max_pixels, port=limiter, trace=trace)
    try:
        yield tool
    finally:
        await tool.close()
        await limiter.close()


def _ledger(settings: SearchConfig, folder: Path) -> Ledger | None:
    """The budget of the day; none where nothing is asked."""
    if settings.cache == "read_only":
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return Ledger(folder / LEDGER)
