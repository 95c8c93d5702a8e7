"""From settings to a search tool: the one place that knows every provider.

A provider of somebody else's is a class named in the entry point group `sake_ray.search`: a `provider.WebProvider`, or
a whole tool with `from_settings(settings)`. Knows nothing of Ray or of the rest of the configuration. Always holds: an
impossible setting is refused here, before any episode starts; what is installed besides is loaded when it is named.
"""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from envs.limiter.gate import Gate
from envs.search_counts import SearchCounts
from envs.tools.base import SearchTool
from envs.tools.local import LocalSearchTool
from envs.tools.local_index import ensure_local_index
from envs.tools.offline import OfflineSearchTool
from envs.tools.ports import Answers, Trace
from envs.tools.provider import ProviderSettings, WebProvider
from envs.tools.searxng import SearXng
from envs.tools.secrets import Secret, hide_variable
from envs.tools.serper import Serper
from envs.tools.shown import ShownSettings
from envs.tools.web_tool import WebTool
from sake_ray.config.search_section import BUILT_IN, CACHE_MODES, SearchConfig

PROVIDERS = BUILT_IN
ENTRY_POINTS = "sake_ray.search"
MAX_IMAGE_RESULTS = 100

_WEB: Mapping[str, type[WebProvider]] = {Serper.NAME: Serper, SearXng.NAME: SearXng}


class ToolSettings(Protocol):
    """The fields a tool without the web is made from; the configuration's `search` section has them all."""

    @property
    def provider(self) -> str:
        """One of `PROVIDERS`, or an entry point's name."""

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


class _Closing(Protocol):
    async def close(self) -> None: ...


def make_tool(settings: ToolSettings, *, default_root: str = "") -> SearchTool:
    """The tool that `settings` describe; `default_root` is the data set's own encyclopaedia, if it has one.

    A local folder with documents gets its index built here when it is absent or outdated.

    Raises:
        ValueError: an unknown provider, one of the web (`build_web_tool` makes those), or a folder that is missing, not
            set or broken.
    """
    if settings.provider == "offline":
        if not settings.cache or settings.cache in CACHE_MODES:
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
    if is_web(settings.provider):
        raise ValueError(f"search.provider={settings.provider!r} asks the web, which needs limits: build_web_tool")
    tool: SearchTool = _installed(settings.provider).from_settings(settings)
    return tool


def is_web(name: str) -> bool:
    """Whether a provider is a service on the web, asked query by query, within limits.

    Raises:
        ValueError: there is no such provider.
    """
    if name in PROVIDERS:
        return name in _WEB
    return not hasattr(_installed(name), "from_settings")


def provider_class(name: str) -> type[WebProvider]:
    """The class of a provider on the web.

    Raises:
        ValueError: there is none of that name, or it is a tool without the web.
    """
    if name in _WEB:
        return _WEB[name]
    if name in PROVIDERS or hasattr(_installed(name), "from_settings"):
        raise ValueError(f"search.provider={name!r} is no service on the web")
    return cast(type[WebProvider], _installed(name))


def known_providers() -> tuple[str, ...]:
    """The names of all providers, those that are installed besides included."""
    installed = {point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    return (*PROVIDERS, *sorted(installed - set(PROVIDERS)))


def endpoint_of(settings: SearchConfig) -> str:
    """The address of the configured service, in one form however it was written.

    Raises:
        ValueError: it has none of its own and none was given, or it is no address.
    """
    from envs.tools.api import check_endpoint

    cls = provider_class(settings.provider)
    endpoint = settings.endpoint or cls.DEFAULT_ENDPOINT
    if not endpoint:
        raise ValueError(f"search.provider={cls.NAME} needs search.endpoint=URL, the address of your own")
    return check_endpoint(endpoint)


def check_settings(settings: SearchConfig) -> None:
    """Refuse settings with which there can be no tool for a provider on the web, whatever it is given.

    Raises:
        ValueError: naming the setting and what to do.
    """
    endpoint_of(settings)
    if settings.cache not in CACHE_MODES:
        raise ValueError(f"search.cache={settings.cache!r}: must be one of {', '.join(CACHE_MODES)} with this provider")
    if settings.summary == "llm" and not (settings.summary_endpoint and settings.summary_model):
        raise ValueError("search.summary=llm needs search.summary_endpoint and search.summary_model")


def build_web_tool(
    settings: SearchConfig,
    *,
    gate: Gate,
    keys: Sequence[Secret],
    store: Answers | None,
    chat: Any = None,
    max_pixels: int,
    trace: Trace | None = None,
    closing: Sequence[Callable[[], Awaitable[None]]] = (),
) -> WebTool:
    """The tool for a provider on the web; everything it opens is opened on its first use, and closed by its `close`.

    Args:
        settings: the configuration's section.
        gate: where every request gets its lease; closed with the tool, if it can be.
        keys: of the provider, in the order that the limiter knows.
        store: of the mode `settings.cache`, or None for "off"; closed with the tool, if it can be.
        chat: the model that writes summaries (`condense.Chat`), for summary="llm".
        max_pixels: pictures with more are shrunk.
        trace: told of each step of a query.
        closing: what else is closed with the tool.

    Raises:
        ValueError: a setting that cannot be.
    """
    # Only here: whoever needs no web needs no aiohttp.
    from envs.answers.single_flight import SingleFlight
    from envs.fetch.fetcher import FetchLimits, PictureFetcher
    from envs.fetch.picture import prepare_in_thread
    from envs.tools.condense import LlmCondenser
    from envs.tools.web_pictures import PictureGatherer

    check_settings(settings)
    meter = SearchCounts(settings.cost_per_call)
    shown = shown_settings(settings, max_pixels)
    provider, api = _provider(settings, gate, keys, shown.image_results, meter, trace)
    fetcher = PictureFetcher(
        FetchLimits(timeout_s=settings.fetch_s, max_bytes=int(settings.fetch_mib * 2**20)),
        allow_private=settings.allow_private,
    )
    prepare = functools.partial(prepare_in_thread, max_pixels=max_pixels)
    llm = None
    if settings.summary == "llm":
        if chat is None:
            raise ValueError("search.summary=llm needs the client of its model")
        hide_variable(settings.summary_key_env)
        llm = LlmCondenser(chat, store, max_chars=settings.max_chars, meter=meter)
    closed = [api.close, fetcher.close, *(() if llm is None else (llm.close,)), *closing]
    return WebTool(
        provider,
        shown,
        pictures=PictureGatherer(fetcher, prepare, meter=meter, trace=trace),
        flight=SingleFlight(),
        meter=meter,
        store=store,
        mode=settings.cache,
        llm=llm,
        on_spent=settings.on_spent,
        timeout_s=settings.timeout_s,
        keys=len(keys),
        trace=trace,
        closing=[*closed, *_closers(gate, store)],
    )


def shown_settings(settings: SearchConfig, max_pixels: int) -> ShownSettings:
    """What of the settings shapes the answers that are shown; `max_pixels` as in `build_web_tool`."""
    return ShownSettings(
        summary=settings.summary,
        summary_model=settings.summary_model,
        max_chars=settings.max_chars,
        text_results=settings.text_results,
        images_per_query=settings.images_per_query,
        # More than are shown: not every address gives a picture.
        image_results=min(MAX_IMAGE_RESULTS, max(10, 3 * settings.images_per_query)),
        graph_image=settings.graph_image,
        max_pixels=max_pixels,
    )


def _provider(
    settings: SearchConfig,
    gate: Gate,
    keys: Sequence[Secret],
    image_results: int,
    meter: SearchCounts,
    trace: Trace | None,
) -> tuple[WebProvider, _Closing]:
    """The provider, and what sends its requests."""
    from envs.tools.api import ApiOptions, MeteredApi

    cls, endpoint = provider_class(settings.provider), endpoint_of(settings)
    if cls.NEEDS_KEY and not keys and settings.cache != "read_only":
        raise ValueError(f"search.provider={cls.NAME} needs a key: set search.key_env or search.key_file")
    # A request that hangs may be repeated before the query's own time is over.
    options = ApiOptions(
        timeout_s=settings.timeout_s / 3,
        retries=settings.retries,
        connections=settings.concurrency * max(1, len(keys)),
        advice=getattr(cls, "ADVICE", None),
    )
    api = MeteredApi(endpoint, gate, keys, options, judge=cls.judge, meter=meter, trace=trace)
    asked = ProviderSettings(
        endpoint, text_results=settings.text_results, image_results=image_results, graph_image=settings.graph_image
    )
    return cls(asked, api), api


def _closers(gate: object, store: object) -> list[Callable[[], Awaitable[None]]]:
    """How to close the gate (a client of the limiter says good-bye) and the store, whose `close` is no coroutine."""
    found: list[Callable[[], Awaitable[None]]] = []
    if hasattr(gate, "close"):
        found.append(gate.close)
    if hasattr(store, "close"):
        close = store.close

        async def close_store() -> None:
            close()

        found.append(close_store)
    return found


@functools.cache
def _installed(name: str) -> Any:
    """A class that somebody else's package brings.

    Raises:
        ValueError: there is none of that name, two of them, or it cannot be imported.
    """
    points = tuple(importlib.metadata.entry_points(group=ENTRY_POINTS, name=name))
    if not points:
        known = known_providers()
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise ValueError(f"search.provider={name!r}: must be one of {', '.join(known)}{hint}")
    if len(points) > 1:
        places = ", ".join(point.value for point in points)
        raise ValueError(f"search.provider={name!r}: two packages bring one ({places}); uninstall all but one")
    try:
        return points[0].load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"search.provider={name!r}: {points[0].value} cannot be loaded: {error}") from error
