"""Requests to a real server: what is tried again and with which key, what is given up, and that nothing leaks out."""

from __future__ import annotations

import asyncio
import email.utils
import gzip
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from envs.limiter.gate import GateClosed
from envs.limiter.messages import Lease, Outcome
from envs.search_counts import SearchCounts
from envs.tools.api import MAX_RETRY_AFTER_S, ApiOptions, ApiSettingsError, MeteredApi, check_endpoint
from envs.tools.provider import Failure, ProviderError
from envs.tools.secrets import Secret
from envs.tools.serper import Serper
from sake_ray.types import SearchFailure
from tests.envs.chat_endpoint import Reply, drip, flood, hang, json_reply, raw_reply, reset
from tests.envs.tools.search_service import Service, by_key, redirect_to, serving

KEYS = ("planted-key-one-1111", "planted-key-two-2222")
GOOD = json_reply({"organic": []})
WORDS = "the service's own words"


class RecordingGate:
    """Lets calls through with the first key that is not spent, and keeps how each ended."""

    def __init__(self, keys: int = 1) -> None:
        self.open = list(range(keys))
        self.leases: list[Lease] = []

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Lease]:
        if not self.open:
            raise GateClosed(SearchFailure.UNAVAILABLE, "every key is spent")
        lease = Lease(self.open[0], waited_s=0.25)
        self.leases.append(lease)
        try:
            yield lease
        except BaseException:
            lease.outcome = Outcome.ABANDONED
            raise
        if lease.outcome is Outcome.SPENT and lease.key in self.open:
            self.open.remove(lease.key)

    @property
    def outcomes(self) -> list[str]:
        return [str(lease.outcome) for lease in self.leases]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serving() as running:
        yield running


class Sender:
    """A `MeteredApi` that does not really wait before a repeated try."""

    def __init__(self, service: Service, *, keys: int = 1, **options: Any) -> None:
        self.gate = RecordingGate(max(1, keys))
        self.meter = SearchCounts(cost_per_call=0.5)
        self.waits: list[float] = []
        self.api = MeteredApi(
            service.url,
            self.gate,
            [Secret(key) for key in KEYS[:keys]],
            ApiOptions(**({"timeout_s": 5.0, "retries": 2} | options)),
            judge=Serper.judge,
            meter=self.meter,
            sleep=self._wait,
        )
        self._url = service.url

    async def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def post(self) -> Any:
        try:
            return await self.api.post_json(f"{self._url}/search", {"q": "x"}, lambda key: {"X-API-KEY": key})
        finally:
            await self.api.close()

    async def error(self) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            await self.post()
        told = "".join(traceback.format_exception(caught.value))
        assert WORDS not in told
        assert not any(key in told for key in KEYS)
        return caught.value


async def test_a_good_answer_what_was_sent_and_what_it_cost(service: Service) -> None:
    sender = Sender(service)
    assert await sender.post() == await sender.post()
    assert service.asked == [("/search", {"q": "x"})] * 2
    assert service.headers[0]["x-api-key"] == KEYS[0]
    assert service.headers[0]["accept-encoding"] == "identity"
    counts = sender.meter.snapshot()
    assert (counts["requests"], counts["retries"], counts["cost"], counts["limiter_wait_s"]) == (2, 0, 1.0, 0.5)


AGAIN: dict[str, Reply] = {
    "html": raw_reply(b"<html>"),
    "not utf-8": raw_reply(b"\xff\xfe", "application/json"),
    "too deep": raw_reply(b"[" * 100_000, "application/json"),
    "empty": raw_reply(b"", "application/json"),
    "compressed": raw_reply(gzip.compress(b"{}"), "application/json", **{"Content-Encoding": "gzip"}),
    "too large": flood,
    "500": json_reply(WORDS, 500),
    "408": json_reply({}, 408),
    "reset": reset,
}


@pytest.mark.parametrize("reply", AGAIN.values(), ids=AGAIN.keys())
async def test_a_try_without_an_answer_is_made_again_with_a_lease_of_its_own(service: Service, reply: Reply) -> None:
    service.replies = [reply, GOOD]
    sender = Sender(service)
    assert await sender.post() == {"organic": []}
    assert sender.gate.outcomes == ["failed", "ok"]
    assert sender.meter.snapshot()["retries"] == 1
    assert len(sender.waits) == 1


@pytest.mark.parametrize("reply", [hang, drip], ids=["hang", "drip"])
async def test_a_try_that_takes_too_long_is_given_up(service: Service, reply: Reply) -> None:
    service.replies = [reply, GOOD]
    assert await Sender(service, timeout_s=0.15).post() == {"organic": []}


async def test_when_no_try_is_left_the_error_says_a_status_and_no_words(service: Service) -> None:
    service.replies = [json_reply({"message": WORDS}, 502)]
    sender = Sender(service)
    error = await sender.error()
    assert error.failure is Failure.FAILED
    assert str(error) == "no answer after 3 requests; the last got status 502"
    assert sender.waits == sorted(sender.waits)  # longer each time


@pytest.mark.parametrize(
    ("header", "wanted"),
    [("7", 7.0), ("1e9", MAX_RETRY_AFTER_S), ("soon", None), ("nan", None), ("-5", 0.0), ("date", 100.0)],
)
async def test_too_many_is_told_to_the_limiter_with_what_the_service_asks_for(
    service: Service, header: str, wanted: float | None
) -> None:
    value = email.utils.formatdate(time.time() + 101, usegmt=True) if header == "date" else header
    service.replies = [json_reply({}, 429, {"Retry-After": value}), GOOD]
    sender = Sender(service)
    await sender.post()
    first = sender.gate.leases[0]
    assert first.outcome is Outcome.THROTTLED
    assert first.retry_after_s == (None if wanted is None else pytest.approx(wanted, abs=5))
    assert sender.waits == []  # the limiter keeps all waiting


SPENT: dict[str, Reply] = {
    "402": json_reply({}, 402),
    "403": json_reply({}, 403),
    "401": json_reply({}, 401),
    "no credits": json_reply({"message": "Not enough credits", "statusCode": 400}, 400),
}


@pytest.mark.parametrize("reply", SPENT.values(), ids=SPENT.keys())
async def test_a_spent_key_gives_way_to_the_next_one(service: Service, reply: Reply) -> None:
    service.replies = [by_key({KEYS[0]: reply, KEYS[1]: GOOD})]
    sender = Sender(service, keys=2, retries=0)
    assert await sender.post() == {"organic": []}
    assert sender.gate.outcomes == ["spent", "ok"]
    assert [headers["x-api-key"] for headers in service.headers] == list(KEYS)


async def test_when_every_key_is_spent_the_gate_says_so(service: Service) -> None:
    service.replies = [SPENT["402"]]
    sender = Sender(service, keys=2)
    with pytest.raises(GateClosed, match="every key is spent"):
        await sender.post()


async def test_a_query_that_is_not_taken_is_asked_once_and_the_service_counts_as_well(service: Service) -> None:
    service.replies = [json_reply({"message": WORDS}, 400)]
    sender = Sender(service)
    assert (await sender.error()).failure is Failure.REFUSED
    assert sender.gate.outcomes == ["ok"]


@pytest.mark.parametrize(
    ("reply", "keys", "words"),
    [
        (redirect_to("http://169.254.169.254/"), 1, "final address"),
        (json_reply({}, 404), 1, "check search.endpoint"),
        (json_reply({}, 405), 1, "check search.endpoint"),
        (json_reply({}, 403), 0, "search.key_env"),
    ],
)
async def test_a_wrong_endpoint_is_a_settings_error_until_it_has_answered_once(
    service: Service, reply: Reply, keys: int, words: str
) -> None:
    service.replies = [reply, GOOD, reply]
    sender = Sender(service, keys=keys)
    with pytest.raises(ApiSettingsError, match=words):
        await sender.post()
    assert await sender.post() == {"organic": []}
    assert (await sender.error()).failure is Failure.FAILED


async def test_a_cancelled_caller_leaves_its_lease(service: Service) -> None:
    service.replies = [hang]
    sender = Sender(service)
    task = asyncio.create_task(sender.post())
    await service.came.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sender.gate.outcomes == ["abandoned"]


async def test_a_request_goes_to_the_endpoint_alone(service: Service) -> None:
    sender = Sender(service)
    with pytest.raises(ValueError, match="outside its endpoint"):
        await sender.api.get_json("http://elsewhere.example/search", {}, lambda key: {"X-API-KEY": key})
    assert sender.gate.leases == []


async def test_keys_that_the_limiter_does_not_know_are_a_bug(service: Service) -> None:
    sender = Sender(service)
    sender.gate.open = [5]
    with pytest.raises(ValueError, match="a lease for key 6"):
        await sender.post()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ftp://a.example",
        "a.example",
        "https://u:p@a.example",
        "https://a.example/?key=1",
        "https://a b",
        "http://[::",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"search\.endpoint"):
        check_endpoint(address)
