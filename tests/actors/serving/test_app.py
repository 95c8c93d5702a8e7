"""The service's HTTP, without Ray: bodies of every kind, streams, problems by their status, and who may ask at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.serving import app as app_module
from actors.serving import desk as desk_module
from envs.fetch.fetcher import FetchLimits, PictureFetcher
from sake_ray.pages.service_files import SECURITY_HEADERS
from tests.actors.serving.service_case import PICTURE, Answer, Service, ask, limits, make_service, post
from tests.envs.fetch import hostile
from tests.waiting import until

FILE = {"image": ("a.png", PICTURE, "image/png")}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "_PAUSE_S", 0.0)
    monkeypatch.setattr(desk_module, "_GRACE_S", 0.01)


def check_problem(answer: Answer, status: int, code: str, field: str | None = None) -> None:
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json"), answer
    body = answer.json()
    assert (body["type"], body["status"]) == (f"urn:sake-ray:problem:{code}", status) and body["detail"]
    assert body.get("field") == field
    assert "Traceback" not in answer.body.decode() and "secret" not in answer.body.decode()
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name.lower()] == value


async def extract(service: Service, **content: Any) -> Answer:
    return await ask(service, "POST", "/v1/extract", **content)


# --- what is answered ----------------------------------------------------------------------------


async def test_a_post_as_json_gets_its_result() -> None:
    service = make_service()
    answer = await extract(service, json=post(options={"seed": 5}))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    result = answer.json()
    assert (result["text"], result["seed"], result["image"]) == ("Ada meets Bo", 5, {"width": 60, "height": 40})
    assert result["turns"] == [{"search": "half \ud83d"}], "what a web page had is no reason to fail"
    assert "secret" not in answer.body.decode() and service.counted == [("/v1/extract", 200)]
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name.lower()] == value


async def test_a_post_as_a_form_gets_the_same() -> None:
    service = make_service()
    data = {"text": "Ada meets Bo", "options": json.dumps({"seed": 5}), "stream": "false"}
    answer = await extract(service, data=data, files=FILE)
    assert answer.status == 200 and answer.json()["seed"] == 5
    order = service.first.orders[0]
    await extract(service, json=post())
    assert service.first.orders[1].example.image.data == order.example.image.data


async def test_a_stream_has_the_events_of_the_episode_and_ends_with_its_result() -> None:
    service = make_service()
    for content in ({"json": post(stream=True)}, {"data": {"text": "Ada", "stream": "true"}, "files": FILE}):
        answer = await extract(service, **content)
        assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream")
        assert [name for name, _ in answer.events()] == ["start", "delta", "result"]
        assert answer.events()[1][1] == {"turn": 0, "text": "line\nline"}
        assert answer.events()[-1][1]["image"] == {"width": 60, "height": 40}


@pytest.mark.parametrize(
    ("ends", "names", "code"),
    [
        (["gone", "result"], ["start", "delta", "restart", "delta", "result"], None),
        (["gone"] * 3, ["start", "delta", "restart", "delta", "restart", "delta", "error"], "unavailable"),
        (["late"], ["start", "delta", "error"], "deadline"),
        (["refused"], ["start", "delta", "error"], "invalid"),
        (["crash"], ["start", "delta", "error"], "internal"),
    ],
)
async def test_a_stream_always_ends_with_a_result_or_an_error(
    ends: list[str], names: list[str], code: str | None
) -> None:
    service = make_service()
    service.first.ends = ends
    events = (await extract(service, json=post(stream=True))).events()
    assert [name for name, _ in events] == names
    assert code is None or events[-1][1]["type"].endswith(code)
    assert "secret" not in json.dumps(events[-1][1])


async def test_a_stream_is_kept_alive_while_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "_KEEP_ALIVE_S", 0.01)
    service = make_service()
    service.first.ends = ["hang"]
    answer = await extract(service, json=post(stream=True, options={"deadline_s": 0.1}))
    assert answer.body.count(b"\n\n: ") >= 2 and answer.events()[-1][0] == "error"


@pytest.mark.parametrize("spec", ["2.3", "2.4"])
async def test_a_stream_ends_though_its_client_reads_slowly(spec: str) -> None:
    service = make_service()
    service.first.ends = ["talk"]
    reads = asyncio.Event()
    body = post(stream=True, options={"deadline_s": 0.4})
    reading = asyncio.create_task(extract(service, json=body, spec=spec, reads=reads))
    await until(lambda: service.first.cancelled == 1, 0.01, 10)  # its deadline does not wait for the client
    reads.set()
    answer = await asyncio.wait_for(reading, 5)
    assert answer.events()[-1][1]["status"] == 504 and len(answer.events()) == 603 and service.places() == 3


async def test_a_batch_has_an_answer_for_each_item() -> None:
    service = make_service()
    items = [post(), {"text": "no picture"}, post(options={"policy": "z"})]
    answer = await ask(service, "POST", "/v1/extract/batch", json={"items": items})
    results = answer.json()["results"]
    assert [result["status"] for result in results] == [200, 422, 422]
    assert [result["problem"]["field"] for result in results[1:]] == ["image", "options.policy"]
    check_problem(
        await ask(service, "POST", "/v1/extract/batch", json={"items": [post()] * 5}), 422, "invalid", "items"
    )
    check_problem(await ask(service, "POST", "/v1/extract/batch", data={"text": "a"}, files=FILE), 415, "unsupported")


async def test_looks_around_are_answered() -> None:
    service = make_service(names=("a", "b"))
    policies = (await ask(service, "GET", "/v1/policies")).json()
    assert [policy["name"] for policy in policies["policies"]] == ["a", "b"] and policies["token"] is False
    wanted = {"max_text_chars", "max_body_bytes", "max_image_pixels", "text_searches", "image_searches",
              "max_deadline_s", "max_batch"}  # fmt: skip
    assert set(policies["limits"]) == wanted and "secret" not in json.dumps(policies)
    (example,) = (await ask(service, "GET", "/v1/examples")).json()["examples"]
    picture = await ask(service, "GET", example["image"])
    assert (picture.body, picture.headers["content-type"]) == (PICTURE, "image/png")
    for name in ("e1", "..%2f..%2fetc%2fpasswd", "E0"):
        check_problem(await ask(service, "GET", f"/v1/examples/{name}/image"), 404, "not-found")
    for path in ("/health", "/ready", "/metrics", "/"):
        assert (await ask(service, "GET", path)).status == 200, path
    service.first.ready = False
    check_problem(await ask(service, "GET", "/ready"), 503, "unavailable")
    assert (await ask(service, "GET", "/health")).status == 200, "the process is well, its engines are not"


async def test_the_description_lists_the_routes_with_an_example() -> None:
    described = (await ask(make_service(), "GET", "/openapi.json")).json()
    assert {"/v1/extract", "/v1/extract/batch", "/v1/policies", "/v1/examples", "/health"} <= set(described["paths"])
    content = described["paths"]["/v1/extract"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    assert content["application/json"]["schema"]["examples"][0]["text"] and "$ref" not in json.dumps(content)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "status", "code", "field"),
    [
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "bad-json", None),
        ({"content": b"\xff", "headers": {"content-type": "application/json"}}, 400, "bad-json", None),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "unsupported", None),
        ({"content": b"x"}, 415, "unsupported", None),
        ({"json": post(), "headers": {"content-encoding": "gzip"}}, 415, "unsupported", None),
        ({"json": post(text="x" * 51)}, 422, "invalid", "text"),
        ({"json": [post()]}, 422, "invalid", None),
        ({"json": post(**{"colo\ud83dur": 1})}, 422, "invalid", None),
        ({"json": post(colour=1)}, 422, "invalid", "colour"),
        ({"json": post(options={"seed": -1})}, 422, "invalid", "options.seed"),
        ({"data": {"text": "Ada", "options": '{"seed": -1}'}, "files": FILE}, 422, "invalid", "options.seed"),
        ({"data": {"text": "Ada", "options": "{"}, "files": FILE}, 422, "invalid", "options"),
        ({"data": {"text": "Ada", "stream": "yes"}, "files": FILE}, 422, "invalid", "stream"),
        ({"data": {"text": "Ada", "colour": "red"}, "files": FILE}, 422, "invalid", "colour"),
        ({"data": {"text": ["Ada", "Bo"]}, "files": FILE}, 422, "invalid", "text"),
        ({"files": FILE}, 422, "invalid", "text"),
        ({"files": {"text": ("t.txt", b"Ada")}}, 422, "invalid", "text"),
        ({"data": {"text": "Ada", "image": "no file"}, "files": {"x": b""}}, 422, "invalid", "x"),
        ({"content": b"--", "headers": {"content-type": "multipart/form-data"}}, 400, "bad-request", None),
        ({"content": b"zz", "headers": {"content-type": "multipart/form-data; boundary=a"}}, 400, "bad-request", None),
    ],
)
async def test_what_cannot_be_read_is_a_problem(
    content: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    service = make_service()
    check_problem(await extract(service, **content), status, code, field)
    assert not service.first.orders and service.places() == 3


async def test_other_methods_and_paths_are_problems() -> None:
    service = make_service()
    wrong = await ask(service, "GET", "/v1/extract")
    check_problem(wrong, 405, "method")
    assert wrong.headers["allow"] == "POST"
    check_problem(await ask(service, "GET", "/v1/else"), 404, "not-found")
    check_problem(await ask(service, "GET", "/assets/..%2fservice_files.py"), 404, "not-found")
    assert [route for route, _ in service.counted] == ["/v1/extract", "other", "/assets/…"]


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_refused_without_being_kept(announced: bool) -> None:
    service = make_service()
    taken = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b" " * 50_000

    headers = {"content-type": "application/json"} | ({"content-length": "200001"} if announced else {})
    check_problem(await extract(service, headers=headers, pieces=pieces()), 413, "too-large")
    assert taken == (0 if announced else 5) and service.places() == 3


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    service = make_service(body_s=0.05)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    headers = {"content-type": "application/json"}
    check_problem(await extract(service, headers=headers, pieces=pieces()), 408, "timeout-body")
    assert service.places() == 3


@pytest.mark.parametrize(
    ("ends", "status", "code", "field"),
    [
        (["gone"] * 3, 503, "unavailable", None),
        (["late"], 504, "deadline", None),
        (["refused"], 422, "invalid", "text"),
        (["crash"], 500, "internal", None),
    ],
)
async def test_what_became_of_the_episode_is_the_status(
    ends: list[str], status: int, code: str, field: str | None
) -> None:
    service = make_service()
    service.first.ends = ends
    check_problem(await extract(service, json=post()), status, code, field)
    assert service.counted[-1] == ("/v1/extract", status) and service.places() == 3


async def test_who_comes_when_all_places_are_taken_is_told_when_to_come_again() -> None:
    service = make_service(places=1)
    service.first.ends = ["hang"]
    leave = asyncio.Event()
    first = asyncio.create_task(extract(service, json=post(), leave=leave))
    await service.first.begun.wait()
    for path, body in (("/v1/extract", post()), ("/v1/extract/batch", {"items": [post()]})):
        busy = await ask(service, "POST", path, json=body)
        check_problem(busy, 429, "busy")
        assert int(busy.headers["retry-after"]) >= 1
    assert (await ask(service, "GET", "/health")).status == 200
    leave.set()
    await first
    assert (await extract(service, json=post())).status == 200


@pytest.mark.parametrize("path", ["/v1/extract", "/v1/extract/batch"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_order(path: str, stream: bool) -> None:
    service = make_service()
    service.first.ends = ["hang"]
    leave = asyncio.Event()
    item = post(stream=stream and path == "/v1/extract")
    body = item if path == "/v1/extract" else {"items": [item]}
    asking = asyncio.create_task(ask(service, "POST", path, json=body, leave=leave))
    await service.first.begun.wait()
    leave.set()
    await asyncio.wait_for(asking, 5)
    assert (service.first.under_way, service.first.cancelled, service.places()) == (0, 1, 3)


# --- pictures by their address -------------------------------------------------------------------


async def test_pictures_are_fetched_and_hostile_ones_are_the_clients_fault() -> None:
    async with hostile.serving() as server, PictureFetcher(hostile.LIMITS, allow_private=True) as fetcher:
        service = make_service(places=200, fetcher=fetcher)
        cases = [case for case in hostile.CASES if case.outcome != "timeout"]
        answers = await asyncio.gather(
            *(extract(service, json={"text": "Ada", "image_url": server.url(case.path)}) for case in cases)
        )
        for case, answer in zip(cases, answers, strict=True):
            if case.outcome == hostile.ACCEPTED:
                assert answer.status == 200, case.name
            else:
                check_problem(answer, 422, "invalid", "image_url")
                assert answer.json()["detail"].startswith(case.outcome), case.name
        assert len(cases) > 40 and service.places() == 200


async def test_addresses_of_this_network_are_not_asked() -> None:
    async with hostile.serving() as server, PictureFetcher(FetchLimits(5.0, 10_000)) as fetcher:
        service = make_service(fetcher=fetcher)
        for url in (server.url("/until_close"), "http://169.254.169.254/", "http://\ud800/", "file:///etc/passwd", ""):
            answer = await extract(service, json={"text": "Ada", "image_url": url})
            check_problem(answer, 422, "invalid", "image_url")
        assert server.accepted == 0
    unable = make_service(limits=limits(urls=False))
    answer = await extract(unable, json={"text": "Ada", "image_url": "https://example.org/a.png"})
    check_problem(answer, 422, "invalid", "image_url")


# --- bytes of any kind ---------------------------------------------------------------------------

HEADS = st.sampled_from(
    [b'Content-Disposition: form-data; name="text"', b'Content-Disposition: form-data; name="image"; filename="a"',
     b"Content-Disposition: x", b"Content-Type: a", b"", b'Content-Disposition: form-data; name="\xff"']
)  # fmt: skip
PARTS = st.lists(st.tuples(HEADS, st.binary(max_size=20)), max_size=3).map(
    lambda parts: b"".join(b"--a\r\n" + head + b"\r\n\r\n" + body + b"\r\n" for head, body in parts) + b"--a--\r\n"
)
KINDS = st.sampled_from(["application/json", "multipart/form-data; boundary=a", "multipart/form-data; charset=x"])
CHARSETS = ["utf-8", "idna", "punycode", "undefined", "unicode_escape", "utf-16", "rot13", "zlib"]
FORMS = st.sampled_from([f"multipart/form-data; boundary=a; charset={name}" for name in CHARSETS])


@given(KINDS | FORMS, PARTS | st.binary())
@settings(max_examples=60)
def test_any_body_is_answered_or_a_problem_of_the_client(kind: str, body: bytes) -> None:
    async def play() -> None:
        service = make_service()
        answer = await extract(service, headers={"content-type": kind}, content=body)
        if answer.status != 200:
            assert 400 <= answer.status < 500 and answer.json()["status"] == answer.status, answer
        assert service.places() == 3

    asyncio.run(play())
