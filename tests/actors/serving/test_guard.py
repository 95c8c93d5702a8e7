"""Who may ask: a token where there is one, this machine's names where there is none, and no other origin's pages."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.actors.serving.service_case import TOKEN, Answer, ask, make_service, post

GUARDED = [("POST", "/v1/extract"), ("POST", "/v1/extract/batch"), ("GET", "/v1/examples"),
           ("GET", "/v1/examples/e0/image"), ("GET", "/metrics"), ("GET", "/v1/else")]  # fmt: skip
OPEN = ["/", "/assets/api.js", "/health", "/ready", "/v1/policies", "/openapi.json"]


def code_of(answer: Answer) -> str:
    return str(answer.json()["type"]).rpartition(":")[2]


@pytest.mark.parametrize("sent", ["", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN])
async def test_without_the_token_nothing_is_done(sent: str) -> None:
    service = make_service(token=TOKEN)
    for method, path in GUARDED:
        headers = {"authorization": sent} if sent else {}
        answer = await ask(service, method, path, headers=headers, json=post())
        assert (answer.status, code_of(answer), answer.headers["www-authenticate"]) == (401, "unauthorized", "Bearer")
        assert answer.headers["x-content-type-options"] == "nosniff" and TOKEN[:-1] not in answer.body.decode()
    assert not service.first.orders


async def test_with_the_token_all_is_served_under_any_name_and_the_page_needs_none() -> None:
    service = make_service(token=TOKEN)
    headers = {"authorization": f"bearer  {TOKEN}", "host": "gpu7.example.org"}
    assert (await ask(service, "POST", "/v1/extract", headers=headers, json=post())).status == 200
    assert (await ask(service, "GET", "/v1/else", headers=headers)).status == 404
    for path in OPEN:
        assert (await ask(service, "GET", path)).status == 200, path
    assert (await ask(service, "GET", "/v1/policies")).json()["token"] is True


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("localhost.evil.example:8000", False),
        ("evil.example:8000", False),
        ("localhost:8000@evil.example", False),
        ("[::1", False),
        ("", False),
    ],
)
async def test_without_a_token_only_this_machines_names_are_served(host: str, served: bool) -> None:
    answer = await ask(make_service(), "GET", "/health", headers={"host": host})
    assert (answer.status, answer.raised) == (200 if served else 403, None)


@pytest.mark.parametrize(
    ("origin", "served"),
    [
        (None, True),
        ("http://localhost:8000", True),
        ("http://localhost:9000", False),
        ("http://evil.example", False),
        ("http://localhost:8000.evil.example", False),
        ("null", False),  # a frame in a sandbox, of whatever page
        ("", False),
        ("http://[", False),
    ],
)
@pytest.mark.parametrize("token", ["", TOKEN])
async def test_pages_of_other_origins_may_not_ask(origin: str | None, served: bool, token: str) -> None:
    service = make_service(token=token)
    headers = {"host": "localhost:8000", "authorization": f"Bearer {TOKEN}"}
    headers |= {} if origin is None else {"origin": origin}
    answer = await ask(service, "POST", "/v1/extract", headers=headers, json=post())
    assert (answer.status, answer.raised) == (200 if served else 403, None)
    assert len(service.first.orders) == served and (served or code_of(answer) == "forbidden")


async def test_a_token_may_be_of_any_letters() -> None:
    service = make_service(token="schlüssel-schlüssel")
    headers = {b"authorization": "Bearer schlüssel-schlüssel".encode()}
    assert (await ask(service, "GET", "/v1/examples", headers=headers)).status == 200  # type: ignore[arg-type]


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(["host", "origin", "authorization"]), st.binary(max_size=20)))
def test_any_headers_are_answered(values: dict[str, bytes]) -> None:
    headers = {name.encode(): value for name, value in values.items()}
    for token in ("", TOKEN):
        answer = asyncio.run(ask(make_service(token=token), "GET", "/v1/examples", headers=headers))  # type: ignore[arg-type]
        assert answer.raised is None and answer.status in (200, 401, 403)
        assert not token or answer.status != 200
