"""`PictureFetcher` against a hostile server, and against name servers that lie.

What would go unseen otherwise: a hop or an address that is not checked, a body or a wait without end, a cookie or key
that is carried to another host.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from envs.fetch.fetcher import FetchLimits, PictureFetcher
from envs.fetch.refusal import FetchReason, FetchRefused
from tests.envs.fetch.hostile import CASES, LIMITS, Server, outcomes, serving
from tests.envs.fetch.hostile_pictures import jpeg

PUBLIC = "93.184.216.34"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.fixture
def connects(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where connections were opened to; only those to this machine really are."""
    opened: list[str] = []
    loop_class = asyncio.SelectorEventLoop
    really = loop_class.sock_connect

    async def sock_connect(self: Any, sock: Any, address: Any) -> None:
        opened.append(address[0])
        if not address[0].startswith("127."):
            raise ConnectionRefusedError(f"no way to {address[0]} from a test")
        await really(self, sock, address)

    monkeypatch.setattr(loop_class, "sock_connect", sock_connect)
    return opened


class Names:
    """A name server that gives one answer after the other, then the last for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if not self.answers[0]:
            raise OSError("no such name")
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def reason(fetcher: PictureFetcher, url: str) -> FetchReason:
    with pytest.raises(FetchRefused) as refused:
        await fetcher.fetch(url)
    return refused.value.reason


async def test_every_hostile_page_comes_to_what_it_should(server: Server) -> None:
    assert await outcomes(server) == {case.name: case.outcome for case in CASES}
    # What was sent lay in the kernel's buffers at most; a body read without end would be hundreds of MB by now.
    assert max(server.sent.values()) < 24 * 2**20


async def test_nothing_but_what_is_needed_is_sent_and_no_cookie_comes_back(server: Server) -> None:
    async with PictureFetcher(LIMITS, allow_private=True) as fetcher:
        assert await fetcher.fetch(server.url("/chain1?key=k")) == jpeg()
    first, second = server.requests["/chain1"][0], server.requests["/until_close"][0]
    names = {line.partition(b":")[0].lower() for line in (first + second).split(b"\r\n")[1:] if b":" in line}
    assert names == {b"host", b"user-agent", b"accept", b"accept-encoding"}
    assert b"key=k" in first and b"key=k" not in second


async def test_loopback_is_refused_unless_the_test_switch_is_set(server: Server, connects: list[str]) -> None:
    async with PictureFetcher(LIMITS, lookup=Names(["127.0.0.1"])) as fetcher:
        assert await reason(fetcher, "http://127.0.0.1/") is FetchReason.ADDRESS
        assert await reason(fetcher, "http://localhost/") is FetchReason.ADDRESS
        assert await reason(fetcher, "http://pictures.example/") is FetchReason.ADDRESS
    assert connects == [] and server.requests == {}


async def test_a_name_that_leads_home_the_second_time_is_not_followed(connects: list[str]) -> None:
    """DNS rebinding: the address that was checked is the one that is connected to, as nobody asks twice."""
    names = Names([PUBLIC], ["127.0.0.1"])
    async with PictureFetcher(LIMITS, lookup=names) as fetcher:
        assert await reason(fetcher, "http://rebinding.example/a.jpg") is FetchReason.CONNECTION
        assert (connects, names.asked) == ([PUBLIC], ["rebinding.example"])
        assert await reason(fetcher, "http://rebinding.example/a.jpg") is FetchReason.ADDRESS
    assert connects == [PUBLIC]


async def test_a_redirect_to_a_name_that_leads_home_is_not_followed(server: Server, connects: list[str]) -> None:
    """The first hop is let in by the test switch; the second leads to metadata by its name."""
    names = Names(["169.254.169.254"])
    async with PictureFetcher(LIMITS, allow_private=True, lookup=names) as fetcher:
        assert await reason(fetcher, server.url("/to_name")) is FetchReason.ADDRESS
    assert (connects, names.asked) == (["127.0.0.1"], ["metadata.example"])


async def test_of_a_names_addresses_only_the_public_ones_are_tried(connects: list[str]) -> None:
    names = Names(["10.0.0.1", PUBLIC, "::1", "fe80::1%2", "::ffff:127.0.0.1", "no address"])
    async with PictureFetcher(LIMITS, lookup=names) as fetcher:
        assert await reason(fetcher, "http://mixed.example/") is FetchReason.CONNECTION
    assert connects == [PUBLIC]


async def test_a_resolver_that_does_not_check_is_caught_at_the_socket(
    monkeypatch: pytest.MonkeyPatch, connects: list[str]
) -> None:
    async with PictureFetcher(LIMITS, lookup=Names([PUBLIC])) as fetcher:
        monkeypatch.setattr("envs.fetch.fetcher.check_url", lambda url, **_: _as_if_checked())
        assert await reason(fetcher, "http://127.0.0.1/") is FetchReason.ADDRESS
    assert connects == []


def _as_if_checked() -> Any:
    from envs.fetch.addresses import SafeUrl

    return SafeUrl("http", "127.0.0.1", 80, "/", None)


async def test_a_name_without_an_address_and_a_name_server_that_hangs() -> None:
    async def hangs(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    async with PictureFetcher(LIMITS, lookup=Names([])) as fetcher:
        assert await reason(fetcher, "http://unknown.example/") is FetchReason.UNRESOLVED
    async with PictureFetcher(FetchLimits(timeout_s=0.05, max_bytes=1), lookup=hangs) as fetcher:
        assert await reason(fetcher, "http://slow.example/") is FetchReason.TIMEOUT


async def test_a_refusal_shows_neither_path_nor_query(server: Server) -> None:
    async with PictureFetcher(LIMITS, allow_private=True) as fetcher:
        for path in ("/garbage", "/closes", "/short", "/loop", "/not_found", "/chain4"):
            with pytest.raises(FetchRefused) as refused:
                await fetcher.fetch(server.url(f"{path}?key=s3cret"))
            assert path not in refused.value.detail
            assert "s3cret" not in "".join(traceback.format_exception(refused.value, limit=0))
            assert refused.value.__context__ is None


async def test_connections_are_used_again_and_no_more_than_allowed_are_open(server: Server) -> None:
    limits = FetchLimits(timeout_s=20.0, max_bytes=2**18, concurrency=8, per_host=2)
    async with PictureFetcher(limits, allow_private=True) as fetcher:
        await asyncio.gather(*(fetcher.fetch(server.url("/counted")) for _ in range(12)))
    assert server.most_open == 2 and server.accepted == 2


async def test_a_cancelled_fetch_ends_at_once(server: Server) -> None:
    async with PictureFetcher(LIMITS, allow_private=True) as fetcher:
        task = asyncio.create_task(fetcher.fetch(server.url("/silent")))
        await server.asked_silent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("wrong", [{"timeout_s": 0.0}, {"max_bytes": 0}, {"max_redirects": -1}, {"per_host": 0}])
def test_limits_that_let_nothing_through_are_an_error(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FetchLimits(**{"timeout_s": 1.0, "max_bytes": 1, **wrong})  # type: ignore[arg-type]
