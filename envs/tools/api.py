"""How a provider's requests are sent: within the limits, with a key, again where it is worth it, read under bounds.

Knows nothing of what is asked or answered. For one event loop. Always holds: every try has a lease of its own, which is
told how it ended; a request goes to the endpoint's own origin alone, follows no redirect and carries no cookie; at most
`MAX_BODY_BYTES` of an answer are read; an error says a status or a kind of error, never the service's words, an address
with a query, or a key. aiohttp is imported on first use.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from envs.chat_wire import retry_after_s
from envs.limiter.gate import Gate
from envs.limiter.messages import Lease, Outcome
from envs.search_counts import SearchCounts
from envs.tools.ports import Trace
from envs.tools.provider import Failure, Headers, ProviderError
from envs.tools.secrets import Secret, redact
from sake_ray.bounded_json import JsonRefused, parse_json

if TYPE_CHECKING:
    import aiohttp

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 32
MAX_BACKOFF_S = 10.0
MAX_RETRY_AFTER_S = 600.0
"""A service that asks for more is taken at its word for so long; by then all who wait have missed their deadlines."""

Judge = Callable[[int, Any], Failure | None]

_OUTCOMES = {
    Failure.THROTTLED: Outcome.THROTTLED,
    Failure.SPENT: Outcome.SPENT,
    Failure.FAILED: Outcome.FAILED,
    Failure.REFUSED: Outcome.OK,  # the service is well and the call was used; it is the query that is not
}


class ApiSettingsError(RuntimeError):
    """The endpoint cannot be what the settings say it is; the message says what to change."""


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """How requests are sent.

    `timeout_s` is for one request and its whole answer, without the wait for its lease; `retries` is how often it is
    sent again; `backoff_s` the first wait before that, doubled each time; `advice` says in a few words what a status of
    this service usually means, for the messages of settings errors.
    """

    timeout_s: float = 10.0
    retries: int = 3
    backoff_s: float = 0.5
    connections: int = 64
    advice: Mapping[int, str] | None = None

    def __post_init__(self) -> None:
        """Refuse impossible numbers.

        Raises:
            ValueError: naming them.
        """
        if not self.timeout_s > 0 or self.retries < 0 or not self.backoff_s >= 0 or self.connections < 1:
            raise ValueError(f"{self}: timeout_s must be above 0, connections at least 1, the others at least 0")


@dataclass(frozen=True, slots=True)
class _Failed:
    """A try without an answer. `settings` says what to change, where only that would help."""

    failure: Failure
    detail: str
    retry_after_s: float | None = None
    settings: str = ""


@dataclass(frozen=True, slots=True)
class _Answered:
    body: Any


class MeteredApi:
    """`provider.Api` over pooled HTTP connections."""

    def __init__(
        self,
        endpoint: str,
        gate: Gate,
        keys: Sequence[Secret],
        options: ApiOptions,
        *,
        judge: Judge,
        meter: SearchCounts,
        trace: Trace | None = None,
        open_session: Callable[[int], aiohttp.ClientSession] | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        seed: int = 0,
    ) -> None:
        """Make a sender; nothing is sent yet, and no connection opened.

        Args:
            endpoint: the service's address, as `check_endpoint` gives it.
            gate: where every try gets its lease; `lease.key` counts the `keys` in this order.
            keys: none where the service takes none.
            options: see there.
            judge: the provider's word on an error status; None: what it means everywhere.
            meter, trace: where requests are counted, and told of one by one.
            open_session: makes the session for so many connections, in the running loop.
            sleep: waits before a repeated try; tests give their own.
            seed: of the waits' jitter.
        """
        self._origin = _origin(endpoint)
        self._gate = gate
        self._keys = tuple(keys)
        self._options = options
        self._judge = judge
        self._meter = meter
        self._trace = trace
        self._open_session = open_session or plain_session
        self._sleep = sleep
        self._random = random.Random(f"search-api-{seed}")
        self._session: aiohttp.ClientSession | None = None
        self._answered = False

    async def get_json(self, url: str, params: Mapping[str, str], headers: Headers | None = None) -> Any:
        """See `provider.Api.get_json`."""
        return await self._ask("GET", url, headers, {"params": dict(params)})

    async def post_json(self, url: str, body: Mapping[str, Any], headers: Headers | None = None) -> Any:
        """See `provider.Api.post_json`."""
        sent = {"data": json.dumps(body).encode("ascii"), "headers": {"Content-Type": "application/json"}}
        return await self._ask("POST", url, headers, sent)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, method: str, url: str, headers: Headers | None, sent: dict[str, Any]) -> Any:
        """Try until there is an answer or no try is left.

        A try that found its key spent costs no retry while there may be another key: they are counted apart.
        """
        if _origin(url) != self._origin:
            raise ValueError("a provider asked for an address outside its endpoint; requests go to the endpoint alone")
        repeats, spent = 0, 0
        while True:
            outcome = await self._try(method, url, headers, sent, repeated=repeats + spent > 0)
            if isinstance(outcome, _Answered):
                self._answered = True
                return outcome.body
            self._meter.request_failed(outcome.failure)
            # What looks like a wrong setting is one only as long as the endpoint has never answered.
            if outcome.settings and not self._answered:
                raise ApiSettingsError(f"{self._origin}: {outcome.settings}")
            if outcome.failure is Failure.SPENT and spent < len(self._keys) + self._options.retries:
                spent += 1
                continue
            if outcome.failure in (Failure.REFUSED, Failure.SPENT) or repeats == self._options.retries:
                _raise(outcome, repeats + spent + 1)
            await self._wait(outcome, repeats)
            repeats += 1

    async def _wait(self, outcome: _Failed, repeats: int) -> None:
        """Before a repeated try, longer each time; the limiter itself keeps those waiting who were too many."""
        if outcome.failure is not Failure.THROTTLED:
            backoff = min(MAX_BACKOFF_S, self._options.backoff_s * 2**repeats) * self._random.uniform(0.5, 1.0)
            await self._sleep(max(backoff, outcome.retry_after_s or 0.0))

    async def _try(
        self, method: str, url: str, headers: Headers | None, sent: dict[str, Any], *, repeated: bool
    ) -> _Answered | _Failed:
        async with self._gate.lease() as lease:
            request = dict(sent)
            if headers is not None:
                request["headers"] = {**sent.get("headers", {}), **headers(self._key(lease))}
            self._meter.request(lease.waited_s, repeated)
            begin = time.perf_counter()
            outcome = await self._request(method, url, request)
            if isinstance(outcome, _Failed):
                lease.outcome, lease.retry_after_s = _OUTCOMES[outcome.failure], outcome.retry_after_s
        if self._trace is not None:
            ended = "answered" if isinstance(outcome, _Answered) else f"{outcome.failure}: {outcome.detail}"
            milliseconds = round((time.perf_counter() - begin) * 1e3, 1)
            self._trace("request", {"waited_s": round(lease.waited_s, 3), "ms": milliseconds, "outcome": ended})
        return outcome

    def _key(self, lease: Lease) -> str:
        """The leased key.

        Raises:
            ValueError: the limiter knows of other keys than this process.
        """
        if not self._keys:
            return ""
        if not 0 <= lease.key < len(self._keys):
            raise ValueError(f"a lease for key {lease.key + 1}, but {len(self._keys)} are loaded; all need the same")
        return self._keys[lease.key].reveal()

    async def _request(self, method: str, url: str, request: dict[str, Any]) -> _Answered | _Failed:
        """Send one request. Returns failures, so that no error chain holds what the service or the library said."""
        import aiohttp

        if self._session is None:
            self._session = self._open_session(self._options.connections)
        deadline = asyncio.timeout(self._options.timeout_s)
        try:
            async with deadline, self._session.request(method, url, allow_redirects=False, **request) as response:
                return self._read(response, await _body(response))
        except TimeoutError:  # of ours, or one that the library has for connecting
            return _Failed(Failure.FAILED, f"no answer within {self._options.timeout_s:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return _Failed(Failure.FAILED, f"no connection, or a broken one ({type(error).__name__})")

    def _read(self, response: aiohttp.ClientResponse, body: bytes | None) -> _Answered | _Failed:
        if not 200 <= response.status < 300:
            try:
                said = None if body is None else parse_body(body)
            except JsonRefused:
                said = None
            return self._judged(response.status, said, retry_after_s(response.headers, time.time()))
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            return _Failed(Failure.FAILED, "a compressed answer, which was not asked for")
        if body is None:
            return _Failed(Failure.FAILED, f"an answer over {MAX_BODY_BYTES} bytes")
        try:
            return _Answered(parse_body(body))
        except JsonRefused as error:
            return _Failed(Failure.FAILED, f"an answer that is no JSON within limits ({error.why})")

    def _judged(self, status: int, said: Any, wait_s: float | None) -> _Failed:
        """What an error status means for this request and for others."""
        wait_s = None if wait_s is None else min(wait_s, MAX_RETRY_AFTER_S)
        failure = self._judge(status, said) or usual_failure(status)
        advice = (self._options.advice or {}).get(status, "")
        advice = f" ({advice})" if advice else ""
        settings = ""
        if 300 <= status < 400:
            settings = f"a redirect (status {status}): give the final address as search.endpoint"
        elif status in (404, 405):
            settings = f"not found (status {status}): check search.endpoint{advice}"
        elif failure is Failure.SPENT and not self._keys:
            settings = f"no access without a key (status {status}): set search.key_env or search.key_file{advice}"
            failure = Failure.FAILED  # there is no key that could be spent
        return _Failed(failure, f"status {status}", wait_s, settings)


def usual_failure(status: int) -> Failure:
    """What an error status means with most services."""
    if status == 429:
        return Failure.THROTTLED
    if status in (401, 402, 403):
        return Failure.SPENT
    if status < 400 or status in (404, 405, 408, 409, 425) or status >= 500:
        return Failure.FAILED
    return Failure.REFUSED


def check_endpoint(endpoint: str) -> str:
    """An address of a service, without a slash at its end; it is shown in messages, so it must hold no secret.

    Raises:
        ValueError: not http(s), or it holds a password, a query or a fragment.
    """
    try:
        parts = urllib.parse.urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not endpoint.isascii() or not endpoint.isprintable() or " " in endpoint:
        raise ValueError("search.endpoint: must be http://HOST... or https://HOST...")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("search.endpoint: must hold no password, query or fragment; keys go into search.key_env")
    return endpoint.rstrip("/")


def parse_body(body: bytes) -> Any:
    """The JSON of an answer; a key that a service repeats is taken out, before it gets into any cache.

    Raises:
        JsonRefused: it is none, or over the limits.
    """
    try:
        return parse_json(redact(body.decode("utf-8")), max_chars=MAX_BODY_BYTES, max_depth=MAX_DEPTH)
    except UnicodeDecodeError as error:
        raise JsonRefused("bad_json", "not UTF-8") from error


def plain_session(connections: int) -> aiohttp.ClientSession:
    """A session with pooled connections and nothing else: no cookies, no proxies or passwords of the environment."""
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ttl_dns_cache=60),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"Accept-Encoding": "identity", "User-Agent": "sake_ray"},
    )


async def _body(response: aiohttp.ClientResponse) -> bytes | None:
    """The whole body, or None when it is longer than is read; the connection is then closed, not drained."""
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > MAX_BODY_BYTES:
            response.close()
            return None
        pieces.append(piece)
    return b"".join(pieces)


def _origin(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _raise(outcome: _Failed, tries: int) -> NoReturn:
    times = "1 request" if tries == 1 else f"{tries} requests"
    message = f"no answer after {times}; the last got {outcome.detail}"
    raise ProviderError(outcome.failure, message, outcome.retry_after_s)
