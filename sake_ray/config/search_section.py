"""The settings of search: the provider, its limits, the cache, what is shown of the results.

Knows nothing of files, presets or the command line, nor of how any of it works. Always holds: a key itself is never a
setting, only where it is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sake_ray.config.values import Section, setting

CACHE_MODES = ("on", "off", "record", "read_only")
BUILT_IN = ("local", "offline", "serper", "searxng")
"""The providers that come with the project; others are entry points of the group `sake_ray.search`."""


@dataclass(frozen=True)
class SearchConfig(Section):
    """The search tools and the workers that run them."""

    NAME: ClassVar[str] = "search"
    provider: str = setting(
        "local",
        "local: MiniWorld's encyclopaedia or a folder of yours; offline: a released search cache; serper, searxng: the "
        "web; or the name of a provider that is installed",
    )
    root: str = setting("", "local: folder of documents and pictures; empty: the data set's own", is_path=True)
    cache: str = setting(
        "on",
        "what answers from the web are kept for: on: asked again when they are older than search.cache_days; off; "
        "record: all, failures too, so that the run can be repeated; read_only: repeat it, nothing is asked; "
        "offline: the folder of the released cache",
        is_path=True,
    )
    cache_dir: str = setting(
        "",
        "folder of that cache, shared by any number of jobs; empty: search_cache beside the run folder",
        is_path=True,
    )
    cache_gib: float = setting(20.0, "GiB the cache may take; what was not used for longest goes first", above=0.0)
    cache_days: float = setting(30.0, "days after which an answer is asked for anew", above=0.0)
    endpoint: str = setting("", "address of the service; empty: the provider's own")
    key_env: str = setting(
        "", "environment variable with the key, or several parted by commas; empty: PROVIDER_API_KEY"
    )
    key_file: str = setting(
        "", "file with one key a line, readable by its owner alone; instead of key_env", is_path=True
    )
    per_second: float = setting(5.0, "requests a second and key, over the whole cluster", above=0.0)
    burst: int = setting(5, "requests that may go out together after a quiet moment", low=1)
    concurrency: int = setting(16, "requests under way at once, for a key", low=1)
    cost_per_call: float = setting(0.0, "what a request costs, in the currency of daily_budget", low=0.0)
    daily_budget: float = setting(0.0, "what the requests of a UTC day may cost; 0: no bound", low=0.0)
    on_spent: str = setting(
        "fail",
        "when no key or budget is left: fail the run, or tell the policy that search is unavailable, and count it",
        choices=("fail", "unavailable"),
    )
    retries: int = setting(3, "times a request is sent again", low=0)
    breaker_failures: int = setting(10, "failed requests in a row after which the service gets a rest; 0: never", low=0)
    breaker_s: float = setting(
        15.0, "seconds of that rest; after it, one request at a time until one succeeds", above=0.0
    )
    summary: str = setting(
        "snippets",
        "what is shown of a text result: none: the first result as it is; snippets: the best ones, cut to max_chars; "
        "llm: a summary by the model at summary_endpoint",
        choices=("none", "snippets", "llm"),
    )
    summary_endpoint: str = setting("", "llm: OpenAI-compatible address, usually ending in /v1")
    summary_model: str = setting("", "llm: the model's name there")
    summary_key_env: str = setting("OPENAI_API_KEY", "llm: environment variable with its key")
    summary_per_second: float = setting(10.0, "llm: requests a second, over the whole cluster", above=0.0)
    summary_concurrency: int = setting(16, "llm: requests under way at once", low=1)
    text_results: int = setting(5, "web: text results a query asks for", low=1, high=100)
    graph_image: bool = setting(
        False, "web: spend a second request on the picture of the knowledge graph, where it needs one"
    )
    matching: str = setting(
        "strict",
        "offline: strict finds nothing below search.threshold; release takes the nearest entry, however unlike",
        choices=("strict", "release"),
    )
    threshold: float = setting(0.6, "likeness of query and cached query that counts as found", low=0.0, high=1.0)
    images_per_query: int = setting(1, "reference images a query may return", low=0)
    max_chars: int = setting(2000, "characters of a text result that are shown", low=1)
    fetch_s: float = setting(10.0, "seconds fetching one picture may take", above=0.0)
    fetch_mib: float = setting(10.0, "MiB a picture may have", above=0.0, high=32.0)
    allow_private: bool = setting(
        False, "for tests alone: fetch pictures from private and loopback addresses as well, whoever names them"
    )
    workers: int = setting(1, "search actors", low=1)
    cpus_per_worker: float = setting(0.0, "CPUs reserved for each search actor; 0: shares what is free", low=0.0)
    max_pending: int = setting(256, "queries a search actor takes at once; callers of more wait", low=1)
    timeout_s: float = setting(30.0, "seconds a query may take: waiting, retries and pictures included", above=0.0)
