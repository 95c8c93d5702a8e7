"""A client for a model behind an OpenAI-compatible endpoint: asks within limits, tries again, counts what it cost.

Knows nothing of what it is used for: a teacher, a summary of search results, evaluation of a served model. For one
event loop. Always holds: every request goes through the limiter; what an endpoint sends is bounded and checked; what
comes out is an answer, a `ChatError` (this request gave none) or a `ChatRefused` (none would); the key is in no
message, log line or snapshot, and goes to no address but the base URL. The `openai` package is imported on first use.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import random
import time
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.chat_wire import (
    MAX_BODY_BYTES,
    AnswerTooLargeError,
    ChatAnswer,
    ErrorBody,
    MalformedAnswerError,
    read_answer,
    read_error,
    retry_after_s,
)
from envs.rate_limit import Limiter

__all__ = ["ChatAnswer", "ChatClient", "ChatError", "ChatMessage", "ChatRefused", "ChatUsage", "RetryReason"]

logger = logging.getLogger(__name__)

ChatMessage = Mapping[str, Any]
"""One message in the form of the API: `role`, and `content` as a text or as a list of text and image parts."""

MAX_BACKOFF_S = 30.0
MAX_RETRY_AFTER_S = 300.0
# Parameters that some models do not know, and what takes their place (nothing: left out, which is the default).
_UNSUPPORTED = {"max_tokens": "max_completion_tokens", "temperature": "", "stop": "", "seed": ""}
_SPENT = ("insufficient_quota", "billing_hard_limit_reached")
# The endpoint takes requests, but not this one: another prompt may do.
_THIS_REQUEST = (
    "content_filter", "content_policy_violation", "moderation_blocked", "context_length_exceeded", "invalid_image",
    "invalid_image_format", "image_parse_error",
)  # fmt: skip
_KEY_RUN = 8


class ChatError(RuntimeError):
    """No answer to this request; another may be answered."""


class ChatRefused(RuntimeError):
    """The endpoint answers no such request (wrong key, unknown model); the message says what to do."""


class RetryReason(enum.StrEnum):
    """Why a request was sent again."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    RATE_LIMIT = "rate_limit"
    SERVER = "server"
    MALFORMED = "malformed"
    PARAMETER = "parameter"


@dataclass(frozen=True, slots=True)
class ChatUsage:
    """What a client has sent and got so far.

    `requests` counts every one sent, `retries` those among them that repeat an earlier one, by reason. `unmetered`
    answers came without token counts, so tokens and cost are too low by them. `cost` is in the currency of the prices.
    """

    requests: int = 0
    answers: int = 0
    failed: int = 0
    retries: Mapping[str, int] | None = None
    unmetered: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a request got no answer. Without `reason` it is not sent again; `refused`: nor any other."""

    detail: str
    reason: RetryReason | None = None
    refused: bool = False
    wait_s: float | None = None
    parameter: str = ""


class ChatClient:
    """Asks one model of one endpoint; used for many requests at once."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        limiter: Limiter,
        key_env: str = "OPENAI_API_KEY",
        timeout_s: float = 60.0,
        retries: int = 4,
        price_in: float = 0.0,
        price_out: float = 0.0,
        backoff_s: float = 0.5,
        seed: int = 0,
    ) -> None:
        """Make a client; nothing is sent yet.

        Args:
            base_url: address of the endpoint, usually ending in /v1.
            model: the model's name there.
            limiter: what every request waits for, also a repeated one.
            key_env: environment variable that holds the key; where it is unset, "-" is sent (servers of one's own).
            timeout_s: seconds for one request and its whole answer, without the wait for the limiter.
            retries: times a request is repeated.
            price_in, price_out: price of a million prompt and written tokens.
            backoff_s: the first wait before a repeated request; doubled each time.
            seed: of the waits' jitter.

        Raises:
            ValueError: an address that is not http or https, or holds more than an address; no model; a bad number.
            ChatRefused: the key cannot be sent, or the openai package is not there.
        """
        self.endpoint = _checked(base_url)
        if not model:
            raise ValueError("a chat client needs the name of a model")
        if not timeout_s > 0 or retries < 0 or not backoff_s >= 0:
            raise ValueError(
                f"timeout_s={timeout_s} must be above 0; retries={retries}, backoff_s={backoff_s} at least 0"
            )
        self.model = model
        self._limiter = limiter
        self._key_env = key_env
        self._key = _key(key_env)
        self._timeout_s = timeout_s
        self._retries = retries
        self._prices = (price_in, price_out)
        self._backoff_s = backoff_s
        self._random = random.Random(f"chat-client-{seed}")
        self._unsupported: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._repeated: Counter[str] = Counter()
        self._client = _open_client(self.endpoint, self._key or "-", timeout_s)

    async def complete(
        self,
        messages: Sequence[ChatMessage],
        *,
        temperature: float,
        max_tokens: int,
        stop: Sequence[str] = (),
        seed: int | None = None,
    ) -> ChatAnswer:
        """The model's answer to a conversation; `stop` ends it (servers differ in whether they leave the stop in).

        `seed` is of its sampling; a model that takes none is asked without it.

        Raises:
            ChatError: none to this request: every try failed, or the answer is too large.
            ChatRefused: none to any: the message says what to do.
        """
        wanted: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
        if stop:
            wanted["stop"] = list(stop)
        if seed is not None:
            wanted["seed"] = seed
        repeats = 0
        while True:
            sent = {_UNSUPPORTED[name] if name in self._unsupported else name: wanted[name] for name in wanted}
            sent.pop("", None)
            async with self._limiter.slot():
                self._counts["requests"] += 1
                outcome = await self._request({"model": self.model, "messages": list(messages), **sent})
            if isinstance(outcome, ChatAnswer):
                return self._counted(outcome)
            if outcome.parameter in sent:  # asked in a form this model knows, which is no try of its own
                self._learn(outcome)
                continue
            if outcome.reason is None or repeats == self._retries:
                self._counts["failed"] += 1
                raise self._error(outcome, repeats + 1)
            self._repeated[outcome.reason] += 1
            await self._wait(outcome, repeats)
            repeats += 1

    def usage(self) -> ChatUsage:
        """What has been sent and got so far."""
        counts = self._counts
        cost = (counts["prompt"] * self._prices[0] + counts["completion"] * self._prices[1]) / 1e6
        return ChatUsage(
            requests=counts["requests"],
            answers=counts["answers"],
            failed=counts["failed"],
            retries=dict(self._repeated),
            unmetered=counts["unmetered"],
            prompt_tokens=counts["prompt"],
            completion_tokens=counts["completion"],
            cost=cost,
        )

    async def close(self) -> None:
        """Close the connections; the client is of no further use."""
        await self._client.close()

    async def _request(self, request: Mapping[str, Any]) -> ChatAnswer | _Failure:
        """Send one request. Returns failures, so that no error chain holds what the endpoint or the library said."""
        import openai

        deadline = asyncio.timeout(self._timeout_s)
        try:
            async with deadline:
                response = await self._client.chat.completions.with_raw_response.create(**request)
            return read_answer(response.content)
        except TimeoutError:
            if not deadline.expired():  # some other timeout, which the library should have handled
                raise
            return _Failure(f"no answer within {self._timeout_s:g} s", RetryReason.TIMEOUT)
        except openai.APITimeoutError:
            return _Failure(f"no answer within {self._timeout_s:g} s", RetryReason.TIMEOUT)
        except openai.APIConnectionError as error:
            kind = type(error.__cause__ or error).__name__
            return _Failure(f"no connection, or a broken one ({kind})", RetryReason.CONNECTION)
        except openai.APIStatusError as error:
            wait_s = retry_after_s(error.response.headers, time.time())
            return self._judge(error.status_code, read_error(error.body), wait_s)
        except MalformedAnswerError as error:
            return _Failure(f"a malformed answer: {error}", RetryReason.MALFORMED)
        except AnswerTooLargeError as error:
            return _Failure(f"an answer that is too large: {error}")

    def _judge(self, status: int, body: ErrorBody, wait_s: float | None) -> _Failure:
        """What an error status means for this request and for others."""
        words = f"; it says: {self._safe(body.words)}" if body.words else ""
        detail = f"status {status}{words}"
        if status == 402 or body.code in _SPENT:
            return _Failure(f"the account has no quota left (status {status}): add some, or use another", refused=True)
        if status in (408, 409, 429) or status >= 500:
            if wait_s is not None and wait_s > MAX_RETRY_AFTER_S:
                return _Failure(
                    f"asks to come back in {wait_s:.0f} s (status {status}): start again then", refused=True
                )
            reason = RetryReason.RATE_LIMIT if status == 429 else RetryReason.SERVER
            return _Failure(detail, reason, wait_s=wait_s)
        if status in (401, 403):
            state = "the key in it is not accepted" if self._key else "it is not set"
            advice = f"set the environment variable {self._key_env} to a key for this endpoint and model ({state})"
            return _Failure(f"no access (status {status}): {advice}", refused=True)
        if status == 404:
            advice = f"check the base URL (it usually ends in /v1) and the model's name {self.model!r}"
            return _Failure(f"not found (status 404): {advice}{words}", refused=True)
        if status < 400:
            return _Failure(f"a redirect (status {status}): give the final address as base URL", refused=True)
        if body.code in ("unsupported_parameter", "unsupported_value"):
            return _Failure(detail, refused=True, parameter=body.parameter if body.parameter in _UNSUPPORTED else "")
        if status == 413 or body.code in _THIS_REQUEST or "maximum context length" in body.words:
            return _Failure(detail)
        return _Failure(f"such requests are not taken (status {status}): check the settings{words}", refused=True)

    def _safe(self, words: str) -> str:
        """The endpoint's words, unless they hold the key or a part of it."""
        size = min(_KEY_RUN, len(self._key))
        runs = (self._key[start : start + size] for start in range(len(self._key) - size + 1))
        return "(withheld: they repeat the key)" if self._key and any(run in words for run in runs) else words

    def _learn(self, failure: _Failure) -> None:
        self._repeated[RetryReason.PARAMETER] += 1
        if failure.parameter not in self._unsupported:
            instead = _UNSUPPORTED[failure.parameter] or "the model's default"
            logger.warning("%s: %s does not take %s; using %s", self.endpoint, self.model, failure.parameter, instead)
            self._unsupported.add(failure.parameter)

    async def _wait(self, failure: _Failure, repeats: int) -> None:
        """Before a repeated request: what the endpoint asks for, else longer each time; all wait for a busy one."""
        backoff = min(MAX_BACKOFF_S, self._backoff_s * 2**repeats) * self._random.uniform(0.5, 1.0)
        seconds = backoff if failure.wait_s is None else failure.wait_s
        logger.warning("%s: %s; asking again in %.2f s", self.endpoint, failure.detail, seconds)
        if failure.reason is RetryReason.RATE_LIMIT or failure.wait_s is not None:
            await self._limiter.pause(seconds)
        else:
            await asyncio.sleep(seconds)

    def _counted(self, answer: ChatAnswer) -> ChatAnswer:
        self._counts["answers"] += 1
        self._counts["unmetered"] += answer.prompt_tokens == 0  # no prompt has no tokens
        self._counts["prompt"] += answer.prompt_tokens
        self._counts["completion"] += answer.completion_tokens
        return answer

    def _error(self, failure: _Failure, tries: int) -> ChatError | ChatRefused:
        if failure.refused:
            return ChatRefused(f"{self.endpoint}: {failure.detail}")
        times = "1 request" if tries == 1 else f"{tries} requests"
        return ChatError(f"{self.endpoint}: no answer after {times}; the last got {failure.detail}")


def _checked(base_url: str) -> str:
    """The address, without a slash at its end; it is shown in messages, so it must hold no secret."""
    try:
        parts = urllib.parse.urlsplit(base_url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not base_url.isascii() or not base_url.isprintable() or " " in base_url:
        raise ValueError("the base URL of a chat endpoint must be http://HOST... or https://HOST...")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("the base URL of a chat endpoint must hold no password, query or fragment")
    return base_url.rstrip("/")


def _key(key_env: str) -> str:
    key = os.environ.get(key_env, "").strip() if key_env else ""
    if not (key.isascii() and key.isprintable()):
        raise ChatRefused(f"the environment variable {key_env} holds characters that no key has; set it again")
    return key


def _open_client(base_url: str, key: str, timeout_s: float) -> Any:
    """The library's client: without retries, redirects or compressed answers, and with bounded bodies."""
    try:
        import httpx2
        import openai
    except ImportError as error:
        raise ChatRefused(f"{error}: the openai package is needed, in the version that requirements/ names") from error

    class Bounded(httpx2.AsyncByteStream):
        """A body's bytes, up to the limit."""

        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            count = 0
            async for piece in self._stream:
                count += len(piece)
                if count > MAX_BODY_BYTES:
                    raise AnswerTooLargeError(f"more than {MAX_BODY_BYTES} bytes")
                yield piece

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def bound(response: Any) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise MalformedAnswerError("it is compressed, which was not asked for")  # and may unpack to anything
        response.stream = Bounded(response.stream)

    return openai.AsyncOpenAI(
        api_key=key,
        base_url=base_url,
        max_retries=0,
        timeout=timeout_s,
        default_headers={"Accept-Encoding": "identity"},
        http_client=openai.DefaultAsyncHttpxClient(
            event_hooks={"response": [bound]}, follow_redirects=False, timeout=timeout_s
        ),
    )
