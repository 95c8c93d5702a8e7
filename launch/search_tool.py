"""Search in this very process, without Ray: for trying it, filling the cache before a run, and single episodes.

Knows nothing of what is asked. Always holds: the limits are kept by a limiter of this process, and the budget of the
day is the one that jobs with the same cache folder spend from; whatever was opened is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from envs.limiter.ledger import Ledger
from envs.limiter.service import LimiterService
from envs.tools.base import ToolClient
from envs.tools.registry import is_web, make_tool
from envs.tools.web_build import LEDGER, check_web_settings, make_web_tool
from envs.tools.web_tool import SearchSpent, Trace, WebTool
from sake_ray.config.config import Config
from sake_ray.config.search_section import SearchConfig
from sake_ray.config.values import ConfigError
from sake_ray.interfaces import SearchClient

CACHE_FOLDER = "search_cache"


def default_cache_dir() -> Path:
    """Where answers are kept when nothing is set: beside the run folders."""
    return Path("runs") / CACHE_FOLDER


def cache_dir(config: Config) -> Path:
    """Where a job keeps what searches answered."""
    if config.search.cache_dir:
        return Path(config.search.cache_dir).resolve()
    return config.run_dir.resolve().parent / CACHE_FOLDER


def check_search(config: Config) -> None:
    """Refuse search settings that cannot be, before any actor is started.

    Raises:
        ConfigError: naming the setting and what to do.
    """
    try:
        if is_web(config.search.provider):
            check_web_settings(config.search, cache_dir(config))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def spent(error: BaseException) -> str | None:
    """The sentence of a run that ended because nothing more may be asked; None of every other end.

    Errors come from actors wrapped in Ray's, and from tasks in groups.
    """
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := spent(each)) is not None), None)
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return spent(cause)
    return str(error) if isinstance(error, SearchSpent) else None


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


@asynccontextmanager
async def open_search(config: Config, default_root: Path) -> AsyncIterator[SearchClient]:
    """The configured search, of whatever provider, until the context is left.

    `default_root` is the data set's own encyclopaedia.

    Raises:
        ConfigError: a search setting that cannot be.
    """
    settings = config.search
    if is_web(settings.provider):
        async with open_web_tool(settings, cache_dir(config), config.data.max_pixels) as web:
            # The tool keeps the deadline of each query by itself; this one is for what it would not have thought of.
            yield ToolClient(web, timeout_s=settings.timeout_s + 5.0)
        return
    try:
        tool = await asyncio.to_thread(make_tool, settings, default_root=str(default_root))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    yield ToolClient(tool, timeout_s=settings.timeout_s)


def _ledger(settings: SearchConfig, folder: Path) -> Ledger | None:
    """The budget of the day; none where nothing is asked."""
    if settings.cache == "read_only":
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return Ledger(folder / LEDGER)
