"""From the search settings to a web tool with everything around it; only the way to the limiter is given from outside.

Knows nothing of Ray. Always holds: keys are read here, on the machine that uses them; the limits of a service are what
the settings say, whoever builds the tool.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from envs.answers.store import AnswerStore
from envs.chat_client import ChatClient
from envs.limiter.lease import ChatLimiter, LeaseClient
from envs.limiter.messages import LimiterPort, Service, ServiceLimits
from envs.tools.registry import build_web_tool, check_settings, endpoint_of, provider_class
from envs.tools.secrets import Secret, load_keys
from envs.tools.web_tool import Trace, WebTool
from sake_ray.config.search_section import SearchConfig

LEDGER = "budget.sqlite"
_LATE_S = (0.05, 1.0)


def keys_of(settings: SearchConfig) -> tuple[Secret, ...]:
    """The keys of the configured provider; none where it needs none.

    Raises:
        ValueError: it needs one and none is set, or the file is not safe.
    """
    if not provider_class(settings.provider).NEEDS_KEY and not settings.key_env and not settings.key_file:
        return ()
    env = settings.key_env or ("" if settings.key_file else f"{settings.provider.upper()}_API_KEY")
    return load_keys(env, settings.key_file)


def check_web_settings(settings: SearchConfig, folder: Path) -> None:
    """Refuse, before anything is started, settings with which no tool can be made in `folder`.

    Raises:
        ValueError: naming the setting and what to do.
    """
    check_settings(settings)
    if settings.daily_budget and not settings.cost_per_call:
        raise ValueError(
            f"search.daily_budget={settings.daily_budget:g} bounds nothing while search.cost_per_call=0; give a price"
        )
    if settings.cache == "read_only":
        with AnswerStore(folder, mode="read_only", max_bytes=1, ttl_s=1.0):
            return
    keys_of(settings)


def search_service(settings: SearchConfig, keys: tuple[Secret, ...]) -> Service:
    """The configured service as the limiter knows it: one for every address and set of keys."""
    limits = ServiceLimits(
        per_second=settings.per_second,
        burst=settings.burst,
        concurrency=settings.concurrency,
        daily_budget=settings.daily_budget,
        cost_per_call=settings.cost_per_call,
        late_s=_late_s(settings.per_second, settings.burst),
        breaker_failures=settings.breaker_failures,
        breaker_s=settings.breaker_s,
    )
    fingerprints = tuple(key.fingerprint for key in keys)
    return Service(f"{settings.provider} {endpoint_of(settings)}", limits, fingerprints or ("-",))


def summary_service(settings: SearchConfig) -> Service:
    """The model that condenses results, as the limiter knows it."""
    limits = ServiceLimits(
        settings.summary_per_second,
        burst=settings.summary_concurrency,
        concurrency=settings.summary_concurrency,
        late_s=_late_s(settings.summary_per_second, settings.summary_concurrency),
    )
    return Service(f"summary {settings.summary_endpoint}", limits)


def _late_s(per_second: float, burst: int) -> float:
    """How late a call may be sent: half of what a burst runs ahead, so that busy machines lose no grants for it."""
    return max(_LATE_S[0], min(_LATE_S[1], 0.5 * (burst - 1) / per_second))


def open_store(settings: SearchConfig, folder: Path) -> AnswerStore | None:
    """The store of answers; None where nothing is kept.

    Raises:
        ValueError: the folder cannot be used.
    """
    if settings.cache == "off":
        return None
    return AnswerStore(
        folder, mode=settings.cache, max_bytes=int(settings.cache_gib * 2**30), ttl_s=settings.cache_days * 86_400
    )


def make_web_tool(
    settings: SearchConfig,
    *,
    folder: Path,
    max_pixels: int,
    port: LimiterPort,
    client: str = "",
    trace: Trace | None = None,
) -> WebTool:
    """The tool; `folder` is where answers are kept, `port` the way to the limiter, `client` who asks it.

    Raises:
        ValueError: a setting that cannot be.
    """
    name = f"{client or 'process'}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    # Replaying asks nobody, so that no key is needed.
    keys = () if settings.cache == "read_only" else keys_of(settings)
    chat, closing = None, []
    if settings.summary == "llm":
        summaries = LeaseClient(port, name, summary_service(settings))
        closing.append(summaries.close)
        chat = ChatClient(
            settings.summary_endpoint,
            settings.summary_model,
            limiter=ChatLimiter(summaries),
            key_env=settings.summary_key_env,
        )
    return build_web_tool(
        settings,
        gate=LeaseClient(port, name, search_service(settings, keys)),
        keys=keys,
        store=open_store(settings, folder),
        chat=chat,
        max_pixels=max_pixels,
        trace=trace,
        closing=closing,
    )
