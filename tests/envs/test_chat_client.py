"""The chat client against a real server: good answers, every kind of bad one, and a key that shows up nowhere."""

from __future__ import annotations

import asyncio
import email.utils
import gzip
import logging
import time
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest

from envs.chat_client import ChatClient, ChatError, ChatRefused
from envs.chat_wire import MAX_ANSWER_CHARS, ChatAnswer, ErrorBody, read_error, retry_after_s
from envs.rate_limit import Limits, RateLimiter
from tests.envs.chat_endpoint import (
    ChatEndpoint,
    Reply,
    completion,
    drip,
    error_reply,
    flood,
    hang,
    json_reply,
    raw_reply,
    reset,
    serving,
)

KEY = "sk-planted-0123456789abcdef"
MESSAGES = [{"role": "user", "content": "hi"}]
GOOD = json_reply(completion())


def at_address(url: str) -> ChatEndpoint:
    """An endpoint that does not run."""
    endpoint = ChatEndpoint()
    endpoint.url = url
    return endpoint


@pytest.fixture
async def endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ChatEndpoint]:
    monkeypatch.setenv("TEST_CHAT_KEY", KEY)
    async with serving() as running:
        yield running


def client_of(endpoint: ChatEndpoint, **settings: Any) -> ChatClient:
    given: dict[str, Any] = {"key_env": "TEST_CHAT_KEY", "timeout_s": 5.0, "retries": 2, "backoff_s": 0.001} | settings
    limiter = given.pop("limiter", None) or RateLimiter(Limits(1000.0, burst=100))
    return ChatClient(endpoint.url, "tiny", limiter=limiter, **given)


async def ask(client: ChatClient, **settings: Any) -> ChatAnswer:
    try:
        return await client.complete(MESSAGES, **({"temperature": 0.5, "max_tokens": 16} | settings))
    finally:
        await client.close()


async def test_a_good_answer_and_what_was_asked(endpoint: ChatEndpoint) -> None:
    client = client_of(endpoint, price_in=2.0, price_out=10.0)
    assert await ask(client, stop=("</a>",)) == ChatAnswer("hello", 7, 3, "stop")
    assert endpoint.bodies == [
        {"model": "tiny", "messages": MESSAGES, "temperature": 0.5, "max_tokens": 16, "stop": ["</a>"]}
    ]
    assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"
    usage = client.usage()
    assert (usage.requests, usage.answers, usage.failed, usage.unmetered) == (1, 1, 0, 0)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.retries) == (7, 3, {})
    assert usage.cost == pytest.approx((7 * 2.0 + 3 * 10.0) / 1e6)


async def test_without_a_key_none_is_sent_not_even_that_of_another_service(
    endpoint: ChatEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, KEY)
    await ask(client_of(endpoint, key_env="TEST_NO_SUCH_KEY"))
    assert endpoint.headers[0]["authorization"] == "Bearer -"
    assert KEY not in str(endpoint.headers)


async def test_an_answer_without_counts_is_noted(endpoint: ChatEndpoint) -> None:
    endpoint.replies = [json_reply(completion(usage=None, finish_reason=None))]
    client = client_of(endpoint)
    assert await ask(client) == ChatAnswer("hello", 0, 0, "")
    assert client.usage().unmetered == 1


AGAIN: dict[str, tuple[Reply, str]] = {
    "html": (raw_reply(b"<html>Bad gateway</html>"), "malformed"),
    "html called json": (raw_reply(b"<html>", "application/json"), "malformed"),
    "not utf-8": (raw_reply(b"\xff\xfe", "application/json"), "malformed"),
    "a list": (json_reply([1]), "malformed"),
    "too deep": (raw_reply(b"[" * 100_000, "application/json"), "malformed"),
    "no choices": (json_reply({"choices": []}), "malformed"),
    "choices no list": (json_reply({"choices": {"0": 1}}), "malformed"),
    "choice no object": (json_reply({"choices": ["x"]}), "malformed"),
    "no message": (json_reply({"choices": [{}]}), "malformed"),
    "text null": (json_reply(completion(None)), "malformed"),
    "text a number": (json_reply(completion(5)), "malformed"),
    "half a surrogate": (json_reply(completion("\ud800")), "malformed"),
    "finish_reason a list": (json_reply(completion(finish_reason=[])), "malformed"),
    "usage a text": (json_reply(completion(usage="many")), "malformed"),
    "tokens a text": (json_reply(completion(usage=("7", 3))), "malformed"),
    "tokens negative": (json_reply(completion(usage=(7, -3))), "malformed"),
    "compressed": (raw_reply(gzip.compress(b"{}"), "application/json", **{"Content-Encoding": "gzip"}), "malformed"),
    "empty": (raw_reply(b"", "application/json"), "malformed"),
    "408": (error_reply(408), "server"),
    "409": (error_reply(409), "server"),
    "429": (error_reply(429), "rate_limit"),
    "500": (error_reply(500), "server"),
    "503 in html": (json_reply("<html>", 503), "server"),
    "reset": (reset, "connection"),
}


@pytest.mark.parametrize("case", AGAIN)
async def test_what_may_pass_is_asked_again_and_counted(case: str, endpoint: ChatEndpoint) -> None:
    reply, reason = AGAIN[case]
    endpoint.replies = [reply, GOOD]
    client = client_of(endpoint)
    assert (await ask(client)).text == "hello"
    usage = client.usage()
    assert (usage.requests, usage.answers, usage.failed, usage.retries) == (2, 1, 0, {reason: 1})


@pytest.mark.parametrize("case", ["html", "no choices", "500", "reset"])
async def test_what_does_not_pass_is_an_error_after_all_tries(case: str, endpoint: ChatEndpoint) -> None:
    reply, reason = AGAIN[case]
    endpoint.replies = [reply]
    client = client_of(endpoint)
    with pytest.raises(ChatError, match="no answer after 3 requests"):
        await ask(client)
    usage = client.usage()
    assert (usage.requests, usage.answers, usage.failed, usage.retries) == (3, 0, 1, {reason: 2})


@pytest.mark.parametrize("slow", [hang, drip], ids=["silent", "a byte now and then"])
async def test_a_slow_answer_is_given_up(slow: Reply, endpoint: ChatEndpoint) -> None:
    endpoint.replies = [slow, GOOD]
    client = client_of(endpoint, timeout_s=0.2, retries=20)  # a busy machine may be late again
    assert (await ask(client)).text == "hello"
    assert set(client.usage().retries or {}) == {"timeout"}


async def test_nobody_there(endpoint: ChatEndpoint) -> None:
    endpoint.url = "http://127.0.0.1:1/v1"
    client = client_of(endpoint)
    with pytest.raises(ChatError, match=r"no connection, or a broken one \(ConnectError\)"):
        await ask(client)
    assert client.usage().retries == {"connection": 2}


@pytest.mark.parametrize(
    "reply", [flood, json_reply(completion("x" * (MAX_ANSWER_CHARS + 1)))], ids=["endless body", "long text"]
)
async def test_too_large_an_answer_is_not_read_nor_asked_for_again(reply: Reply, endpoint: ChatEndpoint) -> None:
    endpoint.replies = [reply]
    client = client_of(endpoint)
    with pytest.raises(ChatError, match="too large"):
        await ask(client)
    assert client.usage().requests == 1


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (error_reply(401, f"Incorrect API key provided: {KEY}"), "TEST_CHAT_KEY .* is not accepted"),
        (error_reply(403), "TEST_CHAT_KEY"),
        (error_reply(404, "no model tiny"), "model's name 'tiny'; it says: no model tiny"),
        (error_reply(400, "max_tokens must be below 10"), "it says: max_tokens must be below 10"),
        (error_reply(400, f"bad header Bearer {KEY[:-4]}***"), "withheld"),
        (error_reply(400, "\n<|im_end|>" + "word " * 1000), "it says: word"),
        (json_reply({"detail": "no"}, 422), "it says: no"),
        (error_reply(402), "no quota left"),
        (error_reply(429, code="insufficient_quota"), "no quota left"),
        (error_reply(429, headers={"Retry-After": "86400"}), "come back in 86400 s"),
        (error_reply(308, headers={"Location": "http://127.0.0.1:1/"}), "final address"),
    ],
    ids=["401", "403", "404", "400", "400 with key", "400 at length", "422", "402", "quota", "tomorrow", "redirect"],
)
async def test_what_will_never_pass_is_refused_at_once(reply: Reply, message: str, endpoint: ChatEndpoint) -> None:
    endpoint.replies = [reply]
    client = client_of(endpoint)
    with pytest.raises(ChatRefused, match=message) as caught:
        await ask(client)
    assert len(str(caught.value)) < 500
    assert (client.usage().requests, client.usage().failed, client.usage().retries) == (1, 1, {})


async def test_a_missing_key_is_said_to_be_missing(endpoint: ChatEndpoint) -> None:
    endpoint.replies = [error_reply(401)]
    with pytest.raises(ChatRefused, match=r"set the environment variable TEST_NO_SUCH_KEY .* \(it is not set\)"):
        await ask(client_of(endpoint, key_env="TEST_NO_SUCH_KEY"))


@pytest.mark.parametrize(
    "reply",
    [
        error_reply(400, code="content_filter"),
        error_reply(400, "This model's maximum context length is 4096 tokens."),
        error_reply(413),
    ],
    ids=["filtered", "too long", "too large"],
)
async def test_a_request_that_is_not_taken_does_not_speak_for_others(reply: Reply, endpoint: ChatEndpoint) -> None:
    endpoint.replies = [reply]
    with pytest.raises(ChatError, match="no answer after 1 request"):
        await ask(client_of(endpoint))
    assert len(endpoint.bodies) == 1


async def test_parameters_a_model_does_not_know_are_put_otherwise(endpoint: ChatEndpoint) -> None:
    endpoint.replies = [
        error_reply(400, "use max_completion_tokens", code="unsupported_parameter", param="max_tokens"),
        error_reply(400, "only the default", code="unsupported_value", param="temperature"),
        GOOD,
    ]
    client = client_of(endpoint, retries=0)
    for _ in range(2):
        await client.complete(MESSAGES, temperature=0.5, max_tokens=16)
    await client.close()
    assert [set(body) - {"model", "messages"} for body in endpoint.bodies] == [
        {"temperature", "max_tokens"}, {"temperature", "max_completion_tokens"}, {"max_completion_tokens"},
        {"max_completion_tokens"},
    ]  # fmt: skip
    assert client.usage().retries == {"parameter": 2}


async def test_an_unknown_parameter_that_was_not_sent_is_refused(endpoint: ChatEndpoint) -> None:
    endpoint.replies = [error_reply(400, code="unsupported_parameter", param="stop")]
    with pytest.raises(ChatRefused, match="status 400"):
        await ask(client_of(endpoint))


class NotedPause(RateLimiter):
    """A limiter that tells when it is paused."""

    def __init__(self) -> None:
        super().__init__(Limits(1000.0))
        self.paused = asyncio.Event()

    async def pause(self, seconds: float) -> None:
        await super().pause(seconds)
        self.paused.set()


async def test_retry_after_holds_everybody(endpoint: ChatEndpoint) -> None:
    endpoint.replies = [error_reply(429, headers={"Retry-After": "0.3"}), GOOD]
    limiter = NotedPause()
    client = client_of(endpoint, backoff_s=30.0, limiter=limiter)
    started = time.monotonic()
    first = asyncio.create_task(client.complete(MESSAGES, temperature=0.0, max_tokens=1))
    await limiter.paused.wait()
    assert client.usage().retries == {"rate_limit": 1}
    second = asyncio.create_task(client.complete(MESSAGES, temperature=0.0, max_tokens=1))
    await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
    assert time.monotonic() - started >= 0.3
    await asyncio.gather(first, second)
    await client.close()
    assert client.usage().requests == 3


async def test_waits_double_and_are_the_same_for_one_seed(
    endpoint: ChatEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.replies = [error_reply(500)]
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    for seed in (1, 1, 2):
        client = client_of(endpoint, retries=8, backoff_s=1.0, seed=seed)
        with monkeypatch.context() as patch:
            patch.setattr("envs.chat_client.asyncio.sleep", sleep)
            with pytest.raises(ChatError):
                await ask(client)
    first, again, other = waits[:8], waits[8:16], waits[16:]
    assert first == again != other
    assert all(0.5 * limit <= wait <= limit for wait, limit in zip(first, [1, 2, 4, 8, 16, 30, 30, 30], strict=True))


async def test_every_request_goes_through_the_limiter(endpoint: ChatEndpoint) -> None:
    endpoint.replies = [error_reply(500), error_reply(500), GOOD]
    client = client_of(endpoint, limiter=RateLimiter(Limits(20.0)))
    started = time.monotonic()
    await asyncio.gather(*(client.complete(MESSAGES, temperature=0.0, max_tokens=1) for _ in range(4)))
    await client.close()
    assert len(endpoint.bodies) == 6
    assert time.monotonic() - started >= 5 / 20.0


async def test_a_cancelled_request_ends_at_once_and_frees_its_place(endpoint: ChatEndpoint) -> None:
    endpoint.replies = [hang, GOOD]
    client = client_of(endpoint, limiter=RateLimiter(Limits(1000.0, concurrency=1)))
    waiting = asyncio.create_task(client.complete(MESSAGES, temperature=0.0, max_tokens=1))
    await endpoint.asked.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await asyncio.wait_for(ask(client), 10.0)).text == "hello"


@pytest.mark.parametrize(
    "reply",
    [
        error_reply(401, f"wrong key {KEY}"),
        error_reply(400, KEY),
        error_reply(500, KEY),
        raw_reply(KEY.encode()),
        reset,
    ],
    ids=["401", "400", "500", "garbage", "reset"],
)
async def test_the_key_shows_up_nowhere(reply: Reply, endpoint: ChatEndpoint, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint.replies = [reply]
    client = client_of(endpoint)
    with pytest.raises((ChatError, ChatRefused)) as caught:
        await ask(client)
    assert endpoint.headers[0]["authorization"].endswith(KEY), "it was sent"
    shown = [
        caplog.text, repr(client), str(client.usage()), "".join(traceback.format_exception(caught.value)),
        *(str(error) for error in (caught.value.__cause__, caught.value.__context__)),
    ]  # fmt: skip
    assert KEY[:-4] not in "\n".join(shown)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_CHAT_KEY", f"{KEY}\nX-Evil: 1")
    with pytest.raises(ChatRefused, match="TEST_CHAT_KEY holds characters") as caught:
        client_of(at_address("http://127.0.0.1:1/v1"))
    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url",
    [
        "", "127.0.0.1:8000/v1", "ftp://host/v1", "file:///etc/passwd", "http://", "http://[::1/v1", "http://h:99999/v1",
        "http://user:secret@host/v1", "https://host/v1?key=secret", "https://host/v1#secret", "http://ho st/v1",
        "http://host/v1\nx",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="base URL") as caught:
        client_of(at_address(url))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"timeout_s": 0.0}, {"retries": -1}, {"backoff_s": -1.0}])
def test_bad_numbers_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        client_of(at_address("http://h/v1"), **wrong)


def test_retry_after_in_every_form() -> None:
    now = 1_000_000_000.0
    cases: list[tuple[dict[str, str], float | None]] = [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "-7"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": email.utils.formatdate(now + 60, usegmt=True)}, 60.0),
        ({"retry-after": email.utils.formatdate(now - 60, usegmt=True)}, 0.0),
        ({"retry-after": "Sun, 99 Foo 99999 00:00:00 GMT"}, None),
    ]
    assert [retry_after_s(headers, now) for headers, _ in cases] == [wanted for _, wanted in cases]


def test_what_an_endpoint_says_in_every_form() -> None:
    assert read_error({"error": {"message": "a\n<|x|> b", "code": "c", "param": "p"}}) == ErrorBody("c", "p", "a b")
    assert read_error({"object": "error", "message": "vllm", "code": 400}) == ErrorBody(words="vllm")
    assert read_error({"error": "ollama"}) == ErrorBody(words="ollama")
    assert read_error({"detail": [{"loc": 1}]}) == ErrorBody()
    assert [read_error(body) for body in (None, "<html>", [1], {"error": None})] == [ErrorBody()] * 4
